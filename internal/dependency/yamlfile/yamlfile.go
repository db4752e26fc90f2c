// Package yamlfile reads YAML so that its scalars can be replaced where they stand.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
)

// File is the content of a YAML file.
type File struct {
	Documents []*yaml.Node // the outermost node of each; never an alias
	content   []byte
	lines     []int // where each line begins
}

var errorLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// Parse reads all documents. An error is a *dependency.Problem without the file's name.
func Parse(content []byte) (f *File, err error) {
	defer func() {
		if r := recover(); r != nil { // it has happened to the parser before
			f, err = nil, &dependency.Problem{What: fmt.Sprintf("the parser of YAML cannot bear it: %v", r)}
		}
	}()
	if !utf8.Valid(content) {
		return nil, &dependency.Problem{What: "it is not UTF-8"}
	}
	f = &File{content: content, lines: lines(content)}
	d := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var doc yaml.Node
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return f, nil
		} else if err != nil {
			p := &dependency.Problem{What: errorLine.ReplaceAllString(err.Error(), "")}
			p.Line, _ = strconv.Atoi(errorLine.FindStringSubmatch(err.Error() + " ")[1])
			return nil, p
		}
		if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
			f.Documents = append(f.Documents, doc.Content[0])
		}
	}
}

// lines says where lines begin, by what YAML takes for the end of one.
func lines(content []byte) []int {
	at := []int{0}
	if bytes.HasPrefix(content, []byte("\ufeff")) {
		at[0] = 3
	}
	for i := at[0]; i < len(content); {
		r, size := utf8.DecodeRune(content[i:])
		if r == '\r' && i+1 < len(content) && content[i+1] == '\n' {
			size = 2
		}
		i += size
		switch r {
		case '\n', '\r', '\u0085', '\u2028', '\u2029':
			at = append(at, i)
		}
	}
	return at
}

// Text gives a scalar's text and where it stands, without quotes. It gives false for what is no scalar, and
// for one that stands there otherwise than it is read: with escapes, over several lines, behind a tag.
func (f *File) Text(n *yaml.Node) (string, mention.Span, bool) {
	if n == nil || n.Kind != yaml.ScalarNode || n.Line < 1 || n.Line > len(f.lines) {
		return "", mention.Span{}, false
	}
	at := f.lines[n.Line-1]
	for range n.Column - 1 {
		_, size := utf8.DecodeRune(f.content[at:])
		at += size
	}
	if anchor := "&" + n.Anchor; n.Anchor != "" && bytes.HasPrefix(f.content[at:], []byte(anchor)) {
		at += len(anchor)
		for at < len(f.content) && (f.content[at] == ' ' || f.content[at] == '\t') {
			at++
		}
	}
	quote := ""
	switch n.Style {
	case 0:
	case yaml.DoubleQuotedStyle:
		quote = `"`
	case yaml.SingleQuotedStyle:
		quote = `'`
	default:
		return "", mention.Span{}, false
	}
	if !bytes.HasPrefix(f.content[at:], []byte(quote+n.Value+quote)) || strings.ContainsAny(n.Value, "\n\\") || quote != "" && strings.Contains(n.Value, quote) {
		return "", mention.Span{}, false
	}
	return n.Value, mention.Span{Start: at + len(quote), End: at + len(quote) + len(n.Value)}, true
}

// Rest is the rest of the line behind a span.
func (f *File) Rest(s mention.Span) string {
	rest := f.content[s.End:]
	if i := bytes.IndexAny(rest, "\r\n"); i >= 0 {
		rest = rest[:i]
	}
	return string(rest)
}

// Quote says whether a text, put in the place of a plain scalar, would be read as a number or the like and
// then be written otherwise: 1.10 becomes 1.1, and 20240101 becomes 2.0240101e+07, as Helm writes it.
func Quote(n *yaml.Node) func(string) bool {
	if n.Style != 0 {
		return nil
	}
	return func(text string) bool {
		var value any
		if yaml.Unmarshal([]byte(text), &value) != nil {
			return true
		}
		if i, ok := value.(int); ok {
			value = float64(i)
		}
		return fmt.Sprint(value) != text
	}
}

// Get gives the value of a mapping's key, or nil.
func Get(n *yaml.Node, path ...string) *yaml.Node {
	for _, key := range path {
		var found *yaml.Node
		for k, v := range Each(n) {
			if k == key {
				found = v
			}
		}
		n = found
	}
	return n
}

// Each iterates over a mapping, or over nothing. What stands elsewhere, behind an alias, is read there.
func Each(n *yaml.Node) iter.Seq2[string, *yaml.Node] {
	return func(yield func(string, *yaml.Node) bool) {
		if n == nil || n.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Kind == yaml.ScalarNode && !yield(n.Content[i].Value, n.Content[i+1]) {
				return
			}
		}
	}
}

// Items are those of a sequence, or none.
func Items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

// Value is a scalar's text, or "".
func Value(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}
