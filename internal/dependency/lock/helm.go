package lock

import (
	"bytes"
	"context"
	"encoding/json"
	"path"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/provenance"

	"github.com/upkeep-run/upkeep/internal/dependency/mention"
	"github.com/upkeep-run/upkeep/internal/dependency/yamlfile"
)

// helm makes a Chart.lock anew. The versions are known, from the updates and from the lock as it was, so no
// repository is asked, and no chart is fetched.
func (t Tools) helm(_ context.Context, s source, changes []Change) (map[string][]byte, error) {
	file := changes[0].Dependency.File
	lock := beside(file, "Chart.lock")
	before, err := s.read(lock)
	if err != nil || before == nil {
		return nil, err
	}
	manifest, err := s.read(file)
	if err != nil {
		return nil, err
	}
	c, err := loader.LoadFiles([]*loader.BufferedFile{{Name: "Chart.yaml", Data: manifest}})
	if err != nil {
		return nil, failed(lock, "Helm cannot read %s: %v", file, err)
	}
	f, err := yamlfile.Parse(before)
	if err != nil || len(f.Documents) != 1 {
		return nil, failed(lock, "it is no lock file: %v", err)
	}
	doc := f.Documents[0]
	entries := yamlfile.Items(yamlfile.Get(doc, "dependencies"))
	if len(entries) != len(c.Metadata.Dependencies) {
		return nil, failed(lock, "it does not belong to %s as it is", path.Base(file))
	}
	var parts []mention.Replacement
	put := func(span mention.Span, was, is string) {
		if was != is {
			parts = append(parts, mention.Replacement{Span: span, Text: is})
		}
	}
	locked := make([]*chart.Dependency, len(entries))
	for i, wants := range c.Metadata.Dependencies {
		version, span, ok := f.Text(yamlfile.Get(entries[i], "version"))
		if !ok || yamlfile.Value(yamlfile.Get(entries[i], "name")) != wants.Name || yamlfile.Value(yamlfile.Get(entries[i], "repository")) != wants.Repository {
			return nil, failed(lock, "it does not belong to %s as it is", path.Base(file))
		}
		locked[i] = &chart.Dependency{Name: wants.Name, Repository: wants.Repository, Version: version}
		for _, change := range changes {
			if change.Dependency.Name == wants.Name && wants.Version == change.Update.Written {
				locked[i].Version = change.Update.Version
			}
		}
		put(span, version, locked[i].Version)
	}
	digest, err := requirementsDigest(c.Metadata.Dependencies, locked)
	if err != nil {
		return nil, failed(lock, "%v", err)
	}
	was, span, ok := f.Text(yamlfile.Get(doc, "digest"))
	if !ok {
		return nil, failed(lock, "it has no digest")
	}
	put(span, was, digest)
	if was, span, ok := f.Text(yamlfile.Get(doc, "generated")); ok && !t.Generated.IsZero() && len(parts) > 0 {
		put(span, was, t.Generated.UTC().Format(time.RFC3339Nano))
	}
	after, ok := mention.Splice(before, parts)
	if !ok {
		return nil, failed(lock, "it is written in an unusual way")
	}
	if bytes.Equal(before, after) {
		return nil, nil
	}
	return map[string][]byte{lock: after}, nil
}

// requirementsDigest is what Helm writes into a Chart.lock, and compares before it fetches charts by it.
func requirementsDigest(wanted, locked []*chart.Dependency) (string, error) {
	data, err := json.Marshal([2][]*chart.Dependency{wanted, locked})
	if err != nil {
		return "", err
	}
	sum, err := provenance.Digest(bytes.NewReader(data))
	return "sha256:" + sum, err
}
