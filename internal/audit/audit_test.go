package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

var at = time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC)

func chain(run string, n int) *audit.Chain {
	c := new(audit.Chain)
	for i := range n {
		c.Add(audit.Entry{Run: run, At: at.Add(time.Duration(i) * time.Second), Kind: audit.Intent, What: fmt.Sprint("step ", i), Args: audit.HashOf(i)})
	}
	return c
}

func folder(t *testing.T) objstore.Store {
	t.Helper()
	store, err := objstore.Open(t.Context(), "file://"+t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

func key(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	k, err := audit.LoadKey(t.TempDir())
	require.NoError(t, err)
	return k
}

func TestAChainSaysWhatWasDoneToIt(t *testing.T) {
	data, err := chain("r", 4).Encode()
	require.NoError(t, err)
	whole, err := audit.Decode(data, "r")
	require.NoError(t, err)
	require.Equal(t, chain("r", 4).Head(), whole.Head())
	lines := bytes.SplitAfter(data, []byte("\n"))[:4]
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	for name, broken := range map[string][]byte{
		"removed":   join(lines[0], lines[1], lines[3]),
		"first":     join(lines[1], lines[2], lines[3]),
		"reordered": join(lines[0], lines[2], lines[1], lines[3]),
		"twice":     join(lines[0], lines[0], lines[1]),
		"altered":   bytes.Replace(data, []byte("step 2"), []byte("step 9"), 1),
		"number":    bytes.Replace(data, []byte(`"seq":3`), []byte(`"seq":5`), 1),
		"field":     bytes.Replace(data, []byte(`{"seq":2`), []byte(`{"more":1,"seq":2`), 1),
		"no JSON":   append(slices.Clone(data), "x\n"...),
	} {
		_, err := audit.Decode(broken, "r")
		require.ErrorIs(t, err, audit.ErrBroken, name)
	}
	_, err = audit.Decode(data, "another")
	require.ErrorIs(t, err, audit.ErrBroken)
	short, err := audit.Decode(join(lines[0], lines[1]), "r")
	require.NoError(t, err, "a cut tail is found by its head")
	require.NotEqual(t, whole.Head(), short.Head())
	for i := range data { // one bit anywhere
		flipped := slices.Clone(data)
		flipped[i] ^= 1
		c, err := audit.Decode(flipped, "r")
		require.True(t, err != nil || c.Head() != whole.Head(), "byte %d", i)
	}
}

func verify(t *testing.T, store objstore.Store, anchors []audit.Anchor, keys ...string) *audit.Report {
	t.Helper()
	r, err := audit.Verify(t.Context(), store, anchors, keys, nil)
	require.NoError(t, err)
	return r
}

func TestWhatIsDoneToTheTrailIsFound(t *testing.T) {
	const runs = 5
	build := func(t *testing.T) (objstore.Store, audit.Anchor, string) {
		store, k := folder(t), key(t)
		for i := range runs {
			id := fmt.Sprint("run-", i)
			require.NoError(t, audit.Add(t.Context(), store, k, id, chain(id, i+2), at))
			require.NoError(t, audit.Add(t.Context(), store, k, id, chain(id, i+2), at.Add(time.Hour)), "done twice it is done once")
		}
		r := verify(t, store, nil)
		require.Empty(t, r.Findings)
		require.Equal(t, int64(runs), r.Checkpoints)
		require.Equal(t, runs, r.Runs)
		require.Len(t, r.NotProven, 2, "nobody has kept an anchor or said whose the keys are")
		public := hex.EncodeToString(k.Public().(ed25519.PublicKey))
		require.Equal(t, []string{public}, r.Keys)
		whole := verify(t, store, []audit.Anchor{r.Anchor}, public)
		require.Empty(t, whole.Findings)
		require.Empty(t, whole.NotProven)
		return store, r.Anchor, public
	}
	trail := func(run string) string { return format.RunKey(run, "audit.jsonl") }
	move := func(ctx context.Context, s objstore.Store, from, to string) error {
		data, err := s.Read(ctx, from, 1<<20)
		if err != nil {
			return err
		}
		return s.Replace(ctx, to, data)
	}
	for name, c := range map[string]struct {
		do   func(ctx context.Context, s objstore.Store) error
		says string
	}{
		"a trail is gone": {func(ctx context.Context, s objstore.Store) error { return s.Delete(ctx, trail("run-2")) }, "its trail is missing"},
		"a trail is cut off": {func(ctx context.Context, s objstore.Store) error {
			data, _ := chain("run-2", 3).Encode()
			return s.Replace(ctx, trail("run-2"), data)
		}, "it was cut off or replaced"},
		"a trail is another run's": {func(ctx context.Context, s objstore.Store) error { return move(ctx, s, trail("run-1"), trail("run-2")) }, "is of another run"},
		"a checkpoint is gone":     {func(ctx context.Context, s objstore.Store) error { return s.Delete(ctx, format.CheckpointKey(3)) }, "the checkpoint is missing"},
		"a checkpoint is altered": {func(ctx context.Context, s objstore.Store) error {
			data, err := s.Read(ctx, format.CheckpointKey(3), 1<<20)
			if err != nil {
				return err
			}
			return s.Replace(ctx, format.CheckpointKey(3), bytes.Replace(data, []byte(`"entries":4`), []byte(`"entries":3`), 1))
		}, "its signature is wrong"},
		"two checkpoints have changed places": {func(ctx context.Context, s objstore.Store) error {
			return move(ctx, s, format.CheckpointKey(2), format.CheckpointKey(3))
		}, "has another's place"},
		"the newest is cut off": {func(ctx context.Context, s objstore.Store) error {
			if err := s.Delete(ctx, trail("run-4")); err != nil {
				return err
			}
			return s.Delete(ctx, format.CheckpointKey(runs))
		}, "kept as anchor is gone"},
		"all is gone": {func(ctx context.Context, s objstore.Store) error {
			for i := range runs {
				if err := s.Delete(ctx, format.CheckpointKey(int64(i+1))); err != nil {
					return err
				}
			}
			return nil
		}, "kept as anchor is gone"},
		"a run is invented": {func(ctx context.Context, s objstore.Store) error {
			other, err := audit.LoadKey(t.TempDir())
			if err != nil {
				return err
			}
			return audit.Add(ctx, s, other, "forged", chain("forged", 2), at)
		}, "which is not trusted"},
		"a trail without a checkpoint": {func(ctx context.Context, s objstore.Store) error {
			data, _ := chain("stray", 2).Encode()
			return s.Replace(ctx, trail("stray"), data)
		}, "has no checkpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			store, anchor, public := build(t)
			require.NoError(t, c.do(t.Context(), store))
			r := verify(t, store, []audit.Anchor{anchor}, public)
			require.NotEmpty(t, r.Findings)
			require.True(t, slices.ContainsFunc(r.Findings, func(f audit.Finding) bool { return bytes.Contains([]byte(f.What), []byte(c.says)) }), "%+v", r.Findings)
		})
	}
}

func TestTheTrailIsHeldAgainstHistories(t *testing.T) {
	store, k := folder(t), key(t)
	require.NoError(t, audit.Add(t.Context(), store, k, "r", chain("r", 3), at))
	require.NoError(t, audit.Add(t.Context(), store, k, "gone", chain("gone", 3), at))
	says := func(n int) func(context.Context, string) (*audit.Head, error) {
		return func(_ context.Context, run string) (*audit.Head, error) {
			if run == "gone" {
				return nil, nil
			}
			return &audit.Head{Entries: n, Head: chain("r", n).Head()}, nil
		}
	}
	r, err := audit.Verify(t.Context(), store, nil, nil, says(3))
	require.NoError(t, err)
	require.Empty(t, r.Findings)
	require.Equal(t, []string{"the histories of runs"}, r.Against)
	r, err = audit.Verify(t.Context(), store, nil, nil, says(4))
	require.NoError(t, err)
	require.Contains(t, r.Findings[0].What, "its history says 4 entries")
}

// TestRunsThatEndTogether have one order of all.
func TestRunsThatEndTogether(t *testing.T) {
	store, k := folder(t), key(t)
	var ending sync.WaitGroup
	errs := make(chan error, 40)
	for i := range 20 {
		for range 2 { // each beside a twin of itself
			ending.Add(1)
			go func() {
				defer ending.Done()
				id := fmt.Sprint("run-", i)
				errs <- audit.Add(context.Background(), store, k, id, chain(id, 3), at)
			}()
		}
	}
	ending.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	r := verify(t, store, nil)
	require.Empty(t, r.Findings)
	require.Equal(t, 20, r.Runs)
}

// TestAHintThatIsWrong costs a search and nothing else.
func TestAHintThatIsWrong(t *testing.T) {
	for _, hint := range []string{"", "0", "1", "-5", "x", "50", "99999999999999999999"} {
		store, k := folder(t), key(t)
		for i := range 3 {
			id := fmt.Sprint("run-", i)
			require.NoError(t, audit.Add(t.Context(), store, k, id, chain(id, 2), at))
		}
		require.NoError(t, store.Replace(t.Context(), format.CheckpointHint, []byte(hint)))
		require.NoError(t, audit.Add(t.Context(), store, k, "next", chain("next", 2), at))
		r := verify(t, store, nil)
		require.Empty(t, r.Findings, hint)
		require.Equal(t, int64(4), r.Checkpoints, hint)
	}
}

func TestAKeyIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	keys := make(chan ed25519.PrivateKey, 8)
	for range cap(keys) {
		go func() {
			k, err := audit.LoadKey(dir)
			if err != nil {
				k = nil
			}
			keys <- k
		}()
	}
	first := <-keys
	require.NotNil(t, first)
	for range cap(keys) - 1 {
		require.Equal(t, first, <-keys)
	}
}
