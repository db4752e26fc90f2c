package schedule

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDecide(t *testing.T) {
	mark := Mark{"shop", "nightly-backup"}
	require.Equal(t, "upkeep-shop-nightly-backup", mark.ID())
	fields := func(cron string) []Field { return []Field{{"cron", cron}, {"zone", "UTC"}} }
	want := func(cron string, paused bool) Wanted {
		return Wanted{Mark: mark, Fields: fields(cron), Paused: paused, Note: NotePrefix + ", SHA-256 new"}
	}
	has := func(cron string, paused bool, note string) *Found {
		return &Found{Mark: mark, Fields: fields(cron), Paused: paused, Note: note}
	}
	const ours = NotePrefix + ", SHA-256 old"
	const fresh = NotePrefix + ", SHA-256 new"
	moved := []Change{{"cron", "0 2 * * *", "0 3 * * *"}}
	for _, c := range []struct {
		name string
		want Wanted
		has  *Found
		do   Decision
	}{
		{"missing", want("0 2 * * *", false), nil, Decision{Action: Create, Note: fresh}},
		{"missing, and paused by the file", want("0 2 * * *", true), nil, Decision{Action: Create, Paused: true, Note: fresh}},
		{"as it is wanted", want("0 2 * * *", false), has("0 2 * * *", false, fresh), Decision{Action: Nothing, Note: fresh}},
		{"from an older file that said the same", want("0 2 * * *", false), has("0 2 * * *", false, ours), Decision{Action: Nothing, Note: ours}},
		{"another cron", want("0 3 * * *", false), has("0 2 * * *", false, ours), Decision{Action: Update, Changes: moved, Note: fresh}},
		{"a field that it has not", want("0 2 * * *", false), &Found{Mark: mark, Fields: fields("0 2 * * *")[:1], Note: ours}, Decision{Action: Update, Changes: []Change{{"zone", "", "UTC"}}, Note: fresh}},
		{"paused by a person", want("0 2 * * *", false), has("0 2 * * *", true, "disk"), Decision{Action: Nothing, Paused: true, Note: "disk", Kept: true}},
		{"paused by a person, without a word", want("0 2 * * *", false), has("0 2 * * *", true, ""), Decision{Action: Nothing, Paused: true, Kept: true}},
		{"paused by a person, and another cron", want("0 3 * * *", false), has("0 2 * * *", true, "disk"), Decision{Action: Update, Changes: moved, Paused: true, Note: "disk", Kept: true}},
		{"paused by a person and by the file", want("0 2 * * *", true), has("0 2 * * *", true, "disk"), Decision{Action: Nothing, Paused: true, Note: "disk", Kept: true}},
		{"let go on by a person", want("0 2 * * *", false), has("0 2 * * *", false, "mended"), Decision{Action: Nothing, Note: "mended"}},
		{"let go on by a person, and another cron", want("0 3 * * *", false), has("0 2 * * *", false, "mended"), Decision{Action: Update, Changes: moved, Note: fresh}},
		{"let go on by a person, which the file pauses", want("0 3 * * *", true), has("0 2 * * *", false, "needed"), Decision{Action: Update, Changes: moved, Note: "needed", Kept: true}},
		{"paused by the file and still so", want("0 2 * * *", true), has("0 2 * * *", true, ours), Decision{Action: Nothing, Paused: true, Note: ours}},
		{"paused by the file that does no more", want("0 2 * * *", false), has("0 2 * * *", true, ours), Decision{Action: Update, Changes: []Change{{"paused", "true", "false"}}, Note: fresh}},
		{"paused by the file from now on", want("0 2 * * *", true), has("0 2 * * *", false, ours), Decision{Action: Update, Changes: []Change{{"paused", "false", "true"}}, Paused: true, Note: fresh}},
		{"somebody else's", want("0 2 * * *", false), &Found{Fields: fields("0 2 * * *"), Note: ours}, Decision{Action: Refuse}},
		{"another target's", want("0 2 * * *", false), &Found{Mark: Mark{"shop-nightly", "backup"}, Fields: fields("0 2 * * *")}, Decision{Action: Refuse}},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.do, Decide(c.want, c.has)) })
	}
}

func TestDuration(t *testing.T) {
	for want, d := range map[string]time.Duration{"0s": 0, "10s": 10 * time.Second, "10m": 10 * time.Minute, "6h": 6 * time.Hour, "1h30m": 90 * time.Minute, "168h": 168 * time.Hour, "1h0m1s": time.Hour + time.Second} {
		require.Equal(t, want, Duration(d))
	}
}
