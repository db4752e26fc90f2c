package helm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/bake"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/promquery"
)

const (
	// maxValues bounds a file of values, in bytes.
	maxValues = 1 << 20
	// maxShown bounds what a plan shows of a difference, in bytes: it is in the run's document.
	maxShown = 12 << 10
	// lookEvery is how often a release is looked at while it is watched.
	lookEvery = 5 * time.Second
)

// Activities work on releases.
type Activities struct {
	// Attempt names this worker in the lease of a release, for people.
	Attempt string
	// Temporal is the address of Temporal's server.
	Temporal string
}

func (p Place) open(ctx context.Context) (*kube.Cluster, *helmrelease.Release, error) {
	c, err := p.Kubernetes.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	if p.Kubernetes.Release == "" {
		return nil, nil, failure.New(failure.BadConfig, "target %s names no release", p.Target).Do("write kubernetes: {release: ...} in upkeep.yaml, and start a new run")
	}
	r, err := helmrelease.Open(c.Config, c.Namespace, p.Kubernetes.Release)
	return c, r, err
}

// Request reads what the release is to become.
func (c Change) Request() (helmrelease.UpgradeRequest, error) {
	request := helmrelease.UpgradeRequest{
		Chart:  helmrelease.Chart{Path: c.Chart.Path, OCI: c.Chart.OCI, Repository: c.Chart.Repository, Name: c.Chart.Name, Version: c.Version},
		Values: make(map[string]any),
	}
	for _, path := range c.Values {
		values, err := readValues(path)
		if err != nil {
			return request, err
		}
		merge(request.Values, values)
	}
	for _, path := range slices.Sorted(maps.Keys(c.Set)) {
		if err := set(request.Values, path, c.Set[path]); err != nil {
			return request, err
		}
	}
	return request, nil
}

// readValues reads a file of values. Errors name the file, and nothing of what is in it.
func readValues(path string) (map[string]any, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, failure.New(failure.BadConfig, "the file of values %s cannot be read on the worker", path).Do("put it there, readable for the worker, and start a new run")
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxValues+1))
	if err != nil || len(raw) > maxValues {
		return nil, failure.New(failure.BadConfig, "the file of values %s cannot be read, or has more than %d bytes", path, maxValues).Do("see to the file, and start a new run")
	}
	values := make(map[string]any)
	if yaml.Unmarshal(raw, &values) != nil {
		return nil, failure.New(failure.BadConfig, "the file of values %s is no YAML of keys and values", path).Do("correct it, and start a new run")
	}
	return values, nil
}

// merge puts values over others, as Helm does: maps are merged, all else is replaced.
func merge(into, over map[string]any) {
	for key, value := range over {
		if have, ok := into[key].(map[string]any); ok {
			if more, ok := value.(map[string]any); ok {
				merge(have, more)
				continue
			}
		}
		into[key] = value
	}
}

// set puts a value at a dotted path.
func set(values map[string]any, path string, value any) error {
	keys := strings.Split(path, ".")
	for _, key := range keys[:len(keys)-1] {
		next, ok := values[key].(map[string]any)
		if !ok {
			if _, is := values[key]; is {
				return failure.New(failure.BadInput, "set: %q lies in what is no mapping", path).Do("correct the path")
			}
			next = make(map[string]any)
			values[key] = next
		}
		values = next
	}
	values[keys[len(keys)-1]] = value
	return nil
}

// PlanUpgrade says what would become of a release; it changes nothing. Of an operation that has begun
// before, it says how far that has come.
func (a *Activities) PlanUpgrade(ctx context.Context, in Change) (Planned, error) {
	c, r, err := in.open(ctx)
	if err != nil {
		return Planned{}, err
	}
	history, err := r.History(ctx)
	if err != nil {
		return Planned{}, err
	}
	mine := made(history, in.Operation)
	owners, err := a.guard(ctx, c, in.Place, workloadsOf(history[0]), in.command())
	if mine != nil { // what has begun goes on, whoever owns it: those whom it has suspended are known by that
		if err != nil && !failure.Is(err, failure.OwnedByOther) && !failure.Is(err, failure.NotItself) {
			return Planned{}, err
		}
		return Planned{Stands: stands(history, mine, made(history, in.Undo)), Revision: mine.Number, Owners: ownership.Measures{Suspend: owners.Suspend}}, nil
	}
	if err != nil {
		return Planned{}, err
	}
	if newest := history[0]; newest.Pending() && newest.Operation != "" {
		return Planned{Stands: Locked, Lock: Lock{Revision: newest.Number, Status: newest.Status, Record: newest.Record}, Owners: owners}, nil
	}
	request, err := in.Request()
	if err != nil {
		return Planned{}, err
	}
	plan, err := r.PlanUpgrade(ctx, request)
	show(&plan)
	return Planned{Plan: plan, Owners: owners}, err
}

// command is what a person would type for the change. It has no values: they may hold what a shell reads.
func (c Change) command() string {
	words := []string{"helm upgrade", c.Kubernetes.Release}
	switch {
	case c.Chart.Path != "":
		words = append(words, quoted(c.Chart.Path))
	case c.Chart.OCI != "":
		words = append(words, quoted(c.Chart.OCI))
	default:
		words = append(words, c.Chart.Name, "--repo", quoted(c.Chart.Repository))
	}
	if c.Version != "" && c.Chart.Path == "" {
		words = append(words, "--version", quoted(c.Version))
	}
	words = append(words, "-n", c.Kubernetes.Namespace, "--reset-then-reuse-values")
	for _, file := range c.Values {
		words = append(words, "-f", quoted(file))
	}
	if len(c.Set) > 0 {
		words = append(words, "--set ... (as in the input)")
	}
	return strings.Join(words, " ")
}

// quoted is a text as a shell takes it for one word.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// made is the revision that an operation made, or nil.
func made(history []helmrelease.Revision, operation string) *helmrelease.Revision {
	id := helmrelease.OperationID(operation)
	for i := range history {
		if history[i].Operation == id {
			return &history[i]
		}
	}
	return nil
}

// stands says how far an operation has come; back is the revision by which it was, or is, taken back.
func stands(history []helmrelease.Revision, mine, back *helmrelease.Revision) Stands {
	newest := history[0].Number
	switch {
	case mine.Pending(), mine.Status == "failed" && (mine.Number == newest || back != nil && back.Number == newest):
		return Halfway
	case mine.Status == "deployed" && mine.Number == newest:
		return Done
	}
	return Over
}

// show keeps of a difference what a person can read in the run's document. The facts stay.
func show(p *helmrelease.Plan) {
	room := maxShown
	for i := range p.Diff.Objects {
		o := &p.Diff.Objects[i]
		if room -= len(o.Text) + 200; room > 0 {
			continue
		}
		p.Diff.Cut += len(p.Diff.Objects) - i
		p.Diff.Objects = p.Diff.Objects[:i]
		return
	}
}

// Upgrade does what was planned, once for all attempts.
func (a *Activities) Upgrade(ctx context.Context, in UpgradeOrder) (helmrelease.Applied, error) {
	_, r, err := in.open(ctx)
	if err != nil {
		return helmrelease.Applied{}, err
	}
	request, err := in.Request()
	if err != nil {
		return helmrelease.Applied{}, err
	}
	return r.Upgrade(ctx, helmrelease.UpgradeOrder{Order: a.order(ctx, in.Plan, in.Operation, in.Ready), Request: request})
}

func (a *Activities) order(ctx context.Context, plan helmrelease.Plan, operation string, ready time.Duration) helmrelease.Order {
	return helmrelease.Order{Plan: plan, Operation: operation, Attempt: a.Attempt, Ready: ready, Beat: beat(ctx), Patience: ownWithin}
}

func beat(ctx context.Context) func(string) {
	return func(note string) { progress.Report(ctx, progress.Progress{Phase: "changing the release", Note: note}) }
}

// PlanUndo says how the release goes back to where an upgrade found it. An upgrade that was cut off loses
// its lock first. What somebody else has changed since is left.
func (a *Activities) PlanUndo(ctx context.Context, in UndoRequest) (Undo, error) {
	_, r, err := in.open(ctx)
	if err != nil {
		return Undo{}, err
	}
	history, err := r.History(ctx)
	if err != nil {
		return Undo{}, err
	}
	mine := made(history, in.Operation)
	switch back := made(history, in.Rollback); {
	case mine == nil:
		return Undo{Why: "the upgrade has not begun"}, nil
	case back != nil && back.Pending() && back.Number == history[0].Number: // its record says what it applies
		plan, err := r.PlanOn(*back)
		return Undo{Needed: err == nil, Plan: plan}, err
	case back != nil && !back.Pending() && back.Status != "failed":
		return Undo{Back: back.Number, Why: "it was rolled back before"}, nil
	case mine.Number != history[0].Number && back == nil:
		return Undo{Why: fmt.Sprintf("somebody has made revision %d since", history[0].Number)}, nil
	}
	if mine.Pending() {
		err := a.clear(ctx, r, helmrelease.ClearOrder{
			Revision: mine.Number, Record: mine.Record, Operation: in.Rollback + "/clear", Why: "its own upgrade was given up in the middle",
		})
		if err != nil {
			return Undo{}, err
		}
	}
	to, err := before(history, mine.Number)
	if err != nil {
		return Undo{}, err
	}
	plan, err := r.PlanRollback(ctx, to)
	show(&plan)
	return Undo{Needed: err == nil, Plan: plan}, err
}

// before is the revision that a release was at before another.
func before(history []helmrelease.Revision, number int) (int, error) {
	for _, r := range history {
		if r.Number < number && (r.Status == "deployed" || r.Status == "superseded") {
			return r.Number, nil
		}
	}
	return 0, failure.New(failure.MissingRelease, "the release has no revision before %d that was deployed", number).Do("mend it, and upgrade again")
}

// Rollback does what PlanUndo said, once for all attempts.
func (a *Activities) Rollback(ctx context.Context, in RollbackOrder) (helmrelease.Applied, error) {
	_, r, err := in.open(ctx)
	if err != nil {
		return helmrelease.Applied{}, err
	}
	return r.Rollback(ctx, a.order(ctx, in.Plan, in.Operation, in.Ready))
}

// workloads are those of the newest revision.
func workloads(ctx context.Context, r *helmrelease.Release) ([]bake.Workload, helmrelease.Revision, error) {
	history, err := r.History(ctx)
	if err != nil {
		return nil, helmrelease.Revision{}, err
	}
	return workloadsOf(history[0]), history[0], nil
}

// workloadsOf are those of a revision.
func workloadsOf(of helmrelease.Revision) (all []bake.Workload) {
	for _, o := range of.Objects {
		if bake.IsWorkload(o.Kind) && o.Group == "apps" {
			all = append(all, bake.Workload{Kind: o.Kind, Name: o.Name})
		}
	}
	return all
}

// CountRestarts counts how often the release's containers have been started again.
func (a *Activities) CountRestarts(ctx context.Context, in Place) (bake.Restarts, error) {
	c, r, err := in.open(ctx)
	if err != nil {
		return nil, err
	}
	of, _, err := workloads(ctx, r)
	if err != nil {
		return nil, err
	}
	_, restarts, err := bake.Observe(ctx, c, of)
	return restarts, err
}

// Watch watches the release until a moment, or until it is proven bad. What could not be looked at in the
// end is not proven.
func (a *Activities) Watch(ctx context.Context, in WatchRequest) (Watched, error) {
	c, r, err := in.open(ctx)
	if err != nil {
		return Watched{}, err
	}
	of, revision, err := workloads(ctx, r)
	if err != nil {
		return Watched{}, err
	}
	if revision.Number != in.Revision {
		return changed(in.Revision, revision), nil
	}
	w := bake.Watch{}
	for _, check := range in.Checks {
		w.Bounds = append(w.Bounds, bake.Bound{Name: check.Name, Min: check.Min, Max: check.Max})
	}
	for _, probe := range in.Kubernetes.Probes { // 1 where it is answered rightly, 0 where it is not
		least := 1.0
		w.Bounds = append(w.Bounds, bake.Bound{Name: "probe " + probe.Name, Min: &least})
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		bad := w.Add(sample(ctx, c, of, in))
		if err := ctx.Err(); err != nil {
			return Watched{}, err
		}
		checks := w.Checks()
		if bad || !time.Now().Before(in.Until) {
			_, newest, err := workloads(ctx, r)
			if err != nil {
				return Watched{}, err
			}
			if newest.Number != in.Revision {
				return changed(in.Revision, newest), nil
			}
			return Watched{Verdict: bake.Verdict(checks), Checks: checks, ManifestSHA256: revision.ManifestSHA256}, nil
		}
		progress.Report(ctx, progress.Progress{Phase: "watching the release", Note: fmt.Sprintf("%s until %s", bake.Verdict(checks), in.Until.UTC().Format(time.TimeOnly))})
		select {
		case <-ctx.Done():
			return Watched{}, ctx.Err()
		case <-tick.C:
		}
	}
}

// changed is what is found of a release that somebody else changes.
func changed(was int, newest helmrelease.Revision) Watched {
	return Watched{Verdict: run.Fail, Checks: []run.Check{{
		Name: "revision", Verdict: run.Fail, Detail: fmt.Sprintf("somebody has made revision %d (%s) after revision %d", newest.Number, newest.Status, was),
	}}}
}

func sample(ctx context.Context, c *kube.Cluster, of []bake.Workload, in WatchRequest) bake.Sample {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s := bake.Sample{At: time.Now()}
	unready, restarts, err := bake.Observe(ctx, c, of)
	s.Unready, s.Restarted, s.Err = unready, restarts.Since(in.Before), err
	for _, check := range in.Checks {
		values, err := ask(ctx, c, check)
		s.Readings = append(s.Readings, bake.Reading{Values: values, Err: err})
	}
	for _, probe := range in.Kubernetes.Probes {
		s.Readings = append(s.Readings, probed(ctx, c, probe))
	}
	return s
}

func probed(ctx context.Context, c *kube.Cluster, p health.Probe) bake.Reading {
	answer, err := p.Ask(ctx, c)
	switch {
	case err != nil:
		return bake.Reading{Err: err}
	case answer.Verdict == run.NotProven:
		return bake.Reading{Err: errors.New(answer.Detail)}
	case answer.Verdict == run.Pass:
		return bake.Reading{Values: []float64{1}}
	}
	return bake.Reading{Values: []float64{0}}
}

func ask(ctx context.Context, c *kube.Cluster, check config.RolloutCheck) ([]float64, error) {
	dial := func(ctx context.Context) (net.Conn, error) { return c.Dial(ctx, check.Prometheus) }
	return promquery.Instant(ctx, dial, check.Query)
}

// CheckSet says what is wrong with values that were given by their paths, or nil.
func CheckSet(values map[string]any) error {
	raw, err := json.Marshal(values)
	if err != nil || len(raw) > 64<<10 {
		return failure.New(failure.BadInput, "set has more than %d bytes", 64<<10).Do("write the values into a file that the target's rollout names")
	}
	for path := range values {
		keys := strings.Split(path, ".")
		if slices.Contains(keys, "") {
			return failure.New(failure.BadInput, "set: %.100q is no path", path).Do("write it as image.tag")
		}
		for _, word := range []string{"password", "secret", "token", "credential"} {
			if last := strings.ToLower(keys[len(keys)-1]); strings.Contains(last, word) {
				return failure.New(failure.BadInput, "set: %.100q looks like a secret, and inputs are kept in histories", path).Do("write it into a file that the target's rollout names, or into a Secret of the cluster")
			}
		}
	}
	return nil
}
