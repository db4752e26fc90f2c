// Package stores runs whole procedures on stores that are not a healthy folder: an S3 server, an S3
// server behind a line that breaks, and a disk that is full.
package stores

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

const database = `
CREATE TABLE orders (id bigserial PRIMARY KEY, customer text, note text);
INSERT INTO orders (customer, note) SELECT 'customer ' || g, md5(g::text) || md5((-g)::text) FROM generate_series(1, 40000) g;
CREATE INDEX orders_customer ON orders (customer);`

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	objstoretest.RemoveS3()
	os.Exit(code)
}

// site is a stack whose store is a bucket of an S3 server.
type site struct {
	*harness.Stack
	s3     *objstoretest.S3
	folder string // where the S3 server keeps the bucket
	server *pgserver.Server
	url    string // of the database
	worker *harness.Worker
}

func newSite(t *testing.T) *site {
	t.Helper()
	server := objstoretest.StartS3(t)
	return newSiteIn(t, server, server.Bucket(t, "backups"), "")
}

// newSiteIn is newSite with a bucket named "backups" that is there, and more keys of the target.
func newSiteIn(t *testing.T, server *objstoretest.S3, bucket, more string) *site {
	t.Helper()
	s := &site{s3: server, server: pgservertest.Server(t, pgservertest.Default)}
	_, s.url = pgservertest.Database(t, s.server)
	pgservertest.Exec(t, s.url, database)
	s.Stack = harness.NewOn(t, bucket, harness.Target("shop", s.url, more))
	s.folder = filepath.Join(s.s3.Folder, "backups")
	s.worker = s.Worker(t, "w", objstoretest.S3Env()...)
	return s
}

// result reads a run's result.
func result[T any](t *testing.T, doc *run.Document) (r T) {
	t.Helper()
	require.NoError(t, json.Unmarshal(doc.Result, &r), doc.Summary)
	return r
}

type taken struct {
	BackupID               string
	Rows                   int64
	BytesRead, BytesStored int64
}

type verdict struct{ Verdict run.Verdict }

// files reads every file below a folder, but what the server keeps for itself.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, dir+"/")] = string(data)
		return err
	}))
	return found
}

// sizes are those of every file below a folder.
func sizes(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	found := make(map[string]int64)
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			found[strings.TrimPrefix(path, dir+"/")] = st.Size()
		}
		return err
	}))
	return found
}

// rows returns the path of the largest chunk: it holds rows, and every backup needs it.
func (s *site) rows(t *testing.T) string {
	t.Helper()
	chunks, err := filepath.Glob(filepath.Join(s.folder, "shop", "chunks", "*", "*"))
	require.NoError(t, err)
	largest, most := "", int64(0)
	for _, path := range chunks {
		st, err := os.Stat(path)
		require.NoError(t, err)
		if st.Size() > most {
			largest, most = path, st.Size()
		}
	}
	require.Greater(t, most, int64(100_000))
	return largest
}

func TestDrillOnS3(t *testing.T) {
	s := newSite(t)
	drill := s.Run(t, "DrillRecovery", `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, drill.Outcome, drill.Summary)
	require.Equal(t, run.Pass, result[verdict](t, drill).Verdict)
	require.Equal(t, "s3://backups/runs/"+drill.RunID+"/report.html", drill.Report)
	require.FileExists(t, filepath.Join(s.folder, "runs", drill.RunID, "report.html"))

	t.Run("the second backup stores nothing again", func(t *testing.T) {
		doc := s.Run(t, "BackupDatabase", `{"target":"shop"}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		second := result[taken](t, doc)
		require.EqualValues(t, 40000, second.Rows)
		require.Less(t, second.BytesStored*100, second.BytesRead)
	})
	t.Run("a run is shown when its history is gone", func(t *testing.T) {
		_, err := s.Client.WorkflowService().DeleteWorkflowExecution(t.Context(), &workflowservice.DeleteWorkflowExecutionRequest{
			Namespace: "default", WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: drill.RunID},
		})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			_, err := s.Client.DescribeWorkflowExecution(t.Context(), drill.RunID, "")
			return err != nil
		}, harness.Patience, 100*time.Millisecond)
		shown, err := s.Starter.Show(t.Context(), drill.RunID)
		require.NoError(t, err)
		require.Equal(t, drill.Summary, shown.Summary)
		require.Equal(t, run.Succeeded, shown.Outcome)
	})
	t.Run("what is restored beside is equal", func(t *testing.T) {
		doc := s.Run(t, "RestoreDatabase", `{"target":"shop","backup":"latest","database":"shop_copy"}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Equal(t, harness.Ask(t, s.url, "SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o"),
			harness.Ask(t, s.server.DSN("", "shop_copy"), "SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o"))
	})
	t.Run("a damaged object is found, named, and mended by the next backup", func(t *testing.T) {
		check := func() *run.Document {
			return s.Run(t, "VerifyBackup", `{"target":"shop","backup":"latest","grade":"stored"}`)
		}
		require.Equal(t, run.Pass, result[verdict](t, check()).Verdict)
		path := s.rows(t)
		f, err := os.OpenFile(path, os.O_RDWR, 0) // in its place: the server goes on to say what it said of it
		require.NoError(t, err)
		var b [1]byte
		_, err = f.ReadAt(b[:], 40)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte{b[0] ^ 4}, 40)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		doc := check()
		require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
		require.Contains(t, doc.Summary+string(doc.Result), filepath.Base(path))

		doc = s.Run(t, "BackupDatabase", `{"target":"shop"}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Equal(t, run.Pass, result[verdict](t, check()).Verdict)
		require.NoError(t, os.Remove(path))
		doc = check()
		require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
		require.Contains(t, doc.Summary+string(doc.Result), filepath.Base(path))
	})
	s.NothingLeft(t, s.server)
}

// untouched checks that every file of a backup that was there still is, byte by byte.
func untouched(t *testing.T, before, after map[string]string) {
	t.Helper()
	for name, data := range before {
		if strings.HasPrefix(name, "shop/") && !strings.HasPrefix(name, "shop/marks/") {
			require.True(t, after[name] == data, "%s was changed", name)
		}
	}
}

// TestBackupOverABrokenLine breaks the way to the store in one manner after the other, while a backup
// is taken: it goes on by itself when the line is whole again.
func TestBackupOverABrokenLine(t *testing.T) {
	s := newSite(t)
	good := s.Run(t, "BackupDatabase", `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, good.Outcome, good.Summary)
	before := files(t, s.folder)
	pgservertest.Exec(t, s.url, "UPDATE orders SET note = md5(note) WHERE id % 2 = 0")

	id := ""
	for _, f := range []objstoretest.Fault{
		{CutSent: 100_000}, {Answer: "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"}, {Rate: 1000, CutAnswer: 300}, {Refuse: true},
	} {
		s.s3.Set(f)
		if id == "" {
			id = s.Start(t, "BackupDatabase", `{"target":"shop"}`)
		}
		require.Eventually(t, func() bool { return s.s3.Harmed() > 2 }, harness.Patience, 20*time.Millisecond)
		doc, err := s.Starter.Show(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, run.Running, doc.Outcome, doc.Summary)
	}
	s.s3.Set(objstoretest.Fault{})
	doc := s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	untouched(t, before, files(t, s.folder))
	for _, id := range []string{result[taken](t, good).BackupID, result[taken](t, doc).BackupID} {
		checked := s.Run(t, "VerifyBackup", `{"target":"shop","backup":"`+id+`","grade":"decoded"}`)
		require.Equal(t, run.Pass, result[verdict](t, checked).Verdict, checked.Summary)
	}
	s.NothingLeft(t, s.server)
}

// TestBackupThatTheStoreRefuses waits for a person, who gives the right and resumes it.
func TestBackupThatTheStoreRefuses(t *testing.T) {
	s := newSite(t)
	s.s3.Set(objstoretest.Fault{Answer: "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"})
	id := s.Start(t, "BackupDatabase", `{"target":"shop"}`)
	waits := s.Until(t, id, func(d *run.Document) bool { return d.Outcome == run.Waiting })
	require.Contains(t, waits.WaitingFor, "the store refused")
	require.Contains(t, waits.WaitingFor, "credentials")
	s.s3.Set(objstoretest.Fault{})
	resume(t, s.Stack, id)
}

// resume does what a person does when the cause is mended.
func resume(t *testing.T, s *harness.Stack, id string) {
	t.Helper()
	require.NoError(t, s.Starter.Decide(t.Context(), id, true, run.Decision{By: "the test", Reason: "mended"}))
	doc := s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	checked := s.Run(t, "VerifyBackup", `{"target":"shop","backup":"latest","grade":"decoded"}`)
	require.Equal(t, run.Pass, result[verdict](t, checked).Verdict, checked.Summary)
}

// TestBackupOnAFullDisk waits for a person, who enlarges the disk and resumes it.
func TestBackupOnAFullDisk(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE orders (id int PRIMARY KEY, note text)")
	pgservertest.Exec(t, url, "INSERT INTO orders SELECT g, 'a first order' FROM generate_series(1, 100) g")
	s := harness.New(t, harness.Target("shop", url, ""))
	require.NoError(t, os.Mkdir(s.Store, 0o700))
	if err := syscall.Mount("upkeep-test", s.Store, "tmpfs", 0, "size=1m"); err == syscall.EPERM {
		t.Skip("only root may mount a small file system")
	} else {
		require.NoError(t, err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(s.Store, syscall.MNT_DETACH)) })
	s.Worker(t, "w")
	good := s.Run(t, "BackupDatabase", `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, good.Outcome, good.Summary)
	before := files(t, s.Store)

	pgservertest.Exec(t, url, "INSERT INTO orders SELECT g, (SELECT string_agg(md5((g * i)::text), '') FROM generate_series(1, 20) i) FROM generate_series(101, 20000) g")
	id := s.Start(t, "BackupDatabase", `{"target":"shop"}`)
	waits := s.Until(t, id, func(d *run.Document) bool { return d.Outcome == run.Waiting })
	require.Contains(t, waits.WaitingFor, "no space")
	untouched(t, before, files(t, s.Store))
	checked := s.Run(t, "VerifyBackup", `{"target":"shop","backup":"`+result[taken](t, good).BackupID+`","grade":"decoded"}`)
	require.Equal(t, run.Pass, result[verdict](t, checked).Verdict, checked.Summary)

	require.NoError(t, syscall.Mount("", s.Store, "", syscall.MS_REMOUNT, "size=64m"))
	resume(t, s, id)
	untouched(t, before, files(t, s.Store))
	s.NothingLeft(t, server)
}
