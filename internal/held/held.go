// Package held keeps one field of an object in a cluster at a value for a while, and then gives it back
// what it was. What it was is written on the object, in the same patch that changes it, so that whoever
// comes later, also after everybody else has died, can put it back.
//
// The fence: a note on the object says which order changed it. Each patch holds only for the version of the
// object that was read, so of two attempts one loses and looks again. When the field is given back, the
// note stays as a tombstone with the order's moment; an attempt of that or an earlier order that comes
// late finds it and changes nothing. A later order takes over what an earlier one left held, with what the
// earlier one found.
package held

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// Note is the annotation that says who holds a field of the object, and what it was.
	Note = "upkeep.run/held"
	// maxNote bounds a note, in bytes.
	maxNote = 64 << 10
	// manager is how Upkeep's changes are known in an object's managedFields.
	manager = "upkeep"
)

// Order says for whom a field is held. Orders of one object are told apart, and put in order, by their time.
type Order struct {
	Key    string    `json:"key"`              // of the run
	Target string    `json:"target,omitempty"` // whose runs go one after the other
	At     time.Time `json:"at"`               // when it was decided
}

// Field is the field of an object that is held, and at what.
type Field struct {
	Resource        schema.GroupVersionResource
	Namespace, Name string
	Path            []string
	Value           any // nil: the field is not there
}

func (f Field) String() string { return f.Resource.Resource + " " + f.Name }

// note is what is written on the object.
type note struct {
	Order
	Before json.RawMessage `json:"before,omitempty"` // "null": it was not there
	Over   bool            `json:"over,omitempty"`   // it was given back: a tombstone
}

// Facts are what an order stands on.
type Facts struct {
	UID    types.UID
	Before json.RawMessage // what the field was, and will be again
}

// Before says what the field is, or was before somebody held it; by is the run that holds it, or "".
func (f Field) Before(object *unstructured.Unstructured) (before json.RawMessage, by string, err error) {
	n, err := readNote(object)
	if err != nil {
		return nil, "", err
	}
	if n != nil && !n.Over && f.holds(object) {
		return n.Before, n.Key, nil
	}
	return f.value(object), "", nil
}

// Left reports whether an object's annotations say that an order for the target holds it: one whose run is
// at work, or has ended without giving it back.
func Left(annotations map[string]string, target string) bool {
	n, err := parse(annotations[Note])
	return err == nil && n != nil && !n.Over && n.Target == target
}

// Take changes the field for an order. Done twice, it finds it done. An object that is not, or does not
// stand, as the facts say makes the plan void. Effect is called with each real change.
func (f Field) Take(ctx context.Context, client dynamic.Interface, by Order, facts Facts, effect func(change func() error) error) error {
	object, err := f.Get(ctx, client)
	if err != nil {
		return err
	}
	before, done, err := f.take(object, by, facts)
	if err != nil || done {
		return err
	}
	return effect(func() error {
		return f.patch(ctx, client, object, f.Value, note{Order: by, Before: before}, "change "+f.String())
	})
}

// take decides: what the field was before, which is written down, or that there is nothing to do.
func (f Field) take(object *unstructured.Unstructured, by Order, facts Facts) (before json.RawMessage, done bool, err error) {
	n, err := readNote(object)
	if err != nil {
		return nil, false, err
	}
	void := func(what string) error {
		return failure.New(failure.PlanVoid, "the plan is void: %s %s", f, what).Do("look at the new plan and decide again")
	}
	switch {
	case n != nil && !n.Over && n.Target != "" && n.Target != by.Target && f.holds(object):
		return nil, false, failure.New(failure.LockHeld, "%s is held by a run for target %s, which goes first", f, n.Target).
			Do("wait until that run is over, or start it again if it was terminated, then resume the run")
	case object.GetUID() != facts.UID:
		return nil, false, void("is another one than was looked at")
	case n != nil && n.At.After(by.At):
		return nil, false, void("was changed by a later run")
	case n != nil && n.Over && n.At.Equal(by.At):
		return nil, false, void("was given back already")
	case n != nil && n.Order.is(by) && f.holds(object):
		return nil, true, nil
	}
	before, _, err = f.Before(object)
	if err == nil && !same(before, facts.Before) {
		err = void(fmt.Sprintf("had %s, and has %s", facts.Before, before))
	}
	return before, false, err
}

// Give gives the field back what it was before the order, or an earlier one that never gave it back. What
// somebody changed meanwhile stays, and is said. Done twice, it finds it done.
func (f Field) Give(ctx context.Context, client dynamic.Interface, by Order, effect func(change func() error) error) (remark string, err error) {
	object, err := f.Get(ctx, client)
	if failure.Is(err, failure.MissingObject) {
		return f.String() + " is gone", nil
	}
	if err != nil {
		return "", err
	}
	value, remark, done, err := f.give(object, by)
	if err != nil || done {
		return remark, err
	}
	return remark, effect(func() error {
		return f.patch(ctx, client, object, value, note{Order: by, Over: true}, "give back "+f.String())
	})
}

// give decides: what the field gets, and what there is to say, or that there is nothing to do.
func (f Field) give(object *unstructured.Unstructured, by Order) (value json.RawMessage, remark string, done bool, err error) {
	n, err := readNote(object)
	if err != nil {
		return nil, "", false, err
	}
	value = f.value(object)
	switch {
	case n == nil: // never held; the tombstone keeps it so
	case n.At.After(by.At):
		return nil, f.String() + " is a later run's, which will give it back", true, nil
	case n.Over && n.At.Equal(by.At):
		return nil, "", true, nil
	case n.Over:
	case n.Target != "" && n.Target != by.Target:
		return nil, f.String() + " is held by a run for target " + n.Target + ", which will give it back", true, nil
	case f.holds(object):
		value = n.Before
	default:
		remark = fmt.Sprintf("%s was changed by somebody else meanwhile and stays as it is (it was %s)", f, n.Before)
	}
	return value, remark, false, nil
}

// Get reads the object.
func (f Field) Get(ctx context.Context, client dynamic.Interface) (*unstructured.Unstructured, error) {
	object, err := client.Resource(f.Resource).Namespace(f.Namespace).Get(ctx, f.Name, metav1.GetOptions{})
	return object, kube.Classify(err, "read "+f.String()+" in namespace "+f.Namespace)
}

// patch gives the field a value, and the object a note; it holds only for the object as it was read.
func (f Field) patch(ctx context.Context, client dynamic.Interface, object *unstructured.Unstructured, value any, n note, doing string) error {
	text, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode a note: %w", err)
	}
	patch := map[string]any{}
	put(patch, value, f.Path...)
	put(patch, string(text), "metadata", "annotations", Note)
	put(patch, object.GetResourceVersion(), "metadata", "resourceVersion")
	put(patch, string(object.GetUID()), "metadata", "uid")
	data, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	_, err = client.Resource(f.Resource).Namespace(f.Namespace).Patch(ctx, f.Name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: manager})
	return kube.Classify(err, doing)
}

// put sets a value deep in a patch.
func put(into map[string]any, value any, path ...string) {
	for _, key := range path[:len(path)-1] {
		next, ok := into[key].(map[string]any)
		if !ok {
			next = map[string]any{}
			into[key] = next
		}
		into = next
	}
	into[path[len(path)-1]] = value
}

// is reports whether two orders are one. JSON keeps a time's nanoseconds.
func (o Order) is(other Order) bool { return o.Key == other.Key && o.At.Equal(other.At) }

// holds reports whether the field has the value that it is held at.
func (f Field) holds(object *unstructured.Unstructured) bool {
	return same(f.value(object), encode(f.Value))
}

func (f Field) value(object *unstructured.Unstructured) json.RawMessage {
	value, _, _ := unstructured.NestedFieldNoCopy(object.Object, f.Path...) // of another shape, it is not there
	return encode(value)
}

func encode(value any) json.RawMessage {
	data, err := json.Marshal(value)
	if err != nil {
		return json.RawMessage("null")
	}
	return data
}

// same compares two values as JSON, in which maps are sorted.
func same(a, b json.RawMessage) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	return bytes.Equal(encode(x), encode(y))
}

func readNote(object *unstructured.Unstructured) (*note, error) {
	n, err := parse(object.GetAnnotations()[Note])
	if err != nil {
		return nil, failure.New(failure.ObjectRefused, "the annotation %s of %s %s cannot be read", Note, object.GetKind(), object.GetName()).Because(err).
			Do("see who wrote it, and what the object was before; put that back, remove the annotation, and start a new run")
	}
	return n, nil
}

// parse reads a note, which anybody may have written; nil: there is none.
func parse(text string) (*note, error) {
	if text == "" {
		return nil, nil
	}
	if len(text) > maxNote {
		return nil, fmt.Errorf("it has more than %d bytes", maxNote)
	}
	var n note
	switch {
	case json.Unmarshal([]byte(text), &n) != nil:
		return nil, errors.New("it is no JSON of a note") // whose text is anybody's
	case n.Key == "" || n.At.IsZero() || !n.Over && len(n.Before) == 0:
		return nil, errors.New("it lacks whose it is, or what was before")
	}
	return &n, nil
}

// Between is an effect with points before and after it, where tests stop the process.
func Between(before, after fault.Point) func(func() error) error {
	return func(change func() error) error {
		before.Hit()
		err := change()
		after.Hit()
		return err
	}
}
