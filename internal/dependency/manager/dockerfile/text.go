package dockerfile

import (
	"regexp"
	"strings"

	"github.com/upkeep-run/upkeep/internal/dependency/mention"
)

// text is a piece of a Dockerfile with the place of each of its bytes: continued lines and arguments put
// together what does not stand together.
type text struct {
	value string
	at    []int    // where each byte stands
	of    []string // the argument that each byte came from, if any; nil for none
}

func (t text) from(i int) text { return t.slice(i, len(t.value)) }

func (t text) slice(i, j int) text {
	s := text{value: t.value[i:j], at: t.at[i:j]}
	if t.of != nil {
		s.of = t.of[i:j]
	}
	return s
}

func (t text) cut(prefix string) (text, bool) {
	if !strings.HasPrefix(t.value, prefix) {
		return text{}, false
	}
	return t.from(len(prefix)), true
}

func (t text) split(separator string) []text {
	var parts []text
	for {
		i := strings.Index(t.value, separator)
		if i < 0 {
			return append(parts, t)
		}
		parts = append(parts, t.slice(0, i))
		t = t.from(i + len(separator))
	}
}

func (t text) unquote() text {
	if n := len(t.value); n >= 2 && (t.value[0] == '"' || t.value[0] == '\'') && t.value[n-1] == t.value[0] {
		return t.slice(1, n-1)
	}
	return t
}

// argument marks the text as an argument's default.
func (t *text) argument(name string) {
	t.of = make([]string, len(t.value))
	for i := range t.of {
		t.of[i] = name
	}
}

// whole says whether the text stands in the file as it is, in one piece.
func (t text) whole() bool {
	for i := 1; i < len(t.at); i++ {
		if t.at[i] != t.at[i-1]+1 {
			return false
		}
	}
	return len(t.at) > 0
}

func (t text) span() mention.Span {
	return mention.Span{Start: t.at[0], End: t.at[len(t.at)-1] + 1}
}

// argumentOf finds the one part that came from an argument; it gives -1 when there is none, or more than one.
func (t text) argumentOf() (from, to int) {
	from = -1
	for i, name := range t.of {
		switch {
		case name == "":
		case from < 0:
			from, to = i, i+1
		case i == to && name == t.of[from]:
			to = i + 1
		default:
			return -1, -1
		}
	}
	if from < 0 || !t.slice(from, to).whole() {
		return -1, -1
	}
	return from, to
}

// variable is ${NAME}, ${NAME:-default} or $NAME.
var variable = regexp.MustCompile(`\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::?-([^${}]*))?\})`)

// maxExpanded bounds what arguments expand to, in bytes.
const maxExpanded = 4096

// expand puts the defaults of arguments in their places. It gives false for what it does not know.
func (t text) expand(arguments map[string]text) (text, bool) {
	if !strings.Contains(t.value, "$") {
		return t, true
	}
	out := text{of: []string{}}
	add := func(part text) {
		out.value += part.value
		out.at = append(out.at, part.at...)
		if part.of == nil {
			part.of = make([]string, len(part.value))
		}
		out.of = append(out.of, part.of...)
	}
	for {
		m := variable.FindStringSubmatchIndex(t.value)
		if m == nil {
			break
		}
		add(t.slice(0, m[0]))
		var key string
		if m[2] >= 0 {
			key = t.value[m[2]:m[3]]
		} else {
			key = t.value[m[4]:m[5]]
		}
		value, known := arguments[key]
		if (!known || value.value == "") && m[6] >= 0 {
			value = t.slice(m[6], m[7])
			value.argument(key)
			known = true
		}
		if !known || strings.Contains(value.value, "$") {
			return text{}, false
		}
		add(value)
		if len(out.value) > maxExpanded {
			return text{}, false
		}
		t = t.from(m[1])
	}
	add(t)
	return out, !strings.Contains(out.value, "$")
}
