package kubernetes

import (
	"context"
	"time"

	"github.com/upkeep-run/upkeep/internal/quarantine"
)

// AccessOrder is what of the suspects' access is to be withdrawn, or looked at.
type AccessOrder struct {
	Incident
	Plan quarantine.AccessPlan `json:"plan"`
	Done quarantine.Withdrawn  `json:"done,omitzero"`
	// Asked says that it was to be withdrawn.
	Asked bool `json:"asked,omitempty"`
}

// PlanWithdrawal says what the suspects' accounts are given, and by which bindings. It changes nothing.
func (a *Activities) PlanWithdrawal(ctx context.Context, in ContainOrder) (quarantine.AccessPlan, error) {
	c, w, err := in.look(ctx, a.Temporal)
	if err != nil {
		return quarantine.AccessPlan{}, err
	}
	policy := in.Kubernetes.QuarantinePolicy()
	b, err := quarantine.LookAtBindings(ctx, c, policy)
	if err != nil {
		return quarantine.AccessPlan{}, err
	}
	return quarantine.PlanAccess(w, b, in.Plan, in.Suspects, policy, time.Now()), nil
}

// Withdraw takes the suspects' accounts out of bindings.
func (a *Activities) Withdraw(ctx context.Context, in AccessOrder) (quarantine.Withdrawn, error) {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return quarantine.Withdrawn{}, err
	}
	return quarantine.Withdraw(ctx, c, in.Plan, in.Order)
}

// CheckAccess sees what the accounts are still given, and asks the API server what they may do.
func (a *Activities) CheckAccess(ctx context.Context, in AccessOrder) (quarantine.AccessProof, error) {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return quarantine.AccessProof{}, err
	}
	return quarantine.ProveAccess(ctx, c, in.Plan, in.Done, in.Asked)
}

// RenewAccounts makes the suspects' accounts anew, which ends every token of them.
func (a *Activities) RenewAccounts(ctx context.Context, in EndOrder) (quarantine.Released, error) {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return quarantine.Released{}, err
	}
	return quarantine.Renew(ctx, c, in.Plan.Accounts, in.Order)
}

// ReturnAccess puts the accounts back into the bindings out of which they were taken, or notes that they stay out.
func (a *Activities) ReturnAccess(ctx context.Context, in EndOrder) (quarantine.Released, error) {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return quarantine.Released{}, err
	}
	return quarantine.Return(ctx, c, in.Plan.Access, in.Order)
}
