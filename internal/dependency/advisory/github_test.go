package advisory

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type fixed struct {
	found map[Package][]Advisory
	err   error
}

func (f fixed) Find(context.Context, []Package) (map[Package][]Advisory, error) {
	return f.found, f.err
}

func of(entries ...Entry) GitHub {
	return GitHub{List: func(_ context.Context, ecosystem string, packages []string) ([]Entry, error) {
		var out []Entry
		for _, e := range entries {
			for _, a := range e.Affected {
				for _, p := range packages {
					if a.Ecosystem == ecosystem && a.Name == p {
						out = append(out, e)
					}
				}
			}
		}
		return out, nil
	}}
}

func TestGitHubsRanges(t *testing.T) {
	for text, versions := range map[string]map[string]bool{
		">= 1.0.0, < 1.2.3": {"0.9.9": false, "1.0.0": true, "1.2.2": true, "1.2.3": false},
		"< 4.17.21":         {"0.0.1": true, "4.17.20": true, "4.17.21": false},
		"<= 1.1.8":          {"1.1.8": true, "1.1.9": false},
		"= 2.0.0":           {"1.9.9": false, "2.0.0": true, "2.0.1": false},
		"> 1.0.0, <= 1.3.0": {"1.0.0": false, "1.0.1": true, "1.3.0": true, "1.3.1": false},
		">= 3.0.0-beta.1":   {"3.0.0-beta.1": true, "9.0.0": true, "2.9.9": false},
	} {
		found, err := of(Entry{ID: "GHSA-aaaa-bbbb-cccc", Affected: []Affected{{"npm", "lodash", text}}}).Find(t.Context(), []Package{npm})
		require.NoError(t, err)
		for v, affected := range versions {
			parsed, ok := npm.parse(v)
			require.True(t, ok)
			require.Equal(t, affected, found[npm][0].Affects(parsed), "%s: %s", text, v)
		}
	}
	for _, text := range []string{"", "1.0.0", "~ 1.0.0", ">= x", ">= 1.0.0 < 2.0.0", strings.Repeat(">= 1.0.0, ", 3)} {
		_, err := of(Entry{ID: "GHSA-aaaa-bbbb-cccc", Affected: []Affected{{"npm", "lodash", text}}}).Find(t.Context(), []Package{npm})
		require.ErrorContains(t, err, "GHSA-aaaa-bbbb-cccc", text)
	}
}

func TestBothAreSaidOnce(t *testing.T) {
	parsed, err := Parse([]byte(goDocument)) // which has no severity, and GHSA-vvpx-j8f3-3w6h as an alias
	require.NoError(t, err)
	osv := fixed{found: map[Package][]Advisory{golang: {parsed[golang]}}}
	hub := of(
		Entry{ID: "GHSA-vvpx-j8f3-3w6h", CVE: "CVE-2022-41723", Severity: "high", Affected: []Affected{{"go", golang.Name, "< 0.7.0"}}},
		Entry{ID: "GHSA-xxxx-xxxx-xxxx", Severity: "medium", Affected: []Affected{{"go", golang.Name, "< 0.9.0"}}},
		Entry{ID: "GHSA-yyyy-yyyy-yyyy", Withdrawn: true, Affected: []Affected{{"go", golang.Name, "< 9.0.0"}}},
		Entry{ID: "no id at all", Affected: []Affected{{"go", golang.Name, "< 9.0.0"}}},
		Entry{ID: "GHSA-zzzz-zzzz-zzzz", Malicious: true, Affected: []Affected{{"npm", "lodash", "= 4.17.99"}, {"pip", "lodash", "= 1"}}},
	)
	found, err := Both{osv, hub}.Find(t.Context(), []Package{golang, npm})
	require.NoError(t, err)
	require.Len(t, found[golang], 2)
	require.Equal(t, "GHSA-xxxx-xxxx-xxxx", found[golang][0].ID)
	require.Equal(t, "GO-2023-1571", found[golang][1].ID, "said once, under the name that OSV gives it")
	require.Equal(t, 8.9, found[golang][1].Rating(), "as grave as GitHub says")
	require.True(t, found[npm][0].Malicious)
	require.Empty(t, osv.found[golang][0].Severity, "what was given is not changed")

	away := errors.New("away")
	found, err = Both{osv, fixed{err: away}}.Find(t.Context(), []Package{golang})
	require.ErrorIs(t, err, away)
	require.Len(t, found[golang], 1, "what one knows counts though the other is away")
	found, err = Both{fixed{err: away}, hub}.Find(t.Context(), []Package{golang})
	require.ErrorIs(t, err, away)
	require.Len(t, found[golang], 2)
	found, err = Both{fixed{err: away}, fixed{err: away}}.Find(t.Context(), []Package{golang})
	require.ErrorIs(t, err, away)
	require.Nil(t, found)
}

func TestQuestionsFitIntoAURL(t *testing.T) {
	var many []Package
	for range 500 {
		many = append(many, Package{"Go", "example.com/" + strings.Repeat("x", 30)})
	}
	many = append(many, Package{"npm", "lodash"}, Package{"Go", "a,b"}, Package{"Go", ""})
	names := 0
	for _, q := range questions("Go", many) {
		require.LessOrEqual(t, len(strings.Join(q, ",")), maxAsked)
		names += len(q)
	}
	require.Equal(t, 500, names)
	require.Equal(t, [][]string{{"lodash"}}, questions("npm", many))
}

func FuzzRange(f *testing.F) {
	f.Add(">= 1.0.0, < 1.2.3")
	f.Fuzz(func(_ *testing.T, text string) { _, _ = npm.within(text) })
}
