// Package store holds the activities that need the object store alone: they write what a run leaves behind
// and its plan, and prune backups.
package store

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/report"
	"github.com/upkeep-run/upkeep/internal/trend"
)

// WriteRun is the activity type.
const WriteRun = "WriteRun"

// documentName is the file of a run's document.
const documentName = "run.json"

var (
	pointReportBefore = fault.NewPoint("report/before")
	pointReportAfter  = fault.NewPoint("report/after")
)

// Record is a run to write down.
type Record struct {
	Store    string       `json:"store"` // URL
	Document run.Document `json:"document"`
	EndedAt  time.Time    `json:"endedAt"`
	// Trail is the run's audit trail.
	Trail []audit.Entry `json:"trail,omitempty"`
	// Plans are the hashes of the plans that the run stored, which its checkpoint holds too.
	Plans []string `json:"plans,omitempty"`
}

// Written says where it is.
type Written struct {
	Report string `json:"report"` // URL of the page
	// Checkpoint is that of the audit trail, for the run's history to keep.
	Checkpoint *run.Checkpoint `json:"checkpoint,omitempty"`
}

// Activities write runs.
type Activities struct {
	// AuditKey signs the checkpoints of the audit trail; without one no trail is written.
	AuditKey ed25519.PrivateKey
	// Ended is told of every run that was written down, once where that can be known; nil: nobody is.
	Ended func(doc run.Document, at time.Time)
}

// WriteRun writes the run's document, its report, and what it measured for the reports of later runs.
// All but the report's trend is derived from the document alone, so writing it twice leaves the same
// bytes. The trend shows runs that ended before this one: a later twin may find other points there,
// where one was removed as too old, or written late by a run that had ended earlier.
func (a Activities) WriteRun(ctx context.Context, in Record) (Written, error) {
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return Written{}, err
	}
	defer func() { _ = store.Close() }()
	doc := in.Document
	doc.Report = store.URL(format.RunKey(doc.RunID, "report.html"))
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return Written{}, fmt.Errorf("encode the run's document: %w", err)
	}
	point, measured := trend.Of(doc, in.EndedAt)
	var past trend.Past
	if measured {
		past = trend.Before(ctx, store, point)
	}
	page, err := report.HTML(doc, in.EndedAt, past)
	if err != nil {
		return Written{}, err
	}
	data = append(data, '\n')
	before, err := store.Read(ctx, format.RunKey(doc.RunID, documentName), int64(len(data)))
	again := err == nil && bytes.Equal(before, data) // it was this run's: another of the same id has other bytes
	pointReportBefore.Hit()
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"report.html", page},
		{"report.md", []byte(report.Markdown(doc, in.EndedAt, past))},
		{documentName, data}, // last: who finds it finds the report too
	} {
		if err := store.Replace(ctx, format.RunKey(doc.RunID, f.name), f.data); err != nil {
			return Written{}, err
		}
	}
	pointReportAfter.Hit()
	if a.Ended != nil && !again {
		a.Ended(doc, in.EndedAt)
	}
	if measured {
		if err := trend.Add(ctx, store, point); err != nil {
			return Written{}, err
		}
	}
	written := Written{Report: doc.Report}
	if a.AuditKey != nil {
		ending := audit.Ending{Run: doc.RunID, Chain: &audit.Chain{Entries: in.Trail}, Document: data, Plans: in.Plans, At: in.EndedAt}
		anchor, err := audit.Add(ctx, store, a.AuditKey, ending)
		if err != nil {
			return Written{}, err
		}
		written.Checkpoint = &run.Checkpoint{Seq: anchor.Seq, Hash: anchor.Hash}
	}
	return written, nil
}
