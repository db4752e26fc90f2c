package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/upkeep-run/upkeep/dev/internal/measure"
	"github.com/upkeep-run/upkeep/dev/internal/steps"
)

// The names of Upkeep's own measurements; a rival's is its command.
const (
	first         = "Upkeep, first backup"
	firstSealed   = "Upkeep, the first backup, encrypted"
	second        = "Upkeep, second backup, nothing changed"
	restored      = "Upkeep, to the last constraint"
	restoredWhole = "Upkeep, the whole run (with checks before and a comparison after)"
	drilled       = "Upkeep, a whole drill on a private server"
	pgRestore     = "pg_restore -j2"
)

// series are the measurements of one thing, one a round.
type series struct {
	name    string
	seconds []float64
	bytes   []float64 // that a backup added; empty for what adds none
}

// onSet is what was measured on one set.
type onSet struct {
	set
	megabytes, share int    // on disk; of the largest table, in percent
	kept             string // the folder of the backup that pg_restore brings back
	series           []*series
}

func (o *onSet) of(name string) *series {
	for _, s := range o.series {
		if s.name == name {
			return s
		}
	}
	s := &series{name: name}
	o.series = append(o.series, s)
	return s
}

// results are what was measured, and on what.
type results struct {
	options
	began   time.Time
	done    int // rounds
	machine []string
	sets    []*onSet
	steps   []float64 // milliseconds
	memory  int64     // of the worker, in bytes
}

// describe notes the machine and the versions of everything.
func (r *results) describe(ctx context.Context, d *database) error {
	r.machine = append(r.machine, measure.Machine())
	for _, p := range []string{r.worker, d.program("postgres"), d.program("pg_dump"), "gzip", "zstd"} {
		version, err := measure.VersionOf(ctx, p)
		if err != nil {
			return err
		}
		r.machine = append(r.machine, version)
	}
	r.machine = append(r.machine, runtime.Version())
	return nil
}

// measure runs every round on every set, the sets in turns too, and tells after each round.
func (r *results) measure(ctx context.Context, d *database, u *upkeep, scratch string, told func() error) error {
	for _, s := range sets {
		o := &onSet{set: s, kept: filepath.Join(scratch, "kept-"+s.name)}
		r.sets = append(r.sets, o)
		var err error
		if o.megabytes, err = d.megabytes(ctx, s.name); err != nil {
			return err
		}
		if o.share, err = d.largest(ctx, s); err != nil {
			return err
		}
	}
	for i := range r.rounds {
		for _, o := range r.sets {
			measure.Say("%s: round %d of %d; %d MiB, the largest table %d%%", o.name, i+1, r.rounds, o.megabytes, o.share)
			if err := r.warm(ctx, d, o, scratch); err != nil {
				return err
			}
			if err := r.round(ctx, d, u, o, scratch, i == 0); err != nil {
				return err
			}
		}
		var err error
		if r.memory, err = u.Memory(); err != nil {
			return err
		}
		r.done = i + 1
		if err := told(); err != nil {
			return err
		}
	}
	return nil
}

// warm reads a set once, so that the first to be measured does not read it from the disk.
func (r *results) warm(ctx context.Context, d *database, o *onSet, scratch string) error {
	out := filepath.Join(scratch, "warm")
	if err := d.backup(ctx, d.plain(), o.set, out); err != nil {
		return err
	}
	return os.Remove(out)
}

// round measures everything once; what is slow and compared for little only in the first round.
func (r *results) round(ctx context.Context, d *database, u *upkeep, o *onSet, scratch string, whole bool) error {
	if err := u.forget(); err != nil {
		return err
	}
	own := func(name string) error {
		return timed(ctx, d, o.of(name), func() (bytes int64, err error) { return u.backup(ctx, o.set) })
	}
	if err := own(first); err != nil {
		return err
	}
	err := timed(ctx, d, o.of(firstSealed), func() (bytes int64, err error) { return u.backup(ctx, o.sealed()) })
	if err != nil {
		return err
	}
	if err := u.forgetTarget(o.sealed()); err != nil {
		return err
	}
	for _, v := range d.rivals() {
		if v.once && !whole {
			continue
		}
		out := filepath.Join(scratch, "rival")
		if v.name == restorable {
			out = o.kept
		}
		err := timed(ctx, d, o.of(v.name), func() (int64, error) {
			if err := d.backup(ctx, v, o.set, out); err != nil {
				return 0, fmt.Errorf("%s: %w", v.name, err)
			}
			return sizeOf(out)
		})
		if err != nil {
			return err
		}
		if out != o.kept {
			if err := os.RemoveAll(out); err != nil {
				return err
			}
		}
	}
	if err := own(second); err != nil {
		return err
	}
	if err := r.restores(ctx, d, u, o, whole); err != nil {
		return err
	}
	took, err := steps.Measure(ctx, u.Temporal.ClientOptions(), 100)
	if err != nil {
		return err
	}
	for _, t := range took {
		r.steps = append(r.steps, float64(t.Microseconds())/1000)
	}
	return nil
}

// restores measures bringing the backups back, and a drill.
func (r *results) restores(ctx context.Context, d *database, u *upkeep, o *onSet, whole bool) error {
	const name = "bench_restored"
	var building time.Duration
	err := timed(ctx, d, o.of(restoredWhole), func() (_ int64, err error) {
		building, err = u.restore(ctx, o.set, name)
		return 0, err
	})
	if err != nil {
		return err
	}
	o.of(restored).seconds = append(o.of(restored).seconds, building.Seconds())
	if err := d.exec(ctx, "DROP DATABASE "+name); err != nil {
		return err
	}
	if err := timed(ctx, d, o.of(pgRestore), func() (int64, error) { return 0, d.restore(ctx, o.kept, name) }); err != nil {
		return err
	}
	if err := d.exec(ctx, "DROP DATABASE "+name); err != nil {
		return err
	}
	if !whole {
		return nil
	}
	return timed(ctx, d, o.of(drilled), func() (int64, error) { return 0, u.drill(ctx, o.set) })
}

// timed measures one thing once, on a server that has settled.
func timed(ctx context.Context, d *database, s *series, do func() (bytes int64, err error)) error {
	if err := d.settle(ctx); err != nil {
		return err
	}
	began := time.Now()
	bytes, err := do()
	if err != nil {
		return err
	}
	s.seconds = append(s.seconds, time.Since(began).Seconds())
	if bytes != 0 {
		s.bytes = append(s.bytes, float64(bytes))
	}
	measure.Say("    %-70s %7.1f s %s", s.name, time.Since(began).Seconds(), megabytes(float64(bytes)))
	return nil
}

func megabytes(bytes float64) string {
	if bytes == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f MB", bytes/1e6)
}
