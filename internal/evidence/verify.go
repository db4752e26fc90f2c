package evidence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

const (
	// maxFindings bounds what is listed.
	maxFindings = 1000
	// maxSealed bounds a file of an item, in bytes: encrypted, it is a little longer than what is in it.
	maxSealed = MaxItem + 1<<20
)

// Outside is what is known of the evidence from elsewhere.
type Outside struct {
	Head string   // hash of the newest entry, from the run's document; empty: not known
	Keys []string // public keys that are trusted, hex; none: any, and they are named
}

// Report is what a check of evidence found.
type Report struct {
	Case     string   `json:"case"`
	Target   string   `json:"target"`
	Run      string   `json:"run"`
	Head     Head     `json:"head"`
	Keys     []string `json:"keys"`     // that have signed
	Findings []string `json:"findings"` // what is not as it was written
	// NotProven says of what nothing shows that it is whole.
	NotProven []string `json:"notProven"`
	Remarks   []string `json:"remarks"`
	Gaps      []string `json:"gaps"` // what could not be kept, by name
}

// verification is one check.
type verification struct {
	files fs.FS
	out   *Report
}

// Verify checks a folder of evidence: every entry, every file, and the statement at the end. The error is of
// reading; what is wrong with the evidence is in the report.
func Verify(ctx context.Context, files fs.FS, outside Outside) (*Report, error) {
	v := &verification{files, &Report{Keys: []string{}, Findings: []string{}, NotProven: []string{}, Remarks: []string{}, Gaps: []string{}}}
	entries, err := v.log()
	if err != nil {
		return nil, err
	}
	named := make(map[string]bool)
	for _, e := range entries {
		v.signedBy(e.Key, outside.Keys)
		if e.Kind == KindGap {
			v.out.Gaps = append(v.out.Gaps, fmt.Sprintf("%.*q: %.*q", maxText, e.Name, maxText, e.Why))
			continue
		}
		named[e.SHA256] = true
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := v.item(e); err != nil {
			return nil, err
		}
	}
	if err := v.others(named); err != nil {
		return nil, err
	}
	return v.out, v.end(ctx, outside)
}

func (v *verification) find(format string, args ...any) {
	if len(v.out.Findings) < maxFindings {
		v.out.Findings = append(v.out.Findings, fmt.Sprintf(format, args...))
	}
}

func (v *verification) signedBy(key string, trusted []string) {
	if slices.Contains(v.out.Keys, key) {
		return
	}
	v.out.Keys = append(v.out.Keys, key)
	if len(trusted) > 0 && !slices.Contains(trusted, key) {
		v.find("the key %.64s has signed, and is none of those that are trusted", key)
	}
}

// read reads a file of the folder; nil and no error: it is not there.
func (v *verification) read(name string, most int64) ([]byte, error) {
	f, err := v.files.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the evidence: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("read the evidence: %w", err)
	}
	return data, nil
}

// log reads all segments, up to the first entry that is not as it was written.
func (v *verification) log() (all []Entry, err error) {
	var c chain
	last := 0
	for n := 1; n <= maxSegments; n++ {
		data, err := v.read(segmentName(n), maxSegment)
		if err != nil {
			return nil, err
		}
		if data == nil {
			break
		}
		last = n
		entries, problem := c.read(data)
		for _, e := range entries {
			v.out.Case = e.Case
			v.out.Head.count(e)
		}
		all = append(all, entries...)
		if problem != "" {
			v.find("%s: %s; nothing after it is proven", segmentName(n), problem)
			break
		}
	}
	names, err := fs.ReadDir(v.files, "custody")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the evidence: %w", err)
	}
	if len(v.out.Findings) == 0 && len(names) > last {
		v.find("the log has %d files, of which the first %d follow each other: one was removed, or renamed", len(names), last)
	}
	if last == 0 {
		v.find("there is no log of custody (%s)", segmentName(1))
	}
	return all, nil
}

// item checks the file of an item.
func (v *verification) item(e Entry) error {
	if raw, err := hex.DecodeString(e.SHA256); err != nil || len(raw) != sha256.Size {
		v.find("entry %d names no file", e.Seq)
		return nil
	}
	data, err := v.read(itemName(e.SHA256), maxSealed)
	switch {
	case err != nil:
		return err
	case data == nil:
		v.find("%.*q (entry %d) was removed: %s is not there", maxText, e.Name, e.Seq, itemName(e.SHA256))
	case int64(len(data)) != e.Size || hashOf(data) != e.SHA256:
		v.find("%.*q (entry %d) was altered: %s is not what was kept", maxText, e.Name, e.Seq, itemName(e.SHA256))
	}
	return nil
}

// others counts files that no entry names: an attempt that was cut off leaves some.
func (v *verification) others(named map[string]bool) error {
	items, err := fs.ReadDir(v.files, "items")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the evidence: %w", err)
	}
	more := 0
	for _, item := range items {
		if !named[item.Name()] {
			more++
		}
	}
	if more > 0 {
		v.out.Remarks = append(v.out.Remarks, fmt.Sprintf("%d files are named by no entry, and are no evidence: an attempt that was cut off leaves such, or somebody has put them there", more))
	}
	return nil
}

// end holds the log against the statement, and against what is known from elsewhere.
func (v *verification) end(ctx context.Context, outside Outside) error {
	head := v.out.Head
	if outside.Head != "" && outside.Head != head.Hash {
		v.find("the log ends with %.64s after %d entries, and not with %.64s, as is known from elsewhere: its end was cut off, or it is another one", head.Hash, head.Entries, outside.Head)
	}
	if outside.Head == "" && len(outside.Keys) == 0 {
		v.out.NotProven = append(v.out.NotProven, "no key is given that is trusted, and no head of the log: whoever has a key of his own could have written all of it")
	}
	file, err := v.read(statementName, maxStatement)
	if err != nil {
		return err
	}
	if file == nil {
		if outside.Head == "" {
			v.out.NotProven = append(v.out.NotProven, "there is no statement at the end, so nothing shows that the end was not cut off")
		}
		return nil
	}
	s, key, err := open(ctx, file)
	switch {
	case err != nil:
		v.find("%s: %v", statementName, err)
		return nil
	case s.Predicate.Case != v.out.Case:
		v.find("%s is of another case", statementName)
	case s.Predicate.Head != head:
		v.find("the log has %d entries and ends with %.64s, and the statement says %d and %.64s: its end was cut off, or something added", head.Entries, head.Hash, s.Predicate.Head.Entries, s.Predicate.Head.Hash)
	}
	v.signedBy(key, outside.Keys)
	v.out.Target, v.out.Run = s.Predicate.Target, s.Predicate.Run
	return nil
}
