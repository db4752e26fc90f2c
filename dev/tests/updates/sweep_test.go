package updates

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/github/githubtest"
)

// What may happen to a life.
const (
	none   = ""
	kill   = "kill"   // the worker is killed at the point, and another started
	late   = "late"   // it is frozen there, another takes over, and it wakes when that has done the step
	last   = "last"   // it wakes when all is over
	both   = "both"   // both are frozen there, so that both have looked and both act
	faulty = "faulty" // the stand-in fails

	person    = "person-"    // it is frozen, somebody does something, and it wakes
	terminate = "terminate-" // it is frozen, its run is terminated, another takes over, and it wakes
	reset     = "reset-"
)

// harm is what happens to a life, once.
type harm struct {
	kind  string
	point string // of the worker, or the stand-in's operation
	at    int    // the n-th time
	how   string // the stand-in's fault
}

// parse reads the name of a case.
func parse(t *testing.T, name string) (string, harm) {
	t.Helper()
	parts := strings.Split(name, "/")
	at, err := strconv.Atoi(parts[len(parts)-1])
	require.NoError(t, err, name)
	h := harm{kind: parts[1], point: strings.Join(parts[2:len(parts)-1], "/"), at: at}
	if h.kind == faulty {
		h.how, h.point = parts[2], strings.Join(parts[3:len(parts)-1], "/")
	}
	return parts[0], h
}

func (h harm) presses() bool {
	return strings.HasPrefix(h.kind, terminate) || strings.HasPrefix(h.kind, reset)
}

// ends reports whether the life goes another way when the harm is done.
func (h harm) ends() bool {
	return strings.HasPrefix(h.kind, person) && h.kind != person+"base"
}

// mayMiss reports whether a life may come to its end without that call: a look, or one more that a look was
// spared.
func (h harm) mayMiss() bool {
	return h.kind == faulty || !isEffect(h.point)
}

// arm is done before the worker starts.
func (h harm) arm(l *life) {
	if h.kind != faulty {
		return
	}
	f := githubtest.Fault{Operation: h.point, At: h.at, Repository: "octo/" + l.name}
	switch h.how {
	case "lost":
		f.LoseReply = true
	case "limited":
		f.Status, f.RetryAfter = 403, 30*time.Second
	default:
		f.Status, _ = strconv.Atoi(h.how)
	}
	l.ground.github.Fail(f)
	l.struck = true
}

func (h harm) env(l *life) []string {
	if h.kind == none || h.kind == faulty {
		return nil
	}
	how := "stop"
	if h.kind == kill {
		how = "kill"
	}
	return []string{fmt.Sprintf("UPKEEP_FAULT=point=%s:%s:%d", h.point, how, h.at), "UPKEEP_FAULT_ONCE=" + filepath.Join(l.Dir, "hit")}
}

// tend does what is to be done when the point was hit.
func (h harm) tend(l *life) {
	if h.kind == none || h.kind == faulty {
		return
	}
	first := l.workers[0]
	if h.kind == both && l.struck && l.late && len(l.workers) == 2 && l.workers[1].Frozen() {
		l.late = false
		h.release(l)
		l.workers[1].Continue()
	}
	if l.struck {
		return
	}
	if h.kind == kill {
		select {
		case <-first.Done():
			l.struck = true
			l.start()
		default:
		}
		return
	}
	if !first.Frozen() {
		return
	}
	l.struck = true
	switch {
	case strings.HasPrefix(h.kind, person):
		h.meddle(l)
		first.Continue()
	case h.presses():
		h.press(l)
		l.start()
		first.Continue()
	case h.kind == both:
		l.late = true
		l.start(fmt.Sprintf("UPKEEP_FAULT=point=%s:stop", h.point))
	default:
		l.late = true
		l.start()
	}
}

// release wakes the first worker, and waits until it has done what it was about to do.
func (h harm) release(l *life) {
	point, before := strings.CutSuffix(h.point, "/before")
	acted := l.counted(0)[point+"/after"]
	l.workers[0].Continue()
	require.Eventually(l.t, func() bool { return !before || l.counted(0)[point+"/after"] > acted }, harness.Patience, 20*time.Millisecond, "the twin does not act")
}

// wake is called when a step is done.
func (h harm) wake(l *life) {
	if h.kind == late && l.late {
		l.late = false
		h.release(l)
	}
}

// last is called when all is over.
func (h harm) last(l *life) {
	if !l.late {
		return
	}
	l.late = false
	h.release(l)
	if h.kind == both && len(l.workers) == 2 { // it did not come to the point: another has seen that it is done
		l.workers[1].Continue()
	}
}

// meddle is what a person does between the look and the act.
func (h harm) meddle(l *life) {
	branch, _ := l.branch()
	pull := l.pull()
	switch strings.TrimPrefix(h.kind, person) {
	case "base":
		l.push("main", map[string]string{"LICENSE": "free\n"})
	case "commit":
		l.push(cmp.Or(branch, l.expected()), map[string]string{"src.js": "// mended\n"})
	case "amend":
		if branch == "" {
			l.push(l.expected(), map[string]string{"src.js": "// mended\n"})
			return
		}
		l.theirs = append(l.theirs, l.repo.Amend(branch, "ada", "amended", map[string]string{"src.js": "// mended\n"}))
	case "delete":
		if branch != "" {
			l.repo.Delete(branch, "ada")
		}
	case "close":
		if pull.Number != 0 && pull.State == "open" {
			l.repo.ClosePull(pull.Number, "ada")
		}
	case "retarget":
		l.push("release", map[string]string{"RELEASE": "1\n"})
		if pull.Number != 0 && pull.State == "open" {
			l.repo.Retarget(pull.Number, "ada", "release")
		}
	}
}

// expected is the branch that the proposal will have, as the run that waits with it says.
func (l *life) expected() string {
	for _, id := range l.open(followpullrequest.WorkflowType) {
		if doc, err := l.Starter.Show(l.t.Context(), id); err == nil {
			if _, after, ok := strings.Cut(string(doc.Result), `"branch":"`); ok {
				name, _, _ := strings.Cut(after, `"`)
				return name
			}
		}
	}
	return "upkeep/patch/nobody-knows-00000000"
}

func (h harm) press(l *life) {
	how, what, _ := strings.Cut(h.kind, "-")
	procedure := map[string]string{"follow": followpullrequest.WorkflowType, "update": update}[what]
	for _, id := range l.open(procedure) {
		if how+"-" == terminate {
			_ = l.Client.TerminateWorkflow(l.t.Context(), id, "", "the test") // it may be over
		} else {
			l.Reset(l.t, id)
		}
	}
}

// operations are what the stand-in may fail at; each fault is tried at each.
var operations = []string{
	"pulls/create", "pulls/update", "pulls/merge", "pulls/request-reviewers", "issues/add-labels", "issues/create", "issues/update", "issues/create-comment", "issues/delete-comment",
	"git-receive-pack", "git-receive-pack/refs", "git-upload-pack", "git-upload-pack/refs",
	"repos/get", "git/get-ref", "pulls/list", "pulls/get", "issues/get", "checks/list-for-ref", "repos/get-combined-status-for-ref", "repos/get-commit",
	"issues/list-for-repo", "issues/list-comments", "users/get-authenticated",
}

var writes = operations[:11]

// points of repositories.
func codePoints() []string {
	return slices.DeleteFunc(fault.Points(), func(p string) bool { return !harness.OfCode(p) })
}

// isEffect reports whether something outside of the worker changes at a point.
func isEffect(point string) bool {
	return strings.HasPrefix(point, "github/") || strings.HasPrefix(point, "git/push/")
}

// unharmed are lives that nothing harms, by their names: what the others are held against, and what says how
// often each point can be hit.
func (g *ground) unharmed(t *testing.T) map[string]*life {
	t.Helper()
	all := make(map[string]*life)
	var mu sync.Mutex
	t.Run("unharmed", func(t *testing.T) {
		for _, name := range slices.Sorted(maps.Keys(lives)) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := g.live(t, name, harm{})
				mu.Lock()
				defer mu.Unlock()
				all[name] = l
			})
		}
	})
	return all
}

// cases are all that may happen to the lives.
func cases(t *testing.T, all map[string]*life) (names []string) {
	t.Helper()
	hit := make(map[string]bool)
	add := func(life, kind, point string, at int) {
		names = append(names, fmt.Sprintf("%s/%s/%s/%d", life, kind, point, at))
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		l := all[name]
		counts := l.recorded
		for _, point := range codePoints() {
			from := 1
			if name != "merged" { // which has what lives have in common
				from = l.atProposal[point] + 1
			}
			if counts[point] > 0 {
				hit[point] = true
			}
			before := strings.HasSuffix(point, "/before")
			for at := from; at <= counts[point]; at++ {
				if !isEffect(point) {
					if at == 1 {
						add(name, kill, point, at)
						add(name, late, point, at)
					}
					continue
				}
				add(name, kill, point, at)
				add(name, late, point, at)
				if before {
					add(name, both, point, at)
					add(name, last, point, at)
				}
				if name != "merged" {
					continue
				}
				for _, kind := range []string{terminate, reset} {
					add(name, kind+"follow", point, at)
					if at <= l.atProposal[point] {
						add(name, kind+"update", point, at)
					}
				}
				if before {
					for _, act := range []string{"base", "commit", "amend", "delete", "close", "retarget"} {
						add(name, person+act, point, at)
					}
				}
			}
		}
	}
	for _, point := range codePoints() {
		require.True(t, hit[point], "no life comes to the point %s", point)
	}
	for _, op := range operations {
		reached := false
		for _, name := range []string{"merged", "ended", "double"} {
			n := all[name].calls[op]
			if n == 0 || reached {
				continue
			}
			reached = true
			if !slices.Contains(writes, op) {
				n = 1
			}
			for at := 1; at <= n; at++ {
				for _, how := range []string{"lost", "422", "limited", "502"} {
					names = append(names, fmt.Sprintf("%s/%s/%s/%s/%d", name, faulty, how, op, at))
				}
			}
		}
		require.True(t, reached, "no life asks for %s", op)
	}
	return names
}

// sample is what every run of the tests tries.
var sample = []string{
	"merged/kill/git/push/after/1", "merged/late/github/pull/open/before/1", "merged/both/github/pull/merge/before/1", "merged/last/git/push/before/1",
	"ended/kill/github/comment/create/after/1", "left/both/github/comment/create/before/1", "merged/person-commit/git/push/before/2",
	"merged/terminate-follow/github/pull/open/after/1", "merged/reset-update/git/push/before/1", "merged/faulty/lost/pulls/create/1", "merged/faulty/limited/pulls/merge/1",
}

// TestTheWholeLife lives through all lives, harmed at each point, each time that it is hit, in each way.
// Whatever happens, there is one branch, one pull request, one comment of each kind, one dashboard, no commit
// of a person's is lost, and nothing is left over.
func TestTheWholeLife(t *testing.T) {
	g := newGround(t)
	all := g.unharmed(t)
	if t.Failed() {
		return
	}
	chosen := harness.Choose(t, cases(t, all), sample)
	t.Run("harmed", func(t *testing.T) {
		for _, name := range chosen {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				life, h := parse(t, name)
				g.live(t, life, h)
			})
		}
	})
	require.Zero(t, g.github.Limited(), "no limit of GitHub's was hit")
}
