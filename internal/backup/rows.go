package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/internal/chunk"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/rowhash"
)

const (
	// rangePages is how many heap pages one COPY reads of a table that several sessions share: 8 MiB
	// with the usual page. The cuts are at fixed pages, so that an unchanged range gives the same bytes
	// in the next backup.
	rangePages = 1024
	// minChunk and chunkBytes bound a chunk's plain text. Between them it is closed after a row whose
	// hash says so, one in closeAfter bytes: a change of some rows moves no cut but those beside it.
	minChunk   = 4 << 20
	closeAfter = 2 << 20
	chunkBytes = 8 << 20
)

var (
	mutantSkipTable     = fault.NewMutant("backup-skip-table")
	mutantSkipLastRange = fault.NewMutant("backup-skip-last-range")
	mutantNull          = fault.NewMutant("backup-null-becomes-empty")
	mutantSkipLO        = fault.NewMutant("backup-skip-large-object")
	mutantRepeatChunk   = fault.NewMutant("backup-repeat-chunk")
)

// job is one COPY: a scan of a table, or some large objects.
type job struct {
	statement string
	what      string // for errors and progress
	pages     int64
	table     *format.Table // nil for large objects
	span      format.Range
	slots     []*slot // its chunks, in the order in which they were read
}

// slot is a chunk that is being stored.
type slot struct{ chunk format.Chunk }

// block is the plain text of one chunk on its way into the store.
type block struct {
	text []byte
	rows int64
	hash rowhash.Sum
	into *slot
}

// reading is everything that one snapshot's rows and large objects are read by.
type reading struct {
	plans      []*tablePlan
	objects    format.LargeObjects
	jobs       []*job // all of them, in the order in which they are begun
	objectJobs []*job
}

// plan cuts what is to be read into jobs for so many sessions, as much as it can like the backup
// before. It uses the keeper's session.
func (k *keeper) plan(ctx context.Context, sessions int, before *format.Manifest) (*reading, error) {
	var tables []format.Table
	for i, r := range k.relations {
		if r.Partitioned {
			continue
		}
		if mutantSkipTable.On() && i == len(k.relations)-1 {
			continue
		}
		tables = append(tables, r.Table)
	}
	sizes, err := postgres.Sizes(ctx, k.conn, k.server, tables)
	if err != nil {
		return nil, err
	}
	r := &reading{}
	for i, t := range tables {
		t.Pages = sizes[i].Heap
		r.plans = append(r.plans, &tablePlan{table: t})
	}
	whole := make(map[format.Name]bool)
	if before != nil {
		for _, t := range before.Tables {
			whole[format.Name{Schema: t.Schema, Name: t.Name}] = len(t.Ranges) == 1
		}
	}
	for _, s := range postgres.Scans(k.server, tables, sizes, sessions, rangePages, whole) {
		p := r.plans[s.Table]
		j := p.read(s.Range, k.database.Encoding)
		if last := s.Range.First > 0 && s.Range.End < 0; last && mutantSkipLastRange.On() {
			continue
		}
		r.jobs = append(r.jobs, j)
	}
	if r.objects, r.objectJobs, err = k.planLargeObjects(ctx); err != nil {
		return nil, err
	}
	r.jobs = append(r.jobs, r.objectJobs...)
	return r, nil
}

// readRows reads the rows of every table and the large objects with parallel sessions that share the
// keeper's snapshot, and stores them.
func (k *keeper) readRows(ctx context.Context, o Options, pool *chunk.Pool, r *reading) ([]format.Table, format.LargeObjects, error) {
	if err := k.runJobs(ctx, o, pool, r.jobs, newMeter(ctx, k, r.plans)); err != nil {
		return nil, format.LargeObjects{}, err
	}
	tables := make([]format.Table, 0, len(r.plans))
	for _, p := range r.plans {
		tables = append(tables, p.finish())
	}
	sortedTables(tables)
	objects := r.objects
	for _, j := range r.objectJobs {
		objects.Chunks = append(objects.Chunks, collected(j.slots)...)
	}
	var sum rowhash.Sum
	for _, c := range objects.Chunks {
		objects.Rows += c.Rows
		sum = sum.Merge(mustParse(c.RowHash))
	}
	objects.RowHash = sum.Hex()
	return tables, objects, nil
}

// tablePlan is a table and what reads it, by ascending ranges of pages.
type tablePlan struct {
	table format.Table
	jobs  []*job
}

// read makes the job that reads a range.
func (p *tablePlan) read(span format.Range, encoding string) *job {
	end := span.End
	if end < 0 {
		end = max(p.table.Pages, span.First)
	}
	j := &job{
		statement: postgres.CopyOut(p.table, span, encoding), what: postgres.Quote(p.table.Schema, p.table.Name),
		pages: end - span.First, table: &p.table, span: span,
	}
	p.jobs = append(p.jobs, j)
	return j
}

func (p *tablePlan) finish() format.Table {
	t := p.table
	var sum rowhash.Sum
	for _, j := range p.jobs {
		if mutantRepeatChunk.On() && len(j.slots) > 0 {
			j.slots = append(j.slots, j.slots[0])
		}
		r := j.span
		r.Chunks = collected(j.slots)
		for _, c := range r.Chunks {
			t.Rows += c.Rows
			t.Bytes += c.Size
			sum = sum.Merge(mustParse(c.RowHash))
		}
		t.Ranges = append(t.Ranges, r)
	}
	t.RowHash = sum.Hex()
	return t
}

func collected(slots []*slot) []format.Chunk {
	out := make([]format.Chunk, len(slots))
	for i, s := range slots {
		out[i] = s.chunk
	}
	return out
}

// mustParse reads back a hash that this package wrote a moment ago.
func mustParse(hex string) rowhash.Sum {
	s, err := rowhash.Parse(hex)
	if err != nil {
		return rowhash.Sum{}
	}
	return s
}

// runJobs reads with o.Connections sessions and stores with one worker per processor. The buffers
// between them are few and lent out, which bounds the memory.
func (k *keeper) runJobs(ctx context.Context, o Options, pool *chunk.Pool, jobs []*job, m *meter) error {
	readers := max(1, min(o.Connections, len(jobs)))
	storers := max(1, runtime.GOMAXPROCS(0))
	queue := make(chan *job)
	blocks := make(chan block)
	free := make(chan []byte, readers+2*storers)
	for range cap(free) {
		free <- nil // grown at first use
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(queue)
		for _, j := range jobs {
			select {
			case queue <- j:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	var reading atomic.Int64
	reading.Store(int64(readers))
	for range readers {
		group.Go(func() error {
			defer func() {
				if reading.Add(-1) == 0 {
					close(blocks)
				}
			}()
			return k.read(ctx, o, &pipe{ctx: ctx, pool: pool, blocks: blocks, free: free, meter: m}, queue)
		})
	}
	for range storers {
		group.Go(func() error {
			for b := range blocks {
				c, err := store(ctx, pool, b)
				if err != nil {
					return err
				}
				b.into.chunk = c
				select {
				case free <- b.text[:0]:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func store(ctx context.Context, pool *chunk.Pool, b block) (format.Chunk, error) {
	if mutantNull.On() {
		b.text = bytes.Replace(b.text, []byte(`\N`), nil, 1)
	}
	c, _, err := pool.Write(ctx, b.text)
	c.Rows, c.RowHash = b.rows, b.hash.Hex()
	return c, err
}

// read runs one session's share of the jobs.
func (k *keeper) read(ctx context.Context, o Options, p *pipe, queue <-chan *job) error {
	conn, err := o.Source.Connect(ctx, postgres.WithApp(o.app()), postgres.WithBulkReads())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := k.share(ctx, conn); err != nil {
		return err
	}
	for j := range queue {
		p.begin(j)
		began := time.Now()
		_, err := conn.PgConn().CopyTo(ctx, p, j.statement)
		for postgres.State(err) == lockTimedOut && time.Since(began) < patience { // perhaps after rows have come: the first long value opens the TOAST table's index
			if err := k.heldUp(ctx, o, j.what); err != nil {
				return err
			}
			if err := k.share(ctx, conn); err != nil {
				return err
			}
			p.again()
			p.meter.pages(0, j.what+" (waiting for a lock)")
			_, err = conn.PgConn().CopyTo(ctx, p, j.statement)
		}
		if p.err != nil {
			return p.err // of the store: the session only saw its reader go
		}
		if err != nil {
			return k.rowTooLong(ctx, j, err)
		}
		if err := p.end(); err != nil {
			return err
		}
	}
	return nil
}

// lockTimedOut is the SQLSTATE of a statement that has waited for a lock long enough.
const lockTimedOut = "55P03"

// share begins a session's transaction on the keeper's snapshot; one that has failed is left.
func (k *keeper) share(ctx context.Context, conn *pgx.Conn) error {
	for _, statement := range []string{
		"ROLLBACK", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SET TRANSACTION SNAPSHOT " + postgres.Literal(k.id),
		fmt.Sprintf("SET LOCAL lock_timeout = %d", shareTimeout.Milliseconds()),
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return postgres.Classify(err, "share the snapshot")
		}
	}
	return nil
}

// heldUp gives ConcurrentDDL when the lock that a reader waits for cannot come: a change of the table
// is before it in the queue, and waits for the backup's other sessions. Whoever else has the lock,
// as REINDEX has that of an index, may be done with it in time.
func (k *keeper) heldUp(ctx context.Context, o Options, what string) error {
	conn, err := o.Source.Connect(ctx, postgres.WithApp(o.app()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var waits bool
	err = conn.QueryRow(ctx, `
		WITH own AS (SELECT coalesce(array_agg(pid), '{}') AS pids FROM pg_stat_activity WHERE application_name = current_setting('application_name'))
		SELECT EXISTS (SELECT FROM pg_locks l, own WHERE NOT l.granted AND l.pid <> ALL (own.pids) AND pg_blocking_pids(l.pid) && own.pids)`).Scan(&waits)
	if err != nil {
		return postgres.Classify(err, "see who waits for the backup")
	}
	if waits {
		return failure.New(failure.ConcurrentDDL, "a change of %s waits for the backup and keeps it from being read", what)
	}
	return nil
}

// pipe takes the COPY text of one session and cuts it into blocks.
type pipe struct {
	ctx    context.Context
	pool   *chunk.Pool
	blocks chan<- block
	free   chan []byte
	meter  *meter

	job   *job
	text  []byte
	rows  int64
	hash  rowhash.Sum
	came  int64 // bytes of the job's text
	shown int64 // pages of the job that the meter knows of
	err   error
}

func (p *pipe) begin(j *job) {
	p.job, p.rows, p.hash, p.came, p.shown, p.err = j, 0, rowhash.Sum{}, 0, 0, nil
}

// again begins the job anew. The chunks that came of it stay in the store, and a block that is still on
// its way there fills a slot that is nobody's any more.
func (p *pipe) again() {
	p.show(0)
	p.job.slots, p.text = nil, p.text[:0]
	p.begin(p.job)
}

// Write takes whole rows: the server sends each row in a message of its own.
func (p *pipe) Write(data []byte) (int, error) {
	if p.err = p.take(data); p.err != nil {
		return 0, p.err
	}
	return len(data), nil
}

func (p *pipe) take(data []byte) error {
	if len(data) == 0 || data[len(data)-1] != '\n' {
		return failure.New(failure.Internal, "the server sent a part of a row of %s in a message of its own", p.job.what)
	}
	if len(data) >= chunkBytes { // a row that fills a chunk by itself: stored from where it is, not copied
		if err := p.flush(); err != nil {
			return err
		}
		s := p.slot()
		b := block{text: data, into: s}
		b.rows, b.hash = hashRows(data)
		c, err := store(p.ctx, p.pool, b)
		s.chunk = c
		p.came += int64(len(data))
		return err
	}
	if p.text == nil {
		select {
		case p.text = <-p.free:
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
		if p.text == nil {
			p.text = make([]byte, 0, chunkBytes+chunkBytes/8)
		}
	}
	p.text = append(p.text, data...)
	p.came += int64(len(data))
	rows, hash := int64(1), rowhash.Sum{}
	if bytes.IndexByte(data, '\n') == len(data)-1 {
		hash = rowhash.Of(data[:len(data)-1])
	} else {
		rows, hash = hashRows(data)
	}
	p.rows += rows
	p.hash = p.hash.Merge(hash)
	if len(p.text) >= chunkBytes || len(p.text) >= minChunk && hash.Low()%closeAfter < uint64(len(data)) {
		return p.flush()
	}
	return nil
}

func hashRows(data []byte) (rows int64, hash rowhash.Sum) {
	for len(data) > 0 {
		i := bytes.IndexByte(data, '\n')
		hash.Add(data[:i])
		rows++
		data = data[i+1:]
	}
	return rows, hash
}

func (p *pipe) slot() *slot {
	s := &slot{}
	p.job.slots = append(p.job.slots, s)
	return s
}

// flush hands the gathered rows to the storers.
func (p *pipe) flush() error {
	if len(p.text) == 0 {
		return nil
	}
	b := block{text: p.text, rows: p.rows, hash: p.hash, into: p.slot()}
	select {
	case p.blocks <- b:
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
	p.text, p.rows, p.hash = nil, 0, rowhash.Sum{}
	p.show(min(p.job.pages, p.came/p.meter.block)) // text takes about as much as the heap does
	return nil
}

// end closes the job's last chunk.
func (p *pipe) end() error {
	if err := p.flush(); err != nil {
		return err
	}
	p.show(p.job.pages)
	return nil
}

// show tells the meter that so many of the job's pages are read.
func (p *pipe) show(pages int64) {
	p.meter.pages(pages-p.shown, p.job.what)
	p.shown = pages
}

// planLargeObjects lists the large objects and makes the COPY statements that read them in pieces.
func (k *keeper) planLargeObjects(ctx context.Context) (format.LargeObjects, []*job, error) {
	const objectsAtOnce = 500
	rows, err := k.conn.Query(ctx, "SELECT oid FROM pg_largeobject_metadata ORDER BY oid")
	if err != nil {
		return format.LargeObjects{}, nil, postgres.Classify(err, "list the large objects")
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return format.LargeObjects{}, nil, postgres.Classify(err, "list the large objects")
	}
	if mutantSkipLO.On() && len(oids) > 0 {
		oids = oids[1:]
	}
	objects := format.LargeObjects{Count: int64(len(oids)), Chunks: []format.Chunk{}}
	var jobs []*job
	for start := 0; start < len(oids); start += objectsAtOnce {
		batch := oids[start:min(start+objectsAtOnce, len(oids))]
		jobs = append(jobs, &job{statement: postgres.CopyLargeObjects(batch, k.database.Encoding), what: "large objects"})
	}
	return objects, jobs, nil
}

// passesMessage reports whether the server says that a text would pass its limit: a row's (a string
// buffer that cannot grow is 54000), or a value's, which is an error without a code of its own whose
// text is the same in every language. A server that is short of memory says neither.
func passesMessage(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "54000" || pg.Code == "XX000" && strings.HasPrefix(pg.Message, "invalid memory alloc request size"))
}

// rowTooLong names the table and key of a row whose text does not fit into one message; another
// error is classified as it is.
func (k *keeper) rowTooLong(ctx context.Context, j *job, err error) error {
	if j.table == nil || !passesMessage(err) {
		return postgres.Classify(err, "read "+j.what)
	}
	where := "unknown key"
	if found := k.longest(ctx, *j.table, j.span); found != "" {
		where = found
	}
	return failure.New(failure.RowTooLong, "a row of table %s is too long for COPY (%s)", j.what, where).
		Because(errors.New("its text would pass the server's limit of 1 GB for one message")).
		Do("make the row smaller (a bytea value takes twice its size as text), or keep such values as large objects")
}

// longest finds the row of the range that is the longest as stored and says its key, which is its
// place where the table has no primary key of plain numbers: a key that is text may be a secret.
func (k *keeper) longest(ctx context.Context, t format.Table, r format.Range) string {
	conn, err := pgx.ConnectConfig(ctx, k.conn.Config())
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	quoted := postgres.Quote(t.Schema, t.Name)
	var keys []string
	err = conn.QueryRow(ctx, `
		SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
		WHERE i.indrelid = $1::text::regclass AND i.indisprimary AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype, 'oid'::regtype)`,
		quoted).Scan(&keys)
	if err != nil {
		return ""
	}
	sizes := []string{"0::bigint"}
	for _, c := range t.Columns {
		sizes = append(sizes, "coalesce(pg_column_size("+postgres.Quote(c)+"), 0)")
	}
	parts := []string{"'ctid ' || ctid::text"}
	for _, c := range keys {
		parts = append(parts, postgres.Literal(", "+c+" = ")+" || "+postgres.Quote(c)+"::text")
	}
	query := "SELECT " + strings.Join(parts, " || ") + " FROM ONLY " + quoted
	if !postgres.Whole(r) {
		query += fmt.Sprintf(" WHERE ctid >= '(%d,0)'", r.First)
		if r.End >= 0 {
			query += fmt.Sprintf(" AND ctid < '(%d,0)'", r.End)
		}
	}
	var found string
	if err := conn.QueryRow(ctx, query+" ORDER BY "+strings.Join(sizes, " + ")+" DESC LIMIT 1").Scan(&found); err != nil {
		return ""
	}
	return found
}

// meter reports how much of the heap is read.
type meter struct {
	ctx   context.Context
	block int64
	total atomic.Int64 // pages
	done  atomic.Int64 // pages
}

func newMeter(ctx context.Context, k *keeper, plans []*tablePlan) *meter {
	m := &meter{ctx: ctx, block: int64(k.server.BlockSize)}
	for _, p := range plans {
		m.total.Add(p.table.Pages)
	}
	return m
}

func (m *meter) pages(n int64, what string) {
	progress.Report(m.ctx, progress.Progress{
		Phase: "reading rows", Done: m.done.Add(n) * m.block, Total: m.total.Load() * m.block, Unit: "bytes", Note: what,
	})
}
