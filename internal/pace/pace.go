// Package pace says how often to look at what is waited for.
package pace

import "time"

const (
	// part is the share of a wait by which it may be overrun.
	part = 10
	// least is the shortest pause.
	least = 100 * time.Millisecond
)

// Next is the pause before the next look at what is waited for since began: the longer the wait, the
// longer the pause, up to most. What is soon done is soon seen, and what takes long is not asked for all
// the time.
func Next(began time.Time, most time.Duration) time.Duration {
	return min(max(time.Since(began)/part, least), most)
}
