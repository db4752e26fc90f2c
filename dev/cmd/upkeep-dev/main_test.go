package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyTheUserReadsTheWorkersLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "worker.log")
	for range 2 { // made, and found as an earlier version made it
		log, err := fileLog(path)
		require.NoError(t, err)
		log.Info("hello")
		st, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
		require.NoError(t, os.Chmod(path, 0o644))
	}
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(content), "hello")
}
