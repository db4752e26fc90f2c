package starter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/chunk"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/proof"
	"github.com/upkeep-run/upkeep/internal/restore"
	"github.com/upkeep-run/upkeep/internal/verify"
)

// direct is a restore by this process alone, for the day on which Temporal is what was lost. The engine
// and its marks are those of RestoreDatabase, so either goes on with what the other left.
type direct struct {
	config.Target
	store   objstore.Store
	keys    *keyring.Ring
	options restore.Options

	mu  sync.Mutex
	doc run.Document
	now *progress.Progress
}

func (c *cli) restoreDirect() *cobra.Command {
	var target, backup, database, through string
	yes := false
	cmd := &cobra.Command{
		Use:   "restore --direct",
		Short: "Restore a backup without Temporal, from this machine",
		Long: `Restores a backup into a new database on the target's server and compares it, in this process, with
the configuration and the store as this machine sees them. It is for the day on which Temporal is not
there. Otherwise use "upkeep run RestoreDatabase", which survives this machine. Called again after it
was broken off, it goes on with what is missing.`,
		Example: "  upkeep restore --direct --target temporal --database temporal\n  upkeep restore --direct --target shop --backup 20261123T191500Z-1a2b3c4d --database shop_copy",
		Args:    args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !yes:
				return usage{errors.New("say --direct to restore without Temporal; otherwise use: upkeep run RestoreDatabase")}
			case database == "" || len(database) > restore.MaxName:
				return usage{fmt.Errorf("--database must be the name of the new database, of at most %d bytes", restore.MaxName)}
			}
			doc, err := c.direct(cmd.Context(), target, backup, database, through)
			if err != nil {
				return err
			}
			if c.output == "json" {
				c.json(doc)
			} else {
				Print(c.out, doc)
			}
			if code := ExitCode(doc); code != ExitSucceeded {
				return Exit{code}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&yes, "direct", false, "restore in this process, without Temporal")
	f.StringVar(&target, "target", "", "the target in upkeep.yaml; may be left out when there is only one")
	f.StringVar(&backup, "backup", catalog.Latest, "a backup's id, or latest")
	f.StringVar(&database, "database", "", "the name of the new database, which must not exist")
	f.StringVar(&through, "through", "postgres", "a database of the server to connect to meanwhile")
	return cmd
}

// direct restores and compares, and returns a document like a run's.
func (c *cli) direct(ctx context.Context, target, backup, database, through string) (_ *run.Document, err error) {
	known, err := config.Load(c.configPath)
	if err != nil {
		return nil, err
	}
	t, err := known.Target(target)
	if err != nil {
		return nil, err
	}
	store, err := objstore.Open(ctx, known.Store)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	keys := t.Encryption.Ring(store, t.Name)
	m, err := catalog.Load(ctx, store, t.Name, backup, keys)
	if err != nil {
		return nil, err
	}
	key, err := keys.Key(ctx, m.Key)
	if err != nil {
		return nil, err
	}
	server, err := t.Source("upkeep").On(through)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name this machine: %w", err)
	}
	name := restore.BuildName(t.Name, m.Backup, database)
	owner := sha256.Sum256([]byte("direct\x00" + host + "\x00" + name)) // the same when it is called again
	d := &direct{Target: *t, store: store, keys: keys, options: restore.Options{
		Manifest: m, Server: server, Database: name, Final: database, Owner: hex.EncodeToString(owner[:6]), Connections: t.Database.Connections,
		Open: func(ctx context.Context, ch format.Chunk) (io.ReadCloser, error) {
			return chunk.Open(ctx, store, t.Name, ch, key)
		},
	}, doc: run.Document{
		RunID: "direct-" + name, Procedure: restoredatabase.WorkflowType, Target: t.Name, Outcome: run.Running, Steps: []run.Step{}, Result: json.RawMessage("{}"),
	}}
	ctx = progress.With(ctx, func(p progress.Progress) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.now = &p
	})
	stop := d.watch(c.err)
	err = d.work(ctx)
	stop()
	if ctx.Err() != nil {
		fmt.Fprintln(c.err, "broken off; call the same again to go on, or drop the half database", postgres.Quote(name))
		return nil, Exit{ExitDetached}
	}
	return &d.doc, err
}

// watch shows how far the work is, until it is told to stop.
func (d *direct) watch(out io.Writer) (stop func()) {
	l := &live{out: out, width: width(out), began: time.Now()}
	show := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		l.show(&d.doc, d.now)
	}
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			show()
			select {
			case <-over:
				show()
				l.clear()
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}

// step does one step and notes it.
func (d *direct) step(name string, do func() (verdict run.Verdict, detail string, err error)) error {
	d.mu.Lock()
	d.doc.Steps = append(d.doc.Steps, run.Step{Name: name})
	d.doc.Summary, d.now = name, nil
	d.mu.Unlock()
	began := time.Now()
	verdict, detail, err := do()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.doc.Steps[len(d.doc.Steps)-1]
	s.Verdict, s.Detail, s.Seconds = verdict, detail, time.Since(began).Round(time.Millisecond).Seconds()
	if err != nil {
		s.Verdict = run.NotProven
	}
	return err
}

// work restores, compares and publishes.
func (d *direct) work(ctx context.Context) error {
	o, m := &d.options, d.options.Manifest
	result := restoredatabase.Result{BackupID: m.Backup, Database: o.Final, Verdict: run.NotProven}
	did := func(err error) (run.Verdict, string, error) { return run.Pass, "", err }
	judge := func(checks []run.Check, err error) (run.Verdict, string, error) {
		result.Checks = append(result.Checks, checks...)
		result.Verdict = proof.Verdict(result.Checks)
		verdict := proof.Verdict(checks)
		for _, c := range checks {
			if c.Verdict == run.Fail {
				return verdict, c.Name + ": " + c.Detail, err
			}
		}
		return verdict, "", err
	}
	for _, s := range []struct {
		name string
		do   func() (run.Verdict, string, error)
	}{
		{"Plan the restore", func() (run.Verdict, string, error) {
			_, err := restore.Plan(ctx, *o)
			return did(err)
		}},
		{"Check every stored file", func() (run.Verdict, string, error) {
			return judge(verify.Stored(ctx, d.store, d.Name, m.Backup, d.keys))
		}},
		{"Create the database", func() (_ run.Verdict, _ string, err error) {
			o.Oid, err = restore.Create(ctx, *o)
			return did(err)
		}},
		{"Restore the rows", func() (run.Verdict, string, error) {
			r, err := restore.Load(ctx, *o)
			result.Rows = r.Rows
			return run.Pass, fmt.Sprintf("%d chunks, %d of them were there already", r.Chunks, r.Skipped), err
		}},
		{"Compare the copy with the backup", func() (run.Verdict, string, error) { return judge(d.compare(ctx)) }},
	} {
		if err := d.step(s.name, s.do); err != nil {
			return err
		}
		if d.doc.Steps[len(d.doc.Steps)-1].Verdict == run.Fail {
			return d.fail(ctx, result)
		}
	}
	if err := d.step("Give the copy its name", func() (run.Verdict, string, error) { return did(restore.Publish(ctx, *o)) }); err != nil {
		return err
	}
	d.doc.Outcome = run.Succeeded
	if result.Verdict != run.Pass {
		d.doc.Outcome = run.PartiallySucceeded
	}
	d.doc.Summary = fmt.Sprintf("backup %s is restored as database %s: %d rows, %s", m.Backup, o.Final, m.Totals.Rows, result.Verdict)
	return d.leave(result)
}

// fail drops a copy that is not what the backup is, or leaves nothing where none was begun.
func (d *direct) fail(ctx context.Context, result restoredatabase.Result) error {
	d.doc.Outcome = run.Failed
	d.doc.Summary = fmt.Sprintf("backup %s is damaged, or its copy differs from it; nothing is kept", result.BackupID)
	if d.options.Oid != 0 {
		if err := d.step("Remove the half database", func() (run.Verdict, string, error) { return run.Pass, "", restore.Drop(ctx, d.options) }); err != nil {
			d.doc.Left = append(d.doc.Left, "the half database "+d.options.Database+": "+err.Error())
		}
	}
	return d.leave(result)
}

func (d *direct) leave(result restoredatabase.Result) (err error) {
	d.doc.Result, err = json.Marshal(result)
	return err
}

// compare holds the copy against the backup.
func (d *direct) compare(ctx context.Context) ([]run.Check, error) {
	o := d.options
	r, err := o.Open(ctx, o.Manifest.Schema.Archive)
	if err != nil {
		return nil, err
	}
	archive, err := io.ReadAll(r) // bounded by the chunk's declared size
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	checks, err := proof.Compare(ctx, proof.Options{
		Copy: o.Server, Database: o.Database, Manifest: o.Manifest, Archive: archive, Connections: o.Connections, Properties: true,
	})
	if err == nil && proof.Verdict(checks) != run.Pass { // what a crash emptied is no fault of the backup
		err = restore.Survived(ctx, o)
	}
	if failure.Is(err, failure.MissingDatabase) {
		return nil, failure.New(failure.CopyLost, "the copy %q is gone from its server", o.Database).Do("call the same again")
	}
	if !d.keys.Ours(o.Manifest.Key) {
		checks = append(checks, verify.Foreign())
	}
	return checks, err
}
