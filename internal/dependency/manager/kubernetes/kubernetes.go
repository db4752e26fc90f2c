// Package kubernetes finds container images in manifests of Kubernetes.
package kubernetes

import (
	"bytes"
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/dependency/image"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
	"github.com/upkeep-run/upkeep/internal/dependency/yamlfile"
)

const name = "kubernetes"

// Manager is the dependency.Manager of manifests.
var Manager = mention.NewManager(name, claims, find)

// claims takes any YAML: a manifest has no name of its own, and is known by its apiVersion and kind.
func claims(file string) bool {
	return path.Ext(file) == ".yaml" || path.Ext(file) == ".yml"
}

// manifest is what a file must have to be read: most YAML is not for Kubernetes, and is nobody's problem here.
var manifest = []*regexp.Regexp{
	regexp.MustCompile(`(?m)^["']?apiVersion["']?\s*:`),
	regexp.MustCompile(`(?m)^["']?kind["']?\s*:`),
	regexp.MustCompile(`\bimage\b`),
}

func find(content []byte) ([]mention.Mention, error) {
	for _, part := range manifest {
		if !part.Match(content) {
			return nil, nil
		}
	}
	f, err := yamlfile.Parse(content)
	if err != nil && bytes.Contains(content, []byte("{{")) { // a template, which is no YAML before it is rendered
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w := walk{f: f}
	for _, doc := range f.Documents {
		if yamlfile.Value(yamlfile.Get(doc, "apiVersion")) != "" && yamlfile.Value(yamlfile.Get(doc, "kind")) != "" {
			w.node(doc)
		}
	}
	return w.found, nil
}

type walk struct {
	f     *yamlfile.File
	found []mention.Mention
}

// node finds containers wherever they are: in a pod, in a template of pods, in an operator's own kind.
func (w *walk) node(n *yaml.Node) {
	for key, value := range yamlfile.Each(n) {
		switch key {
		case "containers", "initContainers", "ephemeralContainers":
			for _, container := range yamlfile.Items(value) {
				w.image(yamlfile.Get(container, "image"))
			}
		case "volumes":
			for _, volume := range yamlfile.Items(value) {
				w.image(yamlfile.Get(volume, "image", "reference"))
			}
		}
		w.node(value)
	}
	for _, item := range yamlfile.Items(n) {
		w.node(item)
	}
}

func (w *walk) image(n *yaml.Node) {
	if strings.Contains(yamlfile.Value(n), "{{") {
		return
	}
	if m, ok := image.InYAML(name, w.f, n); ok {
		w.found = append(w.found, m)
	}
}
