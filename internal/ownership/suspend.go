package ownership

import (
	"context"
	"encoding/json"

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
	before, _, err := f.Before(object)
	return Image{Owner: o, UID: object.GetUID(), Before: before}, err
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
