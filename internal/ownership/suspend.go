package ownership

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/held"
)

// kedaPaused keeps KEDA from scaling.
const kedaPaused = "autoscaling.keda.sh/paused"

var (
	suspendBefore = fault.NewPoint("owner-suspend/before")
	suspendAfter  = fault.NewPoint("owner-suspend/after")
	resumeBefore  = fault.NewPoint("owner-resume/before")
	resumeAfter   = fault.NewPoint("owner-resume/after")
)

// Image is an owner, and how it was before it is suspended: the facts of a plan.
type Image struct {
	Owner  Owner           `json:"owner"`
	UID    types.UID       `json:"uid"`
	Before json.RawMessage `json:"before"` // of the field by which it is suspended; "null": it was not there
	// HeldBy is the key of an earlier run that left it suspended.
	HeldBy string `json:"heldBy,omitempty"`
}

// Measures are what is done about the owners of what a plan changes.
type Measures struct {
	Suspend []Image    `json:"suspend,omitempty"` // for the time of the change
	Propose []Proposal `json:"propose,omitempty"` // instead of every change of the plan
}

// Words say whom the measures suspend, to be put before what else a plan does; "" for nobody.
func (m Measures) Words() string {
	var b strings.Builder
	for _, i := range m.Suspend {
		fmt.Fprintf(&b, "suspend %s, ", i.Owner)
	}
	return b.String()
}

// Plan is Decide, with how those are who would be suspended. It changes nothing.
func Plan(ctx context.Context, client dynamic.Interface, policy string, changes []Change) (m Measures, err error) {
	suspend, proposals, err := Decide(policy, changes)
	if err != nil || len(proposals) > 0 {
		return Measures{Propose: proposals}, err
	}
	for _, o := range suspend {
		image, err := Look(ctx, client, o)
		if err != nil {
			return Measures{}, err
		}
		m.Suspend = append(m.Suspend, image)
	}
	return m, nil
}

// Look reads how an owner is that can be suspended. It changes nothing.
func Look(ctx context.Context, client dynamic.Interface, o Owner) (Image, error) {
	f, err := field(o)
	if err != nil {
		return Image{}, err
	}
	object, err := f.Get(ctx, client)
	if failure.Is(err, failure.MissingObject) {
		return Image{}, failure.New(failure.OwnedByOther, "%s is said to own what would be changed (%s), and is not there", o, o.Why).
			Do("see where it is, suspend it by hand, or remove what is left of it from the object, and start a new run")
	}
	if err != nil {
		return Image{}, err
	}
	before, by, err := f.Before(object)
	return Image{Owner: o, UID: object.GetUID(), Before: before, HeldBy: by}, err
}

// Busy says what an owner that was suspended has begun before and not ended, or "".
func Busy(ctx context.Context, client dynamic.Interface, i Image) (string, error) {
	f, err := field(i.Owner)
	if err != nil {
		return "", err
	}
	object, err := f.Get(ctx, client)
	if err != nil {
		return "", err
	}
	if busy(object.Object) {
		return i.Owner.String() + " is in the middle of its work", nil
	}
	return "", nil
}

// busy reports whether an owner says of itself that it is at work: one that only waits until it tries
// again is not.
func busy(object map[string]any) bool {
	phase, _, _ := unstructured.NestedString(object, "status", "operationState", "phase") // Argo CD; none, or of another shape: none
	conditions, _, _ := unstructured.NestedSlice(object, "status", "conditions")          // Flux
	return phase == "Running" || slices.ContainsFunc(conditions, func(c any) bool {
		condition, _ := c.(map[string]any)
		return condition["type"] == "Reconciling" && condition["status"] == "True" && condition["reason"] == "Progressing"
	})
}

// Suspend keeps an owner from acting. Done twice, it finds it done.
func Suspend(ctx context.Context, client dynamic.Interface, i Image, by held.Order) error {
	f, err := field(i.Owner)
	if err != nil {
		return err
	}
	return f.Take(ctx, client, by, held.Facts{UID: i.UID, Before: i.Before}, held.Between(suspendBefore, suspendAfter))
}

// Resume lets an owner act as it did before the order suspended it. What somebody changed meanwhile stays
// and is said. Done twice, it finds it done.
func Resume(ctx context.Context, client dynamic.Interface, i Image, by held.Order) (remark string, err error) {
	f, err := field(i.Owner)
	if err != nil {
		return "", err
	}
	return f.Give(ctx, client, by, held.Between(resumeBefore, resumeAfter))
}

// field is what suspends an owner.
func field(o Owner) (held.Field, error) {
	kind, known := kinds[schema.GroupKind{Group: o.Ref.Group, Kind: o.Ref.Kind}]
	if !known {
		return held.Field{}, failure.New(failure.OwnedByOther, "it is not known how to suspend %s", o).Do("suspend it by hand and start a new run")
	}
	f := held.Field{
		Resource: schema.GroupVersionResource{Group: o.Ref.Group, Version: kind.version, Resource: kind.resource}, Namespace: o.Ref.Namespace, Name: o.Ref.Name,
		Path: []string{"spec", "suspend"}, Value: true,
	}
	switch o.Ref.Kind {
	case "Application":
		f.Path, f.Value = []string{"spec", "syncPolicy", "automated"}, nil
	case "ScaledObject":
		f.Path, f.Value = []string{"metadata", "annotations", kedaPaused}, "true"
	}
	return f, nil
}
