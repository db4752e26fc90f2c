// Package helmvalues finds container images in the values of Helm charts.
package helmvalues

import (
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/dependency/image"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
	"github.com/upkeep-run/upkeep/internal/dependency/yamlfile"
)

const name = "helm-values"

// files are values.yaml, and values-production.yaml and the like.
var files = regexp.MustCompile(`^(values|values[._-][A-Za-z0-9._-]+|[A-Za-z0-9._-]+[._-]values)\.ya?ml$`)

// Manager is the dependency.Manager of a chart's values.
var Manager = mention.NewManager(name, claims, find)

// claims takes values.yaml and its variants.
func claims(file string) bool { return files.MatchString(path.Base(file)) }

func find(content []byte) ([]mention.Mention, error) {
	f, err := yamlfile.Parse(content)
	if err != nil {
		return nil, err
	}
	w := walk{f: f}
	for _, doc := range f.Documents {
		w.node("", doc)
	}
	return w.found, nil
}

type walk struct {
	f     *yamlfile.File
	found []mention.Mention
}

// node looks for images by the names of keys: no schema says what in a chart's values is one.
func (w *walk) node(key string, n *yaml.Node) {
	isImage := strings.HasSuffix(strings.ToLower(key), "image")
	switch {
	case isImage && n.Kind == yaml.ScalarNode:
		if ref, span, ok := w.f.Text(n); ok && image.Plausible(ref) {
			m, _ := image.Mention(name, ref, span)
			w.found = append(w.found, m)
		}
	case isImage && yamlfile.Value(yamlfile.Get(n, "repository")) != "":
		w.parts(n)
	}
	for k, v := range yamlfile.Each(n) {
		w.node(k, v)
	}
	for _, v := range yamlfile.Items(n) {
		w.node("", v)
	}
}

// parts is an image as most charts have it: registry, repository, tag and digest of their own.
func (w *walk) parts(n *yaml.Node) {
	repository, version := yamlfile.Value(yamlfile.Get(n, "repository")), yamlfile.Get(n, "tag")
	if version == nil {
		version = yamlfile.Get(n, "version")
	}
	if registry := yamlfile.Value(yamlfile.Get(n, "registry")); registry != "" {
		repository = strings.TrimSuffix(registry, "/") + "/" + repository
	}
	if yamlfile.Value(version) == "" || version.Tag == "!!null" {
		return // the chart's appVersion, which is no dependency
	}
	text, digest, pinned := strings.Cut(version.Value, "@")
	m := image.Parts(name, repository, text, digest)
	if strings.ContainsAny(repository+version.Value, "${}") {
		m = image.Unknown(name, repository, "a variable is a part of it")
	}
	_, span, ok := w.f.Text(version)
	if ok {
		m.Version = span.At(0, len(text))
		m.Digest = span.At(len(text)+1, len(digest))
		if !pinned {
			m.Quote = yamlfile.Quote(version)
		}
	}
	if d := yamlfile.Get(n, "digest"); digest == "" && yamlfile.Value(d) != "" && d.Tag != "!!null" {
		m.Dependency.Digest = d.Value
		var there bool
		_, m.Digest, there = w.f.Text(d)
		ok = ok && there
	}
	if !ok && m.Skip == "" {
		m.Skip = "its tag is written in an unusual way"
	}
	w.found = append(w.found, m)
}
