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
	"slices"
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
	// recent is how many checkpoints are looked at for the run's own, and how many tries there are to add
	// one beside others.
	recent = 64
)

var (
	pointBefore = fault.NewPoint("audit/checkpoint/before")
	pointAfter  = fault.NewPoint("audit/checkpoint/after")
)

// Checkpoint says how a run's chain ended, and how all checkpoints before it stand.
type Checkpoint struct {
	Seq     int64     `json:"seq"` // from 1
	At      time.Time `json:"at"`
	Run     string    `json:"run"`
	Entries int       `json:"entries"` // of the run's chain
	Head    string    `json:"head"`    // of the run's chain
	Prev    string    `json:"prev"`    // SHA-256 of the checkpoint's file before, hex; empty for the first
	Key     string    `json:"key"`     // the public key that signs, hex
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

// Add writes a run's trail and a checkpoint of its head. Done twice, it finds it done. The checkpoints
// are numbered, and each number is taken once, by the store's own create: so there is one order of all,
// whoever adds beside whom.
func Add(ctx context.Context, store objstore.Store, key ed25519.PrivateKey, run string, c *Chain, at time.Time) error {
	data, err := c.Encode()
	if err != nil {
		return err
	}
	if err := store.Replace(ctx, format.RunKey(run, "audit.jsonl"), data); err != nil {
		return err
	}
	for range recent {
		last, prev, known, err := newest(ctx, store, run, c.Head())
		if err != nil || known {
			return err
		}
		next := Checkpoint{
			Seq: last + 1, At: at.UTC(), Run: run, Entries: len(c.Entries), Head: c.Head(), Prev: prev, Key: hex.EncodeToString(key.Public().(ed25519.PublicKey)),
		}
		next.Signature = hex.EncodeToString(ed25519.Sign(key, next.unsigned()))
		file, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("encode a checkpoint: %w", err)
		}
		pointBefore.Hit()
		err = store.Create(ctx, format.CheckpointKey(next.Seq), file)
		if errors.Is(err, objstore.ErrExist) {
			continue // another run ended at the same moment
		}
		if err != nil {
			return err
		}
		pointAfter.Hit()
		return store.Replace(ctx, format.CheckpointHint, fmt.Appendf(nil, "%d\n", next.Seq)) // only where to begin to look
	}
	return failure.New(failure.StoreUnreachable, "the checkpoint of run %.200q finds no place: %d others came before it", run, recent)
}

// newest finds the last checkpoint: from where the hint says, forward. Known says that one of the
// recent ones is of this run and head.
func newest(ctx context.Context, store objstore.Store, run, head string) (last int64, sum string, known bool, err error) {
	last, err = hinted(ctx, store)
	if err != nil {
		return 0, "", false, err
	}
	for at := max(1, last-recent); ; at++ {
		data, err := store.Read(ctx, format.CheckpointKey(at), maxCheckpoint)
		if errors.Is(err, objstore.ErrNotExist) {
			if at <= last { // it was removed: Verify says so
				continue
			}
			return at - 1, sum, known, nil
		}
		if err != nil {
			return 0, "", false, err
		}
		var c Checkpoint
		if json.Unmarshal(data, &c) == nil && c.Run == run && c.Head == head {
			known = true
		}
		sum = hashOf(data)
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
	if last > 0 {
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

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

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

// Finding is something that is not as it was written.
type Finding struct {
	Checkpoint int64  `json:"checkpoint,omitempty"`
	Run        string `json:"run,omitempty"`
	What       string `json:"what"`
}

// Report is what Verify found.
type Report struct {
	Checkpoints int64     `json:"checkpoints"`
	Runs        int       `json:"runs"`
	Anchor      Anchor    `json:"anchor"`    // the newest checkpoint: keep it elsewhere for the next time
	Against     []string  `json:"against"`   // what the trail was held against
	Keys        []string  `json:"keys"`      // public keys that have signed
	Findings    []Finding `json:"findings"`  // empty: all is as it was written
	NotProven   []string  `json:"notProven"` // what there was nothing to hold against
	known       map[string][]Head
}

// Verify checks every checkpoint and every run's trail. Known are anchors that somebody has kept; ended
// asks how a run's chain ended by its own history, and returns nil where that is gone.
func Verify(ctx context.Context, store objstore.Store, known []Anchor, trusted []string, ended func(ctx context.Context, run string) (*Head, error)) (*Report, error) {
	r := &Report{Against: []string{}, Keys: []string{}, Findings: []Finding{}, NotProven: []string{}, known: make(map[string][]Head)}
	find := func(at int64, run, format string, args ...any) {
		r.Findings = append(r.Findings, Finding{at, run, fmt.Sprintf(format, args...)})
	}
	// Before the checkpoints: a run that ends meanwhile has its trail first.
	trails, err := trailsOf(ctx, store)
	if err != nil {
		return nil, err
	}
	files := make(map[int64]string) // hash by number
	prev, expect := "", int64(1)
	err = store.List(ctx, format.CheckpointsPrefix, func(i objstore.Info) error {
		seq, ok := format.SeqOfCheckpoint(i.Key)
		if !ok {
			return nil
		}
		data, err := store.Read(ctx, i.Key, maxCheckpoint)
		if err != nil {
			return err
		}
		if expect < seq {
			find(expect, "", "the checkpoint is missing, and all up to %d", seq-1)
			prev = ""
		}
		expect = seq + 1
		var c Checkpoint
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		switch err := d.Decode(&c); {
		case err != nil || c.Seq != seq:
			find(seq, c.Run, "the checkpoint cannot be read, or has another's place")
		case !c.valid():
			find(seq, c.Run, "the checkpoint was altered: its signature is wrong")
		case prev != "" && c.Prev != prev || seq == 1 && c.Prev != "":
			find(seq, c.Run, "the checkpoint does not follow the one before: that was altered or replaced")
		case len(trusted) > 0 && !slices.Contains(trusted, c.Key):
			find(seq, c.Run, "the checkpoint is signed by the key %s, which is not trusted", c.Key)
		default:
			r.known[c.Run] = append(r.known[c.Run], Head{c.Entries, c.Head})
			if !slices.Contains(r.Keys, c.Key) {
				r.Keys = append(r.Keys, c.Key)
			}
		}
		prev = hashOf(data)
		files[seq] = prev
		r.Checkpoints, r.Anchor = seq, Anchor{seq, prev}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, a := range known {
		r.Against = append(r.Against, fmt.Sprintf("the anchor %d", a.Seq))
		if files[a.Seq] != a.Hash {
			find(a.Seq, "", "the checkpoint that was kept as anchor is gone or another one: the trail was cut off or replaced")
		}
	}
	hint, err := store.Read(ctx, format.CheckpointHint, 64)
	if err != nil && !errors.Is(err, objstore.ErrNotExist) && !failure.Is(err, failure.UnsafeArchive) {
		return nil, err
	}
	if at, _ := strconv.ParseInt(strings.TrimSpace(string(hint)), 10, 64); at > r.Checkpoints {
		find(at, "", "the checkpoint was there, and is not now: the trail was cut off after %d", r.Checkpoints)
	}
	if !slices.ContainsFunc(known, func(a Anchor) bool { return a.Seq >= r.Checkpoints }) {
		r.NotProven = append(r.NotProven, fmt.Sprintf("whether checkpoints after %d were cut off, for want of a newer anchor: keep the one below and give it the next time", r.Checkpoints))
	}
	if len(trusted) == 0 {
		r.NotProven = append(r.NotProven, "whose the keys are that signed: give those that you trust")
	}
	runs := make([]string, 0, len(r.known))
	for run := range r.known {
		runs = append(runs, run)
	}
	slices.Sort(runs)
	for _, run := range runs {
		if err := r.trail(ctx, store, run, find, ended); err != nil {
			return nil, err
		}
	}
	r.Runs = len(runs)
	r.strays(trails, find)
	return r, nil
}

// trail checks one run's trail against its newest checkpoint and its history.
func (r *Report) trail(ctx context.Context, store objstore.Store, run string, find func(int64, string, string, ...any), ended func(context.Context, string) (*Head, error)) error {
	heads := r.known[run]
	newest := heads[len(heads)-1] // a run that was reset ends again
	data, err := store.Read(ctx, format.RunKey(run, "audit.jsonl"), maxTrail)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		find(0, run, "its trail is missing")
	case failure.Is(err, failure.UnsafeArchive):
		find(0, run, "its trail is larger than one can be")
	case err != nil:
		return err
	default:
		c, err := Decode(data, run)
		switch {
		case err != nil:
			find(0, run, "%v", err)
		case c.Head() != newest.Head || len(c.Entries) != newest.Entries:
			find(0, run, "its trail has %d entries and ends with %.12s; its checkpoint says %d and %.12s: it was cut off or replaced", len(c.Entries), c.Head(), newest.Entries, newest.Head)
		}
	}
	if ended == nil {
		return nil
	}
	h, err := ended(ctx, run)
	if err != nil {
		return err
	}
	if h == nil {
		return nil // the history is gone, as it goes after a while
	}
	if !slices.Contains(r.Against, "the histories of runs") {
		r.Against = append(r.Against, "the histories of runs")
	}
	if *h != newest {
		find(0, run, "its history says %d entries and %.12s, its checkpoint %d and %.12s", h.Entries, h.Head, newest.Entries, newest.Head)
	}
	return nil
}

// trailsOf lists the keys of all trails.
func trailsOf(ctx context.Context, store objstore.Store) (keys []string, err error) {
	err = store.List(ctx, format.RunsFolder+"/", func(i objstore.Info) error {
		if strings.HasSuffix(i.Key, "/audit.jsonl") {
			keys = append(keys, i.Key)
		}
		return nil
	})
	return keys, err
}

// strays finds trails without a checkpoint: it was cut off, or the run's worker died between the two.
func (r *Report) strays(trails []string, find func(int64, string, string, ...any)) {
	known := make(map[string]bool)
	for run := range r.known {
		known[format.RunKey(run, "audit.jsonl")] = true
	}
	for _, key := range trails {
		if !known[key] {
			find(0, "", "%s has no checkpoint: it was cut off, or the run was about to be noted", key)
		}
	}
}
