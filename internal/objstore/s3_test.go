package objstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
)

// open opens a store until the test ends.
func open(t *testing.T, url string) objstore.Store {
	t.Helper()
	s, err := objstore.Open(objstoretest.Context(t), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestS3(t *testing.T) {
	server := objstoretest.StartS3(t)
	t.Run("a bucket", func(t *testing.T) {
		objstoretest.Conform(t, open(t, server.Bucket(t, "whole")), "s3://whole/")
	})
	t.Run("a part of a bucket", func(t *testing.T) {
		objstoretest.Conform(t, open(t, server.Bucket(t, "shared")+"&prefix=a/b/"), "s3://shared/a/b/")
	})
}
