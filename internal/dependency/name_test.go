package dependency

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckPackage(t *testing.T) {
	for source, names := range map[string]struct{ good, bad []string }{
		SourceGo:         {[]string{"github.com/a/b", "github.com/a/b/v2", "gopkg.in/yaml.v3"}, []string{"../a", "a.org/../b", "-a.org/b", "a.org/b c", "a.org/b?x", "a.org//b", "/a.org/b", "gоogle.golang.org/x", "a.org/\x1b[2J"}},
		SourceNPM:        {[]string{"react", "@types/node", "JSONStream", "lodash.merge"}, []string{"../a", ".a", "_a", "-g", "--upload-pack=x", "a/b", "@a/../b", "@a/b/c", "a b", "a%2fb", "rеact", "a\nb", "@/a"}},
		SourceImage:      {[]string{"library/nginx", "a/b/c-d__e.f"}, []string{"../a", "a/../b", "A/b", "a//b", "/a", "a/", "-a/b", "a b", "a?b", "a@b"}},
		SourceGitHubTags: {[]string{"actions/checkout", "a/.github", "A-b/c_d.e"}, []string{"a", "a/b/c", "../a", "a/..", "a/.", "-a/b", "--x/y", "a/b?c", "a/b#c", "а/b"}},
	} {
		for _, name := range names.good {
			require.Empty(t, CheckPackage(Package{Datasource: source, Name: name}), "%s %s", source, name)
		}
		for _, name := range append(names.bad, "", strings.Repeat("a", 300), "\x00", "a\u202eb") {
			require.NotEmpty(t, CheckPackage(Package{Datasource: source, Name: name}), "%s %q", source, name)
		}
	}
	require.NotEmpty(t, CheckPackage(Package{Datasource: "another", Name: "a"}), "of a datasource that nobody knows nothing is known")
	for _, registry := range []string{"https://charts.example.com/a", "http://[::1]:8080"} {
		require.Empty(t, CheckPackage(Package{Datasource: SourceHelm, Name: "redis", Registry: registry}), registry)
	}
	for _, registry := range []string{"", "file:///etc", "ftp://a.org", "https://a.org/?x=y", "https://a.org/#x", "https://u:p@a.org", "https://a.org/../b", "https:///a", "https://а.org", "https://a.org/\n"} {
		require.NotEmpty(t, CheckPackage(Package{Datasource: SourceHelm, Name: "redis", Registry: registry}), registry)
	}
	require.NotEmpty(t, CheckPackage(Package{Datasource: SourceImage, Name: "a", Registry: "a/b"}))
}

func TestCheckWritten(t *testing.T) {
	for _, good := range []string{"1.2.3", "v1.2.3+incompatible", "^1.0.0 || ~2.1", ">=1.2 <2, != 1.5", "15.3-alpine", "1.x", "*", "release/v1"} {
		require.Empty(t, CheckWritten(good), good)
	}
	for _, bad := range []string{"", "-1", "--upload-pack=x", "1\n2", "1\t2", "1#2", `1"`, "1'", "1`2", "$1", "{{1}}", "1;2", "1&2", "../1", "1..2", "1 ", " 1", "１.2", "1\u200b", strings.Repeat("1", 300)} {
		require.NotEmpty(t, CheckWritten(bad), "%q", bad)
	}
}

func TestChecked(t *testing.T) {
	d := Dependency{Name: "a\u202eb\x1b[2J", Written: "https://user:word@example.com", Current: "1", Package: Package{Datasource: SourceNPM, Name: "a\u202eb", Registry: "https://u:p@a.org"}}.Checked()
	require.Equal(t, Dependency{
		Name: `"a\u202eb\x1b[2J"`, Written: "https://***@example.com", Current: "1", Skip: "its name is none that a package can have",
		Package: Package{Datasource: SourceNPM, Name: `"a\u202eb"`},
	}, d)
	require.Len(t, Printable(strings.Repeat("é", 10_000)), 256*3+2+len("... (20000 bytes)"))
}
