package version

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
)

const (
	patch, minor, major, digest = dependency.Patch, dependency.Minor, dependency.Major, dependency.Digest
	none                        = ""
)

func TestStep(t *testing.T) {
	for _, c := range []struct{ versioning, from, to, step string }{
		{"go", "v1.2.3", "v1.2.4", patch},
		{"go", "v1.2.3", "v1.3.0", minor},
		{"go", "v1.2.3", "v2.0.0", major},
		{"go", "v0.9.0", "v1.0.0", major},
		{"go", "v1.2.3", "v1.2.3", none},
		{"go", "v1.2.3", "v1.2.2", none},
		{"go", "v1.9.0", "v1.10.0", minor},
		{"go", "v1.2.3", "v1.3.0-rc.1", none},
		{"go", "v1.3.0-rc.1", "v1.3.0-rc.2", patch},
		{"go", "v1.3.0-rc.2", "v1.3.0-rc.10", patch},
		{"go", "v1.3.0-rc.1", "v1.3.0", patch},
		{"go", "v1.3.0-rc.1", "v1.4.0-rc.1", none},
		{"go", "v1.2.3", "v3.0.0+incompatible", none},
		{"go", "v2.0.0+incompatible", "v3.0.0+incompatible", major},
		{"go", "v3.2.0+incompatible", "v4.0.0", major},
		{"go", "v0.0.0-20200101000000-abcdefabcdef", "v0.0.0-20210101000000-abcdefabcdef", digest},
		{"go", "v0.0.0-20200101000000-abcdefabcdef", "v0.1.0", minor},
		{"go", "v0.0.0-20200101000000-abcdefabcdef", "v0.0.1", patch},
		{"go", "v0.1.0", "v0.1.1-0.20210101000000-abcdefabcdef", none},
		{"go", "1.24", "1.24.1", patch},
		{"go", "1.24.9", "1.24.10", patch},
		{"go", "1.24.3", "1.25.0", minor},
		{"go", "1.24.3", "1.25rc1", none},
		{"go", "1.25rc1", "1.25rc2", patch},
		{"npm", "1.2.3", "1.2.4", patch},
		{"npm", "4.17.1", "5.0.0", major},
		{"npm", "5.0.0-beta.1", "5.0.0-beta.2", patch},
		{"npm", "4.17.1", "5.0.0-beta.2", none},
		{"npm", "1.2.3+a", "1.2.3+b", none},
		{"docker", "15.3-alpine", "15.4-alpine", minor},
		{"docker", "15.3-alpine", "16.0-alpine", major},
		{"docker", "15.3-alpine", "15.4", none},
		{"docker", "15.3-alpine", "15.4-alpine3.20", none},
		{"docker", "15.3", "15.4-alpine", none},
		{"docker", "15.3", "15.4.1", none},
		{"docker", "15", "16", major},
		{"docker", "3", "20240329", none},
		{"docker", "20230901", "20240329", major},
		{"docker", "1.27.0", "v1.28.0", none},
		{"docker", "v1.27.0", "v1.28.0", minor},
		{"docker", "1.27.0", "1.28.0-rc.1", none},
		{"docker", "1.28.0-rc.1", "1.28.0-rc.2", patch},
		{"docker", "1.28.0-rc9", "1.28.0-rc10", patch},
		{"docker", "1.28.0-rc.1", "1.28.0", patch},
		{"docker", "1.28.0-rc.1-alpine", "1.28.0-alpine", patch},
		{"docker", "3.13.0rc1-slim", "3.13.0-slim", patch},
		{"docker", "1.2.3.4", "1.2.3.5", patch},
		{"github", "v4", "v5", major},
		{"github", "v4", "v4.2", none},
		{"github", "v4.1.0", "v4.1.7", patch},
		{"github", "release-v1.2.0", "release-v1.3.0", minor},
		{"github", "release-v1.2.0", "v1.3.0", none},
		{"github", "2.1", "2.2", minor},
		{"helm", "15.5.0", "v15.5.1", patch},
		{"helm", "1.2", "1.3.0", minor},
	} {
		t.Run(fmt.Sprint(c.versioning, " ", c.from, " to ", c.to), func(t *testing.T) {
			v, ok := Of(c.versioning)
			require.True(t, ok)
			from, ok := v.Parse(c.from)
			require.True(t, ok, c.from)
			to, ok := v.Parse(c.to)
			require.True(t, ok, c.to)
			require.Equal(t, c.step, Step(from, to))
		})
	}
}

func TestWhatIsNoVersionIsNotValid(t *testing.T) {
	for versioning, texts := range map[string][]string{
		"go":     {"", "v1", "v1.2", "1", "latest", "v1.2.3.4", "v01.2.3", "v1.2.3-", "v1.2.3 ", "master", "v1.2.3-\u202e", "../v1.2.3"},
		"npm":    {"", "v1.2.3", "1", "1.2", "latest", "^1.2.3", "1.2.3-", "1.2.3-01", "1.2.3\n", "99999999999999999999.0.0"},
		"docker": {"", "latest", "stable-alpine", "e3b0c44298fc", "abcdef0", "1a2b3c4", "sha-1a2b3c4", "1.2.3/4", "-1.2.3", "--upload-pack", "1.2.3.4.5", "release-1.2"},
		"github": {"", "main", "1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d7e8f9a0b", "--upload-pack=x"},
		"helm":   {"", "latest", "x", "1.2.3.4"},
	} {
		v, _ := Of(versioning)
		for _, text := range texts {
			_, ok := v.Parse(text)
			require.False(t, ok, "%s %q", versioning, text)
		}
	}
	_, ok := Of("pep440")
	require.False(t, ok)
}

func TestRewrite(t *testing.T) {
	for _, c := range []struct{ versioning, written, to, want string }{
		{"npm", "1.2.3", "1.4.0", "1.4.0"},
		{"npm", "=1.2.3", "1.4.0", "=1.4.0"},
		{"npm", "^1.2.3", "1.4.0", "^1.4.0"},
		{"npm", "^1.2", "1.4.5", "^1.4"},
		{"npm", "^1", "2.4.5", "^2"},
		{"npm", "~1.2.3", "1.4.0", "~1.4.0"},
		{"npm", "~ 1.2.3", "1.4.0", "~ 1.4.0"},
		{"npm", ">=1.2.3", "2.4.0", ">=2.4.0"},
		{"npm", "4.x", "4.9.1", "4.x"},
		{"npm", "4.x", "5.0.1", "5.x"},
		{"npm", "4.1.x", "4.2.1", "4.2.x"},
		{"npm", "*", "5.0.1", "*"},
		{"npm", "", "5.0.1", ""},
		{"npm", "^1.2.3 || ^2.0.0", "2.4.0", "^1.2.3 || ^2.0.0"},
		{"npm", "^1.2.3 || ^2.0.0", "3.4.0", "^1.2.3 || ^2.0.0 || ^3.4.0"},
		{"npm", "1.2 - 2.4", "3.1.0", "1.2 - 3.1"},
		{"npm", "^1.0.0-beta.1", "1.0.0-beta.2", "^1.0.0-beta.2"},
		{"npm", "^1.0.0-beta.1", "1.0.0", "^1.0.0"},
		{"helm", "~15.5.0", "16.0.1", "~16.0.1"},
		{"helm", "15.5.0", "16.0.1", "16.0.1"},
		{"helm", ">=15.5.0", "16.0.1", ">=16.0.1"},
		{"helm", "15.x.x", "16.0.1", "16.x.x"},
		{"docker", "15.3-alpine", "16.0-alpine", "16.0-alpine"},
		{"go", "v1.2.3", "v1.3.0", "v1.3.0"},
	} {
		t.Run(fmt.Sprint(c.versioning, " ", c.written, " to ", c.to), func(t *testing.T) {
			v, _ := Of(c.versioning)
			to, ok := v.Parse(c.to)
			require.True(t, ok)
			got, ok := v.Rewrite(c.written, to)
			require.True(t, ok)
			require.Equal(t, c.want, got)
		})
	}
	for _, c := range []struct{ versioning, written, to string }{
		{"npm", ">=1 <2", "2.1.0"}, {"npm", "<2.0.0", "2.1.0"}, {"npm", "latest", "2.1.0"}, {"npm", "git+ssh://x", "2.1.0"},
		{"npm", "^1.2", "2.0.0-rc.1"}, {"helm", "!= 2.1.0", "2.1.0"},
	} {
		v, _ := Of(c.versioning)
		to, ok := v.Parse(c.to)
		require.True(t, ok)
		got, ok := v.Rewrite(c.written, to)
		require.False(t, ok, "%s: %s", c.written, got)
	}
}

func TestRangesAreReadAsNPMReadsThem(t *testing.T) {
	for _, c := range []struct {
		written, version string
		inside           bool
	}{
		{"^1.2.3", "1.9.0", true}, {"^1.2.3", "2.0.0", false}, {"^0.2.3", "0.2.9", true}, {"^0.2.3", "0.3.0", false},
		{"~1.2.3", "1.2.9", true}, {"~1.2.3", "1.3.0", false}, {"1.x || >=2.5.0", "2.4.0", false}, {"1.x || >=2.5.0", "3.0.0", true},
		{"1.2 - 2.3", "2.3.9", true}, {"1.2 - 2.3", "2.4.0", false}, {"^1.2.3", "1.3.0-rc.1", false}, {"^1.3.0-rc.0", "1.3.0-rc.1", true},
		{"*", "7.0.0", true}, {"*", "7.0.0-rc.1", false}, {">=1.0.0 <2.0.0", "1.5.0", true}, {"", "1.0.0", true}, {"1.2.3", "1.2.3", true},
	} {
		inside, ok := npmVersioning{}.Range(c.written)
		require.True(t, ok, c.written)
		v, ok := npmVersioning{}.Parse(c.version)
		require.True(t, ok)
		require.Equal(t, c.inside, inside(v), "%s in %s", c.version, c.written)
	}
}

// Whatever is parsed: comparing is a total order, a step is never backwards, and what is rewritten admits
// the version and can be read again.
func FuzzVersions(f *testing.F) {
	for _, s := range [][4]string{
		{"npm", "1.2.3", "2.0.0-rc.1", "^1.2.3 || 2.x"}, {"go", "v0.0.0-20200101000000-abcdefabcdef", "v1.2.3+incompatible", "v1.0.0"},
		{"docker", "15.3-alpine", "16rc1-alpine", "15"}, {"helm", "1.2", "v1.3.0+b", "~1.2 >3 || 4 - 5"}, {"github", "v4", "a/v1.2", "v4"},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	f.Fuzz(func(t *testing.T, versioning, a, b, written string) {
		v, ok := Of(versioning)
		if !ok {
			return
		}
		inside, readable := v.Range(written)
		x, ok := v.Parse(a)
		if !ok {
			return
		}
		if readable {
			inside(x)
		}
		if text, ok := v.Rewrite(written, x); ok && versioning != dependency.VersioningGo && versioning != dependency.VersioningImage && versioning != dependency.VersioningGitHub {
			admits, ok := v.Range(text)
			require.True(t, ok)
			require.True(t, admits(x), "%q was rewritten to %q, which does not admit %q", written, text, a)
		}
		require.Zero(t, x.Compare(x))
		require.Empty(t, Step(x, x))
		if y, ok := v.Parse(b); ok {
			require.Equal(t, sign(x.Compare(y)), -sign(y.Compare(x)))
			require.False(t, Step(x, y) != "" && Step(y, x) != "", "%q and %q are updates of each other", a, b)
		}
	})
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}
