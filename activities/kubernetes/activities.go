// Package kubernetes holds the activities that touch a target's cluster: looking at workloads, restarting,
// stopping and starting them. They need the cluster capability.
package kubernetes

import (
	"context"
	"crypto/ed25519"
)

// Activities touch clusters.
type Activities struct {
	// Realm tells the Temporal namespace whose runs these are from every other.
	Realm string
	// Ended reports whether the run of a workflow id is over.
	Ended func(ctx context.Context, runID string) (bool, error)
	// Key signs evidence; without one none is kept.
	Key ed25519.PrivateKey
	// Temporal is the address of the server that these runs are on, which none of them may stop.
	Temporal string
}
