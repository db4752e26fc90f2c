package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// The activity types of a review of access.
const (
	CompareAccess = "CompareAccess"
	AcceptAccess  = "AcceptAccess"
)

// AccessReview names a review that a run has written.
type AccessReview struct {
	Store   string   `json:"store"` // URL
	Target  string   `json:"target"`
	RunID   string   `json:"runId"`
	SHA256  string   `json:"sha256"`            // of the review's file
	Trusted []string `json:"trusted,omitempty"` // public keys whose baselines count, besides this worker's own
}

// AccessDrift is how a review stands to the baseline.
type AccessDrift struct {
	None     bool      `json:"none,omitempty"` // there is no baseline
	Baseline string    `json:"baseline"`       // SHA-256 of its file
	Seq      int64     `json:"seq"`
	At       time.Time `json:"at"` // when it was accepted
	By       string    `json:"by"`
	Signers  []string  `json:"signers,omitempty"`
	Key      string    `json:"key"` // that signed it

	access.DriftSummary
}

// AcceptRequest says which review becomes the baseline, and who says so.
type AcceptRequest struct {
	AccessReview
	Plan     string    `json:"plan"`     // SHA-256 of the plan that was approved
	Replaces string    `json:"replaces"` // SHA-256 of the baseline's file before
	By       string    `json:"by"`
	Signers  []string  `json:"signers,omitempty"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
}

// readReview reads a review that a run has written.
func readReview(ctx context.Context, store objstore.Store, in AccessReview) ([]byte, *access.Review, error) {
	key := format.RunKey(in.RunID, format.ReviewFile(in.SHA256))
	data, err := store.Read(ctx, key, access.MaxReview)
	var r *access.Review
	if err == nil {
		r, err = access.Decode(data, in.SHA256)
	}
	if errors.Is(err, objstore.ErrNotExist) || err != nil && r == nil && data != nil {
		return nil, nil, failure.New(failure.PlanVoid, "the review %s of the run is gone, or not what was written", key).Do("see who has changed the store, then start a new run")
	}
	return data, r, err
}

func (a Activities) trusted(in AccessReview) []string {
	all := slices.Clone(in.Trusted)
	if a.AuditKey != nil {
		all = append(all, access.KeyOf(a.AuditKey))
	}
	return all
}

// CompareAccess holds a review against the baseline. It changes nothing.
func (a Activities) CompareAccess(ctx context.Context, in AccessReview) (AccessDrift, error) {
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return AccessDrift{}, err
	}
	defer func() { _ = store.Close() }() // it was only read
	_, now, err := readReview(ctx, store, in)
	if err != nil {
		return AccessDrift{}, err
	}
	b, before, err := access.Newest(ctx, store, in.Target, a.trusted(in))
	if err != nil {
		return AccessDrift{}, err
	}
	if b == nil {
		return AccessDrift{None: true}, nil
	}
	if !slices.Equal(before.Namespaces, now.Namespaces) {
		return AccessDrift{}, failure.New(failure.BadBaseline, "the baseline %d of target %s is of namespace %v, and the target is in %v now", b.Seq, in.Target, before.Namespaces, now.Namespaces).
			Do("move the folder %s of the store away: the next run shows everything, and proposes a new baseline", in.Target+"/access/")
	}
	return AccessDrift{Baseline: b.Hash(), Seq: b.Seq, At: b.At, By: b.By, Signers: b.Signers, Key: b.Key, DriftSummary: access.Compare(before, now).Summary()}, nil
}

// AcceptAccess makes a review the baseline, as it was approved: signed, with who approved it. It returns the
// SHA-256 of the baseline's file. Done twice, it finds it done.
func (a Activities) AcceptAccess(ctx context.Context, in AcceptRequest) (string, error) {
	if a.AuditKey == nil {
		return "", failure.New(failure.BadBaseline, "this worker has no key to sign a baseline with").Do("let a worker with a data folder (--data-dir) serve the queue, then resume the run")
	}
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return "", err
	}
	defer func() { _ = store.Close() }() // what was written is durable already
	data, _, err := readReview(ctx, store, in.AccessReview)
	if err != nil {
		return "", err
	}
	b, err := access.Accept(ctx, store, a.AuditKey, access.Baseline{
		Target: in.Target, At: in.At, Run: in.RunID, Plan: in.Plan, By: in.By, Signers: in.Signers, Reason: in.Reason, Review: in.SHA256, Prev: in.Replaces,
	}, data)
	if err != nil {
		return "", err
	}
	return b.Hash(), nil
}
