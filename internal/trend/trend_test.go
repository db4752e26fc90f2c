package trend

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
)

var at = time.Date(2026, 11, 23, 3, 0, 0, 1, time.UTC)

// drill is the point of a drill that ended so many days after the first.
func drill(day int) Point {
	return Point{
		Run: fmt.Sprintf("drill-%d", day), Procedure: "DrillRecovery", Target: "shop", EndedAt: at.AddDate(0, 0, day), Outcome: run.Succeeded,
		Verdict: run.Pass, Backup: fmt.Sprintf("b%d", day), Fresh: true, DrillSeconds: 60, BytesRead: 1000, BytesStored: 10,
	}
}

func open(t *testing.T) (objstore.Store, string) {
	t.Helper()
	dir := t.TempDir()
	store, err := objstore.Open(t.Context(), "file://"+dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store, dir
}

func add(t *testing.T, store objstore.Store, points ...Point) {
	t.Helper()
	for _, p := range points {
		require.NoError(t, Add(t.Context(), store, p))
	}
}

// runs names the runs of the past.
func runs(past Past) (ids []string) {
	for _, p := range past.Points {
		ids = append(ids, p.Run)
	}
	return ids
}

func TestPointOfARun(t *testing.T) {
	doc := func(procedure string, outcome run.Outcome, result string) run.Document {
		return run.Document{RunID: "r", Procedure: procedure, Target: "shop", Outcome: outcome, Result: json.RawMessage(result)}
	}
	const figures = `"drillSeconds":61.2,"bytesRead":1000,"bytesStored":10`
	for name, c := range map[string]struct {
		doc  run.Document
		want Point // without what is the same in all
	}{
		"a drill": {doc("DrillRecovery", run.Succeeded, `{"verdict":"PASS","backupId":"b1","backupSeconds":20,`+figures+`}`),
			Point{Verdict: run.Pass, Backup: "b1", Fresh: true, DrillSeconds: 61.2, BytesRead: 1000, BytesStored: 10}},
		"a drill of a backup that was there": {doc("DrillRecovery", run.Succeeded, `{"verdict":"PASS","backupId":"b1","backupSeconds":0,`+figures+`}`),
			Point{Verdict: run.Pass, Backup: "b1", DrillSeconds: 61.2, BytesRead: -1, BytesStored: -1}},
		"a drill that found a difference": {doc("DrillRecovery", run.Failed, `{"verdict":"FAIL","backupId":"b1","backupSeconds":20,`+figures+`}`),
			Point{Verdict: run.Fail, Backup: "b1", Fresh: true, DrillSeconds: 61.2, BytesRead: 1000, BytesStored: 10}},
		"a backup": {doc("BackupDatabase", run.PartiallySucceeded, `{"backupId":"b1","bytesRead":1000,"bytesStored":10}`),
			Point{Backup: "b1", Fresh: true, DrillSeconds: -1, BytesRead: 1000, BytesStored: 10}},
		"a backup that failed":      {doc("BackupDatabase", run.Failed, `{}`), Point{Fresh: true, DrillSeconds: -1, BytesRead: -1, BytesStored: -1}},
		"a result of another shape": {doc("DrillRecovery", run.Failed, `[1]`), Point{DrillSeconds: -1, BytesRead: -1, BytesStored: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := Of(c.doc, at)
			require.True(t, ok)
			c.want.Run, c.want.Procedure, c.want.Target, c.want.EndedAt, c.want.Outcome = "r", c.doc.Procedure, "shop", at, c.doc.Outcome
			require.Equal(t, c.want, got)
		})
	}
	dry := doc("DrillRecovery", run.Succeeded, `{}`)
	dry.DryRun = true
	climbs := doc("DrillRecovery", run.Succeeded, `{}`)
	climbs.Target = "../shop"
	for name, d := range map[string]run.Document{
		"dry": dry, "a target that climbs": climbs, "refused": doc("DrillRecovery", run.Refused, `{}`), "cancelled": doc("DrillRecovery", run.Cancelled, `{}`),
		"a verification": doc("VerifyBackup", run.Succeeded, `{"verdict":"PASS","backupId":"b1","grade":"restored"}`),
		"running":        doc("DrillRecovery", run.Running, `{}`), "a procedure that climbs": doc("a/b", run.Succeeded, `{}`),
		"an unknown verdict": doc("DrillRecovery", run.Succeeded, `{"verdict":"<b>"}`), "a backup that climbs": doc("DrillRecovery", run.Succeeded, `{"backupId":"../b"}`),
	} {
		_, ok := Of(d, at)
		require.False(t, ok, name)
	}
}

func TestThePastIsWhatEndedBefore(t *testing.T) {
	store, dir := open(t)
	require.Equal(t, Past{}, Before(t.Context(), store, drill(0)))
	for day := range 30 {
		add(t, store, drill(day))
	}
	past := Before(t.Context(), store, drill(25))
	require.False(t, past.Partial)
	require.Len(t, past.Points, Shown-1)
	require.Equal(t, drill(6), past.Points[0])
	require.Equal(t, drill(24), past.Points[Shown-2])

	was := past
	add(t, store, drill(25), drill(30)) // a twin, and a run that came later
	require.Equal(t, was, Before(t.Context(), store, drill(25)))

	files, err := filepath.Glob(filepath.Join(dir, "shop", "trend", "DrillRecovery", "*"))
	require.NoError(t, err)
	require.Len(t, files, 31)
	other := drill(25)
	other.Target = "onserver"
	require.Empty(t, Before(t.Context(), store, other).Points)
}

func TestLikeIsComparedWithLike(t *testing.T) {
	store, _ := open(t)
	there, failed, reset := drill(1), drill(2), drill(3)
	there.Fresh = false
	failed.Fresh, failed.Outcome, failed.Backup = false, run.Failed, ""
	reset.Run, reset.Backup = "drill-0", "b0" // of the run of day 0, which ended once more
	add(t, store, drill(0), there, failed, reset)
	require.Equal(t, []string{"drill-2", "drill-0"}, runs(Before(t.Context(), store, drill(4))))
	there.EndedAt = at.AddDate(0, 0, 4)
	require.Equal(t, []string{"drill-2"}, runs(Before(t.Context(), store, there)), "its own twin is not of its past")
	reset.EndedAt = at.AddDate(0, 0, 5)
	require.Equal(t, []string{"drill-2"}, runs(Before(t.Context(), store, reset)))
}

func TestTheOldestPointsGo(t *testing.T) {
	store, _ := open(t)
	foreign := []string{"shop/trend/DrillRecovery/README", "shop/trend/DrillRecovery/0.json", "shop/trend/DrillRecovery/" + filepath.Base(drill(0).key()) + "/x"}
	for _, key := range foreign {
		require.NoError(t, store.Create(t.Context(), key, []byte("x")))
	}
	for day := 1; day <= Kept+5; day++ {
		add(t, store, drill(day))
	}
	keys := objstoretest.Keys(t, store, "shop/trend/")
	require.Subset(t, keys, foreign, "what is not ours stays")
	require.Len(t, keys, Kept+len(foreign))
	require.NotContains(t, keys, drill(5).key())
	require.Contains(t, keys, drill(6).key())
	require.Len(t, Before(t.Context(), store, drill(Kept+6)).Points, Shown-1)
}

// Whatever lies in a point's place, there is a past, and it is said that it is not the whole.
func TestDamagedPointsAreLeftOut(t *testing.T) {
	good, err := json.Marshal(drill(1))
	require.NoError(t, err)
	for name, data := range map[string]string{
		"empty": "", "no JSON": "{", "another shape": `{"run":7}`, "a list": "[]", "too large": string(good) + strings.Repeat(" ", maxPoint),
		"another run's":      strings.Replace(string(good), "drill-1", "drill-2", 1),
		"another target's":   strings.Replace(string(good), `"shop"`, `"other"`, 1),
		"of another time":    strings.Replace(string(good), "2026-11-24", "2026-11-25", 1),
		"of no outcome":      strings.Replace(string(good), "Succeeded", "<b>", 1),
		"of no verdict":      strings.Replace(string(good), "PASS", "<b>", 1),
		"endless":            strings.Replace(string(good), `"drillSeconds":60`, `"drillSeconds":1e300`, 1),
		"below nothing":      strings.Replace(string(good), `"bytesRead":1000`, `"bytesRead":-2`, 1),
		"a backup that lies": strings.Replace(string(good), `"b1"`, `"../b1"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			store, _ := open(t)
			require.NoError(t, store.Create(t.Context(), drill(1).key(), []byte(data)))
			add(t, store, drill(0))
			past := Before(t.Context(), store, drill(2))
			require.Equal(t, []Point{drill(0)}, past.Points)
			require.True(t, past.Partial)
		})
	}
	t.Run("a newer Upkeep's", func(t *testing.T) {
		store, _ := open(t)
		require.NoError(t, store.Create(t.Context(), drill(1).key(), []byte(strings.Replace(string(good), "{", `{"new":1,`, 1))))
		require.Equal(t, Past{Points: []Point{drill(1)}}, Before(t.Context(), store, drill(2)))
	})
	t.Run("not to be read", func(t *testing.T) {
		store, dir := open(t)
		add(t, store, drill(0), drill(1))
		path := filepath.Join(dir, drill(1).key())
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.Symlink("/etc/passwd", path))
		require.Equal(t, []string{"drill-0"}, runs(Before(t.Context(), store, drill(2))))
	})
}

// away is a store whose folders cannot be listed and whose objects cannot be removed.
type away struct{ objstore.Store }

func (away) List(context.Context, string, func(objstore.Info) error) error {
	return objstoretest.Unreachable()
}

func TestAStoreThatDoesNotList(t *testing.T) {
	store, _ := open(t)
	add(t, away{store}, drill(0))
	require.Equal(t, Past{Partial: true}, Before(t.Context(), away{store}, drill(1)))
	require.Equal(t, []string{"drill-0"}, runs(Before(t.Context(), store, drill(1))))
}

// FuzzDecode: whatever is read, there is no panic, and what is accepted is of its key.
func FuzzDecode(f *testing.F) {
	good, err := json.Marshal(drill(1))
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decode(data, drill(1).key())
		if err == nil && (p.Target != "shop" || p.Procedure != "DrillRecovery" || !p.EndedAt.Equal(drill(1).EndedAt) || !format.ValidID(p.Target)) {
			t.Fatalf("accepted: %+v", p)
		}
	})
}
