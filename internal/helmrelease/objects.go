package helmrelease

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	// maxObjects bounds the objects of a manifest.
	maxObjects = 5000
	// maxDiffs bounds the objects that a difference shows, and maxDiffLines and maxDiffBytes their text.
	maxDiffs     = 400
	maxDiffLines = 200
	maxDiffBytes = 128 << 10
	// minSecret is the length from which a Secret's value is looked for in other text, in bytes.
	minSecret = 6
)

// object is an object of a manifest.
type object struct {
	Object
	body map[string]any
}

func (o object) secret() bool { return o.Group == "" && o.Kind == "Secret" }

// parse reads the objects of a manifest. Those of the release's own namespace have none written down, so
// that one that names it and one that does not are the same.
func parse(manifest, namespace string) ([]object, error) {
	split := releaseutil.SplitManifests(manifest)
	keys := slices.Collect(maps.Keys(split))
	sort.Sort(releaseutil.BySplitManifestsOrder(keys))
	var objects []object
	for _, key := range keys {
		var body map[string]any
		if err := yaml.Unmarshal([]byte(split[key]), &body); err != nil {
			return nil, failure.New(failure.BadChart, "an object of the release is no YAML") // whose text may be a Secret's
		}
		bodies := []any{body}
		if items, ok := body["items"].([]any); ok && strings.HasSuffix(fmt.Sprint(body["kind"]), "List") {
			bodies = items
		}
		for _, one := range bodies {
			body, _ := one.(map[string]any)
			if len(body) == 0 {
				continue
			}
			u := unstructured.Unstructured{Object: body}
			gvk := schema.FromAPIVersionAndKind(u.GetAPIVersion(), u.GetKind())
			if gvk.Kind == "" || gvk.Version == "" || u.GetName() == "" {
				return nil, failure.New(failure.BadChart, "an object of the release has no apiVersion, kind or name").Do("mend the chart's templates")
			}
			o := object{Object{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: u.GetNamespace(), Name: u.GetName()}, body}
			if o.Namespace == namespace {
				o.Namespace = ""
			}
			objects = append(objects, o)
		}
		if len(objects) > maxObjects {
			return nil, failure.New(failure.BadChart, "the release has more than %d objects", maxObjects)
		}
	}
	return objects, nil
}

// rendering is what a release consists of.
type rendering struct {
	objects []object
	hooks   []object // in the order of the release's hooks
	kinds   []Hook
}

func renderingOf(rel *release.Release) (rendering, error) {
	var r rendering
	var err error
	if r.objects, err = parse(rel.Manifest, rel.Namespace); err != nil {
		return r, err
	}
	for _, h := range rel.Hooks {
		objects, err := parse(h.Manifest, rel.Namespace)
		if err != nil {
			return r, err
		}
		for _, o := range objects {
			hook := Hook{Object: o.Object, Weight: h.Weight}
			for _, event := range h.Events {
				hook.Events = append(hook.Events, string(event))
			}
			for _, policy := range h.DeletePolicies {
				hook.Policies = append(hook.Policies, string(policy))
			}
			r.hooks, r.kinds = append(r.hooks, o), append(r.kinds, hook)
		}
	}
	return r, nil
}

func hooksOf(rel *release.Release) ([]Hook, error) {
	r, err := renderingOf(rel)
	return r.kinds, err
}

// all are the objects and the hooks.
func (r rendering) all() []object { return slices.Concat(r.objects, r.hooks) }

// hash is that of all objects and hooks, without the values of Secrets, which may be new at each time.
func (r rendering) hash() string {
	var lines []string
	for _, o := range r.objects {
		lines = append(lines, o.digest())
	}
	for i, o := range r.hooks {
		raw, _ := json.Marshal(r.kinds[i]) // plain data
		lines = append(lines, o.digest()+string(raw))
	}
	slices.Sort(lines)
	return hashOf(strings.Join(lines, "\n"))
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// digest is an object's hash; of a Secret the keys count, not the values.
func (o object) digest() string {
	body := o.body
	if o.secret() {
		body = masked(body, func(string, string) string { return "" })
	}
	raw, _ := json.Marshal(body) // it came from JSON
	return o.String() + " " + hashOf(string(raw))
}

// masked copies a Secret and replaces each value by what the function says for its field and key.
func masked(body map[string]any, value func(field, key string) string) map[string]any {
	out := maps.Clone(body)
	for _, field := range []string{"data", "stringData"} {
		values, ok := out[field].(map[string]any)
		if !ok {
			continue
		}
		values = maps.Clone(values)
		for key := range values {
			values[key] = value(field, key)
		}
		out[field] = values
	}
	return out
}

// unlike compares two renderings of one chart. Objects that differ, Secrets apart, mean that what is
// approved is not what will be applied.
func unlike(a, b rendering) (moving, secrets []string) {
	type both struct{ a, b []object }
	seen := make(map[Object]*both)
	for _, o := range a.all() {
		if seen[o.Object] == nil {
			seen[o.Object] = &both{}
		}
		seen[o.Object].a = append(seen[o.Object].a, o)
	}
	for _, o := range b.all() {
		if seen[o.Object] == nil {
			seen[o.Object] = &both{}
		}
		seen[o.Object].b = append(seen[o.Object].b, o)
	}
	text := func(objects []object) string {
		var all []any
		for _, o := range objects {
			all = append(all, o.body)
		}
		raw, _ := json.Marshal(all)
		return string(raw)
	}
	digests := func(objects []object) string {
		var all []string
		for _, o := range objects {
			all = append(all, o.digest())
		}
		return strings.Join(all, "\n")
	}
	for name, s := range seen {
		switch {
		case digests(s.a) != digests(s.b):
			moving = append(moving, name.String())
		case text(s.a) != text(s.b):
			secrets = append(secrets, name.String())
		}
	}
	slices.Sort(moving)
	slices.Sort(secrets)
	return moving, secrets
}

// secretValues are the values of the Secrets among the objects, decoded, the longest first.
func secretValues(objects []object) []string {
	var values []string
	for _, o := range objects {
		if !o.secret() {
			continue
		}
		for _, field := range []string{"data", "stringData"} {
			of, _ := o.body[field].(map[string]any)
			for _, v := range of {
				value, _ := v.(string)
				if raw, err := base64.StdEncoding.DecodeString(value); field == "data" && err == nil {
					values = append(values, value)
					value = string(raw)
				}
				values = append(values, value)
			}
		}
	}
	values = slices.DeleteFunc(values, func(v string) bool { return len(strings.TrimSpace(v)) < minSecret })
	slices.SortFunc(values, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	return slices.Compact(values)
}

// hider replaces the Secrets' values wherever else they stand: in a ConfigMap, a variable, a log.
func hider(objects ...object) func(string) string {
	var pairs []string
	for _, value := range secretValues(objects) {
		pairs = append(pairs, value, "(hidden)")
	}
	replacer := strings.NewReplacer(pairs...)
	return replacer.Replace
}

// Diff is how one rendering differs from another.
type Diff struct {
	Added   int          `json:"added"`
	Changed int          `json:"changed"`
	Removed int          `json:"removed"`
	Objects []ObjectDiff `json:"objects,omitempty"`
	Cut     int          `json:"cut,omitempty"` // objects that differ and are not among Objects
}

// ObjectDiff is how one object differs.
type ObjectDiff struct {
	Object
	Hook   bool   `json:"hook,omitempty"`
	Change string `json:"change"`        // added, changed or removed
	Text   string `json:"text"`          // unified; without the values of Secrets
	Cut    int    `json:"cut,omitempty"` // lines left out
}

// difference shows what becomes of the objects.
func difference(from, to rendering) Diff {
	var order []Object
	found := make(map[Object]*sides)
	hooks := make(map[Object]bool)
	note := func(objects []object, hook bool, put func(*sides, *object)) {
		for i := range objects {
			name := objects[i].Object
			if found[name] == nil {
				found[name] = &sides{}
				order = append(order, name)
			}
			hooks[name] = hook
			put(found[name], &objects[i])
		}
	}
	for _, r := range []struct {
		of  rendering
		put func(*sides, *object)
	}{{from, func(s *sides, o *object) { s.old = o }}, {to, func(s *sides, o *object) { s.new = o }}} {
		note(r.of.objects, false, r.put)
		note(r.of.hooks, true, r.put)
	}
	slices.SortFunc(order, func(a, b Object) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.String(), b.String())) })
	hide := hider(slices.Concat(from.all(), to.all())...)
	var d Diff
	left := maxDiffBytes
	for _, name := range order {
		s := found[name]
		old, new := s.shown()
		var change string
		switch {
		case s.old == nil:
			change, d.Added = "added", d.Added+1
		case s.new == nil:
			change, d.Removed = "removed", d.Removed+1
		case old == new:
			continue
		default:
			change, d.Changed = "changed", d.Changed+1
		}
		if len(d.Objects) == maxDiffs {
			d.Cut++
			continue
		}
		text, cut := unified(hide(old), hide(new), left)
		left -= len(text)
		d.Objects = append(d.Objects, ObjectDiff{name, hooks[name], change, text, cut})
	}
	return d
}

// shown is the text of both sides; of a Secret's values it says only whether they change.
func (s sides) shown() (old, new string) {
	if s.old != nil {
		old = shown(*s.old, s.new, "(before)")
	}
	if s.new != nil {
		new = shown(*s.new, s.old, "(changed)")
	}
	return old, new
}

// sides is an object before and after; nil where it is not.
type sides struct{ old, new *object }

func shown(o object, other *object, differs string) string {
	body := o.body
	if o.secret() {
		body = masked(body, func(field, key string) string {
			of, _ := body[field].(map[string]any)
			if other == nil {
				return "(hidden)"
			}
			if others, _ := other.body[field].(map[string]any); others[key] == of[key] {
				return "(hidden)"
			}
			return differs
		})
	}
	raw, err := yaml.Marshal(body)
	if err != nil {
		return "(cannot be shown)\n"
	}
	return string(raw)
}

// unified is the difference of two texts, of at most maxDiffLines lines and so many bytes.
func unified(old, new string, most int) (text string, cut int) {
	lines := func(s string) []string {
		all := strings.SplitAfter(s, "\n")
		return all[:len(all)-1] // what is shown ends with a line's end
	}
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{A: lines(old), B: lines(new), Context: 3})
	if err != nil {
		return "(cannot be shown)\n", 0
	}
	all := strings.SplitAfter(text, "\n")
	var out strings.Builder
	for i, line := range all {
		line = clip(line, 2000)
		if i == maxDiffLines || out.Len()+len(line) > most {
			return out.String(), len(all) - i
		}
		out.WriteString(line)
	}
	return out.String(), 0
}

// obstacles says what of an object the cluster refuses to change, and what it changes only one way.
// From may be the live object, which has more fields than a manifest.
func obstacles(name Object, from, to map[string]any) (blocked, oneWay []string) {
	immutable := func(path ...string) {
		was, _, _ := unstructured.NestedFieldNoCopy(from, path...)
		wanted, found, _ := unstructured.NestedFieldNoCopy(to, path...)
		if found && !within(wanted, was) {
			blocked = append(blocked, fmt.Sprintf("%s: %s cannot be changed", name, strings.Join(path, ".")))
		}
	}
	switch name.Kind {
	case "StatefulSet":
		immutable("spec", "serviceName")
		immutable("spec", "selector")
		immutable("spec", "podManagementPolicy")
		was, _, _ := unstructured.NestedSlice(from, "spec", "volumeClaimTemplates")
		wanted, _, _ := unstructured.NestedSlice(to, "spec", "volumeClaimTemplates")
		if len(was) != len(wanted) {
			blocked = append(blocked, fmt.Sprintf("%s: volumeClaimTemplates cannot be added or removed", name))
			break
		}
		for i := range wanted {
			w, _ := was[i].(map[string]any)
			n, _ := wanted[i].(map[string]any)
			if size, other := requested(w), requested(n); size != nil && other != nil && size.Cmp(*other) != 0 {
				blocked = append(blocked, fmt.Sprintf("%s: the size of its volumes cannot be changed from %s to %s", name, size, other))
				continue
			}
			for _, path := range [][]string{{"metadata", "name"}, {"spec", "storageClassName"}, {"spec", "accessModes"}} {
				was, _, _ := unstructured.NestedFieldNoCopy(w, path...)
				if wanted, found, _ := unstructured.NestedFieldNoCopy(n, path...); found && !within(wanted, was) {
					blocked = append(blocked, fmt.Sprintf("%s: %s of its volumes cannot be changed", name, strings.Join(path, ".")))
				}
			}
		}
	case "Deployment", "DaemonSet", "ReplicaSet":
		immutable("spec", "selector")
	case "Job":
		immutable("spec", "template")
		immutable("spec", "completions")
	case "Service":
		immutable("spec", "clusterIP")
	case "PersistentVolumeClaim":
		immutable("spec", "accessModes")
		immutable("spec", "storageClassName")
		switch size, other := requested(from), requested(to); {
		case size == nil || other == nil:
		case size.Cmp(*other) > 0:
			blocked = append(blocked, fmt.Sprintf("%s: a volume cannot be made smaller, from %s to %s", name, size, other))
		case size.Cmp(*other) < 0:
			oneWay = append(oneWay, fmt.Sprintf("%s: the volume grows from %s to %s, and never shrinks again", name, size, other))
		}
	case "ConfigMap", "Secret":
		if fixed, _, _ := unstructured.NestedBool(from, "immutable"); fixed {
			immutable("data")
			immutable("immutable")
		}
	}
	return blocked, oneWay
}

// requested is the size that a claim asks for; nil when it says none.
func requested(claim map[string]any) *resource.Quantity {
	value, found, _ := unstructured.NestedFieldNoCopy(claim, "spec", "resources", "requests", "storage")
	if !found {
		return nil
	}
	size, err := resource.ParseQuantity(fmt.Sprint(value))
	if err != nil {
		return nil
	}
	return &size
}

// within reports whether all that is wanted is there already; the cluster adds defaults of its own.
func within(wanted, there any) bool {
	switch w := wanted.(type) {
	case map[string]any:
		t, ok := there.(map[string]any)
		if !ok {
			return false
		}
		for key, value := range w {
			if !within(value, t[key]) {
				return false
			}
		}
		return true
	case []any:
		t, ok := there.([]any)
		if !ok || len(t) != len(w) {
			return false
		}
		for i := range w {
			if !within(w[i], t[i]) {
				return false
			}
		}
		return true
	}
	return fmt.Sprint(wanted) == fmt.Sprint(there)
}
