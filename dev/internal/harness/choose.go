package harness

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Choose leaves of the cases those that are run: a sample with every commit, all with FAILPOINTS=all,
// and with FAILPOINTS=2/4 the second of four shares of all, for processes side by side.
func Choose(t testing.TB, all, sample []string) []string {
	t.Helper()
	asked := os.Getenv("FAILPOINTS")
	switch asked {
	case "":
		for _, name := range sample {
			require.Contains(t, all, name, "the sample names a case that is no more")
		}
		return sample
	case "all":
		return all
	}
	var share, shares int
	_, err := fmt.Sscanf(asked, "%d/%d", &share, &shares)
	require.NoError(t, err, "FAILPOINTS is all or a share such as 2/4")
	require.True(t, 1 <= share && share <= shares, "FAILPOINTS=%s is no share", asked)
	var chosen []string
	for i, name := range all {
		if i%shares == share-1 {
			chosen = append(chosen, name)
		}
	}
	return chosen
}

// OfCode reports whether a point is hit only by what works on a repository, whose tests are in dev/tests/updates.
func OfCode(point string) bool {
	return strings.HasPrefix(point, "git/") || strings.HasPrefix(point, "github/")
}

// OnCluster reports whether a point is hit only by what works on a cluster, whose tests are in dev/tests/e2e.
func OnCluster(point string) bool {
	for _, prefix := range []string{"access/", "helm/", "recover/", "rollout/", "client-", "owner-", "rotate/", "probe/", "quarantine/", "evidence/"} {
		if strings.HasPrefix(point, prefix) {
			return true
		}
	}
	return false
}
