package updates

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/github/githubtest"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

const (
	// slots are the lives that are lived side by side: most of a life is waiting.
	slots = 6
	// times is how many times as fast GitHub's clock goes, for the stand-in and for the workers.
	times = 20
)

// ground is what all lives share: a Temporal server, the stand-in, a registry, and a namespace for each that
// is lived at the same time.
type ground struct {
	*harness.Stack
	github   *githubtest.Server
	registry *registry
	began    time.Time
	free     chan string

	mu   sync.Mutex
	last int
}

func newGround(t *testing.T) *ground {
	t.Helper()
	began := time.Now().Truncate(time.Second)
	g := &ground{
		Stack: harness.New(t, "  - {name: none, repositories: [{github: octo/none, tokenFrom: {env: GITHUB_TOKEN}}]}\n"),
		began: began, github: githubtest.New(t, &githubtest.Fast{Times: times, Began: began}), registry: newRegistry(t), free: make(chan string, slots),
	}
	for n := range slots {
		g.free <- fmt.Sprintf("slot-%d", n)
	}
	return g
}

// registry is one of npm packages, to which versions can be added.
type registry struct {
	url string

	mu       sync.Mutex
	versions map[string][]string
}

func newRegistry(t *testing.T) *registry {
	t.Helper()
	r := &registry{versions: make(map[string][]string)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		all := slices.Clone(r.versions[strings.TrimPrefix(q.URL.Path, "/")])
		r.mu.Unlock()
		if len(all) == 0 {
			http.NotFound(w, q)
			return
		}
		versions, times := make(map[string]any), make(map[string]string)
		for _, v := range all {
			versions[v], times[v] = map[string]any{}, "2026-01-02T03:04:05Z"
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"dist-tags": map[string]string{"latest": all[len(all)-1]}, "versions": versions, "time": times})
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *registry) publish(name string, versions ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.versions[name] = append(r.versions[name], versions...)
}

// life is one repository with one proposal, the workers that live through it, and whoever disturbs them.
type life struct {
	*harness.Stack
	t      *testing.T
	ground *ground
	repo   *githubtest.Repo
	name   string // of the repository, and of all that is its own
	harm   harm
	env    []string

	workers    []*harness.Worker
	struck     bool // the harm was done
	late       bool // a twin sleeps that is to be woken
	notBefore  time.Time
	theirs     []string       // commits of people
	closed     bool           // by a person
	atProposal map[string]int // points hit by the first worker
	recorded   map[string]int // likewise, at the end
	calls      map[string]int // of the stand-in's operations, at the end
}

// newLife takes a slot, and begins with a worker that is armed.
func (g *ground) newLife(t *testing.T, h harm) *life {
	t.Helper()
	namespace := <-g.free
	g.mu.Lock()
	g.last++
	l := &life{t: t, ground: g, harm: h, name: fmt.Sprintf("life-%d", g.last)}
	g.mu.Unlock()
	t.Cleanup(func() { g.free <- namespace })
	l.repo = g.github.Repository("octo/"+l.name, map[string]string{"package.json": l.manifest("1.0.0")})
	l.repo.Member("ada")
	g.registry.publish(l.name, "1.0.0", "1.0.1")
	l.Stack = g.Beside(t, namespace, fmt.Sprintf(`  - name: %s
    repositories:
      - {github: octo/%[1]s, apiURL: %q, tokenFrom: {env: GITHUB_TOKEN}, merge: [patch], advisories: %q, reviewers: [ada]}
`, l.name, g.github.APIURL(), t.TempDir()))
	t.Cleanup(func() { l.EndAll(t) })
	l.env = []string{
		"GITHUB_TOKEN=" + g.github.Token("bot-"+l.name), "npm_config_registry=" + g.registry.url,
		fmt.Sprintf("UPKEEP_FAULT_CLOCK=%d@%d", times, g.began.Unix()),
	}
	h.arm(l)
	l.start(h.env(l)...)
	return l
}

func (l *life) manifest(version string) string {
	return fmt.Sprintf("{\n  \"name\": \"shop\",\n  \"dependencies\": {\n    %q: %q\n  }\n}\n", l.name, version)
}

// hits is where a worker writes the points that it hits.
func (l *life) hits(worker int) string { return filepath.Join(l.Dir, fmt.Sprintf("hits-%d", worker)) }

// counted are the points that a worker has hit, with how often.
func (l *life) counted(worker int) map[string]int {
	counts := make(map[string]int)
	data, _ := os.ReadFile(l.hits(worker)) // none yet: nothing was hit
	for line := range strings.Lines(string(data)) {
		counts[strings.TrimSpace(line)]++
	}
	return counts
}

func (l *life) start(more ...string) *harness.Worker {
	n := len(l.workers)
	env := append(append(slices.Clone(l.env), "UPKEEP_FAULT_RECORD="+l.hits(n)), more...)
	w := l.Worker(l.t, fmt.Sprintf("w%d", n), env...)
	l.workers = append(l.workers, w)
	return w
}

// until waits until something holds, and does meanwhile what the harm wants. What a person has taken part in
// goes its own way.
func (l *life) until(what string, holds func() bool) {
	l.t.Helper()
	l.poll(what, func() bool {
		if holds() {
			return true
		}
		l.harm.tend(l)
		return l.struck && l.harm.ends()
	})
}

// poll looks, and helps, until it is done.
func (l *life) poll(what string, done func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(harness.Patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			l.t.Fatalf("not within %s: %s\n%s", harness.Patience, what, l.state())
		}
		l.help()
		<-tick.C
	}
}

// state says how things stand, for a person who reads of a failure.
func (l *life) state() string {
	return fmt.Sprintf("struck %v; branches %v; refs %v; pulls %+v; issues %+v; main %q", l.struck, l.repo.Branches(), l.repo.Refs("refs/upkeep/"), l.repo.Pulls(), l.repo.Issues(), l.repo.Log("main"))
}

// help does every second what webhooks and people do: it wakes the run of the pull request, and resumes what
// waits for a person because of a fault.
func (l *life) help() {
	if time.Now().Before(l.notBefore) {
		return
	}
	l.notBefore = time.Now().Add(time.Second)
	followers := l.open(followpullrequest.WorkflowType)
	for _, id := range followers {
		_ = l.Client.SignalWorkflow(l.t.Context(), id, "", followpullrequest.WakeSignal, nil) // it may be over
	}
	if l.harm.kind == faulty {
		for _, id := range l.open(update) {
			if doc, err := l.Starter.Show(l.t.Context(), id); err == nil && doc.Outcome == run.Waiting {
				_ = l.Starter.Decide(l.t.Context(), id, true, run.Decision{By: "a test"}) // it may wait no more
			}
		}
	}
}

// open are the runs of a procedure that have not ended.
func (l *life) open(procedure string) (ids []string) {
	r, err := l.Client.ListWorkflow(l.t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: l.Namespace(), Query: fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Running'", procedure),
	})
	if err != nil {
		return nil
	}
	for _, e := range r.GetExecutions() {
		ids = append(ids, e.GetExecution().GetWorkflowId())
	}
	return ids
}

// update looks for updates, as a schedule does: again where a run was ended or a fault ended it.
func (l *life) update() {
	l.t.Helper()
	for range 5 {
		id := l.Start(l.t, update, `{}`)
		var doc *run.Document
		l.wait("the updates are handed over", func() bool {
			d, err := l.Starter.Show(l.t.Context(), id)
			doc = d
			return err == nil && d.Outcome.Ended()
		})
		if doc.Outcome == run.Succeeded {
			return
		}
		if k := l.harm.kind; k != faulty && !l.harm.presses() {
			l.t.Fatalf("%s: %s", doc.Outcome, doc.Summary)
		}
	}
	l.t.Fatal("the updates cannot be handed over\n" + l.state())
}

// wait is until, also of what people have taken part in.
func (l *life) wait(what string, holds func() bool) {
	l.t.Helper()
	ended := false
	l.until(what, func() bool { ended = holds(); return ended })
	l.poll(what, func() bool { return ended || holds() })
}

// reach waits until something is so on GitHub. Where the run that would bring it about was ended, the next
// scan does.
func (l *life) reach(what string, holds func() bool) {
	l.t.Helper()
	scanned := time.Now()
	l.until(what, func() bool {
		if holds() {
			return true
		}
		if (l.harm.presses() || l.harm.kind == faulty) && l.struck && time.Since(scanned) > 5*time.Second && len(l.open(followpullrequest.WorkflowType)) == 0 {
			l.update()
			scanned = time.Now()
		}
		return false
	})
	l.harm.wake(l)
}

func (l *life) pull() githubtest.Pull {
	if all := l.repo.Pulls(); len(all) > 0 {
		return all[0]
	}
	return githubtest.Pull{}
}

// branch is Upkeep's one, if it is there.
func (l *life) branch() (name, sha string) {
	for b, at := range l.repo.Branches() {
		if pullrequest.Ours(b) {
			return b, at
		}
	}
	return "", ""
}

func (l *life) over() bool { return len(l.open(followpullrequest.WorkflowType)) == 0 }

// push is a person's commit.
func (l *life) push(branch string, files map[string]string) {
	l.theirs = append(l.theirs, l.repo.Push(branch, "ada", "by a person", files))
}

// The steps that lives are made of.

func (l *life) propose() {
	l.update()
	l.reach("it is proposed", func() bool {
		p := l.pull()
		return slices.Contains(p.Labels, "dependencies") && slices.Contains(p.Reviewers, "ada") && len(l.repo.Issues()) > 0
	})
	l.atProposal = l.counted(0)
}

func (l *life) baseMoves() {
	if l.struck && l.harm.ends() {
		return
	}
	l.repo.Edit(l.pull().Number, "ada", "another title", "nothing of Upkeep's")
	l.push("main", map[string]string{"README.md": "A shop.\n"})
	l.reach("it is brought to the new base, and its description back", func() bool {
		b, _ := l.branch()
		return b != "" && l.repo.File(b, "README.md") != "" && strings.Contains(l.pull().Body, "upkeep")
	})
}

func (l *life) goesGreen() {
	if l.struck && l.harm.ends() {
		return
	}
	l.reach("it is merged, and its branch removed", func() bool {
		b, sha := l.branch()
		if b != "" && !l.pull().Merged && len(l.repo.Branches()) > 0 {
			l.repo.SetCheck(sha, "unit", "completed", "success")
		}
		return l.pull().Merged && b == "" && l.over()
	})
}

func (l *life) newerRelease() {
	if l.struck && l.harm.ends() {
		return
	}
	l.ground.registry.publish(l.name, "1.0.2")
	require.NoError(l.t, os.RemoveAll(filepath.Join(l.Store, "lookups"))) // a quarter of an hour later
	l.update()
	l.reach("the newer release is proposed", func() bool {
		b, _ := l.branch()
		return b != "" && strings.Contains(l.repo.File(b, "package.json"), "1.0.2") && strings.Contains(l.pull().Title, "1.0.2")
	})
}

func (l *life) superseded() {
	if l.struck && l.harm.ends() {
		return
	}
	l.push("main", map[string]string{"package.json": l.manifest("1.0.1")})
	l.update()
	l.reach("it is closed with a word why", func() bool {
		b, _ := l.branch()
		return l.pull().State == "closed" && b == "" && l.over()
	})
}

// left is a person who pushes to the branch. Twins of old have said so twice already, where they are to.
func (l *life) left(twice bool) {
	if l.struck && l.harm.ends() {
		return
	}
	b, _ := l.branch()
	l.push(b, map[string]string{"src.js": "// mended\n"})
	if twice {
		for range 2 {
			l.repo.Comment(l.pull().Number, "bot-"+l.name, "Upkeep leaves this alone.\n\n<!-- upkeep:comment leave -->")
		}
	}
	l.reach("it is left alone, which is said once", func() bool {
		return len(l.pull().Comments) == 1 && strings.Contains(l.pull().Comments[0], "upkeep:comment leave")
	})
	l.update()
}

func (l *life) closedByAPerson() {
	if l.struck && l.harm.ends() {
		return
	}
	l.closed = true
	l.repo.ClosePull(l.pull().Number, "ada")
	l.reach("the run ends", func() bool { return l.over() && len(l.repo.Refs("refs/upkeep/")) == 0 })
}

// lives are the ways that the life of a pull request goes.
var lives = map[string]func(*life){
	"merged": func(l *life) { l.propose(); l.baseMoves(); l.goesGreen() },
	"newer":  func(l *life) { l.propose(); l.newerRelease(); l.goesGreen() },
	"ended":  func(l *life) { l.propose(); l.superseded() },
	"left":   func(l *life) { l.propose(); l.left(false); l.closedByAPerson() },
	"closed": func(l *life) { l.propose(); l.closedByAPerson() },
	"double": func(l *life) {
		for range 2 {
			l.repo.OpenIssue("bot-"+l.name, pullrequest.DashboardTitle, "said twice", "upkeep")
		}
		l.propose()
		l.left(true)
		l.closedByAPerson()
	},
}

var kind = regexp.MustCompile(`<!-- upkeep:comment (\S+) -->`)

// live lives a life to its end, and holds what is left against what people would find.
func (g *ground) live(t *testing.T, name string, h harm) *life {
	t.Helper()
	l := g.newLife(t, h)
	lives[name](l)
	if h.kind != none && !h.mayMiss() {
		require.True(t, l.struck, "the point was never hit\n%s", l.state())
	}
	l.harm.last(l)
	l.update()
	l.update()
	for _, w := range l.workers {
		w.Stop()
	}
	l.recorded, l.calls = l.counted(0), make(map[string]int)
	for _, op := range operations {
		l.calls[op] = g.github.Calls("octo/" + l.name + " " + op)
	}
	l.check(name)
	return l
}

// check is what must hold at the end, whatever has happened.
func (l *life) check(name string) {
	l.t.Helper()
	state := l.state()
	pulls, ended := l.repo.Pulls(), !l.harm.ends()
	require.LessOrEqual(l.t, len(pulls), 1, "one pull request\n%s", state)
	for _, p := range pulls {
		said := make(map[string]int)
		for _, c := range p.Comments {
			if m := kind.FindStringSubmatch(c); m != nil {
				said[m[1]]++
				require.Equal(l.t, 1, said[m[1]], "one comment of each kind\n%s", state)
			}
		}
	}
	boards := 0
	for _, i := range l.repo.Issues() {
		if i.State == "open" {
			boards++
		}
	}
	require.Equal(l.t, 1, boards, "one dashboard\n%s", state)
	branches := l.repo.Branches()
	for _, sha := range l.theirs {
		held := false
		for b := range branches {
			held = held || l.repo.Has(b, sha)
		}
		require.True(l.t, held, "a person's commit %s is lost\n%s", sha, state)
	}
	ours := 0
	for b := range branches {
		if pullrequest.Ours(b) {
			ours++
		}
	}
	require.LessOrEqual(l.t, ours, 1, "one branch\n%s", state)
	main := l.repo.File("main", "package.json")
	merged := 0
	for _, line := range l.repo.Log("main") {
		if strings.HasPrefix(line, "bot-") && !strings.Contains(line, "package.json") {
			merged++
		}
	}
	refs := l.repo.Refs("refs/upkeep/")
	if ended {
		require.Len(l.t, pulls, 1, state)
		require.Empty(l.t, refs, "nothing is kept of what is over\n%s", state)
	} else {
		require.LessOrEqual(l.t, merged, 1, state)
		for ref := range refs {
			p := l.pull()
			require.True(l.t, p.State == "open" || l.pull().Number == 0, "%s is an orphan\n%s", ref, state)
		}
		return
	}
	switch name {
	case "merged", "newer":
		require.True(l.t, pulls[0].Merged, state)
		require.Equal(l.t, 1, merged, "merged once\n%s", state)
		require.Contains(l.t, main, map[string]string{"merged": "1.0.1", "newer": "1.0.2"}[name])
		require.Zero(l.t, ours, state)
	case "ended":
		require.Equal(l.t, "closed", pulls[0].State)
		require.Len(l.t, pulls[0].Comments, 1, "a word why\n%s", state)
		require.Zero(l.t, ours, state)
	case "closed":
		require.Zero(l.t, ours, state)
		require.Zero(l.t, merged, state)
		require.Equal(l.t, "ada", pulls[0].ClosedBy)
	default:
		require.Equal(l.t, 1, ours, "a person's branch stays\n%s", state)
		require.Zero(l.t, merged, state)
	}
}
