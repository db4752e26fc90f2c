// Package dockerfile finds container images in Dockerfiles.
package dockerfile

import (
	"path"
	"regexp"
	"strings"

	"github.com/upkeep-run/upkeep/internal/dependency/image"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
)

const name = "dockerfile"

var files = regexp.MustCompile(`(?i)^((docker|container)file([^/]*)|.+\.(docker|container)file)$`)

// Manager is the dependency.Manager of Dockerfiles.
var Manager = mention.NewManager(name, claims, find)

// claims takes Dockerfile, Containerfile, and those with something before or behind: api.Dockerfile, Dockerfile.dev.
func claims(file string) bool {
	base := path.Base(file)
	return files.MatchString(base) && !strings.HasSuffix(strings.ToLower(base), ".dockerignore")
}

func find(content []byte) ([]mention.Mention, error) {
	instructions, err := scan(content)
	if err != nil {
		return nil, err
	}
	f := file{arguments: make(map[string]text), stages: make(map[string]bool)}
	for _, i := range instructions {
		switch i.word {
		case "syntax": // the directive that names the image of the parser itself
			f.image(i.rest[0])
		case "ARG":
			f.argument(i.rest)
		case "FROM":
			f.from(i.rest)
		case "COPY":
			for _, word := range i.rest {
				if from, ok := word.cut("--from="); ok {
					f.image(from)
				}
			}
		case "RUN":
			for _, word := range i.rest {
				mount, ok := word.cut("--mount=")
				if !ok {
					break // options come first
				}
				for _, option := range mount.split(",") {
					if from, ok := option.cut("from="); ok {
						f.image(from)
					}
				}
			}
		}
	}
	return f.found, nil
}

// file is what a Dockerfile has said so far.
type file struct {
	arguments map[string]text // the defaults of those before the first stage, which are all that FROM sees
	stages    map[string]bool
	inStage   bool
	found     []mention.Mention
}

func (f *file) argument(words []text) {
	if f.inStage {
		return
	}
	for _, word := range words {
		if at := strings.IndexByte(word.value, '='); at > 0 {
			value := word.from(at + 1).unquote()
			value.argument(word.value[:at])
			f.arguments[word.value[:at]] = value
		}
	}
}

func (f *file) from(words []text) {
	f.inStage = true
	for len(words) > 0 && strings.HasPrefix(words[0].value, "--") {
		words = words[1:]
	}
	if len(words) == 0 {
		return
	}
	f.image(words[0])
	if len(words) == 3 && strings.EqualFold(words[1].value, "AS") {
		f.stages[strings.ToLower(words[2].value)] = true
	}
}

// image is a reference, unless it is a stage's name or number.
func (f *file) image(ref text) {
	ref = ref.unquote()
	if f.stages[strings.ToLower(ref.value)] || strings.Trim(ref.value, "0123456789") == "" {
		return
	}
	expanded, ok := ref.expand(f.arguments)
	if f.stages[strings.ToLower(expanded.value)] {
		return
	}
	if !ok {
		f.found = append(f.found, image.Unknown(name, ref.value, "a variable is a part of it, of which no default is known"))
		return
	}
	// The place of a reference that is put together is not the place of its text, so it is found by offsets.
	m, ok := image.Mention(name, expanded.value, mention.Span{})
	if !ok {
		return
	}
	if m.Skip == "" {
		f.place(&m, expanded)
	}
	f.found = append(f.found, m)
}

// place says where in the file the parts of a reference stand.
func (f *file) place(m *mention.Mention, ref text) {
	version := ref.slice(m.Version.Start, m.Version.End)
	from, to := 0, len(version.value)
	if !version.whole() { // an argument with something before or behind it
		if from, to = version.argumentOf(); from < 0 {
			m.Skip = "its tag is put together of several parts"
			return
		}
	}
	m.Before, m.After = version.value[:from], version.value[to:]
	part := version.slice(from, to)
	m.Version = part.span()
	if m.Dependency.Digest == "" {
		return
	}
	digest := ref.slice(m.Digest.Start, m.Digest.End)
	if !digest.whole() {
		m.Skip = "its digest is put together of several parts"
		return
	}
	m.Digest = digest.span()
}
