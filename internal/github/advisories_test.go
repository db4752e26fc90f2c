package github_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency/advisory"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/github/githubtest"
)

func TestAdvisories(t *testing.T) {
	b := set(t)
	for _, id := range []string{"GHSA-aaaa-aaaa-aaaa", "GHSA-bbbb-bbbb-bbbb", "GHSA-cccc-cccc-cccc", "GHSA-dddd-dddd-dddd", "GHSA-ffff-ffff-ffff"} {
		b.Advise(githubtest.Advisory{GHSA: id, CVE: "CVE-2026-1", Severity: "high", Summary: "bad", Ecosystem: "go", Package: "example.com/a", Range: "< 1.2.3"})
	}
	b.Advise(githubtest.Advisory{GHSA: "GHSA-gggg-gggg-gggg", Type: "malware", Severity: "critical", Ecosystem: "go", Package: "example.com/b", Range: "= 6.6.6"})
	b.Advise(githubtest.Advisory{GHSA: "GHSA-hhhh-hhhh-hhhh", Ecosystem: "npm", Package: "example.com/a", Range: "< 2.0.0"})
	b.Advise(githubtest.Advisory{GHSA: "GHSA-jjjj-jjjj-jjjj", Ecosystem: "go", Package: "example.com/a", Range: "< 2.0.0", Withdrawn: true})
	names := []string{"example.com/a", "example.com/b"}
	all, err := b.client.Advisories(t.Context(), "go", names)
	require.NoError(t, err)
	require.Len(t, all, 7, "to the end of all pages")
	require.Equal(t, advisory.Entry{ID: "GHSA-aaaa-aaaa-aaaa", CVE: "CVE-2026-1", Summary: "bad", Severity: "high", Affected: []advisory.Affected{{Ecosystem: "go", Name: "example.com/a", Range: "< 1.2.3"}}}, all[0])
	require.True(t, all[5].Withdrawn)
	require.True(t, all[6].Malicious)

	spent := b.Spent("upkeep")
	again, err := b.client.Advisories(t.Context(), "go", names)
	require.NoError(t, err)
	require.Equal(t, all, again)
	require.Equal(t, spent, b.Spent("upkeep"), "what has not changed costs nothing")

	b.Fail(githubtest.Fault{Operation: "security-advisories/list-global-advisories", At: 1, Status: http.StatusBadGateway})
	_, err = b.client.Advisories(t.Context(), "npm", names)
	require.True(t, failure.Is(err, failure.GitHubUnreachable), "%v", err)
	b.Fail(githubtest.Fault{Operation: "security-advisories/list-global-advisories", At: 1, Status: http.StatusNotFound})
	none, err := b.client.Advisories(t.Context(), "npm", names)
	require.NoError(t, err, "a server of one's own may have none")
	require.Empty(t, none)
}
