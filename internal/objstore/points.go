package objstore

import "github.com/upkeep-run/upkeep/internal/fault"

// effect are the points of one kind of effect. Written is where the bytes
// are durable and not yet to be seen.
type effect struct{ before, written, after fault.Point }

var (
	pointsCreate = effect{
		fault.NewPoint("store/create/before"), fault.NewPoint("store/create/written"), fault.NewPoint("store/create/after"),
	}
	pointsReplace = effect{
		fault.NewPoint("store/replace/before"), fault.NewPoint("store/replace/written"), fault.NewPoint("store/replace/after"),
	}
	pointsDelete = effect{before: fault.NewPoint("store/delete/before"), after: fault.NewPoint("store/delete/after")}
)
