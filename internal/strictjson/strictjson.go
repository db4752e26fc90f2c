// Package strictjson decodes JSON that people write, and refuses what encoding/json lets pass: a
// field that nobody knows, one that is there twice, another spelling of a name, text after the end.
// A dry run that was misspelt must not run for real. It is pure, so workflow code may use it.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// MaxBytes bounds an input.
const MaxBytes = 1 << 20

// Decode decodes one JSON object into a pointer to a struct. Every mistake is a failure BadInput that
// names the field, what it wants and, for an unknown one, the nearest right name.
func Decode(data []byte, into any) error {
	if len(data) > MaxBytes {
		return bad("the input has %d bytes, more than %d", len(data), MaxBytes)
	}
	if len(bytes.TrimSpace(data)) == 0 || string(bytes.TrimSpace(data)) == "null" {
		return nil // nothing said: all defaults
	}
	fields, err := objectKeys(data)
	if err != nil {
		return err
	}
	known := Fields(into)
	for _, f := range fields {
		if _, ok := known[f]; !ok {
			return Unknown("field", f, names(known))
		}
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		var mistyped *json.UnmarshalTypeError
		if errors.As(err, &mistyped) {
			field := mistyped.Field
			if i := strings.LastIndex(field, "."); i >= 0 && known[field[i+1:]] != nil {
				field = field[i+1:] // the name of an embedded struct is no part of the JSON
			}
			return bad("field %q is a %s and must be %s", field, mistyped.Value, Wants(mistyped.Type))
		}
		return bad("the input cannot be read: %v", err)
	}
	return nil
}

// objectKeys lists the keys of the outermost object, and refuses anything else.
func objectKeys(data []byte) ([]string, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	first, err := d.Token()
	if err != nil || first != json.Delim('{') {
		return nil, bad("the input is not a JSON object, such as {\"target\": \"shop\"}")
	}
	var keys []string
	seen := make(map[string]bool)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, bad("the input cannot be read: %v", err)
		}
		key, _ := token.(string)
		if seen[key] {
			return nil, bad("field %q is there twice", key)
		}
		seen[key] = true
		keys = append(keys, key)
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			return nil, bad("the input cannot be read at field %q: %v", key, err)
		}
		if string(skip) == "null" {
			return nil, bad("field %q is null; leave it out, or give it a value", key)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, bad("the input cannot be read: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, bad("there is something after the end of the input")
	}
	return keys, nil
}

// Fields lists the JSON fields of a struct, with those of embedded structs, and their types.
func Fields(of any) map[string]reflect.Type {
	out := make(map[string]reflect.Type)
	collect(reflect.TypeOf(of), out)
	return out
}

func collect(t reflect.Type, out map[string]reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			collect(f.Type, out)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			out[name] = f.Type
		}
	}
}

// Wants says in words what a field of the type takes.
func Wants(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a text in quotes"
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	}
	return "an object"
}

func names(known map[string]reflect.Type) []string { return slices.Sorted(maps.Keys(known)) }

// Unknown is the failure for a name that is not among the known ones, with the nearest of them.
func Unknown(what, name string, known []string) error {
	if near := Nearest(name, known); near != "" {
		return failure.New(failure.BadInput, "%s %q is unknown", what, name).Do("did you mean %q?", near)
	}
	return failure.New(failure.BadInput, "%s %q is unknown", what, name).Do("use one of: %s", strings.Join(known, ", "))
}

// Nearest returns the known name that is most like the given one, or "" when none is.
func Nearest(name string, known []string) string {
	best, distance := "", 1+len(name)/2
	for _, k := range known {
		if d := levenshtein.ComputeDistance(squash(name), squash(k)); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// squash folds what people mix up: case, dashes and underscores.
func squash(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

func bad(format string, args ...any) error {
	return failure.New(failure.BadInput, "%s", fmt.Sprintf(format, args...)).Do("correct the input and start again; \"upkeep procedures\" lists every field")
}
