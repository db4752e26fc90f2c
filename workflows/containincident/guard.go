package containincident

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// holds are how long a guard does not return with what was undone, the first time, the second, and so on; the last of
// them from then on. People are asked anew after each, which adds to the history, and somebody may undo it all the time.
var holds = []time.Duration{0, time.Minute, 10 * time.Minute, time.Hour}

// guardAgain is how long until a guard is tried again that could not do its work.
const guardAgain = time.Hour

// errUndone says that somebody has undone something while people were waited for.
var errUndone = errors.New("somebody has undone something of the containment, and it was done again: it asks anew")

// guard keeps the suspects cut off while people are waited for. What it could not do keeps nobody from deciding: it is
// said, and tried again.
func (x *incident) guard(ctx workflow.Context) error {
	s := step("Keep the suspects cut off", kubernetes.GuardContained)
	s.Options = procedure.Standing
	for {
		order := kubernetes.GuardOrder{ContainOrder: x.order, Done: x.done, Access: x.access.order, Hold: holds[min(x.asked, len(holds)-1)]}
		order.Access.Asked = order.Access.Asked && x.access.planned && !x.access.undone
		var found kubernetes.Guarded
		err := x.Beside(ctx, s, order, &found)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			x.remark("nobody looked for a while whether the suspects stay cut off: " + procedure.What(err))
			if err := workflow.Sleep(ctx, guardAgain); err != nil {
				return err
			}
			continue
		}
		x.done, x.access.order.Done = found.Done, found.Withdrew
		x.noteUndone(found)
		x.old.stale = true // connections may have been opened meanwhile
		return errUndone
	}
}

// noteUndone says how often something was undone, and what it was the last time.
func (x *incident) noteUndone(found kubernetes.Guarded) {
	x.asked++
	x.undone += found.Times
	x.result.Remarks = slices.DeleteFunc(x.result.Remarks, func(r string) bool { return r == x.undoneRemark })
	x.undoneRemark = fmt.Sprintf("while people were waited for it was undone %d times, and done again within seconds; the last time, before %s: %s",
		x.undone, x.Now().UTC().Format(time.RFC3339), found.What)
	x.remark(x.undoneRemark)
}
