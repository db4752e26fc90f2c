package restore

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/internal/postgres"
)

// job is a piece of work that any of the sessions can do.
type job struct {
	weight int64 // heavier jobs go first; equal ones in the order in which they came
	run    func(context.Context, *worker) error
	then   func() []*job // what can be done once it is done; called by one at a time
}

// schedule hands out jobs, the heaviest first, until none is left and none can come any more.
type schedule struct {
	mu      sync.Mutex
	changed *sync.Cond
	ready   []*job // sorted by weight, the heaviest last, the earliest of equals last
	running int
	stopped bool
}

func newSchedule() *schedule {
	s := &schedule{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// add makes jobs ready.
func (s *schedule) add(jobs ...*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.insert(jobs)
}

func (s *schedule) insert(jobs []*job) {
	for _, j := range jobs {
		at, _ := slices.BinarySearchFunc(s.ready, j, func(have, want *job) int {
			if have.weight < want.weight {
				return -1
			}
			return 1
		})
		s.ready = slices.Insert(s.ready, at, j)
	}
	s.changed.Broadcast()
}

// next waits for a job; nil when there will be none.
func (s *schedule) next() *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.ready) == 0 && s.running > 0 && !s.stopped {
		s.changed.Wait()
	}
	if len(s.ready) == 0 || s.stopped {
		return nil
	}
	j := s.ready[len(s.ready)-1]
	s.ready = s.ready[:len(s.ready)-1]
	s.running++
	return j
}

// finish makes ready what the job made possible.
func (s *schedule) finish(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if j.then != nil {
		s.insert(j.then())
	}
	s.changed.Broadcast()
}

func (s *schedule) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.changed.Broadcast()
}

// work does all jobs with the restore's connections.
func (l *loader) work(ctx context.Context, s *schedule) error {
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, s.stop)()
	for range max(1, l.Connections) {
		group.Go(func() error {
			w := &worker{loader: l}
			defer func() { w.close(ctx) }()
			for j := s.next(); j != nil; j = s.next() {
				if err := j.run(ctx, w); err != nil {
					return err
				}
				s.finish(j)
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// worker does one job at a time. It keeps the session of the last table owner and one for building.
type worker struct {
	loader  *loader
	rows    *pgx.Conn
	owner   string
	builder *pgx.Conn
}

// asOwner is a session in which rows are loaded as the role; "" is the session's own.
func (w *worker) asOwner(ctx context.Context, owner string) (*pgx.Conn, error) {
	if w.rows != nil && w.owner == owner && !w.rows.IsClosed() {
		return w.rows, nil
	}
	if w.rows != nil {
		closeSession(ctx, w.rows)
		w.rows = nil
	}
	var options []postgres.Option
	login := w.loader.Private && !strings.HasPrefix(owner, "pg_") // the system's own roles cannot log in
	if login && owner != "" {
		options = append(options, postgres.WithUser(owner))
	}
	conn, err := w.loader.connect(ctx, options...)
	if err != nil {
		return nil, err
	}
	// Rows and their mark are one transaction, and the last one of the restore waits for the disk.
	sql := "SET synchronous_commit = off"
	if !login && owner != "" {
		sql += "; SET ROLE " + postgres.Quote(owner)
	}
	if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		closeSession(ctx, conn)
		return nil, postgres.Classify(err, "set up a session that loads rows")
	}
	w.rows, w.owner = conn, owner
	return conn, nil
}

// asBuilder is a session in which indexes and constraints are built.
func (w *worker) asBuilder(ctx context.Context) (*pgx.Conn, error) {
	if w.builder != nil && !w.builder.IsClosed() {
		return w.builder, nil
	}
	conn, err := w.loader.connect(ctx)
	if err != nil {
		return nil, err
	}
	// maintenance_work_mem stays as it is: four times the default made sorting text a third slower, since
	// a comparison of what is not in the processor's cache costs more than one more run to merge.
	if _, err := conn.Exec(ctx, "SET synchronous_commit = off", pgx.QueryExecModeSimpleProtocol); err != nil {
		closeSession(ctx, conn)
		return nil, postgres.Classify(err, "set up a session that builds indexes")
	}
	w.builder = conn
	return conn, nil
}

func (w *worker) close(ctx context.Context) {
	for _, conn := range []*pgx.Conn{w.rows, w.builder} {
		if conn != nil {
			closeSession(ctx, conn)
		}
	}
}
