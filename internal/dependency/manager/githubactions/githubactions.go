// Package githubactions finds actions, reusable workflows and images in what GitHub Actions runs.
package githubactions

import (
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/image"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
	"github.com/upkeep-run/upkeep/internal/dependency/yamlfile"
)

const name = "github-actions"

var (
	files  = regexp.MustCompile(`(^|/)((workflow-templates|\.github/(workflows|actions))/.+|action)\.ya?ml$`)
	commit = regexp.MustCompile(`^[0-9a-f]{40}$`)
	// versioned is a tag that says a version; anything else is a branch, or as good as one.
	versioned = regexp.MustCompile(`^v?[0-9]+(\.[0-9]+)*([.+-][A-Za-z0-9.+-]+)?$`)
	// comment is what is behind a commit to say what version it is.
	comment = regexp.MustCompile(`^["']?[ \t]+#[ \t]*(?:pin[ \t]+|tag=|ratchet:[\w./-]+)?@?(v?[0-9][\w.+-]*)`)
)

// Manager is the dependency.Manager of GitHub Actions.
var Manager = mention.NewManager(name, claims, find)

// claims takes workflows, their templates, and the action.yml of an action.
func claims(file string) bool { return files.MatchString(file) }

func find(content []byte) ([]mention.Mention, error) {
	f, err := yamlfile.Parse(content)
	if err != nil {
		return nil, err
	}
	w := walk{f: f}
	for _, doc := range f.Documents {
		w.steps(yamlfile.Get(doc, "runs", "steps"))
		if ref := yamlfile.Get(doc, "runs", "image"); strings.HasPrefix(yamlfile.Value(ref), docker) {
			w.uses(ref)
		}
		for _, job := range yamlfile.Each(yamlfile.Get(doc, "jobs")) {
			w.uses(yamlfile.Get(job, "uses"))
			w.container(yamlfile.Get(job, "container"))
			for _, service := range yamlfile.Each(yamlfile.Get(job, "services")) {
				w.container(service)
			}
			w.steps(yamlfile.Get(job, "steps"))
		}
	}
	return w.found, nil
}

type walk struct {
	f     *yamlfile.File
	found []mention.Mention
}

func (w *walk) steps(n *yaml.Node) {
	for _, step := range yamlfile.Items(n) {
		w.uses(yamlfile.Get(step, "uses"))
	}
}

func (w *walk) container(n *yaml.Node) {
	if n != nil && n.Kind == yaml.MappingNode {
		n = yamlfile.Get(n, "image")
	}
	if m, ok := image.InYAML(name, w.f, n); ok {
		w.found = append(w.found, m)
	}
}

const docker = "docker://"

func (w *walk) uses(n *yaml.Node) {
	text := yamlfile.Value(n)
	if text == "" || strings.HasPrefix(text, "./") || strings.HasPrefix(text, "../") || strings.HasPrefix(text, "/") {
		return // of this repository
	}
	_, span, ok := w.f.Text(n)
	if ref, isImage := strings.CutPrefix(text, docker); isImage {
		m, there := image.Mention(name, ref, span.At(len(docker), len(ref)))
		if !ok {
			m = image.Unknown(name, ref, "it is written in an unusual way")
		}
		if there {
			w.found = append(w.found, m)
		}
		return
	}
	at, ref, _ := strings.Cut(text, "@")
	repository := at
	if parts := strings.SplitN(at, "/", 3); len(parts) == 3 {
		repository = parts[0] + "/" + parts[1]
	}
	m := mention.Mention{Dependency: dependency.Dependency{
		Manager: name, Name: repository, Current: ref, Written: ref,
		Package: dependency.Package{Datasource: dependency.SourceGitHubTags, Name: repository, Versioning: dependency.VersioningGitHub},
	}}
	m.Version = span.At(len(at)+1, len(ref))
	switch {
	case !ok:
		m.Skip = "it is written in an unusual way"
	case strings.Contains(text, "${{"):
		m.Skip = "a variable is a part of it"
	case commit.MatchString(ref):
		m.Dependency.Digest, m.Digest = ref, m.Version
		m.Current, m.Written = "", ""
		if found := comment.FindStringSubmatchIndex(w.f.Rest(span)); found != nil {
			m.Version = mention.Span{Start: span.End + found[2], End: span.End + found[3]}
			m.Written = w.f.Rest(span)[found[2]:found[3]]
			m.Current = m.Written
		} else {
			m.Skip = "it is pinned to a commit, and no comment says which version that is"
		}
	case ref != "" && !versioned.MatchString(ref):
		m.Skip = "it follows a branch"
	}
	w.found = append(w.found, m)
}
