package format

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"time"
)

// Index is what can be known of a backup without its key: what belongs to it, how large that is and what
// its stored bytes hash to. That is enough to look whether all is there as it was written, and to prune.
type Index struct {
	Format     int       `json:"format"`
	Backup     string    `json:"backup"`
	Target     string    `json:"target"`
	SnapshotAt time.Time `json:"snapshotAt"`
	Key        string    `json:"key"`     // fingerprint of the repository key
	LeftOut    int       `json:"leftOut"` // how many things of the database are not in the backup
	Chunks     []Object  `json:"chunks"`  // each once, in the order of their first use
	Files      []File    `json:"files"`
}

// Object is a chunk as it lies in the store.
type Object struct {
	Name   string `json:"name"`   // see Chunk.Object
	Size   int64  `json:"size"`   // of the stored bytes
	SHA256 string `json:"sha256"` // of the stored bytes
}

// Stored is the chunk as it lies in the store.
func (c Chunk) Stored() Object {
	return Object{Name: c.Object(), Size: c.StoredSize, SHA256: c.StoredSHA256}
}

// Index is the manifest's.
func (m *Manifest) Index() *Index {
	i := &Index{
		Format: m.Format, Backup: m.Backup, Target: m.Target, SnapshotAt: m.SnapshotAt, Key: m.Key, LeftOut: len(m.LeftOut),
		Chunks: []Object{}, Files: m.Files,
	}
	for _, c := range m.Distinct() {
		i.Chunks = append(i.Chunks, c.Stored())
	}
	return i
}

// Size is how many stored bytes the backup needs.
func (i *Index) Size() (sum int64) {
	for _, o := range i.Chunks {
		sum += o.Size
	}
	return sum
}

// sealed is what stands in the place of a sealed backup's manifest.
type sealed struct {
	Index
	Sealed []byte `json:"sealed"` // the file of the manifest, packed and encrypted
}

// EncodeSealed writes the file of a sealed backup's manifest: its index in clear, and all of it sealed.
func EncodeSealed(m *Manifest, seal func(plain []byte) ([]byte, error)) ([]byte, error) {
	plain, err := Encode(m)
	if err != nil {
		return nil, err
	}
	if m.Format != Sealed {
		return nil, fmt.Errorf("a backup of format %d is not sealed", m.Format)
	}
	s := sealed{Index: *m.Index()}
	if s.Sealed, err = seal(plain); err != nil {
		return nil, err
	}
	return enclose(Sealed, s)
}

// IsSealed reports whether a manifest's file says that it is a sealed backup's.
func IsSealed(data []byte) bool {
	before, _, _ := bytes.Cut([]byte(head(Sealed, "")), []byte(`""`))
	return bytes.HasPrefix(data, before)
}

// DecodeIndex reads what can be known without a key from a sealed backup's file, and believes no more of it
// than Decode. The sealed manifest is for DecodeSealed, once it is opened.
func DecodeIndex(data []byte, target, backup string) (i *Index, inner []byte, err error) {
	var s sealed
	if err := open(data, target, backup, Sealed, &s); err != nil {
		return nil, nil, err
	}
	if s.Format != Sealed || s.Backup != backup || s.Target != target {
		return nil, nil, damaged(target, backup, "it is the manifest of backup %.120q of target %.120q in format %d", s.Backup, s.Target, s.Format)
	}
	if err := s.validate(); err != nil {
		return nil, nil, damaged(target, backup, "%v", err)
	}
	return &s.Index, s.Sealed, nil
}

func (i *Index) validate() error {
	switch {
	case i.SnapshotAt.IsZero():
		return errors.New("no time of the snapshot")
	case !ValidFingerprint(i.Key):
		return fmt.Errorf("%.40q is not the fingerprint of a repository key", i.Key)
	case i.LeftOut < 0 || len(i.Chunks) == 0:
		return errors.New("no chunks, or fewer than none left out")
	}
	seen := make(map[string]bool, len(i.Chunks))
	for _, o := range i.Chunks {
		if !sealName.MatchString(o.Name) || seen[o.Name] || !hexSHA256.MatchString(o.SHA256) || o.Size <= 0 || o.Size > MaxStored(MaxChunk) {
			return fmt.Errorf("the chunk %.80q is not one that a sealed backup can have", o.Name)
		}
		seen[o.Name] = true
	}
	return validateFiles(i.Files)
}

// DecodeSealed reads the sealed manifest that DecodeIndex found, once it is opened. The index must be its
// own, so that nobody without the key has changed it.
func DecodeSealed(i *Index, plain []byte) (*Manifest, error) {
	m, err := decode(plain, i.Target, i.Backup, Sealed)
	if err != nil {
		return nil, err
	}
	if own := m.Index(); !own.SnapshotAt.Equal(i.SnapshotAt) || !reflect.DeepEqual(withoutTime(own), withoutTime(i)) {
		return nil, damaged(i.Target, i.Backup, "its index in clear is not that of what is sealed")
	}
	return m, nil
}

func withoutTime(i *Index) Index {
	c := *i
	c.SnapshotAt = time.Time{}
	return c
}
