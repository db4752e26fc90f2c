package image

import (
	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/dependency/mention"
	"github.com/upkeep-run/upkeep/internal/dependency/yamlfile"
)

// InYAML is a reference that is the whole of a scalar. It gives false for none.
func InYAML(manager string, f *yamlfile.File, n *yaml.Node) (mention.Mention, bool) {
	ref := yamlfile.Value(n)
	if ref == "" || n.Tag == "!!null" {
		return mention.Mention{}, false
	}
	_, span, ok := f.Text(n)
	if !ok {
		return Unknown(manager, ref, "it is written in an unusual way"), true
	}
	return Mention(manager, ref, span)
}
