//go:build !fault

package fault

import "time"

// Hit does nothing in a production build.
func (Point) Hit() {}

// Times is 1 in a production build.
func Times() int { return 1 }

// Now is the machine's time in a production build.
func Now() time.Time { return time.Now() }

// On is always false in a production build.
func (Mutant) On() bool { return false }
