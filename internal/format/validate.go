package format

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/rowhash"
)

const (
	// MaxChunk bounds a chunk's plain bytes: one row's COPY text, or the schema's archive. In bytes, as
	// the others here.
	MaxChunk = 1 << 30
	// MaxFile bounds another file in a backup's folder.
	MaxFile = 16 << 20
)

// MaxStored bounds the stored bytes of a chunk of so many plain bytes: what cannot be packed grows a
// little.
func MaxStored(size int64) int64 { return size + 1<<20 }

var (
	hexSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)
	sealName  = regexp.MustCompile(`^[0-9a-f]{64}\.age$`)
	hexKey    = regexp.MustCompile(`^[0-9a-f]{32}$`)
	plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
)

// Distinct lists every chunk that the backup needs, each once.
func (m *Manifest) Distinct() []Chunk {
	var all []Chunk
	seen := make(map[string]bool)
	for _, c := range m.Chunks() {
		if !seen[c.Object()] {
			seen[c.Object()] = true
			all = append(all, c)
		}
	}
	return all
}

// Chunks lists every chunk that the backup needs, once per use.
func (m *Manifest) Chunks() []Chunk {
	chunks := []Chunk{m.Schema.Archive}
	for _, t := range m.Tables {
		for _, r := range t.Ranges {
			chunks = append(chunks, r.Chunks...)
		}
	}
	return append(chunks, m.LargeObjects.Chunks...)
}

// validate checks everything that readers of a manifest rely on.
func (m *Manifest) validate() error {
	switch {
	case m.Format != Plain && m.Format != Sealed:
		return fmt.Errorf("format %d is unknown", m.Format)
	case (m.Format == Sealed) != (m.Key != "") || m.Key != "" && !ValidFingerprint(m.Key):
		return fmt.Errorf("format %d with the repository key %.40q", m.Format, m.Key)
	case !ValidID(m.Backup):
		return fmt.Errorf("the id %.120q is not one", m.Backup)
	case !ValidID(m.Target):
		return fmt.Errorf("the target %.120q is not one", m.Target)
	case m.SnapshotAt.IsZero():
		return errors.New("no time of the snapshot")
	case m.Server.VersionNum <= 0 || m.Server.BlockSize <= 0:
		return errors.New("no version or block size of the server")
	case m.Database.Encoding == "":
		return errors.New("no encoding of the database")
	case !hexSHA256.MatchString(m.Schema.TextSHA256):
		return errors.New("no checksum of the schema's text")
	}
	if err := m.Schema.Archive.validate(); err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	for _, p := range m.Schema.PostData {
		if p.DumpID <= 0 || p.Table < -1 || p.Table >= len(m.Tables) {
			return fmt.Errorf("entry %d of the archive is on no table", p.DumpID)
		}
		if p.Kind != PostIndex && p.Kind != PostConstraint && p.Kind != PostForeignKey {
			return fmt.Errorf("entry %d of the archive has the unknown kind %.40q", p.DumpID, p.Kind)
		}
	}
	names := make(map[Name]bool, len(m.Tables))
	for _, t := range m.Tables {
		n := Name{t.Schema, t.Name}
		if names[n] {
			return fmt.Errorf("table %.120q is there twice", t.Name)
		}
		names[n] = true
		if err := t.validate(); err != nil {
			return fmt.Errorf("table %.120q: %w", t.Name, err)
		}
	}
	if err := m.LargeObjects.validate(); err != nil {
		return fmt.Errorf("large objects: %w", err)
	}
	for _, c := range m.Chunks() {
		if (m.Format == Sealed) != (c.Name != "") {
			return fmt.Errorf("chunk %.12s has the name %.80q in a backup of format %d", c.SHA256, c.Name, m.Format)
		}
	}
	return validateFiles(m.Files)
}

func validateFiles(all []File) error {
	files := make(map[string]bool, len(all))
	for _, f := range all {
		if !plainName.MatchString(f.Name) || f.Name == manifestName || files[f.Name] || f.Size < 0 || f.Size > MaxFile || !hexSHA256.MatchString(f.SHA256) {
			return fmt.Errorf("the file %.120q is not one that a backup can have", f.Name)
		}
		files[f.Name] = true
	}
	return nil
}

func (t Table) validate() error {
	if t.Schema == "" || t.Name == "" || t.Pages < 0 || len(t.Ranges) == 0 {
		return errors.New("no name, or no range of pages")
	}
	if t.Root != nil && (t.Root.Schema == "" || t.Root.Name == "") {
		return errors.New("its root has no name")
	}
	var rows, size int64
	var sum rowhash.Sum
	next := int64(0)
	for i, r := range t.Ranges {
		last := i == len(t.Ranges)-1
		if r.First != next || (r.End == -1) != last || !last && r.End <= r.First {
			return fmt.Errorf("the ranges of pages have a gap or overlap at page %d", r.First)
		}
		next = r.End
		n, bytes, hash, err := add(r.Chunks)
		if err != nil {
			return err
		}
		rows, size, sum = rows+n, size+bytes, sum.Merge(hash)
	}
	if rows != t.Rows || size != t.Bytes || sum.Hex() != t.RowHash {
		return errors.New("its chunks do not add up to it")
	}
	return nil
}

func (l LargeObjects) validate() error {
	rows, _, sum, err := add(l.Chunks)
	if err != nil {
		return err
	}
	if rows != l.Rows || sum.Hex() != l.RowHash || l.Count < 0 || l.Bytes < 0 {
		return errors.New("their chunks do not add up to them")
	}
	return nil
}

func add(chunks []Chunk) (rows, size int64, sum rowhash.Sum, err error) {
	for _, c := range chunks {
		if err := c.validate(); err != nil {
			return 0, 0, sum, err
		}
		hash, err := rowhash.Parse(c.RowHash)
		if err != nil {
			return 0, 0, sum, err
		}
		if c.Rows <= 0 || c.Rows > c.Size {
			return 0, 0, sum, fmt.Errorf("chunk %.12s cannot hold %d rows", c.SHA256, c.Rows)
		}
		rows, size, sum = rows+c.Rows, size+c.Size, sum.Merge(hash)
	}
	return rows, size, sum, nil
}

func (c Chunk) validate() error {
	if !hexSHA256.MatchString(c.SHA256) || !hexSHA256.MatchString(c.StoredSHA256) {
		return fmt.Errorf("the chunk name %.80q is not a SHA-256", c.SHA256)
	}
	if c.Name != "" && !sealName.MatchString(c.Name) {
		return fmt.Errorf("chunk %.12s is stored as %.80q, which is not the name of an encrypted chunk", c.SHA256, c.Name)
	}
	if c.Size < 0 || c.Size > MaxChunk || c.StoredSize <= 0 || c.StoredSize > MaxStored(c.Size) {
		return fmt.Errorf("chunk %.12s declares sizes out of bounds (%d, stored %d)", c.SHA256, c.Size, c.StoredSize)
	}
	return nil
}

// Disagreements says where what was read differs from what the census counted in the same snapshot.
func (m *Manifest) Disagreements() []string {
	var out []string
	counted := make(map[Name]Count, len(m.Census.Tables))
	for _, c := range m.Census.Tables {
		counted[Name{c.Schema, c.Name}] = c
	}
	for _, t := range m.Tables {
		n := Name{t.Schema, t.Name}
		c, ok := counted[n]
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("table %.120q.%.120q was read and the catalog has it not", t.Schema, t.Name))
		case c.Rows != t.Rows:
			out = append(out, fmt.Sprintf("table %.120q.%.120q has %d rows and %d were read", t.Schema, t.Name, c.Rows, t.Rows))
		case c.Pages < t.Pages: // nothing takes pages from a table that is locked against changes
			out = append(out, fmt.Sprintf("table %.120q.%.120q has %d pages and %d were to be read", t.Schema, t.Name, c.Pages, t.Pages))
		}
		if len(t.Ranges) == 0 || t.Ranges[0].First != 0 || t.Ranges[len(t.Ranges)-1].End != -1 {
			out = append(out, fmt.Sprintf("table %.120q.%.120q was not read to its last page", t.Schema, t.Name))
		}
		delete(counted, n)
	}
	for n := range counted {
		out = append(out, fmt.Sprintf("table %.120q.%.120q was not read", n.Schema, n.Name))
	}
	if m.Census.Sequences != len(m.Sequences) {
		out = append(out, fmt.Sprintf("there are %d sequences and %d were read", m.Census.Sequences, len(m.Sequences)))
	}
	if m.Census.LargeObjects != m.LargeObjects.Count {
		out = append(out, fmt.Sprintf("there are %d large objects and %d were read", m.Census.LargeObjects, m.LargeObjects.Count))
	}
	return out
}

// Agrees is an error when there are Disagreements.
func (m *Manifest) Agrees() error {
	d := m.Disagreements()
	if len(d) == 0 {
		return nil
	}
	text := d[0]
	if len(d) > 1 {
		text += fmt.Sprintf(" (and %d more)", len(d)-1)
	}
	return failure.New(failure.BackupIncomplete, "what was read does not agree with the catalog of the same snapshot: %s", text).
		Do("this is a fault of the backup or of the server's storage: nothing was kept; see the run's report, check the table with amcheck")
}
