// Package probed is what the prober of dev/stack writes: one call of the service in a line.
package probed

import "time"

// Call is one call of the service.
type Call struct {
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended"`
	Answered bool      `json:"answered"`        // with what is asked for, whether that is right or not
	Count    int64     `json:"count,omitempty"` // of the traces that it sees
}
