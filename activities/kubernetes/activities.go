// Package kubernetes holds the activities that touch a target's cluster: looking at workloads, restarting,
// stopping and starting them. They need the cluster capability.
package kubernetes

import "context"

// Activities touch clusters.
type Activities struct {
	// Realm tells the Temporal namespace whose runs these are from every other.
	Realm string
	// Ended reports whether the run of a workflow id is over.
	Ended func(ctx context.Context, runID string) (bool, error)
	// Temporal is the address of the server that these runs are on, which none of them may stop.
	Temporal string
}
