package postgres

import (
	"context"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/proof"
	"github.com/upkeep-run/upkeep/internal/rotation"
)

// The activity types of RotateSecret that touch the server.
const (
	LookAtRoles    = "LookAtRoles"
	PrepareRole    = "PrepareRole"
	ProveLogin     = "ProveLogin"
	AwaitSessions  = "AwaitOldSessions"
	WithdrawRole   = "WithdrawRole"
	IsWithdrawn    = "IsRoleWithdrawn"
	ProveWithdrawn = "ProveWithdrawn"
	RetireRole     = "RetireRole"
)

// RolesRequest asks what a rotation would do to roles.
type RolesRequest struct {
	Target Target         `json:"target"`
	Entry  rotation.Entry `json:"entry"`
	From   string         `json:"from"`
	To     string         `json:"to"`
	Left   bool           `json:"left"` // an earlier run's is gone on with
}

// RoleOrder is a rotation to do, or a part of it. It names no password.
type RoleOrder struct {
	Target Target         `json:"target"`
	Order  rotation.Order `json:"order"`
	Wait   time.Duration  `json:"wait,omitempty"` // for sessions
	End    bool           `json:"end,omitempty"`  // sessions that logged in with the old password
}

// OldSessions are those that logged in with the old password.
type OldSessions struct {
	Left int    `json:"left"`
	Who  string `json:"who,omitempty"`
}

func (t Target) roles(ctx context.Context) (rotation.Roles, error) {
	c, err := t.Kubernetes.Connect(ctx)
	return rotation.Roles{Secrets: rotation.Secrets{Cluster: c}, Server: t.source()}, err
}

// LookAtRoles says what a rotation would do in the database. It changes nothing, and refuses what cannot be
// done safely.
func (a *Activities) LookAtRoles(ctx context.Context, in RolesRequest) (rotation.RolesPlan, error) {
	r, err := in.Target.roles(ctx)
	if err != nil {
		return rotation.RolesPlan{}, err
	}
	return r.Look(ctx, in.Entry, in.From, in.To, in.Left)
}

// PrepareRole gives the role that comes next the new password.
func (a *Activities) PrepareRole(ctx context.Context, in RoleOrder) error {
	r, err := in.Target.roles(ctx)
	if err != nil {
		return err
	}
	return r.Prepare(ctx, in.Order)
}

// ProveLogin logs in with the new password.
func (a *Activities) ProveLogin(ctx context.Context, in RoleOrder) (Proof, error) {
	r, err := in.Target.roles(ctx)
	if err != nil {
		return Proof{}, err
	}
	return proven(r.ProveLogin(ctx, in.Order))
}

// AwaitSessions waits until nobody is left who logged in with the old password, or the time is over.
func (a *Activities) AwaitSessions(ctx context.Context, in RoleOrder) (OldSessions, error) {
	r, err := in.Target.roles(ctx)
	if err != nil {
		return OldSessions{}, err
	}
	left, who, err := r.Sessions(ctx, in.Order, in.Wait, sessionsLeft(ctx))
	return OldSessions{left, who}, err
}

// WithdrawRole takes the old password away, and returns how many sessions were ended.
func (a *Activities) WithdrawRole(ctx context.Context, in RoleOrder) (ended int, err error) {
	r, err := in.Target.roles(ctx)
	if err != nil {
		return 0, err
	}
	return r.Withdraw(ctx, in.Order, in.End)
}

// IsWithdrawn reports whether that was done.
func (a *Activities) IsWithdrawn(ctx context.Context, in RoleOrder) (bool, error) {
	r, err := in.Target.roles(ctx)
	if err != nil {
		return false, err
	}
	return r.IsWithdrawn(ctx, in.Order)
}

// ProveWithdrawn sees that the old password is refused.
func (a *Activities) ProveWithdrawn(ctx context.Context, in RoleOrder) (Proof, error) {
	r, err := in.Target.roles(ctx)
	if err != nil {
		return Proof{}, err
	}
	return proven(r.ProveWithdrawn(ctx, in.Order))
}

// RetireRole takes the new password back in a rotation that is undone, and says what has to stay.
func (a *Activities) RetireRole(ctx context.Context, in RoleOrder) (remark string, err error) {
	r, err := in.Target.roles(ctx)
	if err != nil {
		return "", err
	}
	return r.Retire(ctx, in.Order, in.Wait, sessionsLeft(ctx))
}

func proven(checks []run.Check, err error) (Proof, error) {
	return Proof{Verdict: proof.Verdict(checks), Checks: checks}, err
}

func sessionsLeft(ctx context.Context) func(string) {
	return func(note string) {
		progress.Report(ctx, progress.Progress{Phase: "waiting for sessions to end", Note: note})
	}
}
