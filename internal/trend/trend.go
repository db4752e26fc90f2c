// Package trend keeps in the store a small note of what each of a target's last runs measured, so that
// a report can hold a run against those before it without reading every run's document. The notes are
// derived from those documents: nothing depends on them but what a report says of the past.
package trend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/upkeep-run/upkeep/api/backupdatabase"
	"github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

const (
	// Shown is how many runs a report shows, its own among them.
	Shown = 20
	// Kept is how many points of a target and procedure stay in the store.
	Kept = 100
	// maxPoint bounds a point's file, in bytes. The longest id of a run, escaped, fits.
	maxPoint = 16 << 10
	// patience bounds what is spent on the past: the report matters more.
	patience = 20 * time.Second
)

var (
	pointAddBefore = fault.NewPoint("trend/point/before")
	pointAddAfter  = fault.NewPoint("trend/point/after")
)

// Point is what one run measured. Figures below zero are not known.
type Point struct {
	Run          string      `json:"run"`
	Procedure    string      `json:"procedure"`
	Target       string      `json:"target"`
	EndedAt      time.Time   `json:"endedAt"`
	Outcome      run.Outcome `json:"outcome"`
	Verdict      run.Verdict `json:"verdict,omitempty"`
	Backup       string      `json:"backup,omitempty"`
	Fresh        bool        `json:"fresh,omitempty"` // the run took the backup
	DrillSeconds float64     `json:"drillSeconds"`
	BytesRead    int64       `json:"bytesRead"`
	BytesStored  int64       `json:"bytesStored"`
}

// Noun is what people call a run of a procedure whose runs are held against each other; empty for those
// of the others.
func Noun(procedure string) string {
	switch procedure {
	case drillrecovery.WorkflowType:
		return "drill"
	case backupdatabase.WorkflowType:
		return "backup"
	}
	return ""
}

// Of returns the point of a run that has ended, and whether it has one: runs that were refused,
// cancelled or dry have measured nothing, and neither have those of most procedures.
func Of(doc run.Document, ended time.Time) (Point, bool) {
	p := Point{Run: doc.RunID, Procedure: doc.Procedure, Target: doc.Target, EndedAt: ended.UTC(), Outcome: doc.Outcome}
	if doc.DryRun || !p.known() {
		return p, false
	}
	r := struct {
		BackupID      string      `json:"backupId"`
		Verdict       run.Verdict `json:"verdict"`
		DrillSeconds  float64     `json:"drillSeconds"`
		BackupSeconds float64     `json:"backupSeconds"`
		BytesRead     int64       `json:"bytesRead"`
		BytesStored   int64       `json:"bytesStored"`
	}{DrillSeconds: -1, BytesRead: -1, BytesStored: -1}
	// A result of another shape, or none, is a run of which only the outcome is known.
	_ = json.Unmarshal(doc.Result, &r)
	p.Verdict, p.Backup, p.DrillSeconds = r.Verdict, r.BackupID, max(r.DrillSeconds, -1)
	p.Fresh = doc.Procedure == backupdatabase.WorkflowType || r.BackupSeconds > 0
	p.BytesRead, p.BytesStored = -1, -1
	if p.Fresh { // of a backup that was there they say what another run read
		p.BytesRead, p.BytesStored = max(r.BytesRead, -1), max(r.BytesStored, -1)
	}
	return p, p.sane()
}

// Failed reports whether the run failed, so that its figures are those of a part of the work.
func (p Point) Failed() bool { return p.Outcome == run.Failed }

// known reports whether the point can be of a run that leaves one.
func (p Point) known() bool {
	return format.ValidID(p.Target) && Noun(p.Procedure) != "" &&
		(p.Outcome == run.Succeeded || p.Outcome == run.PartiallySucceeded || p.Outcome == run.Failed)
}

// sane reports whether all that the point says can be so.
func (p Point) sane() bool {
	const longest = 1e9 // seconds
	return p.known() && slices.Contains([]run.Verdict{"", run.Pass, run.Fail, run.NotProven}, p.Verdict) &&
		(p.Backup == "" || format.ValidID(p.Backup)) &&
		p.DrillSeconds >= -1 && p.DrillSeconds <= longest && p.BytesRead >= -1 && p.BytesStored >= -1
}

func (p Point) key() string { return format.TrendKey(p.Target, p.Procedure, p.EndedAt, p.Run) }

// twin reports whether both points are of one run: one that was reset ends a second time.
func (p Point) twin(q Point) bool { return p.Run == q.Run && p.Backup == q.Backup && p.Backup != "" }

// like reports whether the runs did the same work. A run that failed may not have come to the backup.
func (p Point) like(q Point) bool { return p.Fresh == q.Fresh || p.Failed() || q.Failed() }

// Past is what is known of the runs before one.
type Past struct {
	Points  []Point // the oldest first
	Partial bool    // something of the past could not be read
}

// Before reads the points of the runs that did the same work and ended before that of p. What is
// damaged, foreign or away is left out: a report is not lost for want of the past.
func Before(ctx context.Context, store objstore.Store, p Point) Past {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	keys, _, err := list(ctx, store, p.Target, p.Procedure)
	if err != nil {
		return Past{Partial: true}
	}
	var past Past
	for i := len(keys) - 1; i >= 0 && len(past.Points) < Shown-1; i-- {
		if keys[i] >= p.key() {
			continue // a run that ended later: what a report says does not change with it
		}
		q, err := read(ctx, store, keys[i])
		switch {
		case errors.Is(err, objstore.ErrNotExist):
			// Another run has just removed it.
		case err != nil:
			past.Partial = true
		case p.like(q) && !p.twin(q) && !slices.ContainsFunc(past.Points, q.twin):
			past.Points = append(past.Points, q)
		}
	}
	slices.Reverse(past.Points)
	return past
}

// Add writes a point, once however often it is asked, and removes those that are too old to be kept.
func Add(ctx context.Context, store objstore.Store, p Point) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode what the run measured: %w", err)
	}
	pointAddBefore.Hit()
	if err := store.Create(ctx, p.key(), append(data, '\n')); err != nil && !errors.Is(err, objstore.ErrExist) {
		return err
	}
	pointAddAfter.Hit()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// Points that cannot be removed, as in a bucket where nothing may be, only take space; the next run
	// tries again.
	if _, old, err := list(ctx, store, p.Target, p.Procedure); err == nil {
		for _, key := range old {
			if store.Delete(ctx, key) != nil {
				break
			}
		}
	}
	return nil
}

// list returns the keys of the newest points, the oldest of them first, and of some that are older
// than those.
func list(ctx context.Context, store objstore.Store, target, procedure string) (newest, old []string, err error) {
	err = store.List(ctx, format.TrendPrefix(target, procedure), func(o objstore.Info) error {
		if !format.IsTrendKey(target, procedure, o.Key) {
			return nil
		}
		newest = append(newest, o.Key)
		if len(newest) > Kept {
			if len(old) < Kept {
				old = append(old, newest[0])
			}
			newest = newest[1:]
		}
		return nil
	})
	return newest, old, err
}

// read reads the point of a key, and believes nothing in it that its key does not say too.
func read(ctx context.Context, store objstore.Store, key string) (Point, error) {
	data, err := store.Read(ctx, key, maxPoint)
	if err != nil {
		return Point{}, err
	}
	return decode(data, key)
}

func decode(data []byte, key string) (p Point, err error) {
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("%s is not what a run measured: %w", key, err)
	}
	if !p.sane() || p.key() != key {
		return p, fmt.Errorf("%s is not what its name says", key)
	}
	return p, nil
}
