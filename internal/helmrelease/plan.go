package helmrelease

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// planVersion is the version of a plan's schema.
	planVersion = 1
	// rollbackTo is how Helm, and we, describe a rollback.
	rollbackTo = "Rollback to %d"
)

// Kind is what an operation does.
type Kind string

// The kinds.
const (
	KindUpgrade  Kind = "upgrade"
	KindRollback Kind = "rollback"
)

// UpgradeRequest is what a release is to become: a chart, and values over those that it has. Values that
// the new chart has as defaults are taken from it, as helm upgrade --reset-then-reuse-values does.
type UpgradeRequest struct {
	Chart  Chart          `json:"chart"`
	Values map[string]any `json:"values,omitempty"`
}

func (r UpgradeRequest) hash() string {
	raw, _ := json.Marshal(r) // it came as JSON
	return hashOf(string(raw))
}

// Base is the revision that a plan stands on.
type Base struct {
	Number         int    `json:"number"`
	UID            string `json:"uid"` // of the Secret that keeps it
	ManifestSHA256 string `json:"manifestSha256"`
}

// ChartFacts is the chart of a plan.
type ChartFacts struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	AppVersion string `json:"appVersion,omitempty"`
	Digest     string `json:"digest,omitempty"` // of its files; empty in a rollback, whose chart is in the record
}

// Plan is how a release changes. It holds no value of a Secret. The facts are Kind to Rendering: when one
// has changed, the plan is void. The rest is for whoever decides.
type Plan struct {
	Version   int        `json:"version"` // of the plan's schema
	Kind      Kind       `json:"kind"`
	Namespace string     `json:"namespace"`
	Release   string     `json:"release"`
	Base      Base       `json:"base"`              // the newest revision
	To        *Base      `json:"to,omitempty"`      // the revision that a rollback goes back to
	Request   string     `json:"request,omitempty"` // the hash of the request of an upgrade
	Chart     ChartFacts `json:"chart"`             // that it will have
	Rendering string     `json:"rendering"`         // the hash of all objects and hooks, without the values of Secrets
	From      int        `json:"from"`              // the revision that the difference is from: the deployed one, or the newest
	Diff      Diff       `json:"diff"`              // of the manifests
	Hooks     []Hook     `json:"hooks,omitempty"`   // that will run, in order

	Migrations []string `json:"migrations,omitempty"` // the Jobs and Pods among the hooks
	Blocked    []string `json:"blocked,omitempty"`    // what the cluster will refuse; the operation would fail
	OneWay     []string `json:"oneWay,omitempty"`     // what a rollback does not take back
	Remarks    []string `json:"remarks,omitempty"`
}

// Hash identifies the plan.
func (p Plan) Hash() string {
	raw, _ := json.Marshal(p) // plain data
	return hashOf(string(raw))
}

// state is the history as a plan looks at it.
type state struct {
	latest  *record
	current *record // the deployed one, or the newest if there is none
}

// look reads what a plan stands on. A release that is locked is ReleaseBusy.
func (r *Release) look(ctx context.Context) (state, error) {
	heads, err := r.present(ctx)
	if err != nil {
		return state{}, err
	}
	if heads[0].status.IsPending() {
		return state{}, r.busy(heads[0])
	}
	latest, err := r.read(ctx, heads[0].number)
	if err != nil {
		return state{}, err
	}
	if latest == nil || latest.Record != heads[0].Record {
		return state{}, r.void("its history changes just now")
	}
	s := state{latest, latest}
	for _, h := range heads[1:] {
		if latest.status != release.StatusDeployed && h.status == release.StatusDeployed {
			if s.current, err = r.read(ctx, h.number); err == nil && s.current == nil {
				err = r.void("its history changes just now")
			}
			break
		}
	}
	return s, err
}

func (r *Release) busy(h head) error {
	whose := "an operation that is not ours"
	if h.operation != "" {
		whose = "another operation of Upkeep"
	}
	return failure.New(failure.ReleaseBusy, "release %q is locked: revision %d is %s by %s", r.name, h.number, h.status, whose).
		Do("wait until it is over; if nothing works on it any more, clear it (RecoverService does), then resume the run")
}

func (r *Release) void(format string, args ...any) error {
	return failure.New(failure.PlanVoid, "the plan for release %q is void: "+format, append([]any{r.name}, args...)...).Do("look at the new plan and decide again")
}

func (rec *record) base() Base { return Base{rec.number, rec.UID, rec.manifestHash()} }

// PlanUpgrade says how the release would be upgraded. It changes nothing. A chart that renders to
// something else each time is a BadChart: nobody can approve it.
func (r *Release) PlanUpgrade(ctx context.Context, request UpgradeRequest) (Plan, error) {
	s, err := r.look(ctx)
	if err != nil {
		return Plan{}, err
	}
	files, err := request.Chart.load(ctx)
	if err != nil {
		return Plan{}, err
	}
	var renderings [2]rendering
	var rel *release.Release
	for i := range renderings {
		if rel, err = r.render(ctx, s, files, request); err != nil {
			return Plan{}, err
		}
		if renderings[i], err = renderingOf(rel); err != nil {
			return Plan{}, err
		}
	}
	moving, secrets := unlike(renderings[0], renderings[1])
	if len(moving) > 0 {
		return Plan{}, failure.New(failure.BadChart, "the chart %s renders to something else each time: %s", request.Chart, enumerate(moving)).
			Do("take what is random or of the clock out of these objects' templates, or keep it with lookup")
	}
	p := r.plan(KindUpgrade, s, rel)
	p.Chart.Digest, p.Request = files.digest(), request.hash()
	if len(secrets) > 0 {
		p.Remarks = append(p.Remarks, "new random values come with each rendering: "+enumerate(secrets))
	}
	if len(rel.Chart.CRDObjects()) > 0 {
		p.Remarks = append(p.Remarks, "the chart has custom resource definitions in crds/, which an upgrade leaves as they are")
	}
	err = r.compare(ctx, &p, s.current, renderings[0])
	return p, err
}

// PlanRollback says how the release would go back to a revision. It changes nothing.
func (r *Release) PlanRollback(ctx context.Context, to int) (Plan, error) {
	s, err := r.look(ctx)
	if err != nil {
		return Plan{}, err
	}
	target, err := r.rollbackTarget(ctx, s, to)
	if err != nil {
		return Plan{}, err
	}
	goal, err := renderingOf(target.release)
	if err != nil {
		return Plan{}, err
	}
	s.current = s.latest // as Helm does: what a failed revision made goes too
	p := r.plan(KindRollback, s, target.release)
	base := target.base()
	p.To = &base
	p.Remarks = append(p.Remarks, "a rollback brings back objects, not data: what migrations did to a database stays")
	if target.status == release.StatusFailed {
		p.Remarks = append(p.Remarks, fmt.Sprintf("revision %d failed when it was made", to))
	}
	err = r.compare(ctx, &p, s.current, goal)
	return p, err
}

// PlanOn is the plan by which a rollback that was cut off goes on with its record, which holds all that it
// applies; the plan that it was begun with is not needed for that. The revision is one of History.
func (r *Release) PlanOn(cut Revision) (Plan, error) {
	if cut.Status != string(release.StatusPendingRollback) {
		return Plan{}, r.void("revision %d is no rollback that was cut off", cut.Number)
	}
	var to int
	if _, err := fmt.Sscanf(cut.Description, rollbackTo, &to); err != nil || to < 1 || cut.Number < 2 {
		return Plan{}, r.void("revision %d does not say where it goes back to", cut.Number)
	}
	return Plan{
		Version: planVersion, Kind: KindRollback, Namespace: r.namespace, Release: r.name,
		Base: Base{Number: cut.Number - 1}, From: cut.Number - 1, To: &Base{Number: to}, Chart: ChartFacts{Name: cut.Chart, Version: cut.ChartVersion, AppVersion: cut.AppVersion},
	}, nil
}

func (r *Release) rollbackTarget(ctx context.Context, s state, to int) (*record, error) {
	if to < 1 || to > s.latest.number {
		return nil, failure.New(failure.MissingRelease, "release %q has no revision %d", r.name, to).Do("see helm history %s --namespace %s", r.name, r.namespace)
	}
	target, err := r.read(ctx, to)
	switch {
	case err != nil:
		return nil, err
	case target == nil:
		return nil, failure.New(failure.MissingRelease, "release %q has no revision %d any more", r.name, to).Do("see helm history %s --namespace %s", r.name, r.namespace)
	case target.status.IsPending():
		return nil, r.busy(target.head)
	}
	return target, nil
}

func (r *Release) plan(kind Kind, s state, rel *release.Release) Plan {
	m := rel.Chart.Metadata
	return Plan{
		Version: planVersion, Kind: kind, Namespace: r.namespace, Release: r.name, Base: s.latest.base(), From: s.current.number,
		Chart: ChartFacts{Name: m.Name, Version: m.Version, AppVersion: m.AppVersion},
	}
}

// compare fills in what becomes of the objects.
func (r *Release) compare(ctx context.Context, p *Plan, current *record, goal rendering) error {
	p.From = current.number
	from, err := renderingOf(current.release)
	if err != nil {
		return err
	}
	p.Rendering, p.Diff = goal.hash(), difference(from, goal)
	for _, event := range events(p.Kind) {
		for _, h := range ordered(goal.kinds, event) {
			p.Hooks = append(p.Hooks, h)
			if h.Kind == "Job" || h.Kind == "Pod" {
				p.Migrations = append(p.Migrations, fmt.Sprintf("%s (%s)", h.Object, event))
			}
		}
	}
	blocked, remarks := elsewhere(goal)
	if p.Remarks = append(p.Remarks, remarks...); p.Kind == KindUpgrade { // a rollback brings back what was there
		p.Blocked = append(p.Blocked, blocked...)
	}
	return r.findObstacles(ctx, p, goal)
}

// elsewhere says what a release would have in other namespaces than its own; in the cluster's own it must not.
func elsewhere(goal rendering) (blocked, remarks []string) {
	for _, o := range slices.Concat(goal.objects, goal.hooks) {
		switch {
		case o.Namespace == "":
		case kube.NamespaceProblem(o.Namespace) != "":
			blocked = append(blocked, fmt.Sprintf("%s %s: its namespace %q is no target's", o.Kind, o.Name, o.Namespace))
		default:
			remarks = append(remarks, fmt.Sprintf("%s %s is in another namespace, %s", o.Kind, o.Name, o.Namespace))
		}
	}
	return blocked, remarks
}

// events are those of an operation, before and after it applies.
func events(kind Kind) [2]string {
	if kind == KindRollback {
		return [2]string{string(release.HookPreRollback), string(release.HookPostRollback)}
	}
	return [2]string{string(release.HookPreUpgrade), string(release.HookPostUpgrade)}
}

// ordered are the hooks of an event in Helm's order: by weight and name, else as they are.
func ordered(hooks []Hook, event string) []Hook {
	var of []Hook
	for _, h := range hooks {
		if slices.Contains(h.Events, event) {
			of = append(of, h)
		}
	}
	slices.SortStableFunc(of, func(a, b Hook) int { return byWeight(a.Weight, b.Weight, a.Name, b.Name) })
	return of
}

func byWeight(a, b int, nameA, nameB string) int {
	return cmp.Or(cmp.Compare(a, b), cmp.Compare(nameA, nameB))
}

// findObstacles holds the goal against the live objects of the kinds that refuse some changes.
func (r *Release) findObstacles(ctx context.Context, p *Plan, goal rendering) error {
	c, err := r.client(ctx, onlyReads)
	if err != nil {
		return err
	}
	live, err := c.dynamic()
	if err != nil {
		return err
	}
	for _, o := range goal.objects {
		if !changesOneWay(o.Object) {
			continue
		}
		mapping, err := c.getter.mapper.RESTMapping(schema.GroupKind{Group: o.Group, Kind: o.Kind}, o.Version)
		if err != nil {
			return kube.Classify(err, "find the kind of "+o.String())
		}
		namespace := o.Namespace
		if namespace == "" {
			namespace = r.namespace
		}
		is, err := live.Resource(mapping.Resource).Namespace(namespace).Get(ctx, o.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return kube.Classify(err, "look at "+o.String())
		}
		blocked, oneWay := obstacles(o.Object, is.Object, o.body)
		p.Blocked, p.OneWay = append(p.Blocked, blocked...), append(p.OneWay, oneWay...)
	}
	return nil
}

// changesOneWay reports whether an object is of a kind that obstacles knows. Secrets are not looked at:
// their values would be read for nothing.
func changesOneWay(o Object) bool {
	return slices.Contains([]string{
		"apps/StatefulSet", "apps/Deployment", "apps/DaemonSet", "apps/ReplicaSet", "batch/Job", "/Service", "/PersistentVolumeClaim", "/ConfigMap",
	}, o.Group+"/"+o.Kind)
}

func (c *client) dynamic() (dynamic.Interface, error) {
	d, err := dynamic.NewForConfig(rest.CopyConfig(c.getter.config))
	return d, kube.Classify(err, "make a client of the cluster")
}

// render makes the release that the chart and the values give on the cluster as it is. Nothing is
// written: Helm's action sees copies of the records, and a client that only reads.
func (r *Release) render(ctx context.Context, s state, files bundle, request UpgradeRequest) (*release.Release, error) {
	c, err := r.client(ctx, onlyReads)
	if err != nil {
		return nil, err
	}
	config := c.configuration()
	for _, rec := range slices.Compact([]*record{s.current, s.latest}) {
		raw, err := pack(rec.release)
		if err != nil {
			return nil, err
		}
		own, err := unpack(raw) // rendering works on what it is given
		if err != nil {
			return nil, err
		}
		own.Labels = rec.release.Labels
		if err := config.Releases.Create(own); err != nil {
			return nil, err
		}
	}
	values, err := copied(request.Values)
	if err != nil {
		return nil, failure.New(failure.BadInput, "the values are no JSON").Because(err)
	}
	chart, err := files.chart()
	if err != nil {
		return nil, badChart(request.Chart, err).Do("see helm lint, and helm dependency build if a dependency is missing")
	}
	up := action.NewUpgrade(config)
	up.Namespace, up.DryRun, up.DryRunOption, up.ResetThenReuseValues = r.namespace, true, "server", true
	rel, err := up.RunWithContext(ctx, r.name, chart, values)
	if err != nil {
		if of := c.classify(err, "render the chart "+request.Chart.String()); of != nil {
			return nil, of
		}
		return nil, badChart(request.Chart, err).Do("see helm template and the values of the request")
	}
	return rel, nil
}

func copied(values map[string]any) (map[string]any, error) {
	raw, err := json.Marshal(values)
	if err != nil {
		return nil, err
	}
	out := make(map[string]any)
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, err
	}
	if out == nil {
		out = make(map[string]any)
	}
	return whole(out).(map[string]any), nil
}

// enumerate names some of many.
func enumerate(names []string) string {
	const most = 10
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
