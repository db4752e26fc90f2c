package githubtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// operation is one of GitHub's, as GitHub describes it.
type operation struct {
	id     string
	path   string
	method string
	item   *openapi3.PathItem
	op     *openapi3.Operation
}

// checkRequest holds a request against the description. What the description does not know is wrong too:
// GitHub ignores a field that is spelled wrongly.
func (o *operation) checkRequest(doc *openapi3.T, r *http.Request, body []byte) error {
	params := make(map[string]string)
	for _, part := range strings.Split(o.path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			params[name] = r.PathValue(name)
		}
	}
	clone := r.Clone(context.WithoutCancel(r.Context()))
	clone.Body = http.NoBody
	if len(body) > 0 {
		clone.Body = newBody(body)
		clone.ContentLength = int64(len(body))
	}
	input := &openapi3filter.RequestValidationInput{
		Request: clone, PathParams: params, QueryParams: r.URL.Query(),
		Route:   &routers.Route{Spec: doc, Path: o.path, PathItem: o.item, Method: o.method, Operation: o.op},
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if err := openapi3filter.ValidateRequest(context.WithoutCancel(r.Context()), input); err != nil {
		return err
	}
	for name := range r.URL.Query() {
		if o.op.Parameters.GetByInAndName("query", name) == nil {
			return fmt.Errorf("GitHub knows no query parameter %q here", name)
		}
	}
	return o.unknownFields(body)
}

func (o *operation) unknownFields(body []byte) error {
	if len(body) == 0 {
		return nil
	}
	if o.op.RequestBody == nil {
		return fmt.Errorf("GitHub knows no body here")
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return nil // a list, which the schema has checked
	}
	media := o.op.RequestBody.Value.Content.Get("application/json")
	if media == nil {
		return nil
	}
	for name := range fields {
		if !knows(media.Schema.Value, name) {
			return fmt.Errorf("GitHub knows no field %q here", name)
		}
	}
	return nil
}

func knows(s *openapi3.Schema, field string) bool {
	if s.Properties[field] != nil {
		return true
	}
	for _, group := range []openapi3.SchemaRefs{s.OneOf, s.AnyOf, s.AllOf} {
		for _, sub := range group {
			if knows(sub.Value, field) {
				return true
			}
		}
	}
	return false
}

// answer completes a body with what GitHub always sends and nobody here reads, and holds it against the
// description. A status that is not described is GitHub's whole front's, such as 502, and has no form.
func (o *operation) answer(status int, body any) ([]byte, error) {
	described := o.op.Responses.Status(status)
	if described == nil || described.Value.Content.Get("application/json") == nil {
		if body == nil {
			return nil, nil
		}
		return json.Marshal(body)
	}
	return complete(described.Value.Content.Get("application/json").Schema.Value, body)
}

// complete fills a document in and holds it against its schema.
func complete(schema *openapi3.Schema, body any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	v = fill(schema, v)
	if err := schema.VisitJSON(v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// fill adds the required properties that are missing.
func fill(s *openapi3.Schema, v any) any {
	for _, sub := range s.AllOf {
		v = fill(sub.Value, v)
	}
	for _, group := range []openapi3.SchemaRefs{s.OneOf, s.AnyOf} {
		if len(group) > 0 {
			v = fillOne(s.Discriminator, group, v)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for name, property := range s.Properties {
			if item, ok := v[name]; ok {
				v[name] = fill(property.Value, item)
			}
		}
		for _, name := range s.Required {
			if _, ok := v[name]; !ok && s.Properties[name] != nil {
				v[name] = zero(s.Properties[name].Value)
			}
		}
		return v
	case []any:
		if s.Items != nil {
			for i := range v {
				v[i] = fill(s.Items.Value, v[i])
			}
		}
		return v
	default:
		return v
	}
}

// fillOne fills in for the first of several schemas that then fits.
func fillOne(by *openapi3.Discriminator, group openapi3.SchemaRefs, v any) any {
	raw, err := json.Marshal(v)
	if err != nil {
		return v
	}
	for _, sub := range group {
		if m, ok := v.(map[string]any); ok && by != nil {
			if name, _ := m[by.PropertyName].(string); by.Mapping[name].Ref != sub.Ref {
				continue
			}
		}
		var again any
		if json.Unmarshal(raw, &again) != nil {
			return v
		}
		again = fill(sub.Value, again)
		if sub.Value.VisitJSON(again) == nil {
			return again
		}
	}
	return v
}

// zero is the least value of a schema.
func zero(s *openapi3.Schema) any {
	switch {
	case s.Nullable:
		return nil
	case len(s.Enum) > 0:
		return s.Enum[0]
	case len(s.AllOf) > 0:
		return fill(s, map[string]any{})
	case len(s.OneOf) > 0:
		return zero(s.OneOf[0].Value)
	case len(s.AnyOf) > 0:
		return zero(s.AnyOf[0].Value)
	case s.Type.Includes("object") || len(s.Properties) > 0:
		return fill(s, map[string]any{})
	case s.Type.Includes("array"):
		return []any{}
	case s.Type.Includes("integer"), s.Type.Includes("number"):
		return 0.0
	case s.Type.Includes("boolean"):
		return false
	case s.Type.Includes("string"):
		switch s.Format {
		case "date-time":
			return "2020-01-01T00:00:00Z"
		case "uri":
			return "https://example.invalid/"
		}
		return strings.Repeat("-", int(s.MinLength))
	}
	return nil
}
