package containincident

import (
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/quarantine"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// fresh is for how long people may decide by what was read of the suspects' connections.
const fresh = time.Hour

// deleteNow is what to do about a connection that lives on.
const deleteNow = ": delete the pod now"

// reading is what the newest look at the suspects' own connections has found.
type reading struct {
	quarantine.Reading
	looks int
	at    time.Time
	stale bool // something has happened since
}

// read sees whether connections that the suspects had open live on, if readers may be made, and says at once that one
// does. The evidence waits for it for so long and no longer, and nothing that goes wrong with it ends the case.
func (x *incident) read(first bool) {
	image := x.Kubernetes().QuarantinePolicy().Reader.Image
	switch {
	case image == "":
		x.old.Check = quarantine.Unseen("set kubernetes.incidents.reader.image in upkeep.yaml, and start a new run")
		if first {
			x.show()
		}
		return
	case !first && !x.old.stale && x.Now().Sub(x.old.at) < fresh:
		return
	}
	x.removeProbes()
	x.old.looks++
	s := step("See whether connections that were open live on", kubernetes.ReadSuspects)
	s.Options = procedure.Brief
	var found quarantine.Reading
	if err := x.Ask(s, kubernetes.ReadOrder{EvidenceOrder: x.evidence(), Done: x.done, Look: x.old.looks}, &found); err != nil {
		found = quarantine.Reading{Check: quarantine.Unseen(procedure.What(err))}
	}
	x.Mark(found.Check.Verdict, found.Check.Detail)
	x.old.Reading, x.old.at, x.old.stale = found, x.Now(), false
	x.alarm(found)
	x.show()
}

// alarm says what cannot wait, as it is now, and not what was so before.
func (x *incident) alarm(found quarantine.Reading) {
	before := x.result.Urgent
	x.result.FollowUps = slices.DeleteFunc(x.result.FollowUps, func(f string) bool { return slices.Contains(before, f) })
	x.result.Urgent = nil
	if found.Check.Verdict != run.Fail {
		x.Alarm("")
		return
	}
	for _, lives := range found.Lives {
		x.result.Urgent = append(x.result.Urgent, lives+deleteNow)
	}
	x.result.FollowUps = append(x.result.FollowUps, x.result.Urgent...)
	x.Alarm(strings.Join(x.result.Urgent, "; "))
}

// alarmOver says of what was urgent that it is no more: the pods are gone, and their connections with them.
func (x *incident) alarmOver() {
	for _, u := range x.result.Urgent {
		x.remark(strings.TrimSuffix(u, deleteNow) + ", until the pod was deleted")
	}
	x.alarm(quarantine.Reading{})
}

// timed puts into the result how long everything took, from when the case was opened.
func (x *incident) timed() {
	r := &x.result
	for _, t := range []struct {
		at      time.Time
		seconds *float64
	}{
		{r.ContainedAt, &r.ContainSeconds}, {r.ProvedAt, &r.ProveSeconds}, {r.EvidenceAt, &r.EvidenceSeconds},
		{r.DecidedAt, &r.DecideSeconds}, {r.EndedAt, &r.EndSeconds}, {r.RecoveredAt, &r.RecoverSeconds},
	} {
		if !t.at.IsZero() {
			*t.seconds = procedure.Seconds(t.at.Sub(r.OpenedAt))
		}
	}
	x.SetResult(x.result)
}
