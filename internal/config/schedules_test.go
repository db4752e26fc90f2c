package config

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/schedule"
)

func defaults(target, zone string) []schedule.Schedule {
	s := schedule.Schedule{Target: target, Zone: zone, Input: json.RawMessage("{}"), Overlap: schedule.Skip, CatchUp: 6 * time.Hour}
	backup, drill := s, s
	backup.Name, backup.Procedure, backup.Cron = "nightly-backup", "BackupDatabase", schedule.At(2)
	drill.Name, drill.Procedure, drill.Cron = "weekly-drill", "DrillRecovery", schedule.At(4, time.Sunday)
	return []schedule.Schedule{backup, drill}
}

const scheduled = `version: 1
store: file:///var/lib/upkeep
targets:
  - schedules:
      - name: often
        procedure: VerifyBackup
        cron: "*/30 8-18 * * mon-fri"
        input: {grade: stored, dryRun: true}
      - name: monthly
        procedure: DrillRecovery
        cron: 0 3 1 * *
        zone: America/New_York
        overlap: bufferOne
        catchUp: 90m
        jitter: 15m
        paused: true
    name: shop
    calendar: {zone: Europe/Berlin}
    database: {url: "postgres://app@db/shop"}
`

func TestSchedules(t *testing.T) {
	c, err := Parse("upkeep.yaml", []byte(scheduled))
	require.NoError(t, err)
	often, err := schedule.ParseCron("0,30 8-18 * * 1-5")
	require.NoError(t, err)
	first, err := schedule.ParseCron("0 3 1 * *")
	require.NoError(t, err)
	require.Equal(t, []schedule.Schedule{
		{Target: "shop", Name: "often", Procedure: "VerifyBackup", Cron: often, Zone: "Europe/Berlin", Input: json.RawMessage(`{"dryRun":true,"grade":"stored"}`), Overlap: schedule.Skip, CatchUp: 6 * time.Hour},
		{Target: "shop", Name: "monthly", Procedure: "DrillRecovery", Cron: first, Zone: "America/New_York", Input: json.RawMessage(`{}`), Overlap: schedule.BufferOne, CatchUp: 90 * time.Minute, Jitter: 15 * time.Minute, Paused: true},
	}, c.Targets[0].Schedules)

	head, rest, _ := strings.Cut(scheduled, "  - schedules:\n")
	_, rest, _ = strings.Cut(rest, "    name: shop\n")
	c, err = Parse("upkeep.yaml", []byte(head+"  - name: shop\n"+rest))
	require.NoError(t, err)
	require.Equal(t, defaults("shop", "Europe/Berlin"), c.Targets[0].Schedules, "left out")
	c, err = Parse("upkeep.yaml", []byte(head+"  - name: shop\n    schedules: []\n"+rest))
	require.NoError(t, err)
	require.Empty(t, c.Targets[0].Schedules, "none are wanted")
}

func TestSchedulesNameEveryMistakeWithItsLine(t *testing.T) {
	for _, c := range []struct {
		name, from, to string
		want           []string
	}{
		{"unknown key", "catchUp:", "catchup_window:", []string{"upkeep.yaml:14:", `a schedule has the unknown key "catchup_window"`, `did you mean "catchUp"?`}},
		{"no procedure", "        procedure: DrillRecovery\n", "", []string{"upkeep.yaml:9:", `lacks the key "procedure"`}},
		{"unknown procedure", "DrillRecovery", "drill-recovery", []string{"upkeep.yaml:10:", `did you mean "DrillRecovery"?`}},
		{"name", "name: monthly", "name: Monthly drill", []string{"upkeep.yaml:9:", "a schedule's name must be of small letters"}},
		{"two of a name", "name: monthly", "name: often", []string{"upkeep.yaml:9:", `two schedules named "often"`}},
		{"cron of seconds", "0 3 1 * *", "0 0 3 1 * *", []string{"upkeep.yaml:11:", "a schedule's cron must have five parts"}},
		{"cron out of bounds", "0 3 1 * *", "0 25 1 * *", []string{"upkeep.yaml:11:", `the hour "25"`, "0 to 23"}},
		{"cron of no day", "0 3 1 * *", "0 3 30 2 *", []string{"upkeep.yaml:11:", "names a day that no month of it has"}},
		{"cron that is a list", "0 3 1 * *", "[0, 3]", []string{"upkeep.yaml:11:", "cron must be a text"}},
		{"zone", "America/New_York", "New York", []string{"upkeep.yaml:12:", "a schedule's zone must be a zone such as"}},
		{"overlap", "bufferOne", "buffer-one", []string{"upkeep.yaml:13:", `did you mean "bufferOne"?`}},
		{"dangerous overlap", "bufferOne", "terminateOther", []string{"upkeep.yaml:13:", `cannot be "terminateOther"`}},
		{"catchUp in words", "90m", "a day", []string{"upkeep.yaml:14:", "catchUp must be a duration such as 90m, from 10s to 168h"}},
		{"catchUp of a year", "90m", "8760h", []string{"upkeep.yaml:14:", "from 10s to 168h"}},
		{"jitter", "15m", "-1m", []string{"upkeep.yaml:15:", "jitter must be a duration such as 90m, from 0s to 12h"}},
		{"paused", "paused: true", "paused: until Monday", []string{"upkeep.yaml:16:", "paused must be true or false"}},
		{"unknown input", "dryRun: true", "dry_run: true", []string{"upkeep.yaml:8:", `input has the unknown key "dry_run"`, `did you mean "dryRun"?`}},
		{"input of another type", "dryRun: true", `dryRun: "true"`, []string{"upkeep.yaml:8:", `field "dryRun" is a string and must be true or false`}},
		{"input of nothing", "dryRun: true", "dryRun: null", []string{"upkeep.yaml:8:", `"dryRun" is null`}},
		{"input that is no mapping", "{grade: stored, dryRun: true}", "stored", []string{"upkeep.yaml:8:", "input must be a mapping"}},
		{"input with a target", "dryRun: true", "target: till", []string{"upkeep.yaml:8:", "input needs no target"}},
		{"no list", "  - schedules:\n", "  - schedules: {a: b}\n    other:\n", []string{"upkeep.yaml:4:", "schedules must be a list of at most 20; [] means none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Contains(t, scheduled, c.from)
			_, err := Parse("upkeep.yaml", []byte(strings.Replace(scheduled, c.from, c.to, 1)))
			require.True(t, failure.Is(err, failure.BadConfig), "%v", err)
			for _, part := range c.want {
				require.ErrorContains(t, err, part)
			}
		})
	}
}

func TestTwoSchedulesOfOneID(t *testing.T) {
	one := `  - name: %
    database: {url: "postgres://app@db/shop"}
    schedules: [{name: %, procedure: BackupDatabase, cron: "0 2 * * *"}]
`
	write := func(name, schedule string) string {
		return strings.Replace(strings.Replace(one, "%", name, 1), "%", schedule, 1)
	}
	head := "version: 1\nstore: file:///s\ntargets:\n"
	_, err := Parse("upkeep.yaml", []byte(head+write("a-b", "c")+write("a", "b-c")))
	require.ErrorContains(t, err, "upkeep.yaml:7: the schedules c of a-b and b-c of a would both be upkeep-a-b-c in Temporal")
	_, err = Parse("upkeep.yaml", []byte(head+write("a", "c")+write("b", "c")))
	require.NoError(t, err)
}

func TestServer(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://app@db/shop": "db:5432", "postgres://app@DB.example:6432/shop": "db.example:6432", "postgres://[::1]:5433/shop": "::1:5433",
		"postgres:///shop?host=/run/postgresql&port=5433": "/run/postgresql:5433", "postgres:///shop": "localhost:5432",
	} {
		require.Equal(t, want, Database{URL: url}.Server(), url)
	}
}
