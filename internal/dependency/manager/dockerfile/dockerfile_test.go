package dockerfile

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/managertest"
	"github.com/upkeep-run/upkeep/internal/failure"
)

const sha = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

const whole = `# syntax=docker/dockerfile:1.7
# FROM not/this:1

ARG GO_VERSION=1.24.3
ARG BASE="debian:12.5-slim" REGISTRY=registry.example.com:5000
ARG UNSET
ARG SPLIT=20
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-alpine AS build
ARG GO_VERSION=9.9.9
RUN echo FROM not/that:1 \
    # a comment
    && true
RUN <<END cat
FROM not/these:1
END
RUN echo $((1<<2)) <<<here
RUN --mount=type=bind,from=busybox:1.36,target=/b --mount=type=cache,target=/c \
    make
COPY --from=build /a /b
COPY --from=0 /a /b
COPY --link --from=ghcr.io/astral-sh/uv:0.5.1 /uv /bin/

from \
  # the base
  ${BASE} as runtime
FROM $REGISTRY/team/app:2.1@` + sha + `
FROM nginx:${UNSET}
FROM nginx:${NGINX:-1.27}
FROM node:${SPLIT}.1
FROM node:$SPLIT.$SPLIT
FROM python
FROM scratch
FROM runtime
FROM redis@` + sha + `
FROM alpine:3.20 # as some write it
`

func TestExtract(t *testing.T) {
	require.Equal(t, []string{
		"docker/dockerfile 1.7",
		"golang 1.24.3-alpine of=library/golang",
		"busybox 1.36 of=library/busybox",
		"ghcr.io/astral-sh/uv 0.5.1 of=astral-sh/uv@ghcr.io",
		"debian 12.5-slim of=library/debian",
		"registry.example.com:5000/team/app 2.1 of=team/app@registry.example.com:5000 digest=sha256:01234",
		"nginx:${UNSET}  of= skip: a variable is a part of it, of which no default is known",
		"nginx 1.27 of=library/nginx",
		"node 20.1 of=library/node",
		"node 20.20 of=library/node skip: its tag is put together of several parts",
		"python  of=library/python skip: it has no tag, so it is always the newest",
		"redis  of=library/redis digest=sha256:01234 skip: it is pinned to a digest, and no tag says which version that is",
		"alpine 3.20 of=library/alpine",
	}, managertest.Lines(managertest.Extract(t, Manager, "build/api.Dockerfile", whole)))
}

func TestEdit(t *testing.T) {
	editable := strings.ReplaceAll(whole, "FROM node:${SPLIT}.1\n", "") // of which another part would change
	for _, content := range []string{
		editable,
		strings.ReplaceAll(editable, "\n", "\r\n"),
		"\ufeffFROM alpine:3.20",
		"# escape=`\nFROM `\n  alpine:3.20\n",
		"FROM alpine:3.20 AS a\nFROM alpine:3.20 AS b\n",
	} {
		managertest.Edits(t, Manager, "Dockerfile", content)
	}
}

func TestEditOfAnArgument(t *testing.T) {
	content := "ARG V=1.24\nFROM golang:${V}-alpine\n# golang:1.24-alpine\n"
	d := managertest.Extract(t, Manager, "Dockerfile", content)[0]
	after, err := Manager.Edit([]byte(content), d, dependency.Update{Written: "1.25-alpine"})
	require.NoError(t, err)
	require.Equal(t, "ARG V=1.25\nFROM golang:${V}-alpine\n# golang:1.24-alpine\n", string(after))

	_, err = Manager.Edit([]byte(content), d, dependency.Update{Written: "1.25-bookworm"})
	require.True(t, failure.Is(err, failure.NotEditable), "%v", err)
}

// A version that two images share is left to a person.
func TestAnArgumentOfTwo(t *testing.T) {
	content := "ARG V=1.24\nFROM golang:$V\nFROM example.com/golang:$V\n"
	for _, d := range managertest.Extract(t, Manager, "Dockerfile", content) {
		require.Equal(t, "the same text is the version of several packages", d.Skip)
	}
}

func TestEditOfADigest(t *testing.T) {
	content := "FROM alpine:3.20@" + sha + "\n"
	d := managertest.Extract(t, Manager, "Dockerfile", content)[0]
	other := strings.ReplaceAll(sha, "0", "f")
	after, err := Manager.Edit([]byte(content), d, dependency.Update{Type: dependency.Digest, Written: "3.20", Digest: other})
	require.NoError(t, err)
	require.Equal(t, "FROM alpine:3.20@"+other+"\n", string(after))

	_, err = Manager.Edit([]byte(content), d, dependency.Update{Written: "3.21"})
	require.ErrorContains(t, err, "pinned to a digest", "a new tag with the old digest would be a lie")
}

func TestClaims(t *testing.T) {
	for file, claimed := range map[string]bool{
		"Dockerfile": true, "a/Containerfile": true, "Dockerfile.dev": true, "web.dockerfile": true, "dockerfile": true,
		"Dockerfile.dockerignore": false, "docs/about-dockerfiles.md": false, "go.mod": false,
	} {
		require.Equal(t, claimed, Manager.Claims(file), file)
	}
}

func FuzzDockerfile(f *testing.F) {
	managertest.Fuzz(f, Manager, "Dockerfile", whole, "# escape=`\nARG A=1\nFROM a:$A\n", "ARG A=$A$A\nFROM b:${A}\n", "FROM ../../x:1\nFROM --upload-pack=x\n")
}
