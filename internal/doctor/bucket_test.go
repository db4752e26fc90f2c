package doctor_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
)

// TestABucket looks at real buckets; the database is not there, and of no matter.
func TestABucket(t *testing.T) {
	t.Cleanup(objstoretest.RemoveS3)
	server := objstoretest.StartS3(t)
	target := shop("postgres://me@127.0.0.1:1/db?sslmode=disable", "")
	const keeps, removed = "store, keeps what is written", "store, what is removed"
	quote := func(url string) string { return "'" + url + "'" }

	t.Run("that frees what is removed", func(t *testing.T) {
		found := examine(t, quote(server.Bucket(t, "plain")), target)
		require.Equal(t, run.Pass, found.named(t, keeps).Verdict, "%+v", found.named(t, keeps))
		f := found.named(t, removed)
		require.Equal(t, run.Pass, f.Verdict, "%+v", f)
		requireSays(t, f, "its space is free")
	})
	t.Run("that keeps versions", func(t *testing.T) {
		url := server.Versioned(t, "versioned") + "&prefix=a"
		for range 2 { // the second probe is over the mark of the first
			found := examine(t, quote(url), target)
			require.Equal(t, run.Pass, found.named(t, keeps).Verdict, "%+v", found.named(t, keeps))
			requireUnproven(t, found.named(t, removed), true, "the bucket keeps versions: what is pruned is freed by a lifecycle rule for noncurrent versions",
				`{"NoncurrentDays": 7}`, `{"Prefix": "a/"}`)
		}
	})
	t.Run("that has a rule", func(t *testing.T) {
		way := server.Behind(t, func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Has("lifecycle") {
				_, _ = io.WriteString(w, `<LifecycleConfiguration><Rule><Status>Enabled</Status><Filter></Filter><NoncurrentVersionExpiration><NoncurrentDays>9</NoncurrentDays></NoncurrentVersionExpiration></Rule></LifecycleConfiguration>`)
			}
			return r.URL.Query().Has("lifecycle")
		})
		f := examine(t, quote(way.URL("versioned")), target).named(t, removed)
		require.Equal(t, run.Pass, f.Verdict, "%+v", f)
		requireSays(t, f, "freed 9 days later")
	})
	t.Run("that is locked", func(t *testing.T) {
		found := examine(t, quote(server.Locked(t, "locked", types.ObjectLockRetentionModeCompliance, 30)), target)
		require.Equal(t, run.Pass, found.named(t, keeps).Verdict, "%+v", found.named(t, keeps))
		requireUnproven(t, found.named(t, removed), true, "30 days (compliance)")
	})
	t.Run("whose settings may not be seen", func(t *testing.T) {
		way := server.Behind(t, func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Has("versioning") {
				w.WriteHeader(http.StatusForbidden)
			}
			return r.URL.Query().Has("versioning")
		})
		requireUnproven(t, examine(t, quote(way.URL("plain")), target).named(t, removed), true, "lack the right", "s3:GetBucketVersioning")
	})
	t.Run("that loses the condition", func(t *testing.T) {
		way := server.Unconditional(t, 0, "")
		requireFail(t, examine(t, quote(way.URL("plain")), target).named(t, keeps), failure.BadConfig, "If-None-Match", "conditional writes")
	})
	t.Run("that refuses the condition", func(t *testing.T) {
		way := server.Unconditional(t, http.StatusNotImplemented, "")
		requireFail(t, examine(t, quote(way.URL("plain")), target).named(t, keeps), failure.BadConfig, "If-None-Match", "conditional writes")
	})
	t.Run("that is locked and keeps no versions", func(t *testing.T) {
		flat := objstoretest.StartS3WithoutVersions(t)
		url := quote(flat.Locked(t, "flat", types.ObjectLockRetentionModeCompliance, 1))
		for range 2 {
			requireFail(t, examine(t, url, target).named(t, keeps), failure.StoreLocked, "must also keep versions")
		}
	})
}
