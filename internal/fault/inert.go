//go:build !fault

package fault

// Hit does nothing in a production build.
func (Point) Hit() {}

// On is always false in a production build.
func (Mutant) On() bool { return false }
