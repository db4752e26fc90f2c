// Package helm finds the charts that a Helm chart depends on.
package helm

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
	"github.com/upkeep-run/upkeep/internal/dependency/yamlfile"
)

const name = "helm"

// number is the version in a range such as ">= 1.2.0 < 2".
var number = regexp.MustCompile(`[0-9]+(\.[0-9]+){0,2}([-+][0-9A-Za-z.+-]+)?`)

// Manager is the dependency.Manager of Chart.yaml.
type Manager struct{}

func (Manager) Name() string { return name }

// Claims takes Chart.yaml.
func (Manager) Claims(file string) bool { return path.Base(file) == "Chart.yaml" }

// Extract reads Chart.lock too, which says what version a range is now.
func (Manager) Extract(_ context.Context, repository fs.FS, file string) ([]dependency.Dependency, error) {
	all, err := mention.Extract(repository, file, find)
	if err != nil || len(all) == 0 {
		return all, err
	}
	lock := path.Join(path.Dir(file), "Chart.lock")
	content, err := mention.Read(repository, lock, mention.MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	locked, err := yamlfile.Parse(content)
	if err != nil {
		return nil, mention.Named(err, lock)
	}
	for _, doc := range locked.Documents {
		for _, entry := range yamlfile.Items(yamlfile.Get(doc, "dependencies")) {
			for i, d := range all {
				if yamlfile.Value(yamlfile.Get(entry, "name")) == d.Name && yamlfile.Value(yamlfile.Get(entry, "repository")) == repositoryOf(d.Package) {
					all[i].Current, all[i].Locked = dependency.Printable(yamlfile.Value(yamlfile.Get(entry, "version"))), true
				}
			}
		}
	}
	return all, nil
}

func (Manager) Edit(content []byte, d dependency.Dependency, to dependency.Update) ([]byte, error) {
	return mention.Edit(content, find, d, to)
}

func find(content []byte) ([]mention.Mention, error) {
	f, err := yamlfile.Parse(content)
	if err != nil {
		return nil, err
	}
	var found []mention.Mention
	for _, doc := range f.Documents {
		for _, entry := range yamlfile.Items(yamlfile.Get(doc, "dependencies")) {
			version := yamlfile.Get(entry, "version")
			m := mention.Mention{Dependency: dependency.Dependency{
				Manager: name, Name: yamlfile.Value(yamlfile.Get(entry, "name")),
				Current: number.FindString(yamlfile.Value(version)), Written: yamlfile.Value(version),
			}}
			m.Package, m.Skip = chart(m.Dependency.Name, yamlfile.Value(yamlfile.Get(entry, "repository")))
			if _, span, ok := f.Text(version); ok {
				m.Version, m.Quote = span, yamlfile.Quote(version)
			} else if m.Skip == "" && m.Written != "" {
				m.Skip = "its version is written in an unusual way"
			}
			found = append(found, m)
		}
	}
	return found, nil
}

// chart is the package of a chart, or why there is none to ask for.
func chart(chart, repository string) (p dependency.Package, skip string) {
	p = dependency.Package{Datasource: dependency.SourceHelm, Name: chart, Registry: repository, Versioning: dependency.VersioningHelm}
	rest, oci := strings.CutPrefix(repository, "oci://")
	switch {
	case repository == "" || strings.HasPrefix(repository, "file://"):
		return p, "it is a chart of this repository"
	case strings.HasPrefix(repository, "@") || strings.HasPrefix(repository, "alias:"):
		return p, "its repository is a name that only somebody's Helm knows"
	case oci:
		host, folder, _ := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
		p.Datasource, p.Registry, p.Name = dependency.SourceImage, host, strings.TrimPrefix(folder+"/"+chart, "/")
	}
	return p, ""
}

// repositoryOf is the repository as a Chart.yaml names it.
func repositoryOf(p dependency.Package) string {
	if p.Datasource == dependency.SourceImage {
		return strings.TrimSuffix("oci://"+p.Registry+"/"+path.Dir(p.Name), "/.")
	}
	return p.Registry
}
