package npm

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/managertest"
)

const whole = `{
  "name": "shop", "version": "1.0.0",
	"packageManager": "npm@10.9.0",
  "workspaces": ["packages/*"],
  "dependencies": {
    "react" : "^18.2.0",
    "exact": "1.2.3",  "tilde": "~1.2.3", "either": "1.x || >=2.5.0 <3.0.0", "hyphen": "1.2.3 - 2.3.4",
    "alias": "npm:@scope/real@^4.0.0",
    "@scope/name": ">= 1.2.3-beta.1",
    "star": "*", "empty": "", "next": "next",
    "git": "git+https://user:secret@example.com/a/b.git#v1.0.0", "hub": "user/repo", "hub2": "github:user/repo#semver:^1",
    "file": "file:../x", "tarball": "https://example.com/x.tgz", "here": "workspace:^1.0.0",
    "../climbs": "1.0.0", "--upload-pack=x": "1.0.0", "lооk-alike": "1.0.0", "line\nbreak": "1.0.0",
    "escaped": "1.0\u002e0", "number": 1
  },
  "devDependencies": {"typescript": "5.4.5"},
  "optionalDependencies": {"fsevents": "^2.3.3"},
  "peerDependencies": {"react": ">=17", "exact": "1.2.3"},
  "overrides": {"deep": "1.0.0", "other": {"a": "1"}}
}
`

const lockOfShop = `{
  "name": "shop", "lockfileVersion": 3,
  "packages": {
    "": {"name": "shop", "dependencies": {"react": "^18.2.0", "alias": "npm:@scope/real@^4.0.0", "a": "*"}, "devDependencies": {"typescript": "5.4.5"}},
    "packages/a": {"name": "a", "version": "0.1.0", "dependencies": {"ms": "^2.0.0", "react": "^17.0.0"}},
    "node_modules/a": {"resolved": "packages/a", "link": true},
    "node_modules/react": {"version": "18.3.1", "resolved": "https://registry.npmjs.org/react/-/react-18.3.1.tgz"},
    "packages/a/node_modules/react": {"version": "17.0.2"},
    "node_modules/alias": {"name": "@scope/real", "version": "4.4.4"},
    "node_modules/typescript": {"version": "5.4.5", "dev": true},
    "node_modules/ms": {"version": "2.1.3"},
    "node_modules/loose-envify": {"version": "1.4.0"},
    "node_modules/react/node_modules/ms": {"version": "2.0.0"},
    "node_modules/bundled": {"version": "1.0.0", "inBundle": true},
    "node_modules/fork": {"version": "1.0.0", "resolved": "git+ssh://git@github.com/a/b.git#0123"}
  }
}
`

func TestExtract(t *testing.T) {
	require.Equal(t, []string{
		"react ^18.2.0 now=18.2.0",
		"exact 1.2.3",
		"tilde ~1.2.3 now=1.2.3",
		"either 1.x || >=2.5.0 <3.0.0 now=2.5.0",
		"hyphen 1.2.3 - 2.3.4 now=1.2.3",
		"alias ^4.0.0 now=4.0.0 of=@scope/real",
		"@scope/name >= 1.2.3-beta.1 now=1.2.3-beta.1",
		"star * now= skip: it asks for any version",
		"empty  skip: it asks for any version",
		"next next now= skip: it follows the tag next",
		"git git+https://***@example.com/a/b.git#v1.0.0 now= skip: it is not of a registry",
		"hub user/repo now= skip: it is not of a registry",
		"hub2 github:user/repo#semver:^1 now= skip: it is not of a registry",
		"file file:../x now= skip: it is a folder or a file",
		"tarball https://example.com/x.tgz now= skip: it is not of a registry",
		"here workspace:^1.0.0 now= skip: it is a workspace of this repository",
		"../climbs 1.0.0 skip: its name is none that a package can have",
		"--upload-pack=x 1.0.0 skip: its name is none that a package can have",
		`"l\u043e\u043ek-alike" 1.0.0 skip: its name is none that a package can have`,
		`"line\nbreak" 1.0.0 skip: its name is none that a package can have`,
		"escaped 1.0.0 skip: it is written with escapes",
		"number  skip: it is no version",
		"typescript 5.4.5",
		"fsevents ^2.3.3 now=2.3.3",
		"react >=17 now=17.0.0 skip: it is a peer, which those who install this package choose",
		"deep 1.0.0 skip: it overrides what other packages ask for",
		"other  skip: it overrides what other packages ask for",
		"npm 10.9.0",
	}, managertest.Lines(managertest.Extract(t, Manager{}, "package.json", whole)))
}

func TestEdit(t *testing.T) {
	managertest.Edits(t, Manager{}, "package.json", whole)
	managertest.Edits(t, Manager{}, "package.json", "\ufeff"+strings.ReplaceAll(whole, "\n", "\r\n"))
	managertest.Edits(t, Manager{}, "package.json", `{"dependencies":{"a":"1.0.0"}}`)
	// The same package with the same range as a peer stays as it is: that is a promise to others.
	before := `{"peerDependencies":{"react":"^18.0.0"},"devDependencies":{"react":"^18.0.0"}}`
	all := managertest.Extract(t, Manager{}, "package.json", before)
	require.Len(t, all, 1)
	after, err := Manager{}.Edit([]byte(before), all[0], dependency.Update{Written: "^19.0.0"})
	require.NoError(t, err)
	require.Equal(t, `{"peerDependencies":{"react":"^18.0.0"},"devDependencies":{"react":"^19.0.0"}}`, string(after))
}

func extract(t *testing.T, repository fstest.MapFS, file string) []string {
	t.Helper()
	all, err := Manager{}.Extract(t.Context(), repository, file)
	require.NoError(t, err)
	return managertest.Lines(all)
}

func TestLock(t *testing.T) {
	repository := fstest.MapFS{
		"web/package.json":            {Data: []byte(`{"dependencies":{"react":"^18.2.0","alias":"npm:@scope/real@^4.0.0","a":"*"},"devDependencies":{"typescript":"5.4.5"}}`)},
		"web/package-lock.json":       {Data: []byte(lockOfShop)},
		"web/packages/a/package.json": {Data: []byte(`{"dependencies":{"ms":"^2.0.0","react":"^17.0.0"}}`)},
		"web/elsewhere/package.json":  {Data: []byte(`{"dependencies":{"ms":"^2.0.0"}}`)},
	}
	require.Equal(t, []string{"react ^18.2.0 now=18.3.1", "alias ^4.0.0 now=4.4.4 of=@scope/real", "a * now= skip: it asks for any version", "typescript 5.4.5"},
		extract(t, repository, "web/package.json"))
	require.Equal(t, []string{"ms ^2.0.0 now=2.1.3", "react ^17.0.0 now=17.0.2"}, extract(t, repository, "web/packages/a/package.json"))
	require.Equal(t, []string{"ms ^2.0.0 now=2.0.0"}, extract(t, repository, "web/elsewhere/package.json"), "no workspace of that lock file")

	// What nobody in the repository names, which an advisory may be about.
	require.Equal(t, []string{
		"bundled 1.0.0 indirect skip: another package brings it along",
		"fork 1.0.0 indirect skip: it is not of a registry",
		"loose-envify 1.4.0 indirect",
		"ms 2.0.0 indirect",
	}, extract(t, repository, "web/package-lock.json"))
	_, err := Manager{}.Edit([]byte(lockOfShop), dependency.Dependency{File: "web/package-lock.json", Name: "ms", Written: "2.0.0"}, dependency.Update{Written: "2.1.3"})
	require.ErrorIs(t, err, dependency.ErrLockFile)
}

func TestOtherLockFiles(t *testing.T) {
	repository := fstest.MapFS{
		"package.json":   {Data: []byte(`{"dependencies":{"ms":"^2.0.0"}}`)},
		"pnpm-lock.yaml": {Data: []byte("lockfileVersion: '9.0'\n")},
		"a/package.json": {Data: []byte(`{"dependencies":{"ms":"^2.0.0"}}`)},
	}
	for _, file := range []string{"package.json", "a/package.json"} {
		require.Equal(t, []string{"ms ^2.0.0 now=2.0.0 skip: pnpm-lock.yaml is not made anew by Upkeep: update it with pnpm"}, extract(t, repository, file))
	}
	delete(repository, "pnpm-lock.yaml")
	repository["package-lock.json"] = &fstest.MapFile{Data: []byte("{\n\"lockfileVersion\": 3,\n")}
	require.Equal(t, []string{"ms ^2.0.0 now=2.0.0 skip: its lock file cannot be read"}, extract(t, repository, "package.json"))
	_, err := Manager{}.Extract(t.Context(), repository, "package-lock.json")
	require.ErrorContains(t, err, "package-lock.json:3: ")
	repository["package-lock.json"] = &fstest.MapFile{Data: []byte(`{"lockfileVersion": 1, "dependencies": {}}`)}
	_, err = Manager{}.Extract(t.Context(), repository, "package-lock.json")
	require.ErrorContains(t, err, "npm install --lockfile-version 3")
}

func TestMalformed(t *testing.T) {
	for content, line := range map[string]string{
		"{\n\"dependencies\": {\n\"a\": \"1\",\n}}": "package.json:4: ",
		"{\n\n\"a\": ":                   "package.json:3: ",
		"{}\n{}":                         "package.json:2: ",
		strings.Repeat(`{"a":`, 100_000): "package.json:1: it is nested deeper",
	} {
		_, err := Manager{}.Extract(t.Context(), fstest.MapFS{"package.json": {Data: []byte(content)}}, "package.json")
		require.ErrorContains(t, err, line)
	}
}

func FuzzPackage(f *testing.F) { managertest.Fuzz(f, Manager{}, "package.json", whole) }

func FuzzLock(f *testing.F) {
	f.Add([]byte(lockOfShop))
	f.Fuzz(func(t *testing.T, content []byte) {
		repository := fstest.MapFS{"package.json": {Data: []byte(whole)}, "package-lock.json": {Data: content}}
		for _, file := range []string{"package.json", "package-lock.json"} {
			all, _ := Manager{}.Extract(t.Context(), repository, file)
			for _, line := range managertest.Lines(all) {
				require.Regexp(t, `^[ -~]*$`, line)
			}
		}
	})
}
