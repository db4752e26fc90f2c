package objstore

import (
	"testing"
	"time"
)

// WithoutUnnamed makes a folder behave as on a file system without unnamed files, such as NFS.
func WithoutUnnamed(s Store) { s.(*folder).named.Store(true) }

// Hurry makes buckets impatient until the test ends.
func Hurry(t testing.TB, most time.Duration, bytesPerSecond int) {
	wasPatience, wasSlowest := patience, slowest
	t.Cleanup(func() { patience, slowest = wasPatience, wasSlowest })
	patience, slowest = most, bytesPerSecond
}
