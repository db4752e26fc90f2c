package backup

import (
	"testing"
	"time"
)

// Hurry makes backups impatient for locks until the test ends.
func Hurry(t testing.TB, most time.Duration) {
	was := patience
	t.Cleanup(func() { patience = was })
	patience = most
}

// Impatient makes backups end every older session of theirs until the test ends.
func Impatient(t testing.TB) {
	was := staleAfter
	t.Cleanup(func() { staleAfter = was })
	staleAfter = 0
}
