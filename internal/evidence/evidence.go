// Package evidence keeps what was found of an incident so that a court or an auditor can hold it against what
// was seen: each item under the hash of its bytes, a log of custody in which every entry is chained to the one
// before and signed, and at the end a signed statement of all. Whoever alters, removes, reorders or cuts off any
// of it is found out by Verify, which needs nothing but the files.
package evidence

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"filippo.io/age"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// Kinds of entries.
const (
	KindItem = "item" // something that was kept
	KindGap  = "gap"  // something that could not be, and why
)

const (
	// MaxItem bounds one item, in bytes; what is longer is kept in parts.
	MaxItem = 4 << 20
	// maxSegment bounds a segment of the log, in bytes, and maxSegments how many there are.
	maxSegment  = 1 << 20
	maxSegments = 99_999
	// maxText bounds a name, or why there is a gap, in bytes.
	maxText = 1000
)

var (
	segmentBefore = fault.NewPoint("evidence/segment/before")
	segmentAfter  = fault.NewPoint("evidence/segment/after")
)

// Entry is one item of the evidence, or a gap in it.
type Entry struct {
	Seq    int       `json:"seq"` // from 1
	At     time.Time `json:"at"`  // when it was kept
	Case   string    `json:"case"`
	Kind   string    `json:"kind"`
	Name   string    `json:"name"`             // what it is: pods/shop/web-1.json
	SHA256 string    `json:"sha256,omitempty"` // of the file, by which it is named
	Size   int64     `json:"size,omitempty"`   // of the file
	// Sealed says that the file is encrypted with age; Plain is then the SHA-256 of what is in it.
	Sealed bool   `json:"sealed,omitempty"`
	Plain  string `json:"plain,omitempty"`
	Why    string `json:"why,omitempty"` // of a gap
	Prev   string `json:"prev"`          // hash of the entry before; empty for the first
	Key    string `json:"key"`           // the public key that signs, hex
	Hash   string `json:"hash"`          // of this entry without its hash and signature
	// Signature is ed25519 over the hash, hex.
	Signature string `json:"signature"`
}

func (e Entry) hash() string {
	e.Hash, e.Signature = "", ""
	data, _ := json.Marshal(e) // plain data always encodes
	return hashOf(data)
}

func (e *Entry) seal(key ed25519.PrivateKey) {
	e.Key = hex.EncodeToString(key.Public().(ed25519.PublicKey))
	e.Hash = e.hash()
	e.Signature = hex.EncodeToString(ed25519.Sign(key, []byte(e.Hash)))
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func segmentName(n int) string { return fmt.Sprintf("custody/%05d.jsonl", n) }

func itemName(hash string) string { return "items/" + hash }

// Head is how the log stands.
type Head struct {
	Entries int    `json:"entries"`
	Items   int    `json:"items"`
	Gaps    int    `json:"gaps"`
	Bytes   int64  `json:"bytes"`
	Hash    string `json:"hash"` // of the newest entry
}

// Keeper keeps evidence of one case in one folder of a store. It may be used by many at once.
type Keeper struct {
	store      objstore.Store
	folder     string // key prefix, with its slash
	caseID     string
	key        ed25519.PrivateKey
	recipients []age.Recipient
	part       int // bytes of a stream that are one item

	lock    sync.Mutex // of all below
	names   map[string]bool
	waiting []Entry
	queued  int // entries so far, and how many of them are written
	written int
	writing bool
	wrote   *sync.Cond
	segment int // the last one
	head    Head
	err     error
}

// Open goes on where the folder's log ends. What is there is checked: nothing is added to a log that is broken.
func Open(ctx context.Context, store objstore.Store, folder, caseID string, key ed25519.PrivateKey, recipients []age.Recipient) (*Keeper, error) {
	k := &Keeper{store: store, folder: strings.TrimSuffix(folder, "/") + "/", caseID: caseID, key: key, recipients: recipients, part: MaxItem, names: make(map[string]bool)}
	k.wrote = sync.NewCond(&k.lock)
	log := chain{caseID: caseID}
	for n := 1; n <= maxSegments; n++ {
		data, err := store.Read(ctx, k.folder+segmentName(n), maxSegment)
		if errors.Is(err, objstore.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		entries, problem := log.read(data)
		if problem != "" {
			return nil, failure.New(failure.UnsafeArchive, "the evidence of case %s is not as it was written: %s of %s", caseID, problem, segmentName(n)).
				Do("see what upkeep evidence verify finds; keep the folder as it is, and start a new run")
		}
		for _, e := range entries {
			k.names[e.Name] = true
			k.head.count(e)
		}
		k.segment = n
	}
	return k, nil
}

func (h *Head) count(e Entry) {
	h.Entries, h.Hash = e.Seq, e.Hash
	if e.Kind == KindItem {
		h.Items++
		h.Bytes += e.Size
	} else {
		h.Gaps++
	}
}

// Has reports whether something of that name is in the log, also as a gap.
func (k *Keeper) Has(name string) bool {
	k.lock.Lock()
	defer k.lock.Unlock()
	return k.names[name]
}

// Head is how the log stands.
func (k *Keeper) Head() Head {
	k.lock.Lock()
	defer k.lock.Unlock()
	return k.head
}

// Keep keeps an item, at most MaxItem bytes of it. What was kept under that name before stays what it is.
func (k *Keeper) Keep(ctx context.Context, name string, data []byte) error {
	if len(data) > MaxItem {
		return k.Gap(ctx, name, fmt.Sprintf("it has %d bytes, and %d are kept at most", len(data), MaxItem))
	}
	if k.Has(name) {
		return nil
	}
	e := Entry{Case: k.caseID, Kind: KindItem, Name: name, SHA256: hashOf(data), Size: int64(len(data))}
	if len(k.recipients) > 0 {
		sealed, err := seal(data, k.recipients)
		if err != nil {
			return err
		}
		e.Sealed, e.Plain, e.SHA256, e.Size = true, e.SHA256, hashOf(sealed), int64(len(sealed))
		data = sealed
	}
	// What is there has this content, or somebody has altered it: then Verify says so.
	if err := k.store.Create(ctx, k.folder+itemName(e.SHA256), data); err != nil && !errors.Is(err, objstore.ErrExist) {
		return err
	}
	return k.add(ctx, e)
}

func seal(data []byte, to []age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to...)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encrypt evidence: %w", err)
	}
	return out.Bytes(), nil
}

// KeepAll keeps a stream in parts, at most so many bytes of it; what is longer is a gap that says so. It returns
// the error of reading, of which nothing is in the log. Parts that are there stay what they are.
func (k *Keeper) KeepAll(ctx context.Context, name string, from io.Reader, most int64) error {
	for total, part := int64(0), 1; ; part++ {
		limit := min(int64(k.part), most-total)
		data, failed := io.ReadAll(io.LimitReader(from, limit))
		total += int64(len(data))
		more := failed == nil && int64(len(data)) == limit
		if more && total >= most {
			n, _ := io.ReadFull(from, make([]byte, 1)) // it either goes on or does not
			more = n > 0
		}
		if failed == nil && !more {
			return k.Keep(ctx, name+last, data)
		}
		if len(data) > 0 {
			if err := k.Keep(ctx, fmt.Sprintf("%s.%04d", name, part), data); err != nil {
				return err
			}
		}
		if failed != nil {
			return failed
		}
		if total >= most {
			return k.Gap(ctx, name+rest, fmt.Sprintf("it has more than the %d bytes that are kept", most))
		}
	}
}

const (
	// last ends the name of a stream's last part, by which it is known to be whole, and rest that of a gap
	// where there was more than is kept.
	last = ".last"
	rest = " (the rest)"
)

// HasAll reports whether a stream of that name is in the log to its end, or to where it is a gap.
func (k *Keeper) HasAll(name string) bool { return k.Has(name) || k.Has(name+last) || k.Has(name+rest) }

// Gap notes what could not be kept. Why must hold no secret.
func (k *Keeper) Gap(ctx context.Context, name, why string) error {
	if k.Has(name) {
		return nil
	}
	return k.add(ctx, Entry{Case: k.caseID, Kind: KindGap, Name: name, Why: cut(why)})
}

func cut(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + "..."
	}
	return strings.ToValidUTF8(text, "?")
}

// add puts an entry into the log, and returns when it is there. Those that come while a segment is written go
// together into the next one.
func (k *Keeper) add(ctx context.Context, e Entry) error {
	e.Name = cut(e.Name)
	k.lock.Lock()
	defer k.lock.Unlock()
	if k.names[e.Name] {
		return nil
	}
	k.names[e.Name] = true
	k.waiting = append(k.waiting, e)
	k.queued++
	for ticket := k.queued; k.written < ticket && k.err == nil; {
		if k.writing {
			k.wrote.Wait()
			continue
		}
		k.writing = true
		k.err = k.write(ctx)
		k.writing = false
		k.wrote.Broadcast()
	}
	return k.err
}

// write writes a segment of what waits. It is called with the lock, and lets go of it while it writes.
func (k *Keeper) write(ctx context.Context) error {
	if k.segment >= maxSegments {
		return failure.New(failure.StoreUnwritable, "no number is left for a segment of the evidence in %s", k.folder).Do("start a new run")
	}
	var out bytes.Buffer
	head, took := k.head, 0
	for _, e := range k.waiting {
		e.Seq, e.Prev, e.At = head.Entries+1, head.Hash, time.Now().UTC()
		e.seal(k.key)
		data, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encode an entry of the evidence: %w", err)
		}
		if took > 0 && out.Len()+len(data) >= maxSegment {
			break
		}
		out.Write(append(data, '\n'))
		head.count(e)
		took++
	}
	name := k.folder + segmentName(k.segment+1)
	k.lock.Unlock()
	segmentBefore.Hit()
	err := k.store.Create(ctx, name, out.Bytes())
	segmentAfter.Hit()
	k.lock.Lock()
	if errors.Is(err, objstore.ErrExist) {
		return k.fenced()
	}
	if err != nil {
		return err
	}
	k.segment, k.head, k.waiting, k.written = k.segment+1, head, k.waiting[took:], k.written+took
	return nil
}

func (k *Keeper) fenced() error {
	return failure.New(failure.Fenced, "another attempt goes on with the evidence of case %s", k.caseID)
}
