// Package jsonfile reads JSON so that its strings can be replaced where they stand.
package jsonfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
)

// Value is a value with its place.
type Value struct {
	Key     string // of a member of an object
	Text    string // of a string
	String  bool
	Span    mention.Span // a string's, without its quotes
	Plain   bool         // the string stands there as it is read, without escapes
	Members []Value      // of an object
	Items   []Value      // of an array
}

// maxDepth bounds how deep values may be nested.
const maxDepth = 200

// Parse reads one value. An error is a *dependency.Problem without the file's name.
func Parse(content []byte) (Value, error) {
	p := parser{content: content}
	if bytes.HasPrefix(content, []byte("\ufeff")) {
		p.base = 3
	}
	p.d = json.NewDecoder(bytes.NewReader(content[p.base:]))
	p.d.UseNumber()
	v, err := p.value(0)
	if err == nil {
		if _, err = p.d.Token(); errors.Is(err, io.EOF) {
			return v, nil
		}
		if err == nil {
			err = errors.New("there is something after its end")
		}
	}
	at := p.base + int(p.d.InputOffset())
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = p.base + int(syntax.Offset)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("it ends too early")
		at = len(content)
	}
	return Value{}, &dependency.Problem{Line: 1 + bytes.Count(content[:min(at, len(content))], []byte("\n")), What: err.Error()}
}

type parser struct {
	d       *json.Decoder
	content []byte
	base    int
}

func (p *parser) value(depth int) (Value, error) {
	if depth > maxDepth {
		return Value{}, fmt.Errorf("it is nested deeper than %d", maxDepth)
	}
	token, err := p.d.Token()
	if err != nil {
		return Value{}, err
	}
	switch t := token.(type) {
	case string:
		return p.text(t), nil
	case json.Delim:
		var v Value
		for p.d.More() {
			var key string
			if t == '{' {
				k, err := p.d.Token()
				if err != nil {
					return Value{}, err
				}
				key, _ = k.(string)
			}
			m, err := p.value(depth + 1)
			if err != nil {
				return Value{}, err
			}
			m.Key = key
			if t == '{' {
				v.Members = append(v.Members, m)
			} else {
				v.Items = append(v.Items, m)
			}
		}
		_, err := p.d.Token()
		return v, err
	}
	return Value{}, nil
}

// text is the string that the decoder has just read: it ends, with its quote, where the decoder is.
func (p *parser) text(t string) Value {
	end := p.base + int(p.d.InputOffset()) - 1
	start := end - len(t)
	v := Value{Text: t, String: true}
	if start > p.base && string(p.content[start:end]) == t && p.content[start-1] == '"' && !bytes.ContainsRune(p.content[start:end], '\\') {
		v.Plain, v.Span = true, mention.Span{Start: start, End: end}
	}
	return v
}

// Get gives the last member of that name, as JSON's readers do, or an empty value.
func (v Value) Get(key string) Value {
	var found Value
	for _, m := range v.Members {
		if m.Key == key {
			found = m
		}
	}
	return found
}
