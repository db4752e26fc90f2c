package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

const (
	// together is how many runs' files are read at the same time: a bucket answers slowly.
	together = 8
	// maxSaid bounds how many runs are named among what is not proven.
	maxSaid = 50
)

// Anchor is a checkpoint that somebody remembers from elsewhere.
type Anchor struct {
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"` // of its file
}

// Head is how a run's chain ended, as the run's own history says.
type Head struct {
	Entries int    `json:"entries"`
	Head    string `json:"head"`
}

// Ended is a run that has ended, as its history says.
type Ended struct {
	Run        string
	Outcome    string
	Head       *Head   // nil: the history has none
	Checkpoint *Anchor // over its trail; nil: it ended under a version that did not keep it
	Report     string  // URL of the report, which is written before the trail; empty: the run wrote nothing down
	Why        string  // in words, where it wrote nothing: how it ended
}

// Histories are the runs that have ended and whose histories are still there.
type Histories struct {
	Ended []Ended // the newest first
	More  bool    // there are older ones that were not looked at
}

// Outside is what is held against the store that is not in it.
type Outside struct {
	Anchors   []Anchor   // that somebody has kept
	Keys      []string   // public keys whose checkpoints are trusted, hex; none: all are
	Histories *Histories // nil: they were not asked
}

// Finding is something that is not as it was written.
type Finding struct {
	Checkpoint int64  `json:"checkpoint,omitempty"`
	Run        string `json:"run,omitempty"`
	What       string `json:"what"`
}

// Signer is who has signed decisions on plans.
type Signer struct {
	Key       string `json:"key"` // its fingerprint
	Name      string `json:"name"`
	Decisions int    `json:"decisions"`
}

// Report is what Verify found.
type Report struct {
	Checkpoints int64     `json:"checkpoints"`
	Runs        int       `json:"runs"`
	Anchor      Anchor    `json:"anchor"`    // the newest checkpoint: keep it elsewhere for the next time
	Against     []string  `json:"against"`   // what from outside the store the trail was held against
	Keys        []string  `json:"keys"`      // public keys that have signed
	Signers     []Signer  `json:"signers"`   // who has signed decisions
	Findings    []Finding `json:"findings"`  // empty: all is as it was written
	NotProven   []string  `json:"notProven"` // what there was nothing to hold against

	known map[string][]Checkpoint // by run, in their order
	files map[string]bool         // of runs' folders, those that a checkpoint can speak of: whether one does
}

func (r *Report) find(at int64, run, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{at, run, fmt.Sprintf(format, args...)})
}

func (r *Report) signed(s Signer) {
	if i := slices.IndexFunc(r.Signers, func(o Signer) bool { return o.Key == s.Key && o.Name == s.Name }); i >= 0 {
		r.Signers[i].Decisions += s.Decisions
		return
	}
	r.Signers = append(r.Signers, s)
}

func (r *Report) open(format string, args ...any) {
	r.NotProven = append(r.NotProven, fmt.Sprintf(format, args...))
}

// Verify checks every checkpoint and what they say of every run, and holds them against what is known
// from outside the store. The outside must have been asked before: a run that ends meanwhile is in the
// store before its history says that it has ended.
func Verify(ctx context.Context, store objstore.Store, outside Outside) (*Report, error) {
	r := &Report{Against: []string{}, Keys: []string{}, Signers: []Signer{}, Findings: []Finding{}, NotProven: []string{}, known: make(map[string][]Checkpoint), files: make(map[string]bool)}
	// Before the checkpoints: a run that ends meanwhile has its files first.
	if err := r.list(ctx, store); err != nil {
		return nil, err
	}
	sums, last, err := r.checkpoints(ctx, store, outside.Keys)
	if err != nil {
		return nil, err
	}
	if err := r.runs(ctx, store); err != nil {
		return nil, err
	}
	if err := r.strays(ctx, store); err != nil {
		return nil, err
	}
	r.anchors(outside.Anchors, sums)
	confirmed := r.histories(store, outside.Histories, sums, last)
	hint, err := store.Read(ctx, format.CheckpointHint, 64)
	if err != nil && !errors.Is(err, objstore.ErrNotExist) && !failure.Is(err, failure.UnsafeArchive) {
		return nil, err
	}
	if at, _ := strconv.ParseInt(strings.TrimSpace(string(hint)), 10, 64); at > r.Checkpoints {
		r.find(at, "", "the checkpoint was there, and is not now: the trail was cut off after %d", r.Checkpoints)
	}
	if !confirmed && !slices.ContainsFunc(outside.Anchors, func(a Anchor) bool { return a.Seq >= r.Checkpoints }) {
		r.open("whether checkpoints after %d were cut off, for want of a newer anchor: keep the one below and give it the next time", r.Checkpoints)
	}
	if len(outside.Keys) == 0 {
		r.open("whose the keys are that signed: give those that you trust")
	}
	return r, nil
}

// list finds the files of runs that a checkpoint can speak of.
func (r *Report) list(ctx context.Context, store objstore.Store) error {
	return store.List(ctx, format.RunsFolder+"/", func(i objstore.Info) error {
		name := path.Base(i.Key)
		for _, like := range []string{documentName, legacyTrail, "audit-*.jsonl", "run-*.json", "plan-*.json"} {
			if ok, _ := path.Match(like, name); ok { // the patterns are right
				r.files[i.Key] = false
			}
		}
		return nil
	})
}

// checkpoints checks the chain of checkpoints. It returns the hashes of their files, and the newest that
// is as it was written.
func (r *Report) checkpoints(ctx context.Context, store objstore.Store, trusted []string) (sums map[int64]string, last Checkpoint, err error) {
	sums = make(map[int64]string)
	prev, expect := "", int64(1)
	err = store.List(ctx, format.CheckpointsPrefix, func(i objstore.Info) error {
		seq, ok := format.SeqOfCheckpoint(i.Key)
		if !ok {
			r.find(0, "", "%.200s is no checkpoint: somebody has put it there", i.Key)
			return nil
		}
		data, err := store.Read(ctx, i.Key, maxCheckpoint)
		large := failure.Is(err, failure.UnsafeArchive)
		if err != nil && !large {
			return err
		}
		if expect < seq {
			r.find(expect, "", "the checkpoint is missing, and all up to %d", seq-1)
			prev = ""
		}
		expect = seq + 1
		c, whole := parse(data)
		switch {
		case large:
			r.find(seq, "", "the checkpoint was altered: it is larger than one can be")
		case c.Seq != seq && c.Seq > 0:
			r.find(seq, c.Run, "the checkpoint is the one of place %d", c.Seq)
		case !whole:
			r.find(seq, c.Run, "the checkpoint was altered: its file is not as it was written, or something was added to it")
		case !c.valid():
			r.find(seq, c.Run, "the checkpoint was altered: its signature is wrong")
		case prev != "" && c.Prev != prev || seq == 1 && c.Prev != "":
			r.find(seq, c.Run, "the checkpoint does not follow the one before: that was altered or replaced")
		case len(trusted) > 0 && !slices.Contains(trusted, c.Key):
			r.find(seq, c.Run, "the checkpoint is signed by the key %s, which is not trusted", c.Key)
		default:
			r.known[c.Run] = append(r.known[c.Run], c)
			last = c
			if !slices.Contains(r.Keys, c.Key) {
				r.Keys = append(r.Keys, c.Key)
			}
		}
		if prev = ""; !large {
			prev = hashOf(data)
		}
		sums[seq] = prev
		r.Checkpoints, r.Anchor = seq, Anchor{seq, prev}
		return nil
	})
	return sums, last, err
}

// runs checks what the checkpoints say of each run.
func (r *Report) runs(ctx context.Context, store objstore.Store) error {
	runs := slices.Sorted(maps.Keys(r.known))
	r.Runs = len(runs)
	found := make([]*looked, len(runs))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(together)
	for i, run := range runs {
		l := &looked{store: store, run: run}
		found[i] = l
		group.Go(func() error { return l.all(ctx, r.known[run]) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	bare, lost := 0, 0
	for _, l := range found {
		r.Findings = append(r.Findings, l.findings...)
		bare, lost = bare+l.bare, lost+l.lost
		for _, s := range l.signers {
			r.signed(s)
		}
		for _, key := range l.spoken {
			if _, there := r.files[key]; there {
				r.files[key] = true
			}
		}
	}
	if bare > 0 {
		r.open("the documents and plans of %d runs: they ended under a version whose checkpoints did not hold them", bare)
	}
	if lost > 0 {
		r.open("the trails of %d runs: a later run of the same id replaced them, under a version that kept one trail for each id", lost)
	}
	return nil
}

// looked is what was found of the runs of one id.
type looked struct {
	store    objstore.Store
	run      string
	findings []Finding
	spoken   []string // keys that its checkpoints speak of
	bare     int      // checkpoints that say nothing of a document
	lost     int      // trails that were replaced when there was one for each id
	signers  []Signer
}

func (l *looked) find(format string, args ...any) {
	l.findings = append(l.findings, Finding{Run: l.run, What: fmt.Sprintf(format, args...)})
}

// all checks what each checkpoint of the id says.
func (l *looked) all(ctx context.Context, of []Checkpoint) error {
	document, legacy := of[0], -1
	for i, c := range of {
		document = c
		if c.Document == "" {
			legacy = i // of several, the newest has the place
			l.bare++
		}
	}
	for i, c := range of {
		key := trailKey(l.run, c.Head)
		if c.Document == "" {
			key = format.RunKey(l.run, legacyTrail)
			if i != legacy {
				l.lost++
				continue
			}
		}
		if err := l.trail(ctx, key, c); err != nil {
			return err
		}
		if c.Document != "" {
			if err := l.content(ctx, documentKey(l.run, c.Document), c.Document, "its document"); err != nil {
				return err
			}
		}
		for _, plan := range c.Plans {
			if err := l.content(ctx, planKey(l.run, plan), plan, "its plan"); err != nil {
				return err
			}
		}
	}
	// People and "upkeep show" read this one.
	key := format.RunKey(l.run, documentName)
	if document.Document == "" {
		l.spoken = append(l.spoken, key)
		return nil
	}
	return l.content(ctx, key, document.Document, "its document, "+documentName+",")
}

// trail checks a trail against its checkpoint.
func (l *looked) trail(ctx context.Context, key string, c Checkpoint) error {
	data, ok, err := l.read(ctx, key, maxTrail, "its trail")
	if !ok || err != nil {
		return err
	}
	chain, err := Decode(data, l.run)
	switch {
	case err != nil:
		l.find("%v", err)
	case chain.Head() != c.Head || len(chain.Entries) != c.Entries:
		l.find("its trail has %d entries and ends with %.12s; its checkpoint says %d and %.12s: it was cut off or replaced", len(chain.Entries), chain.Head(), c.Entries, c.Head)
	}
	if err == nil {
		l.signatures(chain)
	}
	return nil
}

// signatures checks what people have signed. They stand by themselves: whoever has a worker's key cannot make one.
func (l *looked) signatures(chain *Chain) {
	for _, e := range chain.Entries {
		if e.Signed == nil {
			continue
		}
		n := approval.Noted{
			Decision: map[string]string{run.ApproveUpdate: run.Approved, run.RejectUpdate: run.Rejected}[e.What],
			Run:      e.Run, Plan: e.Args, Reason: e.Reason, Key: e.Signed.Key, Message: e.Signed.Message, Signature: e.Signed.Signature,
		}
		if err := n.Check(); err != nil {
			l.find("the decision of %.100q in entry %d of its trail is not what was signed: %v", e.By, e.Seq, err)
			continue
		}
		l.signers = append(l.signers, Signer{e.Signed.Key, e.By, 1})
	}
}

// content checks a file against the hash of its content.
func (l *looked) content(ctx context.Context, key, hash, what string) error {
	data, ok, err := l.read(ctx, key, maxDocument, what)
	if ok && err == nil && hashOf(data) != hash {
		l.find("%s is not the one of its checkpoint: it was altered or replaced", what)
	}
	return err
}

// read reads a file that must be there; ok: it could be.
func (l *looked) read(ctx context.Context, key string, most int64, what string) (data []byte, ok bool, err error) {
	l.spoken = append(l.spoken, key)
	data, err = l.store.Read(ctx, key, most)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		l.find("%s is missing", what)
	case failure.Is(err, failure.UnsafeArchive):
		l.find("%s is larger than it can be", what)
	default:
		return data, err == nil, err
	}
	return nil, false, nil
}

// strays finds what is under no checkpoint: that was cut off, or the run's worker died between the two.
// A plan may be there before its run has ended, and stay when it was terminated: it must be what its name
// says.
func (r *Report) strays(ctx context.Context, store objstore.Store) error {
	for _, key := range slices.Sorted(maps.Keys(r.files)) {
		hash, ok := strings.CutPrefix(path.Base(key), "plan-")
		switch {
		case r.files[key]:
		case !ok:
			r.find(0, "", "%s has no checkpoint: it was cut off, or the run was about to be noted", key)
		default:
			data, err := store.Read(ctx, key, maxDocument)
			if err != nil && !errors.Is(err, objstore.ErrNotExist) && !failure.Is(err, failure.UnsafeArchive) {
				return err
			}
			if err != nil || hashOf(data)+".json" != hash {
				r.find(0, "", "the plan %s is not what its name says: it was altered", key)
			}
		}
	}
	return nil
}

// anchors holds the checkpoints against what was kept of them.
func (r *Report) anchors(kept []Anchor, sums map[int64]string) {
	for _, a := range kept {
		r.Against = append(r.Against, fmt.Sprintf("the anchor %d, which was kept", a.Seq))
		if sums[a.Seq] != a.Hash {
			r.find(a.Seq, "", "the checkpoint that was kept as anchor is gone or another one: the trail was cut off or replaced")
		}
	}
}

// histories demands a checkpoint of every run that says it wrote one. It reports whether the runs show
// that nothing was cut off after the last checkpoint: its own run is among them, and so are all that
// ended later.
func (r *Report) histories(store objstore.Store, h *Histories, sums map[int64]string, last Checkpoint) (confirmed bool) {
	if h == nil {
		return false
	}
	held, elsewhere, open := 0, 0, 0
	outcomes := make(map[string]int)
	for _, e := range h.Ended {
		switch {
		case e.Head != nil && slices.ContainsFunc(r.known[e.Run], func(c Checkpoint) bool { return Head{c.Entries, c.Head} == *e.Head }):
			if a := e.Checkpoint; a != nil && sums[a.Seq] != a.Hash {
				r.find(a.Seq, e.Run, "the checkpoint that its history names is another one: it was written anew")
				continue
			}
			held++
			outcomes[e.Outcome]++
			confirmed = confirmed || e.Run == last.Run && e.Head.Head == last.Head
		case e.Report != "" && e.Report != store.URL(format.RunKey(e.Run, "report.html")):
			elsewhere++
		case e.Report != "" && e.Head != nil:
			r.find(0, e.Run, "its history says that it ended %s with a trail of %d entries, up to %.12s, and no checkpoint that is as it was written says so: it was removed or replaced", e.Outcome, e.Head.Entries, e.Head.Head)
		default:
			if open++; open <= maxSaid {
				r.open("what run %s did: it ended %s and left no trail (%s)", e.Run, e.Outcome, e.Why)
			}
		}
	}
	if open > maxSaid {
		r.open("what %d more runs did, which left no trail either", open-maxSaid)
	}
	if h.More {
		r.open("whether the trails of runs are there that ended before the newest %d: Temporal knows more, and no more were looked at", len(h.Ended))
	}
	if held > 0 {
		var how []string
		for _, o := range slices.Sorted(maps.Keys(outcomes)) {
			how = append(how, fmt.Sprintf("%d ended %s", outcomes[o], o))
		}
		r.Against = append(r.Against, fmt.Sprintf("the histories of %d runs in Temporal, whose trails are intact however they ended (%s)", held, strings.Join(how, ", ")))
	}
	if elsewhere > 0 {
		r.open("the trails of %d runs, which were written into another store than this", elsewhere)
	}
	return confirmed
}
