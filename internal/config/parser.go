package config

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/strictjson"
)

// parser walks the YAML and gathers what is wrong.
type parser struct {
	path  string
	wrong []string
}

func (p *parser) fail(n *yaml.Node, format string, args ...any) {
	p.wrong = append(p.wrong, fmt.Sprintf("%s:%d: %s", p.path, n.Line, fmt.Sprintf(format, args...)))
}

// fields calls the function of each key that is there, and refuses what is not among them.
func (p *parser) fields(n *yaml.Node, what string, known map[string]func(*yaml.Node), required ...string) {
	if n.Kind != yaml.MappingNode {
		p.fail(n, "%s must be a mapping of keys to values", what)
		return
	}
	names := make([]string, 0, len(known))
	for k := range known {
		names = append(names, k)
	}
	slices.Sort(names)
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := known[key.Value]
		switch {
		case !ok:
			hint := "use one of: " + strings.Join(names, ", ")
			if near := strictjson.Nearest(key.Value, names); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			p.fail(key, "%s has the unknown key %.100q; %s", what, key.Value, hint)
		case seen[key.Value]:
			p.fail(key, "%s has the key %q twice", what, key.Value)
		default:
			read(value)
		}
		seen[key.Value] = true
	}
	for _, r := range required {
		if !seen[r] {
			p.fail(n, "%s lacks the key %q", what, r)
		}
	}
}

func (p *parser) text(into *string, what string, check func(string) string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
			p.fail(n, "%s must be a text", what)
			return
		}
		if problem := check(n.Value); problem != "" {
			p.fail(n, "%s %s", what, problem)
			return
		}
		*into = n.Value
	}
}

// texts reads a list of one text or more, each once.
func (p *parser) texts(into *[]string, what string, most int, check func(string) string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > most {
			p.fail(n, "%s must be a list of 1 to %d texts", what, most)
			return
		}
		for _, item := range n.Content {
			var v string
			wrong := len(p.wrong)
			if item.Tag == "!!int" || item.Tag == "!!float" { // a fingerprint may happen to look like one
				item.Tag = "!!str"
			}
			p.text(&v, what, check)(item)
			if slices.Contains(*into, v) && len(p.wrong) == wrong {
				p.fail(item, "%s has %.100q twice", what, v)
			}
			*into = append(*into, v)
		}
	}
}

func (p *parser) number(into *int, what string, low, high int) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var v int
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || n.Decode(&v) != nil || v < low || v > high {
			p.fail(n, "%s must be a whole number from %d to %d", what, low, high)
			return
		}
		*into = v
	}
}

func (p *parser) flag(into *bool, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || n.Decode(into) != nil {
			p.fail(n, "%s must be true or false", what)
		}
	}
}

// has reports whether a mapping has a key.
func has(n *yaml.Node, key string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return true
		}
	}
	return false
}
