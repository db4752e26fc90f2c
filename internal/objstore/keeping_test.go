package objstore_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
)

// answering answers one question of S3's, such as "lifecycle", in the server's place.
func answering(t *testing.T, s *objstoretest.S3, question string, status int, body string) *objstoretest.S3 {
	return s.Behind(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !r.URL.Query().Has(question) {
			return false
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // who does not read it has gone
		return true
	})
}

const rules = `<LifecycleConfiguration>
	<Rule><ID>off</ID><Status>Disabled</Status><Filter></Filter><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration></Rule>
	<Rule><ID>others</ID><Status>Enabled</Status><Filter><Prefix>else/</Prefix></Filter><NoncurrentVersionExpiration><NoncurrentDays>2</NoncurrentDays></NoncurrentVersionExpiration></Rule>
	<Rule><ID>large</ID><Status>Enabled</Status><Filter><ObjectSizeGreaterThan>9</ObjectSizeGreaterThan></Filter><NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays></NoncurrentVersionExpiration></Rule>
	<Rule><ID>uploads</ID><Status>Enabled</Status><Filter></Filter><AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>
	<Rule><ID>ours</ID><Status>Enabled</Status><Filter><Prefix>team/</Prefix></Filter><NoncurrentVersionExpiration><NoncurrentDays>7</NoncurrentDays></NoncurrentVersionExpiration></Rule>
	<Rule><ID>all</ID><Status>Enabled</Status><Prefix></Prefix><NoncurrentVersionExpiration><NoncurrentDays>30</NoncurrentDays></NoncurrentVersionExpiration></Rule>
</LifecycleConfiguration>`

func TestS3SaysWhatItKeeps(t *testing.T) {
	server, ctx := objstoretest.StartS3(t), objstoretest.Context(t)
	ask := func(t *testing.T, url string) objstore.Keeping {
		t.Helper()
		k, err := objstore.KeepingOf(ctx, open(t, url))
		require.NoError(t, err)
		return k
	}
	folder := ask(t, "file://"+t.TempDir())
	require.Equal(t, objstore.Keeping{}, folder)
	require.True(t, folder.Frees())

	plain := ask(t, server.Bucket(t, "plain"))
	require.True(t, plain.Frees(), "%+v", plain)

	versioned := server.Versioned(t, "versioned")
	k := ask(t, versioned)
	require.True(t, k.Versions)
	require.False(t, k.Frees())
	require.Zero(t, k.Expires)
	require.Empty(t, k.Lock)
	require.Contains(t, k.Rule(), `"Filter": {"Prefix": ""}`)
	require.Contains(t, ask(t, versioned+"&prefix=team/db").Rule(), `"Filter": {"Prefix": "team/db/"}`)

	name := "versioned"
	_, err := server.Client(t, versioned).PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{
		Bucket: &name, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusSuspended},
	})
	require.NoError(t, err)
	require.True(t, ask(t, versioned).Versions, "of what was written before")

	require.Equal(t, "30 days (compliance)", ask(t, server.Locked(t, "compliance", types.ObjectLockRetentionModeCompliance, 30)).Lock)
	require.Equal(t, "1 days (governance)", ask(t, server.Locked(t, "governance", types.ObjectLockRetentionModeGovernance, 1)).Lock)

	lifecycle := answering(t, server, "lifecycle", http.StatusOK, rules)
	require.Equal(t, 30, ask(t, lifecycle.URL("versioned")).Expires)
	require.Equal(t, 7, ask(t, lifecycle.URL("versioned")+"&prefix=team/db").Expires)

	for status, says := range map[int]string{
		http.StatusForbidden: "lack the right to GetBucketVersioning", http.StatusNotImplemented: "does not answer GetBucketVersioning", http.StatusMethodNotAllowed: "does not answer",
	} {
		k := ask(t, answering(t, server, "versioning", status, "").URL("versioned"))
		require.Contains(t, k.Unknown, says)
		require.False(t, k.Frees())
	}
	k = ask(t, answering(t, server, "object-lock", http.StatusForbidden, "<Error><Code>AccessDenied</Code></Error>").URL("compliance"))
	require.True(t, k.Versions, "what is known is said")

	_, err = objstore.KeepingOf(ctx, open(t, server.URL("nowhere")))
	require.True(t, failure.Is(err, failure.StoreUnwritable), "%v", err)
	away := server.Way(t)
	away.Set(objstoretest.Fault{Refuse: true})
	_, err = objstore.KeepingOf(ctx, open(t, away.URL("plain")))
	require.True(t, failure.Is(err, failure.StoreUnreachable), "%v", err)
}

// TestS3ThatLocks has a server that lets nothing be removed or replaced that a lock or a legal hold keeps.
func TestS3ThatLocks(t *testing.T) {
	server, ctx := objstoretest.StartS3WithoutVersions(t), objstoretest.Context(t)
	refused := func(t *testing.T, s objstore.Store, key string) {
		t.Helper()
		for op, err := range map[string]error{"delete": s.Delete(ctx, key), "replace": s.Replace(ctx, key, []byte("other"))} {
			require.True(t, failure.Is(err, failure.StoreLocked), "%s: %v", op, err)
			require.ErrorContains(t, err, "retention or legal hold")
			require.ErrorContains(t, err, s.URL(key))
		}
		data, err := s.Read(ctx, key, 100)
		require.NoError(t, err)
		require.Equal(t, "kept", string(data))
		require.ErrorIs(t, s.Create(ctx, key, nil), objstore.ErrExist)
	}
	for bucket, mode := range map[string]types.ObjectLockRetentionMode{
		"compliance": types.ObjectLockRetentionModeCompliance, "governance": types.ObjectLockRetentionModeGovernance,
	} {
		t.Run(bucket, func(t *testing.T) {
			s := open(t, server.Locked(t, bucket, mode, 1))
			require.NoError(t, s.Create(ctx, "a/x", []byte("kept")))
			refused(t, s, "a/x")
		})
	}
	t.Run("a legal hold", func(t *testing.T) {
		bucket, key := "hold", "a/x"
		url := server.Locked(t, bucket, "", 0)
		s := open(t, url)
		require.NoError(t, s.Create(ctx, key, []byte("kept")))
		hold := func(status types.ObjectLockLegalHoldStatus) {
			_, err := server.Client(t, url).PutObjectLegalHold(ctx, &s3.PutObjectLegalHoldInput{Bucket: &bucket, Key: &key, LegalHold: &types.ObjectLockLegalHold{Status: status}})
			require.NoError(t, err)
		}
		hold(types.ObjectLockLegalHoldStatusOn)
		refused(t, s, key)
		hold(types.ObjectLockLegalHoldStatusOff)
		require.NoError(t, s.Delete(ctx, key))
		require.Empty(t, objstoretest.Keys(t, s, ""))
	})
	t.Run("a right that is missing is not taken for a lock", func(t *testing.T) {
		way := server.Behind(t, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodDelete {
				w.WriteHeader(http.StatusForbidden)
			}
			return r.Method == http.MethodDelete
		})
		s := open(t, way.Bucket(t, "rights"))
		require.NoError(t, s.Create(ctx, "a/object lock", nil))
		err := s.Delete(ctx, "a/object lock")
		require.True(t, failure.Is(err, failure.StoreUnwritable), "%v", err)
	})
}
