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
