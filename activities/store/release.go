package store

import (
	"context"
	"time"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// The activity types of a rollout.
const (
	FindProven  = "FindProvenBackup"
	NoteHealthy = "NoteHealthyRevision"
)

var (
	pointNoteBefore = fault.NewPoint("rollout/note/before")
	pointNoteAfter  = fault.NewPoint("rollout/note/after")
)

// ProvenRequest asks for the newest backup of a target that a drill has proven.
type ProvenRequest struct {
	Store      string             `json:"store"` // URL
	Target     string             `json:"target"`
	Encryption *config.Encryption `json:"encryption,omitempty"`
	After      time.Time          `json:"after"` // it must show a moment after this one
}

// Proven is a proven backup.
type Proven struct {
	BackupID string    `json:"backupId"`
	At       time.Time `json:"at"` // the moment that it shows
}

// FindProven returns the newest proven backup; NoProof says that there is none that is young enough.
func (Activities) FindProven(ctx context.Context, in ProvenRequest) (Proven, error) {
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return Proven{}, err
	}
	defer func() { _ = store.Close() }() // it was only read
	all, err := catalog.List(ctx, store, in.Target, in.Encryption.Ring(store, in.Target), nil)
	if err != nil {
		return Proven{}, err
	}
	var newest Proven
	for _, e := range all {
		if e.Proven() && e.At.After(newest.At) {
			newest = Proven{BackupID: e.ID, At: e.At}
		}
	}
	if newest.BackupID == "" {
		return Proven{}, failure.New(failure.NoProof, "target %s has no backup that a drill has proven", in.Target).Do("run DrillRecovery for target %s, then start this run again", in.Target)
	}
	if !newest.At.After(in.After) {
		return Proven{}, failure.New(failure.NoProof, "the newest proven backup of target %s, %s, is of %s and too old", in.Target, newest.BackupID, newest.At.UTC().Format(time.RFC3339)).
			Do("run DrillRecovery for target %s, then start this run again", in.Target)
	}
	return newest, nil
}

// HealthyRecord is a revision that was seen to be good.
type HealthyRecord struct {
	Store  string          `json:"store"` // URL
	Target string          `json:"target"`
	Note   catalog.Healthy `json:"note"`
}

// NoteHealthy notes it, for later rollbacks.
func (Activities) NoteHealthy(ctx context.Context, in HealthyRecord) error {
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // what was written is durable already
	pointNoteBefore.Hit()
	if err := catalog.SetHealthy(ctx, store, in.Target, in.Note); err != nil {
		return err
	}
	pointNoteAfter.Hit()
	return nil
}
