package dockerfile

import (
	"bytes"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/upkeep-run/upkeep/internal/dependency"
)

// instruction is one of a Dockerfile, its words apart.
type instruction struct {
	word string
	rest []text
}

var (
	directive = regexp.MustCompile(`^#[ \t]*([A-Za-z][A-Za-z0-9]*)[ \t]*=[ \t]*(\S+)[ \t]*$`)
	heredoc   = regexp.MustCompile(`^[0-9]*<<(-?)["']?([A-Za-z0-9_.-]+)["']?$`)
)

// scan cuts a Dockerfile into those of its instructions that can name an image. BuildKit's parser knows no
// offsets, and an edit needs them.
func scan(content []byte) ([]instruction, error) {
	if !utf8.Valid(content) {
		return nil, &dependency.Problem{What: "it is not UTF-8"}
	}
	s := scanner{content: content, escape: '\\'}
	if bytes.HasPrefix(content, []byte("\ufeff")) {
		s.at = 3
	}
	var found []instruction
	if syntax, ok := s.directives(); ok {
		found = append(found, instruction{"syntax", []text{syntax}})
	}
	for s.at < len(content) {
		line := s.logical()
		words := fields(line)
		if len(words) == 0 {
			continue
		}
		word := strings.ToUpper(words[0].value)
		switch word {
		case "RUN", "COPY", "ADD":
			for _, w := range words {
				if m := heredoc.FindStringSubmatch(w.value); m != nil {
					s.skipTo(m[2], m[1] == "-")
				}
			}
		}
		switch word {
		case "ARG", "FROM", "COPY", "RUN":
			found = append(found, instruction{word, words[1:]})
		}
	}
	return found, nil
}

type scanner struct {
	content []byte
	at      int
	escape  byte
}

// line is the next physical line without its end, and where it begins.
func (s *scanner) line() (string, int) {
	from := s.at
	rest := s.content[from:]
	if i := bytes.IndexByte(rest, '\n'); i >= 0 {
		rest = rest[:i]
		s.at++
	}
	s.at += len(rest)
	return strings.TrimSuffix(string(rest), "\r"), from
}

// directives reads the comments at the top that are none: the escape character, and the parser's image.
func (s *scanner) directives() (syntax text, ok bool) {
	for s.at < len(s.content) {
		before := s.at
		line, from := s.line()
		m := directive.FindStringSubmatchIndex(line)
		if m == nil {
			s.at = before
			return syntax, ok
		}
		switch value := line[m[4]:m[5]]; strings.ToLower(line[m[2]:m[3]]) {
		case "syntax":
			syntax, ok = place(value, from+m[4]), true
		case "escape":
			if value == "`" {
				s.escape = '`'
			}
		}
	}
	return syntax, ok
}

// logical is the next line with those that continue it, without the comments between them.
func (s *scanner) logical() text {
	var value strings.Builder
	var at []int
	for first := true; s.at < len(s.content); first = false {
		line, from := s.line()
		if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, "#") || trimmed == "" && !first {
			if first {
				return text{}
			}
			continue
		}
		body := strings.TrimRight(line, " \t")
		continued := strings.HasSuffix(body, string(s.escape))
		if continued {
			line = body[:len(body)-1]
		}
		value.WriteString(line)
		for i := range len(line) {
			at = append(at, from+i)
		}
		if !continued {
			break
		}
	}
	return text{value: value.String(), at: at}
}

// skipTo skips lines up to the end of a here-document, or all if it has none.
func (s *scanner) skipTo(end string, tabs bool) {
	for s.at < len(s.content) {
		line, _ := s.line()
		if tabs {
			line = strings.TrimLeft(line, "\t")
		}
		if line == end {
			return
		}
	}
}

func place(value string, from int) text {
	t := text{value: value, at: make([]int, len(value))}
	for i := range t.at {
		t.at[i] = from + i
	}
	return t
}

// fields cuts a line at its blanks, but not inside quotes.
func fields(line text) []text {
	var words []text
	start := -1
	var quote byte
	for i := range len(line.value) {
		c := line.value[i]
		blank := c == ' ' || c == '\t'
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case blank && start >= 0:
			words = append(words, line.slice(start, i))
			start = -1
		case !blank:
			if start < 0 {
				start = i
			}
			if c == '"' || c == '\'' {
				quote = c
			}
		}
	}
	if start >= 0 {
		words = append(words, line.from(start))
	}
	return words
}
