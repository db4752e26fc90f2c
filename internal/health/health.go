// Package health sees how the workloads of a Helm release are: what each wants and has, what is wrong with
// its pods and which revision they are of, and whether what a person would call "it works" is so, by probes.
package health

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/ownership"
)

// Scope is what belongs together: a release, and the probes of its service.
type Scope struct {
	Release string
	Probes  []Probe
}

// Kinds of workloads.
const (
	Deployment  = "Deployment"
	StatefulSet = "StatefulSet"
	DaemonSet   = "DaemonSet"
)

// State is what was seen of a release at one time. It is bounded, and holds nothing of what programs write.
type State struct {
	Workloads []Workload `json:"workloads"` // by kind and name
	Jobs      []Job      `json:"jobs,omitempty"`
	Answers   []Answer   `json:"probes,omitempty"`
	Remarks   []string   `json:"remarks,omitempty"` // what could not be seen, and does not stand against the rest
}

// Workload keeps pods running.
type Workload struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Generation int64  `json:"generation"`
	Observed   int64  `json:"observed"` // the generation that its controller has seen
	Desired    int32  `json:"desired"`
	Total      int32  `json:"total"`   // pods of all revisions
	Updated    int32  `json:"updated"` // pods of the newest revision
	Ready      int32  `json:"ready"`
	Available  int32  `json:"available"`
	Paused     bool   `json:"paused,omitempty"`
	OnDelete   bool   `json:"onDelete,omitempty"` // its pods get a new revision only when somebody deletes them
	Revision   string `json:"revision,omitempty"` // the newest: the hash in its pods' labels
	Refused    string `json:"refused,omitempty"`  // why the API server takes no pod of it, such as a quota
	// Owners are others who would take a change of it back; Marked is why it must not be touched at all.
	Owners []ownership.Owner `json:"owners,omitempty"`
	Marked string            `json:"marked,omitempty"`
	Pods   []Pod             `json:"pods,omitempty"` // by name; the worst hundred
	// Touched is what of it decides whether Upkeep itself runs on it; kept where it is seen.
	Touched itself.Workload `json:"-"`
}

func (w Workload) String() string { return w.Kind + " " + w.Name }

// Pod is one pod of a workload.
type Pod struct {
	Name     string    `json:"name"`
	UID      string    `json:"uid"`
	Newest   bool      `json:"newest,omitempty"` // it is of the workload's newest revision
	Ready    bool      `json:"ready,omitempty"`
	Reason   Reason    `json:"reason,omitempty"` // why it is not ready
	Detail   string    `json:"detail,omitempty"` // of the reason, as the cluster says it
	Restarts int32     `json:"restarts,omitempty"`
	Node     string    `json:"node,omitempty"`
	Since    time.Time `json:"since,omitzero"` // since when it is so
	Made     time.Time `json:"made,omitzero"`
}

// Reason is why a pod does not serve.
type Reason string

// The reasons.
const (
	CrashLoop     Reason = "CrashLoop"     // its program ends again and again
	OutOfMemory   Reason = "OutOfMemory"   // its program was killed for taking more memory than it may
	ImagePull     Reason = "ImagePull"     // its image cannot be had
	BadReference  Reason = "BadReference"  // it names a Secret, ConfigMap or key that is not there, or a program that cannot be started
	Unschedulable Reason = "Unschedulable" // no node takes it
	VolumePending Reason = "VolumePending" // a volume is not there or not bound yet
	NodeLost      Reason = "NodeLost"      // nothing is heard of its node: it may still run
	StuckEnding   Reason = "StuckEnding"   // it was deleted, and is not gone long after its grace
	Ending        Reason = "Ending"        // it was deleted and ends
	Ended         Reason = "Ended"         // it failed or was evicted as a whole
	Starting      Reason = "Starting"      // it is young
	NotReady      Reason = "NotReady"      // its program runs and says that it is not ready
)

// Job is reported; nothing is judged by it.
type Job struct {
	Name   string `json:"name"`
	Active int32  `json:"active,omitempty"`
	Failed bool   `json:"failed,omitempty"`
	Done   bool   `json:"done,omitempty"`
}

// Problem is one thing that is wrong.
type Problem struct {
	Workload string `json:"workload,omitempty"` // as Workload.String says it
	Pod      string `json:"pod,omitempty"`
	Probe    string `json:"probe,omitempty"`
	What     string `json:"what"` // for people
}

func (p Problem) String() string { return p.What }

// Words puts problems into one text, at most five of them.
func Words(problems []Problem) string {
	all := make([]string, 0, 6)
	for i, p := range problems {
		if i == 5 {
			all = append(all, fmt.Sprintf("and %d more", len(problems)-i))
			break
		}
		all = append(all, p.What)
	}
	return strings.Join(all, "; ")
}

// Judge says whether a release is healthy: every workload runs what it should, of its newest revision, and
// all probes pass. Without probes readiness alone decides. A probe that could not run is NOT_PROVEN.
func Judge(s State) (run.Verdict, []Problem) {
	var problems []Problem
	stopped := 0
	for _, w := range s.Workloads {
		if w.Desired == 0 && w.Kind != DaemonSet {
			stopped++
			continue
		}
		problems = append(problems, w.problems()...)
	}
	if stopped > 0 && stopped == len(s.Workloads) {
		problems = append(problems, Problem{What: "all workloads are scaled to 0 replicas"})
	}
	verdict := run.Pass
	for _, a := range s.Answers {
		verdict = verdict.And(a.Verdict)
		if a.Verdict != run.Pass {
			problems = append(problems, Problem{Probe: a.Probe, What: fmt.Sprintf("probe %s: %s", a.Probe, a.Detail)})
		}
	}
	if slices.ContainsFunc(problems, func(p Problem) bool { return p.Probe == "" }) {
		verdict = run.Fail
	}
	return verdict, problems
}

// problems are what is wrong with a workload: its pods, or what it lacks of them.
func (w Workload) problems() []Problem {
	var all []Problem
	say := func(pod, format string, args ...any) {
		all = append(all, Problem{Workload: w.String(), Pod: pod, What: w.String() + ": " + fmt.Sprintf(format, args...)})
	}
	if w.Whole() {
		return nil
	}
	for _, p := range w.Pods {
		if p.Ready || p.Reason == Ending || p.Reason == Ended && w.Ready >= w.Desired {
			continue
		}
		detail := ""
		if p.Detail != "" {
			detail = " (" + p.Detail + ")"
		}
		say(p.Name, "pod %s %s%s", p.Name, words[p.Reason], detail)
	}
	if w.Refused != "" {
		say("", "no pod can be made: %s", w.Refused)
	}
	if w.Paused && w.Updated < w.Desired {
		say("", "its rollout is paused")
	}
	if len(all) > 0 {
		return all
	}
	switch {
	case w.Observed < w.Generation:
		say("", "its controller has not seen its newest change")
	case w.Ready < w.Desired || w.Available < w.Desired:
		say("", "%d of %d pods are ready, %d available", w.Ready, w.Desired, w.Available)
	default:
		say("", "%d of %d pods are of the newest revision, and %d there are", w.Updated, w.Desired, w.Total)
	}
	return all
}

// Lacks says what the workload lacks of what it should run, or "".
func (w Workload) Lacks() string {
	if w.Desired == 0 && w.Kind != DaemonSet {
		return "" // none is wanted
	}
	return Words(w.problems())
}

// Whole reports whether the workload runs all that it should, of the newest revision.
func (w Workload) Whole() bool {
	if w.Observed < w.Generation || w.Ready < w.Desired || w.Available < w.Desired {
		return false
	}
	if slices.ContainsFunc(w.Pods, func(p Pod) bool { return p.Reason == NodeLost || p.Reason == StuckEnding }) {
		return false
	}
	if w.Kind == Deployment && w.Total > w.Updated { // those of older revisions may be all that serve
		return false
	}
	return w.OnDelete || w.Updated >= w.Desired
}

// words say a reason after a pod's name.
var words = map[Reason]string{
	CrashLoop: "crashes again and again", OutOfMemory: "is killed for want of memory", ImagePull: "cannot get its image",
	BadReference: "cannot be started", Unschedulable: "finds no node", VolumePending: "waits for a volume",
	NodeLost: "is on a node of which nothing is heard", StuckEnding: "does not end", Ending: "ends", Ended: "has ended",
	Starting: "starts", NotReady: "is not ready",
}
