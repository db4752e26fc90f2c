// Package compose finds container images in the files of Docker Compose.
package compose

import (
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/dependency/image"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
	"github.com/upkeep-run/upkeep/internal/dependency/yamlfile"
)

const name = "compose"

var files = regexp.MustCompile(`^(docker-)?compose[^/]*\.ya?ml$`)

// Manager is the dependency.Manager of Docker Compose.
var Manager = mention.NewManager(name, claims, find)

// claims takes compose.yaml, docker-compose.yml and their variants.
func claims(file string) bool { return files.MatchString(path.Base(file)) }

func find(content []byte) ([]mention.Mention, error) {
	f, err := yamlfile.Parse(content)
	if err != nil {
		return nil, err
	}
	var found []mention.Mention
	service := func(n *yaml.Node) {
		if yamlfile.Get(n, "build") != nil {
			return // its image is what is built
		}
		if m, ok := image.InYAML(name, f, yamlfile.Get(n, "image")); ok {
			found = append(found, m)
		}
	}
	for _, doc := range f.Documents {
		for key, value := range yamlfile.Each(doc) {
			switch {
			case key == "services":
				for _, n := range yamlfile.Each(value) {
					service(n)
				}
			case strings.HasPrefix(key, "x-"): // what services share
				service(value)
			}
		}
	}
	return found, nil
}
