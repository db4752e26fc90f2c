package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

const (
	maxCheckpoint = 64 << 10 // bounds a checkpoint's file, in bytes
	maxTrail      = 16 << 20 // bounds a run's trail, in bytes
	maxDocument   = 16 << 20 // bounds a run's document or plan, in bytes
	maxPlans      = 200      // bounds how many plans one checkpoint names, so that its file stays readable
	// recent is how many checkpoints are looked at for the run's own, and how many tries there are to add
	// one beside others.
	recent = 64
)

var (
	pointBefore = fault.NewPoint("audit/checkpoint/before")
	pointAfter  = fault.NewPoint("audit/checkpoint/after")
)

// Names of what runs leave in their folders that a checkpoint speaks of. What is named by its content is
// never replaced, so the trail of a run stays when another run has its id, or when it is reset.
const (
	documentName = "run.json"    // the newest document of the id
	legacyTrail  = "audit.jsonl" // of the checkpoints that name no document
)

func trailKey(run, head string) string    { return format.RunKey(run, "audit-"+head+".jsonl") }
func documentKey(run, hash string) string { return format.RunKey(run, "run-"+hash+".json") }
func planKey(run, hash string) string     { return format.RunKey(run, "plan-"+hash+".json") }

// Checkpoint says how a run's chain ended and what it left, and how all checkpoints before it stand.
type Checkpoint struct {
	Seq      int64     `json:"seq"` // from 1
	At       time.Time `json:"at"`
	Run      string    `json:"run"`
	Entries  int       `json:"entries"`            // of the run's chain
	Head     string    `json:"head"`               // of the run's chain
	Document string    `json:"document,omitempty"` // SHA-256 of the run's document, hex; the first checkpoints have none
	Plans    []string  `json:"plans,omitempty"`    // SHA-256 of the plans that the run stored, hex
	Prev     string    `json:"prev"`               // SHA-256 of the checkpoint's file before, hex; empty for the first
	Key      string    `json:"key"`                // the public key that signs, hex
	// Signature is ed25519 over the JSON of the checkpoint without it, hex.
	Signature string `json:"signature"`
}

func (c Checkpoint) unsigned() []byte {
	c.Signature = ""
	data, _ := json.Marshal(c) // plain data always encodes
	return data
}

func (c Checkpoint) valid() bool {
	key, err := hex.DecodeString(c.Key)
	signature, failed := hex.DecodeString(c.Signature)
	return err == nil && failed == nil && len(key) == ed25519.PublicKeySize && ed25519.Verify(key, c.unsigned(), signature)
}

// parse reads a checkpoint's file: those bytes and no others, since whatever else they say nobody signed.
func parse(data []byte) (Checkpoint, bool) {
	var c Checkpoint
	if json.Unmarshal(data, &c) != nil {
		return c, false
	}
	again, _ := json.Marshal(c) // plain data always encodes
	return c, bytes.Equal(again, data)
}

// LoadKey reads the key that signs checkpoints from a folder, and makes it if there is none.
func LoadKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, "audit.key")
	for range 2 {
		seed, err := os.ReadFile(path)
		if err == nil {
			raw, err := hex.DecodeString(string(bytes.TrimSpace(seed)))
			if err != nil || len(raw) != ed25519.SeedSize {
				return nil, failure.New(failure.BadConfig, "%s is no key of the audit trail", path).Do("bring the right one back, or move it away: a new one is made then")
			}
			return ed25519.NewKeyFromSeed(raw), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the key of the audit trail: %w", err)
		}
		if err := writeKey(dir, path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make a key for the audit trail: %w", err)
		}
	}
	return nil, fmt.Errorf("the key of the audit trail, %s, does not stay", path)
}

// writeKey makes a key, whole or not at all.
func writeKey(dir, path string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { // others pass through it: the OS user of private servers does
		return err
	}
	var seed [ed25519.SeedSize]byte
	_, _ = rand.Read(seed[:]) // never fails
	f, err := os.CreateTemp(dir, ".audit-key-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(hex.EncodeToString(seed[:]) + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(f.Name(), path) // fails if another was faster
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// Ending is what a run leaves under a checkpoint.
type Ending struct {
	Run      string
	Chain    *Chain
	Document []byte   // as it is in the run's document file
	Plans    []string // SHA-256 of the plans that the run stored, hex
	At       time.Time
}

// Add writes a run's trail, a copy of its document under the name of its content, and a checkpoint of
// both. Done twice, it finds it done. The checkpoints are numbered, and each number is taken once, by the
// store's own create: so there is one order of all, whoever adds beside whom. It returns the
// checkpoint as an anchor, for whoever can keep it outside the store.
func Add(ctx context.Context, store objstore.Store, key ed25519.PrivateKey, e Ending) (Anchor, error) {
	trail, err := e.Chain.Encode()
	if err != nil {
		return Anchor{}, err
	}
	// A checkpoint is not added to what Verify would not read.
	if len(trail) > maxTrail || len(e.Document) > maxDocument || len(e.Plans) > maxPlans {
		return Anchor{}, failure.New(failure.BadInput, "what run %.200q leaves is too large for the audit trail: %d bytes of trail, %d of document, %d plans", e.Run, len(trail), len(e.Document), len(e.Plans)).
			Do("split the work into smaller runs")
	}
	left := Checkpoint{
		Run: e.Run, At: e.At.UTC(), Entries: len(e.Chain.Entries), Head: e.Chain.Head(), Document: hashOf(e.Document), Plans: e.Plans,
		Key: hex.EncodeToString(key.Public().(ed25519.PublicKey)),
	}
	for name, data := range map[string][]byte{trailKey(e.Run, left.Head): trail, documentKey(e.Run, left.Document): e.Document} {
		// What is there has this content, or somebody has altered it: then Verify says so, and says it of
		// this run only if the checkpoint is there.
		if err := store.Create(ctx, name, data); err != nil && !errors.Is(err, objstore.ErrExist) {
			return Anchor{}, err
		}
	}
	for range recent {
		p, err := newest(ctx, store, left)
		if err != nil {
			return Anchor{}, err
		}
		if p.own.Seq > 0 {
			return p.own, settle(ctx, store, e.Run, p.document, p.last)
		}
		next := left
		next.Seq, next.Prev = p.last+1, p.sum
		if !possible(next.Seq) {
			return Anchor{}, failure.New(failure.StoreUnwritable, "no number is left for a checkpoint after %s: somebody has put that there", format.CheckpointKey(p.last)).
				Do("see what upkeep audit verify finds, move that file away, then resume the run")
		}
		next.Signature = hex.EncodeToString(ed25519.Sign(key, next.unsigned()))
		file, err := json.Marshal(next)
		if err != nil {
			return Anchor{}, fmt.Errorf("encode a checkpoint: %w", err)
		}
		pointBefore.Hit()
		err = store.Create(ctx, format.CheckpointKey(next.Seq), file)
		if errors.Is(err, objstore.ErrExist) {
			continue // another run ended at the same moment
		}
		if err != nil {
			return Anchor{}, err
		}
		pointAfter.Hit()
		if err := store.Replace(ctx, format.CheckpointHint, fmt.Appendf(nil, "%d\n", next.Seq)); err != nil { // only where to begin to look
			return Anchor{}, err
		}
		return Anchor{next.Seq, hashOf(file)}, settle(ctx, store, e.Run, next.Document, next.Seq)
	}
	return Anchor{}, failure.New(failure.StoreUnreachable, "the checkpoint of run %.200q finds no place: %d others came before it", e.Run, recent)
}

// settle makes the run's document that of the newest checkpoint of its id. A worker that was frozen while
// it wrote an older one may have put that in its place. The checkpoints up to a number were looked at, and
// the newest of them names the document.
func settle(ctx context.Context, store objstore.Store, run, document string, upTo int64) error {
	key := format.RunKey(run, documentName)
	for document != "" {
		data, err := store.Read(ctx, key, maxDocument)
		if err != nil && !altered(err) {
			return err
		}
		if err != nil || hashOf(data) != document {
			data, err = store.Read(ctx, documentKey(run, document), maxDocument)
			if altered(err) || err == nil && hashOf(data) != document {
				return nil // Verify says so
			}
			if err != nil {
				return err
			}
			if err := store.Replace(ctx, key, data); err != nil {
				return err
			}
		}
		document = "" // unless another came meanwhile
		for {
			data, err := store.Read(ctx, format.CheckpointKey(upTo+1), maxCheckpoint)
			if errors.Is(err, objstore.ErrNotExist) {
				break
			}
			if err != nil && !altered(err) {
				return err
			}
			if c, ok := parse(data); ok && c.Run == run {
				document = c.Document
			}
			upTo++
		}
	}
	return nil
}

// altered reports whether an error of reading says that somebody has been at the file.
func altered(err error) bool {
	return errors.Is(err, objstore.ErrNotExist) || failure.Is(err, failure.UnsafeArchive)
}

// place is where the next checkpoint goes.
type place struct {
	last     int64
	sum      string // of the last checkpoint's file; empty: it cannot be read
	own      Anchor // the one of the recent ones that says the same of the same run
	document string // of the newest of the recent ones of the same run
}

// newest finds the last checkpoint: from where the hint says, forward.
func newest(ctx context.Context, store objstore.Store, left Checkpoint) (p place, err error) {
	last, err := hinted(ctx, store)
	if err != nil {
		return place{}, err
	}
	for at := max(1, last-recent); ; at++ {
		data, err := store.Read(ctx, format.CheckpointKey(at), maxCheckpoint)
		switch {
		case errors.Is(err, objstore.ErrNotExist):
			if at <= last { // it was removed: Verify says so
				continue
			}
			p.last = at - 1
			return p, nil
		case altered(err): // Verify says so, and runs go on
			p.sum = ""
			continue
		case err != nil:
			return place{}, err
		}
		p.sum = hashOf(data)
		if c, ok := parse(data); ok && c.Run == left.Run {
			p.document = c.Document
			if c.Head == left.Head && c.Document == left.Document {
				p.own = Anchor{at, p.sum}
			}
		}
	}
}

// hinted is the number of a checkpoint that is there, and few come after it; 0 when there is none.
func hinted(ctx context.Context, store objstore.Store) (last int64, err error) {
	hint, err := store.Read(ctx, format.CheckpointHint, 64)
	if err == nil {
		last, _ = strconv.ParseInt(strings.TrimSpace(string(hint)), 10, 64) // no number is none
	} else if !errors.Is(err, objstore.ErrNotExist) && !failure.Is(err, failure.UnsafeArchive) {
		return 0, err
	}
	if possible(last) {
		_, err := store.Stat(ctx, format.CheckpointKey(last))
		if !errors.Is(err, objstore.ErrNotExist) {
			return last, err
		}
	}
	last = 0
	err = store.List(ctx, format.CheckpointsPrefix, func(i objstore.Info) error {
		if seq, ok := format.SeqOfCheckpoint(i.Key); ok {
			last = max(last, seq)
		}
		return nil
	})
	return last, err
}

// possible reports whether a checkpoint can have a number.
func possible(seq int64) bool {
	_, ok := format.SeqOfCheckpoint(format.CheckpointKey(seq))
	return ok
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
