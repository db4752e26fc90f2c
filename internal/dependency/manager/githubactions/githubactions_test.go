package githubactions

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/managertest"
)

const sha = "0123456789abcdef0123456789abcdef01234567"

const whole = `name: ci
on: push
jobs:
  call:
    uses: org/workflows/.github/workflows/build.yml@v2.1.0
  local:
    uses: ./.github/workflows/local.yml
  test:
    runs-on: ubuntu-24.04
    container: node:20.11-bookworm
    services:
      db:
        image: postgres:16.1
      cache: redis:7
    steps:
      - uses: actions/checkout@v4
      - name: pinned
        uses: "actions/setup-go@` + sha + `"   # v5.0.1 of May
      - uses: github/codeql-action/init@v3
      - uses: github/codeql-action/analyze@v3
      - uses: actions/cache@` + sha + ` # pin @v4.0.0
      - uses: org/bare@` + sha + `
      - uses: org/branch@main
      - uses: docker://alpine:3.20
      - uses: ./local
      - uses: org/any@${{ matrix.v }}
      - uses: org/nothing
      - uses: "--upload-pack=x/y@v1"
      - run: |
          uses: not/this@v1
`

func TestExtract(t *testing.T) {
	require.Equal(t, []string{
		"org/workflows v2.1.0",
		"node 20.11-bookworm of=library/node",
		"postgres 16.1 of=library/postgres",
		"redis 7 of=library/redis",
		"actions/checkout v4",
		"actions/setup-go v5.0.1 digest=0123456789ab",
		"github/codeql-action v3",
		"actions/cache v4.0.0 digest=0123456789ab",
		"org/bare  digest=0123456789ab skip: it is pinned to a commit, and no comment says which version that is",
		"org/branch main skip: it follows a branch",
		"alpine 3.20 of=library/alpine",
		"org/any ${{ matrix.v }} skip: a variable is a part of it",
		"org/nothing  skip: it has no version",
		"--upload-pack=x/y v1 skip: its name is none that a package can have",
	}, managertest.Lines(managertest.Extract(t, Manager, ".github/workflows/ci.yml", whole)))
	require.Equal(t, []string{"actions/cache v4", "alpine 3.19 of=library/alpine"}, managertest.Lines(managertest.Extract(t, Manager, "action.yaml",
		"runs:\n  using: docker\n  image: docker://alpine:3.19\n  steps:\n  - uses: actions/cache@v4\n")))
}

func TestEdit(t *testing.T) {
	managertest.Edits(t, Manager, ".github/workflows/ci.yml", whole)
	managertest.Edits(t, Manager, ".github/workflows/ci.yml", strings.ReplaceAll(whole, "\n", "\r\n"))
}

func TestEditOfACommit(t *testing.T) {
	before := "jobs: {a: {steps: [\n  {uses: a/b@" + sha + "}, # v1.0.0 not of this\n]}}\nx: 1\n"
	require.NotEmpty(t, managertest.Extract(t, Manager, "action.yml", before)[0].Skip, "a comment that is not right behind it says nothing of it")

	before = "jobs:\n  a:\n    steps:\n    - uses: a/b@" + sha + " # v1.0.0, see b/c\n"
	d := managertest.Extract(t, Manager, "action.yml", before)[0]
	other := strings.Repeat("ab", 20)
	after, err := Manager.Edit([]byte(before), d, dependency.Update{Written: "v1.1.0", Digest: other})
	require.NoError(t, err)
	require.Equal(t, "jobs:\n  a:\n    steps:\n    - uses: a/b@"+other+" # v1.1.0, see b/c\n", string(after))
}

func FuzzActions(f *testing.F) { managertest.Fuzz(f, Manager, "action.yml", whole) }
