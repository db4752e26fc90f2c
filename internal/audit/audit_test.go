package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/approval/approvaltest"
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
		"CR":        bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n")),
		"one CR":    bytes.Replace(data, []byte("\n"), []byte("\r\n"), 1),
		"no end":    data[:len(data)-1],
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

func document(run string) []byte { return fmt.Appendf(nil, "{\"runId\":%q}\n", run) }

var plan = []byte(`{"replace":"shop"}`)

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// add writes what a run leaves, as the worker does.
func add(ctx context.Context, s objstore.Store, k ed25519.PrivateKey, e audit.Ending) error {
	for _, p := range e.Plans {
		if err := s.Replace(ctx, format.RunKey(e.Run, "plan-"+p+".json"), plan); err != nil {
			return err
		}
	}
	if err := s.Replace(ctx, format.RunKey(e.Run, "run.json"), e.Document); err != nil {
		return err
	}
	_, err := audit.Add(ctx, s, k, e)
	return err
}

func ending(run string, entries int) audit.Ending {
	return audit.Ending{Run: run, Chain: chain(run, entries), Document: document(run), At: at}
}

func verify(t *testing.T, store objstore.Store, anchors []audit.Anchor, keys ...string) *audit.Report {
	t.Helper()
	r, err := audit.Verify(t.Context(), store, audit.Outside{Anchors: anchors, Keys: keys})
	require.NoError(t, err)
	return r
}

func trail(run string, entries int) string {
	return format.RunKey(run, "audit-"+chain(run, entries).Head()+".jsonl")
}

// TestWhatIsDoneToTheTrailIsFound lets somebody loose on a store who may write everything in it, and has
// no worker's key.
func TestWhatIsDoneToTheTrailIsFound(t *testing.T) {
	const runs = 5
	build := func(t *testing.T) (objstore.Store, audit.Anchor, string) {
		store, k := folder(t), key(t)
		for i := range runs {
			e := ending(fmt.Sprint("run-", i), i+2)
			if i == 1 {
				e.Plans = []string{sum(plan)}
			}
			require.NoError(t, add(t.Context(), store, k, e))
			e.At = at.Add(time.Hour)
			require.NoError(t, add(t.Context(), store, k, e), "done twice it is done once")
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
	type store = objstore.Store
	type act func(ctx context.Context, s store) error
	read := func(ctx context.Context, s store, key string) []byte {
		data, err := s.Read(ctx, key, 1<<20)
		require.NoError(t, err)
		return data
	}
	move := func(from, to string) act {
		return func(ctx context.Context, s store) error { return s.Replace(ctx, to, read(ctx, s, from)) }
	}
	remove := func(keys ...string) act {
		return func(ctx context.Context, s store) error {
			for _, key := range keys {
				if err := s.Delete(ctx, key); err != nil {
					return err
				}
			}
			return nil
		}
	}
	write := func(key string, data []byte) act {
		return func(ctx context.Context, s store) error { return s.Replace(ctx, key, data) }
	}
	edit := func(key string, how func([]byte) []byte) act {
		return func(ctx context.Context, s store) error { return s.Replace(ctx, key, how(read(ctx, s, key))) }
	}
	instead := func(old, with string) func([]byte) []byte {
		return func(data []byte) []byte {
			require.Contains(t, string(data), old)
			return bytes.Replace(data, []byte(old), []byte(with), 1)
		}
	}
	appended := func(more string) func([]byte) []byte {
		return func(data []byte) []byte { return append(slices.Clone(data), more...) }
	}
	all := func(acts ...act) act {
		return func(ctx context.Context, s store) error {
			for _, a := range acts {
				if err := a(ctx, s); err != nil {
					return err
				}
			}
			return nil
		}
	}
	short, err := chain("run-2", 3).Encode()
	require.NoError(t, err)
	stray, err := chain("stray", 2).Encode()
	require.NoError(t, err)
	doc := func(run string) string { return format.RunKey(run, "run.json") }
	copied := func(run string) string { return format.RunKey(run, "run-"+sum(document(run))+".json") }
	planned := format.RunKey("run-1", "plan-"+sum(plan)+".json")
	newest := format.CheckpointKey(runs)
	lines := func(order ...int) func([]byte) []byte {
		return func(data []byte) []byte {
			l := bytes.SplitAfter(data, []byte("\n"))
			var out []byte
			for _, i := range order {
				out = append(out, l[i]...)
			}
			return out
		}
	}
	for name, c := range map[string]struct {
		do       act
		says     string
		anchored bool // only an anchor shows it
	}{
		"a trail is gone":              {do: remove(trail("run-2", 4)), says: "its trail is missing"},
		"a trail is cut off":           {do: write(trail("run-2", 4), short), says: "it was cut off or replaced"},
		"a trail is emptied":           {do: write(trail("run-2", 4), nil), says: "it was cut off or replaced"},
		"a trail is altered":           {do: edit(trail("run-2", 4), instead("step 1", "step 9")), says: "was altered"},
		"a trail is reordered":         {do: edit(trail("run-2", 4), lines(0, 2, 1, 3)), says: "has the number 3"},
		"an entry is removed":          {do: edit(trail("run-2", 4), lines(0, 2, 3)), says: "has the number 3"},
		"a trail goes on":              {do: edit(trail("run-2", 4), appended("{}\n")), says: "is not as it was written"},
		"a trail has blanks more":      {do: edit(trail("run-2", 4), appended("\n")), says: "cannot be read"},
		"a trail is too large":         {do: write(trail("run-2", 4), make([]byte, 17<<20)), says: "its trail is larger than it can be"},
		"a trail is another run's":     {do: move(trail("run-1", 3), trail("run-2", 4)), says: "is of another run"},
		"two trails change places":     {do: all(move(trail("run-1", 3), "x/y"), move(trail("run-2", 4), trail("run-1", 3)), move("x/y", trail("run-2", 4))), says: "is of another run"},
		"a trail without a checkpoint": {do: write(trail("stray", 2), stray), says: "has no checkpoint"},
		"a trail of another name":      {do: write(format.RunKey("run-2", "audit.jsonl"), short), says: "has no checkpoint"},

		"a checkpoint is gone":            {do: remove(format.CheckpointKey(3)), says: "the checkpoint is missing"},
		"a checkpoint is altered":         {do: edit(format.CheckpointKey(3), instead(`"entries":4`, `"entries":3`)), says: "its signature is wrong"},
		"a checkpoint names no document":  {do: edit(format.CheckpointKey(3), instead(`"document":"`+sum(document("run-2"))+`",`, ``)), says: "its signature is wrong"},
		"a checkpoint replays an old one": {do: move(format.CheckpointKey(2), format.CheckpointKey(3)), says: "is the one of place 2"},
		"an old one is the newest":        {do: move(format.CheckpointKey(2), format.CheckpointKey(runs+1)), says: "is the one of place 2"},
		"something follows the newest":    {do: edit(newest, appended("{}")), says: "something was added to it"},
		"a line end follows the newest":   {do: edit(newest, appended("\n")), says: "something was added to it"},
		"a field of the newest is twice":  {do: edit(newest, instead(`{"seq":5`, `{"seq":9,"seq":5`)), says: "not as it was written"},
		"a field's name is another":       {do: edit(newest, instead(`"run"`, `"RUN"`)), says: "not as it was written"},
		"a field of the newest is more":   {do: edit(newest, instead(`{"seq"`, `{"more":1,"seq"`)), says: "not as it was written"},
		"the newest is no JSON":           {do: write(newest, []byte("gone")), says: "not as it was written"},
		"a checkpoint is too large":       {do: write(format.CheckpointKey(3), make([]byte, 1<<20)), says: "it is larger than one can be"},
		"the newest is cut off":           {do: remove(trail("run-4", 6), newest), says: "has no checkpoint"},
		"all of the newest is cut off": {anchored: true, says: "kept as anchor is gone",
			do: all(remove(trail("run-4", 6), newest, doc("run-4"), copied("run-4")), write(format.CheckpointHint, []byte("4\n")))},
		"all is gone": {anchored: true, says: "kept as anchor is gone", do: func(ctx context.Context, s store) error {
			var keys []string
			if err := s.List(ctx, "", func(i objstore.Info) error { keys = append(keys, i.Key); return nil }); err != nil {
				return err
			}
			return remove(keys...)(ctx, s)
		}},
		"a run is invented": {do: func(ctx context.Context, s store) error {
			other, err := audit.LoadKey(t.TempDir())
			if err != nil {
				return err
			}
			return add(ctx, s, other, ending("forged", 2))
		}, says: "which is not trusted"},

		"a document is altered":           {do: edit(doc("run-2"), instead("run-2", "run-3")), says: "its document, run.json, is not the one"},
		"a document is gone":              {do: remove(doc("run-2")), says: "its document, run.json, is missing"},
		"a document is another's":         {do: move(doc("run-1"), doc("run-2")), says: "its document, run.json, is not the one"},
		"a document is invented":          {do: write(doc("forged"), document("forged")), says: "runs/forged/run.json has no checkpoint"},
		"a document's copy is altered":    {do: edit(copied("run-2"), instead("run-2", "run-3")), says: "its document is not the one"},
		"a document's copy is gone":       {do: remove(copied("run-2")), says: "its document is missing"},
		"a document has a copy of itself": {do: write(format.RunKey("run-2", "run-"+sum(nil)+".json"), nil), says: "has no checkpoint"},
		"a plan is altered":               {do: edit(planned, instead("shop", "shed")), says: "its plan is not the one"},
		"a plan is gone":                  {do: remove(planned), says: "its plan is missing"},
		"a plan without a checkpoint":     {do: write(format.RunKey("run-3", "plan-"+sum(nil)+".json"), plan), says: "is not what its name says"},
	} {
		t.Run(name, func(t *testing.T) {
			store, anchor, public := build(t)
			require.NoError(t, c.do(t.Context(), store))
			for _, anchors := range [][]audit.Anchor{nil, {anchor}} {
				r := verify(t, store, anchors, public)
				if c.anchored && anchors == nil {
					require.Empty(t, r.Findings)
					require.Contains(t, r.NotProven[0], "for want of a newer anchor")
					continue
				}
				require.True(t, slices.ContainsFunc(r.Findings, func(f audit.Finding) bool { return strings.Contains(f.What, c.says) }), "%+v", r.Findings)
			}
			// Whatever it was, runs go on and can be noted.
			k := key(t)
			require.NoError(t, add(t.Context(), store, k, ending("after", 2)))
			r := verify(t, store, nil)
			require.False(t, slices.ContainsFunc(r.Findings, func(f audit.Finding) bool { return f.Run == "after" }), "%+v", r.Findings)
		})
	}
}

// TestATrailStaysWhenItsIDIsUsedAgain ends three runs of one id, the last as the first did.
func TestATrailStaysWhenItsIDIsUsedAgain(t *testing.T) {
	store, k := folder(t), key(t)
	first, second := ending("r", 3), ending("r", 5)
	second.Document = []byte("{}\n")
	require.NoError(t, add(t.Context(), store, k, first))
	require.NoError(t, add(t.Context(), store, k, second))
	r := verify(t, store, nil)
	require.Empty(t, r.Findings)
	require.Equal(t, int64(2), r.Checkpoints)
	require.Equal(t, 1, r.Runs)

	data, err := store.Read(t.Context(), trail("r", 3), 1<<20)
	require.NoError(t, err)
	require.NoError(t, store.Replace(t.Context(), trail("r", 3), bytes.Replace(data, []byte("step 1"), []byte("step 7"), 1)))
	require.Contains(t, verify(t, store, nil).Findings[0].What, "was altered", "the older trail is checked too")
	require.NoError(t, store.Replace(t.Context(), trail("r", 3), data))

	require.NoError(t, store.Replace(t.Context(), format.RunKey("r", "run.json"), first.Document))
	require.Contains(t, verify(t, store, nil).Findings[0].What, "run.json, is not the one", "the document of the run before is not the newest")
}

// TestAFrozenWorkerWakesUp lets one that writes an older run of an id down wake up before, between and
// after the writes of the newer run's.
func TestAFrozenWorkerWakesUp(t *testing.T) {
	first, second := ending("r", 3), ending("r", 5)
	second.Document = []byte("{}\n")
	key, store := key(t), folder(t)
	document := func(e audit.Ending) {
		require.NoError(t, store.Replace(t.Context(), format.RunKey("r", "run.json"), e.Document))
	}
	checkpoint := func(e audit.Ending) audit.Anchor {
		a, err := audit.Add(t.Context(), store, key, e)
		require.NoError(t, err)
		return a
	}
	for name, c := range map[string]struct {
		do      func()
		newest  audit.Ending
		covered int64
	}{
		"its checkpoint is the later": {func() { document(first); document(second); checkpoint(second); checkpoint(first) }, first, 2},
		"it writes its document": {func() {
			document(first)
			checkpoint(first)
			document(second)
			checkpoint(second)
			document(first)
			checkpoint(first)
		}, second, 2},
		"it does all twice": {func() { document(first); checkpoint(first); document(first); checkpoint(first) }, first, 1},
	} {
		t.Run(name, func(t *testing.T) {
			store = folder(t)
			c.do()
			r := verify(t, store, nil)
			require.Empty(t, r.Findings)
			require.Equal(t, c.covered, r.Checkpoints)
			data, err := store.Read(t.Context(), format.RunKey("r", "run.json"), 1<<20)
			require.NoError(t, err)
			require.Equal(t, string(c.newest.Document), string(data))
		})
	}
}

// early writes a trail and a checkpoint as the first versions did.
func early(t *testing.T, store objstore.Store, k ed25519.PrivateKey, seq int64, prev string, c *audit.Chain) (sha string) {
	t.Helper()
	run := c.Entries[0].Run
	data, err := c.Encode()
	require.NoError(t, err)
	require.NoError(t, store.Replace(t.Context(), format.RunKey(run, "audit.jsonl"), data))
	require.NoError(t, store.Replace(t.Context(), format.RunKey(run, "run.json"), document(run)))
	unsigned := fmt.Sprintf(`{"seq":%d,"at":"2026-11-25T03:00:00Z","run":"%s","entries":%d,"head":"%s","prev":"%s","key":"%x","signature":"`,
		seq, run, len(c.Entries), c.Head(), prev, k.Public())
	file := fmt.Appendf(nil, `%s%x"}`, unsigned, ed25519.Sign(k, []byte(unsigned+`"}`)))
	require.NoError(t, store.Create(t.Context(), format.CheckpointKey(seq), file))
	return sum(file)
}

// TestAnOlderStoreStaysReadable checks a store of the time when there was one trail for each id, and one
// that went on from there.
func TestAnOlderStoreStaysReadable(t *testing.T) {
	store, k := folder(t), key(t)
	prev := early(t, store, k, 1, "", chain("one", 3))
	prev = early(t, store, k, 2, prev, chain("two", 3))
	early(t, store, k, 3, prev, chain("two", 4)) // was reset
	says := func(r *audit.Report) {
		t.Helper()
		require.Empty(t, r.Findings)
		require.Contains(t, r.NotProven, "the documents and plans of 3 runs: they ended under a version whose checkpoints did not hold them")
		require.Contains(t, r.NotProven, "the trails of 1 runs: a later run of the same id replaced them, under a version that kept one trail for each id")
	}
	says(verify(t, store, nil))
	require.NoError(t, add(t.Context(), store, k, ending("one", 3)))
	require.NoError(t, add(t.Context(), store, k, ending("three", 3)))
	r := verify(t, store, nil)
	says(r)
	require.Equal(t, int64(5), r.Checkpoints)
	data, err := chain("one", 2).Encode()
	require.NoError(t, err)
	require.NoError(t, store.Replace(t.Context(), format.RunKey("one", "audit.jsonl"), data))
	require.Contains(t, verify(t, store, nil).Findings[0].What, "it was cut off or replaced")
}

func TestTheTrailIsHeldAgainstHistories(t *testing.T) {
	store, k := folder(t), key(t)
	require.NoError(t, add(t.Context(), store, k, ending("gone", 3)))
	require.NoError(t, add(t.Context(), store, k, ending("r", 3)))
	ended := func(run string, entries int) audit.Ended {
		return audit.Ended{Run: run, Outcome: "Refused", Head: &audit.Head{Entries: entries, Head: chain(run, entries).Head()}, Report: store.URL(format.RunKey(run, "report.html"))}
	}
	hold := func(h audit.Histories) *audit.Report {
		t.Helper()
		r, err := audit.Verify(t.Context(), store, audit.Outside{Histories: &h})
		require.NoError(t, err)
		return r
	}
	r := hold(audit.Histories{Ended: []audit.Ended{ended("r", 3)}})
	require.Empty(t, r.Findings)
	require.Equal(t, []string{"the histories of 1 runs in Temporal, whose trails are intact however they ended (1 ended Refused)"}, r.Against)
	whole := r.Anchor
	require.Len(t, r.NotProven, 1, "the newest checkpoint is that of the newest run: nothing was cut off")

	r = hold(audit.Histories{Ended: []audit.Ended{ended("gone", 3)}})
	require.Empty(t, r.Findings)
	require.Contains(t, r.NotProven[0], "for want of a newer anchor", "a run that ended before the newest checkpoint shows nothing of what came later")

	r = hold(audit.Histories{Ended: []audit.Ended{ended("r", 4), ended("removed", 2)}, More: true})
	require.Len(t, r.Findings, 2)
	require.Equal(t, "r", r.Findings[0].Run)
	require.Contains(t, r.Findings[0].What, "it ended Refused with a trail of 4 entries")
	require.Equal(t, "removed", r.Findings[1].Run)
	require.Empty(t, r.Against)
	require.Contains(t, r.NotProven[0], "that ended before the newest 2")

	sealed := ended("r", 3)
	sealed.Checkpoint = &whole
	r = hold(audit.Histories{Ended: []audit.Ended{sealed}})
	require.Empty(t, r.Findings)
	sealed.Checkpoint = &audit.Anchor{Seq: whole.Seq, Hash: sum(nil)} // everything has been signed anew, by another key
	r = hold(audit.Histories{Ended: []audit.Ended{sealed}})
	require.Contains(t, r.Findings[0].What, "its history names is another one")
	require.Contains(t, r.NotProven[0], "for want of a newer anchor")

	away := ended("away", 3)
	away.Report = "s3://another/runs/away/report.html"
	r = hold(audit.Histories{Ended: []audit.Ended{{Run: "killed", Outcome: "Cancelled", Why: "terminated from outside by ann"}, away}})
	require.Empty(t, r.Findings)
	require.Equal(t, "what run killed did: it ended Cancelled and left no trail (terminated from outside by ann)", r.NotProven[0])
	require.Contains(t, r.NotProven[1], "1 runs, which were written into another store")

	many := make([]audit.Ended, 120)
	for i := range many {
		many[i] = audit.Ended{Run: fmt.Sprint("killed-", i), Outcome: "Cancelled", Why: "terminated"}
	}
	r = hold(audit.Histories{Ended: many})
	require.Len(t, r.NotProven, 53, "so many are named, and the rest counted")
	require.Contains(t, r.NotProven[50], "70 more runs")
}

// TestRunsThatEndTogether have one order of all.
func TestRunsThatEndTogether(t *testing.T) {
	store, k := folder(t), key(t)
	var adding sync.WaitGroup
	errs := make(chan error, 40)
	for i := range 20 {
		for range 2 { // each beside a twin of itself
			adding.Add(1)
			go func() {
				defer adding.Done()
				id := fmt.Sprint("run-", i)
				errs <- add(context.Background(), store, k, ending(id, 3))
			}()
		}
	}
	adding.Wait()
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
			require.NoError(t, add(t.Context(), store, k, ending(id, 2)))
		}
		require.NoError(t, store.Replace(t.Context(), format.CheckpointHint, []byte(hint)))
		require.NoError(t, add(t.Context(), store, k, ending("next", 2)))
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

// A number that somebody plants must not keep runs from being noted, nor a worker busy for ever.
func TestAnAbsurdNumberStopsNobody(t *testing.T) {
	for name, want := range map[string]bool{"9223372036854775807": true, "1000000000000": true, "999999999999": false} {
		store, k := folder(t), key(t)
		require.NoError(t, add(t.Context(), store, k, ending("run-1", 2)))
		data, err := store.Read(t.Context(), format.CheckpointKey(1), 1<<20)
		require.NoError(t, err)
		require.NoError(t, store.Create(t.Context(), format.CheckpointsPrefix+name+".json", data))
		require.NoError(t, store.Delete(t.Context(), format.CheckpointHint))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = add(ctx, store, k, ending("run-2", 2))
		require.Equal(t, want, err == nil, "%s: %v", name, err)
		r, err := audit.Verify(t.Context(), store, audit.Outside{})
		require.NoError(t, err)
		require.NotEmpty(t, r.Findings, name)
	}
}

// TestSignedDecisionsAreChecked: whoever has the worker's key and writes a trail of their own has no person's.
func TestSignedDecisionsAreChecked(t *testing.T) {
	ann := approvaltest.New(t, "ann")
	policy := approval.Policy{Quorum: 1, Signed: true, Keys: []approval.Key{ann.Key()}}
	doc := run.Document{RunID: "r", Procedure: "ContainIncident", Approval: &run.Approval{Hash: sum(plan), AskedAt: at, ExpiresAt: at.Add(time.Hour), Quorum: 1, Signed: true}}
	d, err := policy.Judge(doc, run.Approved, ann.Decide(doc, run.Approved, "seen to"), at)
	require.NoError(t, err)
	for name, forge := range map[string]func(*audit.Entry){
		"":                   func(*audit.Entry) {},
		"of another plan":    func(e *audit.Entry) { e.Args = strings.Repeat("0", 64) },
		"of another reason":  func(e *audit.Entry) { e.Reason = "never mind" },
		"of the opposite":    func(e *audit.Entry) { e.What = run.RejectUpdate },
		"by another":         func(e *audit.Entry) { e.Signed.Key = "SHA256:x" },
		"that nobody signed": func(e *audit.Entry) { e.Signed.Signature = "" },
	} {
		t.Run("a decision "+name, func(t *testing.T) {
			store, k := folder(t), key(t)
			noted := audit.Entry{
				At: at, Run: "r", Kind: audit.Decision, What: run.ApproveUpdate, Args: d.Plan, By: d.By, Reason: d.Reason,
				Signed: &audit.Signed{Key: d.Key, Message: d.Message, Signature: d.Signature},
			}
			forge(&noted)
			c := new(audit.Chain)
			c.Add(noted)
			require.NoError(t, add(t.Context(), store, k, audit.Ending{Run: "r", Chain: c, Document: document("r"), At: at}))
			r := verify(t, store, nil)
			if name == "" {
				require.Empty(t, r.Findings)
				require.Equal(t, []audit.Signer{{Key: d.Key, Name: "ann", Decisions: 1}}, r.Signers)
				return
			}
			require.Len(t, r.Findings, 1)
			require.Contains(t, r.Findings[0].What, "is not what was signed")
			require.Empty(t, r.Signers)
		})
	}
}
