package stores

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

// largeMB is the size of the large database, where the environment asks for another. Then a link that is
// dead for longer than a run's patience is tried too, which takes minutes.
const largeMB = "UPKEEP_TEST_LARGE_MB"

// maxMemory is what docs/operations.md promises of a worker with the two connections that are the default,
// and room for its other work.
const maxMemory = 320 << 20

// slow is the link in the best hour that it has here.
var slow = objstoretest.Fault{Rate: 24 << 20, Latency: time.Millisecond}

// troubles are what happens to the link meanwhile, one after the other.
var troubles = []objstoretest.Fault{
	{Rate: 24 << 20, CutSent: 5 << 20, CutAnswer: 5 << 20, Times: 3}, // in the middle of an object
	{Refuse: true, Times: 3},
	{Silent: true, Times: 1},
}

// link drives a run over a link that is slow and fails.
type link struct {
	*site
	t *testing.T
}

func (l *link) carried() int64 {
	sent, answered := l.s3.Carried()
	return sent + answered
}

// until waits until a condition is true, or the run has ended.
func (l *link) until(id string, most time.Duration, met func(*run.Document) bool) {
	l.t.Helper()
	var newest *run.Document
	require.Eventually(l.t, func() bool {
		doc, err := l.Starter.Show(l.t.Context(), id)
		if err != nil {
			return false
		}
		newest = doc
		return met(doc)
	}, most, 50*time.Millisecond, "run %s: %+v", id, &newest)
}

// run runs a procedure. Before each trouble the link carries that many bytes more.
func (l *link) run(procedure, input string, between int64) *run.Document {
	l.t.Helper()
	began := time.Now()
	sent0, answered0 := l.s3.Carried()
	l.s3.Set(slow)
	id := l.Start(l.t, procedure, input)
	harmed := 0
	for _, f := range troubles {
		from := l.carried()
		ended := false
		l.until(id, 10*time.Minute, func(d *run.Document) bool {
			ended = d.Outcome.Ended()
			return ended || l.carried()-from > between
		})
		require.False(l.t, ended, "it has ended before the link failed: it is to carry more between")
		l.s3.Set(f)
		l.until(id, harness.Patience, func(*run.Document) bool { return l.s3.Harmed() >= f.Times })
		harmed += l.s3.Harmed()
		l.s3.Set(slow)
	}
	var doc *run.Document
	l.until(id, 20*time.Minute, func(d *run.Document) bool {
		doc = d
		return d.Outcome.Ended()
	})
	require.Equal(l.t, run.Succeeded, doc.Outcome, doc.Summary)
	sent, answered := l.s3.Carried()
	l.t.Logf("%s: %s; %d connections harmed, %d MB sent, %d MB answered, worker's peak %d MiB", procedure,
		time.Since(began).Round(100*time.Millisecond), harmed, (sent-sent0)/1e6, (answered-answered0)/1e6, l.worker.Memory(l.t)>>20)
	return doc
}

// TestALargeDatabaseOverASlowAndFailingLink backs up, checks, restores and compares over a link to a real
// S3 server that is slow, loses connections in the middle of objects, is closed, and falls silent.
func TestALargeDatabaseOverASlowAndFailingLink(t *testing.T) {
	megabytes := 300
	if asked := os.Getenv(largeMB); asked != "" {
		n, err := strconv.Atoi(asked)
		require.NoError(t, err)
		megabytes = n
	}
	l := &link{newSite(t), t}
	// Half a kilobyte a row, of which packing leaves about half.
	pgservertest.Exec(t, l.url, fmt.Sprintf(`CREATE TABLE events (id bigint, body text);
		INSERT INTO events SELECT g, (SELECT string_agg(md5((g * 16 + i)::text), '') FROM generate_series(1, 15) i) FROM generate_series(1, %d) g;
		ALTER TABLE events ADD PRIMARY KEY (id);`, megabytes*2000))
	t.Logf("a database of %s", harness.Ask(t, l.url, "SELECT pg_size_pretty(pg_database_size(current_database()))"))
	between := int64(megabytes) * 1e6 / 16

	sent0, _ := l.s3.Carried()
	doc := l.run("BackupDatabase", `{"target":"shop"}`, between)
	first := result[taken](t, doc)
	sent, _ := l.s3.Carried()
	require.Greater(t, first.BytesRead, int64(megabytes)*900_000)
	t.Logf("%d MB read, %d MB stored by the last attempt", first.BytesRead/1e6, first.BytesStored/1e6)
	stored := storedBytes(t, l.site)
	require.Less(t, sent-sent0, stored*3/2, "what was stored before the link failed is not sent again")

	_, answered0 := l.s3.Carried()
	doc = l.run("VerifyBackup", `{"target":"shop","backup":"latest","grade":"decoded"}`, between)
	require.Equal(t, run.Pass, result[verdict](t, doc).Verdict, doc.Summary)

	_, answered := l.s3.Carried()
	require.Less(t, answered-answered0, stored*3/2, "what was checked before the link failed is not read again")

	answered0 = answered
	doc = l.run("RestoreDatabase", `{"target":"shop","backup":"latest","database":"large_copy"}`, between)
	require.Equal(t, run.Pass, result[verdict](t, doc).Verdict, doc.Summary)
	_, answered = l.s3.Carried()
	require.Less(t, answered-answered0, stored*5/2, "it is read twice: to check it before anything is made of it, and to load it")
	require.Equal(t, harness.Ask(t, l.url, "SELECT count(*) || md5(min(body)) FROM events"), harness.Ask(t, l.server.DSN("", "large_copy"), "SELECT count(*) || md5(min(body)) FROM events"))

	if os.Getenv(largeMB) != "" {
		l.dead()
	}
	require.Less(t, l.worker.Memory(t), int64(maxMemory), "the worker's memory is bounded")
	l.s3.Set(objstoretest.Fault{})
	l.NothingLeft(t, l.server)
}

// dead kills the link in the middle of a backup until the run waits for a person, who resumes it.
func (l *link) dead() {
	t := l.t
	pgservertest.Exec(t, l.url, "UPDATE events SET body = reverse(body) WHERE id % 2 = 0")
	sent0, _ := l.s3.Carried()
	stored := storedBytes(t, l.site)
	l.s3.Set(slow)
	id := l.Start(t, "BackupDatabase", `{"target":"shop"}`)
	l.until(id, harness.Patience, func(*run.Document) bool {
		sent, _ := l.s3.Carried()
		return sent-sent0 > 50e6
	})
	l.s3.Set(objstoretest.Fault{Refuse: true})
	died := time.Now()
	var waits *run.Document
	l.until(id, 20*time.Minute, func(d *run.Document) bool {
		waits = d
		return d.Outcome == run.Waiting
	})
	t.Logf("it waits after %s: %s", time.Since(died).Round(time.Second), waits.WaitingFor)
	require.Contains(t, waits.WaitingFor, "could not reach")
	l.s3.Set(slow)
	require.NoError(t, l.Starter.Decide(t.Context(), id, true, run.Decision{By: "the test", Reason: "mended"}))
	l.until(id, 20*time.Minute, func(d *run.Document) bool {
		waits = d
		return d.Outcome.Ended()
	})
	require.Equal(t, run.Succeeded, waits.Outcome, waits.Summary)
	sent, _ := l.s3.Carried()
	added := storedBytes(t, l.site) - stored
	t.Logf("%d MB sent for %d MB stored", (sent-sent0)/1e6, added/1e6)
	require.Less(t, sent-sent0, added*3/2)
	doc := l.Run(t, "VerifyBackup", `{"target":"shop","backup":"latest","grade":"decoded"}`)
	require.Equal(t, run.Pass, result[verdict](t, doc).Verdict, doc.Summary)
}

// storedBytes is what the bucket holds.
func storedBytes(t *testing.T, s *site) (sum int64) {
	t.Helper()
	for _, size := range sizes(t, s.folder) {
		sum += size
	}
	return sum
}
