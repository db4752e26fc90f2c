// Package configuration holds the activity that resolves a target by the worker's configuration, so
// that a run keeps what was configured when it began, and callers send only a name.
package configuration

import (
	"context"

	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/calendar"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/retention"
	"github.com/upkeep-run/upkeep/internal/rotation"
)

// ResolveTarget is the activity type.
const ResolveTarget = "ResolveTarget"

// Request names a target; empty is the only one there is.
type Request struct {
	Target string `json:"target"`
}

// Resolved is a target as the configuration has it.
type Resolved struct {
	postgres.Target
	Calendar  calendar.Calendar `json:"calendar,omitzero"`  // when what others would notice may begin
	Retention retention.Policy  `json:"retention,omitzero"` // which backups are kept; all when it is not set
	Rollout   *config.Rollout   `json:"rollout,omitempty"`  // how its release is upgraded; nil: it is not

	Repositories []config.Repository `json:"repositories,omitempty"` // whose dependencies are kept up to date
	Secrets      []rotation.Entry    `json:"secrets,omitempty"`      // the passwords that can be rotated, none of their values

	Approvals *approval.Policy `json:"approvals,omitempty"` // how plans are decided on; nil: by one person, as claimed
}

// Activities resolve targets.
type Activities struct {
	// Load reads the configuration anew, so that a change of the file counts for the next run.
	Load func() (*config.Config, error)
	// Attributes says whether the server knows Upkeep's search attributes, and why not.
	Attributes func() (bool, string)
}

// ResolveTarget returns the target as the configuration has it now. No secret is in it.
func (a *Activities) ResolveTarget(_ context.Context, in Request) (Resolved, error) {
	c, err := a.Load()
	if err != nil {
		return Resolved{}, err
	}
	t, err := c.Target(in.Target)
	if err != nil {
		return Resolved{}, err
	}
	out := Resolved{Calendar: t.Calendar, Retention: t.Retention, Rollout: t.Rollout, Repositories: t.Repositories, Secrets: t.Secrets, Approvals: t.Approvals, Target: postgres.Target{
		Name: t.Name, DatabaseURL: t.Database.URL, Password: t.Database.Password,
		DatabaseIn: t.Database.In, ScratchURL: t.Database.Scratch.URL, ScratchPass: t.Database.Scratch.Password,
		Store: c.Store, Connections: t.Database.Connections, ConfigSHA256: c.SHA256,
	}}
	if len(t.Encryption.Recipients) > 0 {
		out.Encryption = &t.Encryption
	}
	if t.Kubernetes.Namespace != "" {
		out.Kubernetes = &t.Kubernetes
	}
	if s := t.Database.Scratch; s.Runner == config.RunnerPod {
		out.ScratchPod = &postgres.ScratchPod{Image: s.Image, RunAsUser: s.RunAsUser}
	}
	out.Attributes, out.AttributeWhy = a.Attributes()
	return out, nil
}
