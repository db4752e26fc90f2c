package prune_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/format/formattest"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/proof"
	"github.com/upkeep-run/upkeep/internal/prune"
	"github.com/upkeep-run/upkeep/internal/retention"
	"github.com/upkeep-run/upkeep/internal/verify"
)

const target = formattest.Target

// shelf is a store in a folder whose objects have the ages of a clock that the test sets.
type shelf struct {
	objstore.Store
	t *testing.T

	mu      sync.Mutex
	at      time.Time
	written map[string]time.Time
	beside  func() // what others do right before the next change of the store
	locked  string // what the store does not let be removed: every key that has this in it
	keeping objstore.Keeping
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	store, err := objstore.Open(t.Context(), "file://"+t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return &shelf{Store: store, t: t, at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), written: make(map[string]time.Time)}
}

func (s *shelf) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

func (s *shelf) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = s.at.Add(d)
}

// disturb lets others do what they do, once.
func (s *shelf) disturb() {
	s.mu.Lock()
	beside := s.beside
	s.beside = nil
	s.mu.Unlock()
	if beside != nil {
		beside()
	}
}

func (s *shelf) wrote(key string, err error) error {
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.written[key] = s.at
	}
	return err
}

func (s *shelf) Create(ctx context.Context, key string, data []byte) error {
	s.disturb()
	return s.wrote(key, s.Store.Create(ctx, key, data))
}

func (s *shelf) Replace(ctx context.Context, key string, data []byte) error {
	s.disturb()
	return s.wrote(key, s.Store.Replace(ctx, key, data))
}

func (s *shelf) Delete(ctx context.Context, key string) error {
	s.disturb()
	if s.locked != "" && strings.Contains(key, s.locked) {
		return failure.New(failure.StoreLocked, "%s is locked", key)
	}
	return s.Store.Delete(ctx, key)
}

func (s *shelf) Keeping(context.Context) (objstore.Keeping, error) { return s.keeping, nil }

func (s *shelf) Stat(ctx context.Context, key string) (objstore.Info, error) {
	i, err := s.Store.Stat(ctx, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	i.ModTime = s.written[key]
	return i, err
}

func (s *shelf) List(ctx context.Context, prefix string, each func(objstore.Info) error) error {
	return s.Store.List(ctx, prefix, func(i objstore.Info) error {
		s.mu.Lock()
		i.ModTime = s.written[i.Key]
		s.mu.Unlock()
		return each(i)
	})
}

func (s *shelf) options(p retention.Policy) prune.Options {
	return prune.Options{Store: s, Target: target, Policy: p, RunID: "a prune", Now: s.now}
}

// id names a backup that is begun now; the number tells those of one moment apart.
func (s *shelf) id(n int) string {
	return fmt.Sprintf("%s-%08x", s.now().Format("20060102T150405Z"), n)
}

// begin stores everything of a backup but its manifest.
func (s *shelf) begin(n int, rows ...string) *format.Manifest {
	s.t.Helper()
	return formattest.Manifest(s.t, s, s.id(n), s.now(), rows...)
}

// take takes a backup, and returns its id.
func (s *shelf) take(n int, rows ...string) string {
	s.t.Helper()
	m := s.begin(n, rows...)
	_, err := catalog.Commit(s.t.Context(), s, m, nil, s.now)
	require.NoError(s.t, err)
	return m.Backup
}

// prune plans and applies.
func (s *shelf) prune(p retention.Policy) *prune.Result {
	s.t.Helper()
	plan, err := prune.Make(s.t.Context(), s.options(p))
	require.NoError(s.t, err)
	var ids []string
	for _, b := range plan.Remove {
		ids = append(ids, b.ID)
	}
	r, err := prune.Apply(s.t.Context(), s.options(p), ids)
	require.NoError(s.t, err)
	return r
}

func (s *shelf) ids() []string {
	s.t.Helper()
	ids, err := catalog.IDs(s.t.Context(), s, target)
	require.NoError(s.t, err)
	return ids
}

func (s *shelf) keys(prefix string) (keys []string) {
	s.t.Helper()
	require.NoError(s.t, s.Store.List(s.t.Context(), target+"/"+prefix, func(i objstore.Info) error {
		keys = append(keys, i.Key)
		return nil
	}))
	return keys
}

// whole checks every file of a backup.
func (s *shelf) whole(id string) bool {
	s.t.Helper()
	checks, err := verify.Stored(s.t.Context(), s.Store, target, id, nil)
	require.NoError(s.t, err)
	return proof.Verdict(checks) == run.Pass
}

func (s *shelf) prove(id string, v run.Verdict) {
	s.t.Helper()
	require.NoError(s.t, catalog.SetProof(s.t.Context(), s, target, catalog.Proof{Backup: id, Verdict: v, At: s.now(), RunID: "a drill"}))
}

const day = 24 * time.Hour

func TestABackupGoesAtOnceAndItsChunksADayLater(t *testing.T) {
	s := newShelf(t)
	old := s.take(1, "only", "here")
	s.pass(day)
	young := s.take(2, "something", "else")
	before := len(s.keys("chunks/"))

	plan, err := prune.Make(t.Context(), s.options(retention.Policy{Last: 1}))
	require.NoError(t, err)
	require.Equal(t, old, plan.Remove[0].ID)
	require.Equal(t, young, plan.Keep[0].ID)
	require.Positive(t, plan.Frees)

	r := s.prune(retention.Policy{Last: 1})
	require.Equal(t, []string{old}, r.Removed)
	require.Equal(t, 1, r.Kept)
	require.Equal(t, 1, r.Condemned, "they share all but the rows of one table")
	require.Equal(t, plan.Frees, r.CondemnedBytes)
	require.Zero(t, r.Chunks)
	require.Empty(t, s.keys("backups/"+old+"/"))
	require.Len(t, s.keys("chunks/"), before)
	removal, err := catalog.ReadRemoval(t.Context(), s, target, old)
	require.NoError(t, err)
	require.Equal(t, "a prune", removal.RunID)
	_, err = catalog.Load(t.Context(), s, target, old, nil)
	require.True(t, failure.Is(err, failure.UnknownBackup))
	require.ErrorContains(t, err, "was removed by run \"a prune\" (retention: last 1)")

	s.pass(day - time.Minute)
	require.Zero(t, s.prune(retention.Policy{Last: 1}).Chunks)
	s.pass(time.Minute)
	r = s.prune(retention.Policy{Last: 1})
	require.Equal(t, 1, r.Chunks)
	require.Equal(t, plan.Frees, r.FreedBytes)
	require.Len(t, s.keys("chunks/"), before-1)
	require.Empty(t, s.keys("condemned.json"))
	require.True(t, s.whole(young))
}

func TestABackupThatUsesACondemnedChunkKeepsIt(t *testing.T) {
	s := newShelf(t)
	s.take(1, "again")
	s.pass(day)
	s.take(2, "other")
	require.Equal(t, 1, s.prune(retention.Policy{Last: 1}).Condemned)
	s.pass(2 * day)
	third := s.begin(3, "again") // it finds the chunk, and renews it
	require.Zero(t, s.prune(retention.Policy{Last: 1}).Chunks)
	_, err := catalog.Commit(t.Context(), s, third, nil, s.now)
	require.NoError(t, err)
	s.pass(2 * day)
	s.prune(retention.Policy{Last: 1})
	require.Equal(t, []string{third.Backup}, s.ids())
	require.True(t, s.whole(third.Backup))
}

// TestABackupThatBeganBeforeItsChunksWereCondemned finds out at its end.
func TestABackupThatBeganBeforeItsChunksWereCondemned(t *testing.T) {
	for name, wait := range map[string]time.Duration{"within the grace": 3 * time.Hour, "a day late": 2 * day} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			s.take(1, "again")
			s.pass(day)
			s.take(2, "other")
			s.pass(time.Hour)
			late := s.begin(3, "again")
			s.pass(time.Hour)
			require.Equal(t, 1, s.prune(retention.Policy{Last: 1}).Condemned)
			s.pass(wait)
			removed := s.prune(retention.Policy{Last: 1}).Chunks
			_, err := catalog.Commit(t.Context(), s, late, nil, s.now)
			if wait < day {
				require.Zero(t, removed)
				require.NoError(t, err)
				require.True(t, s.whole(late.Backup))
				return
			}
			require.Equal(t, 1, removed)
			require.True(t, failure.Is(err, failure.ChunkRemoved), "%v", err)
			require.NotContains(t, s.ids(), late.Backup, "it is not left half")
		})
	}
}

func TestALateTwinOfARemovedBackupDoesNotBringItBack(t *testing.T) {
	s := newShelf(t)
	twin := s.begin(1, "rows")
	_, err := catalog.Commit(t.Context(), s, twin, nil, s.now)
	require.NoError(t, err)
	s.pass(day)
	s.take(2, "rows")
	s.prune(retention.Policy{Last: 1})
	_, err = catalog.Commit(t.Context(), s, twin, nil, s.now)
	require.True(t, failure.Is(err, failure.BackupRemoved), "%v", err)
	require.Len(t, s.ids(), 1)
}

func TestAHoldCountsToTheLastMoment(t *testing.T) {
	s := newShelf(t)
	old := s.take(1, "a")
	s.pass(day)
	s.take(2, "b")
	s.beside = func() { // right before the removal is noted
		require.NoError(t, catalog.SetHold(t.Context(), s, target, catalog.Hold{Backup: old, By: "ann", Reason: "a lawsuit"}))
	}
	r := s.prune(retention.Policy{Last: 1})
	require.Empty(t, r.Removed)
	require.Equal(t, []string{old}, r.Spared)
	require.Len(t, s.ids(), 2)
	require.Empty(t, s.keys("removed/"), "a removal that did not happen is not noted")
	require.True(t, s.whole(old))

	require.NoError(t, catalog.ReleaseHold(t.Context(), s, target, old))
	require.Equal(t, []string{old}, s.prune(retention.Policy{Last: 1}).Removed)
	require.Empty(t, s.keys("holds/"))
}

func TestWhatWasProvenSinceThePlanStays(t *testing.T) {
	s := newShelf(t)
	old := s.take(1, "a")
	s.pass(day)
	s.take(2, "b")
	s.prove(old, run.Pass)
	r, err := prune.Apply(t.Context(), s.options(retention.Policy{Last: 1}), []string{old, "20200101T000000Z-00000000"})
	require.NoError(t, err)
	require.Empty(t, r.Removed)
	require.Equal(t, []string{old, "20200101T000000Z-00000000"}, r.Spared)
}

// TestAnAttemptThatWasCutOffIsFinished cuts a prune off before every change that it makes.
func TestAnAttemptThatWasCutOffIsFinished(t *testing.T) {
	type cut struct{}
	for n := 0; ; n++ {
		s := newShelf(t)
		old := s.take(1, "a")
		s.pass(day)
		s.take(2, "b")
		changes := 0
		var count func()
		count = func() {
			if changes == n {
				panic(cut{})
			}
			changes++
			s.beside = count
		}
		s.beside = count
		finished := false
		func() {
			defer func() {
				if r := recover(); r != nil {
					require.IsType(t, cut{}, r)
				}
			}()
			s.prune(retention.Policy{Last: 1})
			finished = true
		}()
		s.beside = nil
		r, err := prune.Apply(t.Context(), s.options(retention.Policy{Last: 1}), []string{old})
		require.NoError(t, err)
		require.Equal(t, []string{old}, r.Removed, "cut off after %d changes", n)
		require.Equal(t, 1, r.Kept)
		require.Empty(t, s.keys("backups/"+old))
		require.Len(t, s.keys("removed/"), 1)
		if finished {
			require.Greater(t, n, 4)
			return
		}
	}
}

func TestWhileABackupCannotBeReadNoChunkGoes(t *testing.T) {
	s := newShelf(t)
	broken := s.take(1, "a")
	s.pass(day)
	s.take(2, "b")
	s.pass(day)
	s.take(3, "c")
	require.NoError(t, s.Replace(t.Context(), format.ManifestKey(target, broken), []byte("{}")))
	plan, err := prune.Make(t.Context(), s.options(retention.Policy{Last: 1}))
	require.NoError(t, err)
	require.Equal(t, []string{broken}, plan.Unreadable)
	require.Zero(t, plan.Frees, "what the broken one shares is not known")
	for range 2 {
		r := s.prune(retention.Policy{Last: 1})
		require.Zero(t, r.Chunks+r.Condemned)
		require.Contains(t, r.Remarks[0], broken)
		s.pass(2 * day)
	}
	require.Contains(t, s.ids(), broken)
}

func TestWhatAnAttemptLeftGoesLater(t *testing.T) {
	s := newShelf(t)
	left := s.begin(1, "never finished")
	s.take(2, "rows")
	s.prune(retention.Policy{Last: 1})
	require.NotEmpty(t, s.keys("backups/"+left.Backup+"/"))
	s.pass(day)
	s.prune(retention.Policy{Last: 1})
	require.Empty(t, s.keys("backups/"+left.Backup+"/"))
	_, err := catalog.Commit(t.Context(), s, left, nil, s.now)
	require.True(t, failure.Is(err, failure.ChunkRemoved), "its guide is gone: %v", err)
}

// TestAnyShelf lets backups, late twins, holds, drills and prunes meet in every order, also in the middle
// of each other as if there were no leases. A backup that is there is whole or is known not to be, and
// what must stay stays.
func TestAnyShelf(t *testing.T) {
	for seed := range 25 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { anyShelf(t, rand.New(rand.NewPCG(uint64(seed), 7))) })
	}
}

func anyShelf(t *testing.T, r *rand.Rand) {
	s := newShelf(t)
	policy := retention.Policy{Last: 1 + r.IntN(2), Daily: r.IntN(3), Weekly: r.IntN(2)}
	var begun, all []*format.Manifest
	var plans [][]string
	held := make(map[string]bool)
	n := 0
	var step func()
	step = func() {
		switch n++; r.IntN(9) {
		case 0, 1, 2:
			begun = append(begun, s.begin(n, fmt.Sprint("rows ", r.IntN(4))))
		case 3, 4:
			twins := append(slices.Clone(begun), all...) // also one that was committed long ago
			if len(twins) == 0 {
				return
			}
			m := twins[r.IntN(len(twins))]
			age := s.now().Sub(m.StartedAt)
			_, err := catalog.Commit(t.Context(), s, m, nil, s.now)
			if err == nil {
				all = append(all, m)
			} else if !failure.Is(err, failure.BackupRemoved) {
				require.True(t, failure.Is(err, failure.ChunkRemoved), "%v", err)
				require.Greater(t, age, 12*time.Hour, "a young backup lost %v", err)
			}
		case 5:
			if ids := s.ids(); len(ids) > 0 {
				s.prove(ids[r.IntN(len(ids))], []run.Verdict{run.Pass, run.Pass, run.Fail}[r.IntN(3)])
			}
		case 6:
			plan, err := prune.Make(t.Context(), s.options(policy))
			require.NoError(t, err)
			var ids []string
			for _, b := range plan.Remove {
				ids = append(ids, b.ID)
			}
			plans = append(plans, ids)
		case 7:
			if len(plans) > 0 { // maybe an old one
				_, err := prune.Apply(t.Context(), s.options(policy), plans[r.IntN(len(plans))])
				require.NoError(t, err)
			}
		case 8:
			if ids := s.ids(); len(ids) > 0 && r.IntN(3) == 0 {
				id := ids[r.IntN(len(ids))]
				require.NoError(t, catalog.SetHold(t.Context(), s, target, catalog.Hold{Backup: id, By: "ann", Reason: "a lawsuit"}))
				// As "upkeep backups hold" does: it holds if no removal has begun.
				if removal, err := catalog.ReadRemoval(t.Context(), s, target, id); err == nil && removal == nil {
					held[id] = slices.Contains(s.ids(), id)
				}
			}
		}
	}
	for range 60 {
		s.pass(time.Duration(r.IntN(14)) * time.Hour)
		before := newestProven(t, s)
		for range r.IntN(3) {
			beside := s.beside
			s.beside = func() {
				if beside != nil {
					beside()
				}
				step()
			}
		}
		step()
		s.beside = nil
		for id := range held {
			if held[id] {
				require.Contains(t, s.ids(), id, "a held backup is gone")
			}
		}
		for _, id := range s.ids() {
			e, _, err := catalog.Look(t.Context(), s, target, id, nil)
			require.NoError(t, err)
			require.True(t, e.Mark != nil || s.whole(id), "backup %s lacks something, and nobody knows", id)
		}
		if before != "" && !slices.Contains(s.ids(), before) {
			require.NotEqual(t, before, newestProven(t, s))
			require.NotEmpty(t, newestProven(t, s), "the newest PASS is gone")
		}
	}
	for id := range held {
		require.NoError(t, catalog.ReleaseHold(t.Context(), s, target, id))
	}
	s.pass(3 * day)
	for range 3 { // condemned, removed, and nothing left to do
		s.prune(policy)
		s.pass(3 * day)
	}
	needed := make(map[string]bool)
	_, err := catalog.List(t.Context(), s, target, nil, func(b *format.Index) {
		for _, c := range b.Chunks {
			needed[format.ChunkKey(target, c.Name)] = true
		}
	})
	require.NoError(t, err)
	for _, key := range s.keys("chunks/") {
		require.True(t, needed[key], "%s is left over", key)
	}
	require.Empty(t, s.keys("condemned.json"))
	for _, key := range s.keys("backups/") {
		id, _, _ := strings.Cut(strings.TrimPrefix(key, format.BackupsPrefix(target)), "/")
		require.Contains(t, s.ids(), id, "%s is left over", key)
	}
}

// newestProven is the newest backup that is proven, or "".
func newestProven(t *testing.T, s *shelf) string {
	entries, err := catalog.List(t.Context(), s, target, nil, nil)
	require.NoError(t, err)
	var newest catalog.Entry
	for _, e := range entries {
		if e.Proven() && !e.At.Before(newest.At) {
			newest = e
		}
	}
	return newest.ID
}
