package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
)

// buildFirst is added to the weight of builds: they begin as soon as they can, while others load.
const buildFirst = 1 << 50

// deadlocks is how often a build that lost against another one is tried again.
const deadlocks = 10

// unit is a table, or all partitions that are loaded through one root: only when all of their rows
// are there is any of them complete.
type unit struct {
	name    format.Name
	tables  []int // positions in Manifest.Tables
	bytes   int64
	pending int // chunks that are not loaded yet
}

// loadAndBuild loads all rows and large objects, and builds the indexes and constraints of each table
// as soon as it has its rows.
func (l *loader) loadAndBuild(ctx context.Context) error {
	units := make(map[format.Name]*unit)
	var order []*unit
	for i, t := range l.Manifest.Tables {
		name := loadedInto(t)
		u := units[name]
		if u == nil {
			u = &unit{name: name}
			units[name] = u
			order = append(order, u)
		}
		u.tables = append(u.tables, i)
		u.bytes += t.Bytes
		l.total += t.Bytes
	}
	builds := make(map[int][]format.PostData)
	for _, p := range l.Manifest.Schema.PostData {
		if p.Table >= 0 && p.Kind != format.PostForeignKey {
			builds[p.Table] = append(builds[p.Table], p)
		}
	}
	s := newSchedule()
	for _, u := range order {
		jobs := l.unitJobs(u, builds)
		if u.pending > 0 && l.marks[mark{markStep, stepStructure}] { // triggers would fire if they were loaded again
			return l.lose(ctx, l.keeper)
		}
		s.add(jobs...)
	}
	for i, c := range l.Manifest.LargeObjects.Chunks {
		l.total += c.Size
		if j := l.largeObjectJob(i, c); j != nil {
			s.add(j)
		}
	}
	return l.work(ctx, s)
}

// unitJobs are the chunks of a unit's tables; the last of them to be done makes the builds ready.
func (l *loader) unitJobs(u *unit, builds map[int][]format.PostData) []*job {
	complete := func() []*job {
		var jobs []*job
		for _, i := range u.tables {
			jobs = append(jobs, l.buildJobs(builds[i], l.Manifest.Tables[i].Bytes)...)
		}
		return jobs
	}
	var jobs []*job
	for _, i := range u.tables {
		for n, r := range l.Manifest.Tables[i].Ranges {
			for k, c := range r.Chunks {
				m := l.chunkMark(i, fmt.Sprintf("%d.%d.%d", i, n, k))
				if l.marks[m] {
					l.count(c, true)
					continue
				}
				u.pending++
				jobs = append(jobs, &job{weight: u.bytes, run: func(ctx context.Context, w *worker) error {
					return w.loadChunk(ctx, i, c, m)
				}, then: func() []*job {
					if u.pending--; u.pending > 0 {
						return nil
					}
					return complete()
				}})
			}
		}
	}
	if len(jobs) == 0 {
		return complete()
	}
	return jobs
}

// buildJobs are a table's constraints, which lock it one after another, and then its indexes, which
// can be built at the same time.
func (l *loader) buildJobs(builds []format.PostData, bytes int64) []*job {
	var indexes []*job
	var constraints []format.PostData
	for _, p := range builds {
		if p.Kind == format.PostConstraint {
			constraints = append(constraints, p)
		} else {
			indexes = append(indexes, l.build(p, buildFirst+bytes, nil))
		}
	}
	next := indexes
	for i := len(constraints) - 1; i >= 0; i-- {
		following := next
		next = []*job{l.build(constraints[i], buildFirst+bytes, func() []*job { return following })}
	}
	return next
}

// build is the job of one index or constraint.
func (l *loader) build(p format.PostData, weight int64, then func() []*job) *job {
	return &job{weight: weight, then: then, run: func(ctx context.Context, w *worker) error { return w.build(ctx, p) }}
}

func (w *worker) build(ctx context.Context, p format.PostData) error {
	l := w.loader
	m := mark{markBuild, dumpKey(p)}
	sql, there := l.parts.built[p.DumpID]
	if l.marks[m] || mutantSkipIndex.On() && p.DumpID == l.skippedIndex() {
		return nil
	}
	if !there {
		return failure.New(failure.BackupDamaged, "the schema's archive lacks %s", describe(p)).Do("verify the backup; choose another one")
	}
	e := map[string]effect{format.PostIndex: effectIndex, format.PostConstraint: effectConstraint, format.PostForeignKey: effectForeignKey}[p.Kind]
	doing := "build " + describe(p)
	progress.Report(ctx, progress.Progress{Phase: "building indexes and constraints", Done: l.loaded.Load(), Total: l.total, Unit: "bytes", Note: describe(p)})
	for try := 1; ; try++ {
		conn, err := w.asBuilder(ctx)
		if err != nil {
			return err
		}
		err = l.transact(ctx, conn, e, m, func() error { return l.run(ctx, conn, sql, doing) })
		// Two foreign keys between the same tables can wait for each other.
		if postgres.State(err) != "40P01" || try == deadlocks {
			return err
		}
		if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
			return postgres.Classify(err, doing)
		}
	}
}

// loadChunk loads one chunk of a table's rows.
func (w *worker) loadChunk(ctx context.Context, table int, c format.Chunk, m mark) error {
	l := w.loader
	t := l.Manifest.Tables[table]
	if mutantSkipTable.On() && l.expendable() == table {
		return nil
	}
	into := loadedInto(t)
	owner, there := l.owners[into]
	if !there {
		return failure.New(failure.BackupDamaged, "the backup has rows of %s and its schema has no such table", postgres.Quote(into.Schema, into.Name)).
			Do("verify the backup; choose another one")
	}
	conn, err := w.asOwner(ctx, owner)
	if err != nil {
		return err
	}
	statement := postgres.CopyIn(t, l.Manifest.Database.Encoding)
	err = l.transact(ctx, conn, effectChunk, m, func() error {
		if mutantRepeatChunk.On() && l.expendable() == table {
			if err := l.copyIn(ctx, conn, c, statement, t); err != nil {
				return err
			}
		}
		return l.copyIn(ctx, conn, c, statement, t)
	})
	if err != nil {
		return err
	}
	l.count(c, false)
	progress.Report(ctx, progress.Progress{Phase: "loading rows", Done: l.loaded.Load(), Total: l.total, Unit: "bytes", Note: t.Schema + "." + t.Name})
	return nil
}

// copyIn streams a chunk into a COPY. A chunk that turns out bad at its end fails the COPY, and with
// it the transaction.
func (l *loader) copyIn(ctx context.Context, conn *pgx.Conn, c format.Chunk, statement string, t format.Table) error {
	plain, err := l.Open(ctx, c)
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }() // it was read to its end or failed
	source := &feed{r: plain, loaded: l.loaded.Add}
	defer source.stop() // before the chunk is closed
	if mutantNull.On() {
		source.r = newNullEater(ctx, l, t, plain)
	}
	doing := "load rows into " + postgres.Quote(t.Schema, t.Name)
	tag, err := conn.PgConn().CopyFrom(ctx, source, statement)
	switch broken := source.stop(); {
	case broken != nil:
		return broken
	case err != nil:
		return explainSQL(err, doing)
	case tag.RowsAffected() != c.Rows:
		return failure.New(failure.BackupDamaged, "could not %s: chunk %.12s holds %d rows, and %d were loaded", doing, c.SHA256, c.Rows, tag.RowsAffected()).
			Do("verify the backup; choose another one")
	}
	return nil
}

// feed remembers why a chunk could not be read: the server only says that the COPY was broken off.
// CopyFrom leaves its reading goroutine behind when the connection is lost, so a feed can be stopped.
type feed struct {
	loaded func(int64) int64

	mu  sync.Mutex // held while the chunk is read
	r   io.Reader  // nil once stopped
	err error
}

func (f *feed) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.r == nil {
		return 0, io.ErrClosedPipe
	}
	n, err := f.r.Read(p)
	f.loaded(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// stop waits for a read that is under way and lets none follow. It returns why the chunk could not be
// read, if so.
func (f *feed) stop() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.r = nil
	return f.err
}

// largeObjectJob fills pieces of large objects, which the schema has made; nil when it is done.
func (l *loader) largeObjectJob(i int, c format.Chunk) *job {
	m := mark{markLargeObject, fmt.Sprint(i)}
	c.Rows = 0 // pieces of objects are no rows of a table
	if l.marks[m] {
		l.count(c, true)
		return nil
	}
	if mutantSkipLargeObject.On() && i == 0 {
		return nil
	}
	return &job{weight: c.Size, run: func(ctx context.Context, w *worker) error {
		conn, err := w.asOwner(ctx, "") // objects of many owners are in one chunk
		if err != nil {
			return err
		}
		err = l.transact(ctx, conn, effectLargeObject, m, func() error { return l.fillObjects(ctx, conn, l.Manifest.LargeObjects.Chunks[i]) })
		if err != nil {
			return err
		}
		l.count(c, false)
		progress.Report(ctx, progress.Progress{Phase: "loading large objects", Done: l.loaded.Load(), Total: l.total, Unit: "bytes"})
		return nil
	}}
}

func (l *loader) fillObjects(ctx context.Context, conn *pgx.Conn, c format.Chunk) error {
	const doing = "fill large objects"
	if _, err := conn.Exec(ctx, "CREATE TEMPORARY TABLE upkeep_piece (object oid, at bigint, data bytea) ON COMMIT DROP"); err != nil {
		return postgres.Classify(err, doing)
	}
	piece := format.Table{Schema: "pg_temp", Name: "upkeep_piece", Columns: []string{"object", "at", "data"}}
	if err := l.copyIn(ctx, conn, c, postgres.CopyIn(piece, l.Manifest.Database.Encoding), piece); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "SELECT lo_put(object, at, data) FROM pg_temp.upkeep_piece")
	return postgres.Classify(err, doing)
}
