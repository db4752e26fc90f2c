package doctor

import (
	"testing"
	"time"
)

// Hurry sets how long one check may take, for a test.
func Hurry(t testing.TB, limit time.Duration) {
	t.Helper()
	wasPatience, wasGrace := patience, grace
	patience, grace = limit, limit
	t.Cleanup(func() { patience, grace = wasPatience, wasGrace })
}

// Probe is what the store is tried with.
var Probe = probe

// Old sets how old a transaction must be to be named, for a test.
func Old(t testing.TB, after time.Duration) {
	t.Helper()
	was := oldAfter
	oldAfter = after
	t.Cleanup(func() { oldAfter = was })
}
