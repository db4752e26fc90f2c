package starter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/activities/helm"
	"github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/quiesce"
	"github.com/upkeep-run/upkeep/internal/rbac"
	"github.com/upkeep-run/upkeep/internal/strictjson"
)

// lookWithin bounds looking at a cluster and rendering a chart.
const lookWithin = 3 * time.Minute

// rights is one call of "upkeep rbac".
type rights struct {
	target       string
	procedures   []string
	capabilities []string
	dryRunOnly   bool
	account      string
	outside      bool
	offline      bool
	chart        string
	version      string
	values       []string
	set          []string
}

func (c *cli) rbac() *cobra.Command {
	var o rights
	cmd := &cobra.Command{
		Use: "rbac", Short: "Print the least Roles that procedures need on a target, for kubectl apply",
		Long: `Prints the Roles and RoleBindings that the workers' accounts need for procedures on a target: no
wildcard, and objects by their names where a Role can say names. What a Helm release takes is read from
the release as it is, its history, and the chart as the target's rollout (or --chart) renders it, hooks and
lookups included; so print and apply it again before an upgrade to another version of the chart.

The cluster is looked at with the credentials that the configuration names on this machine, which must
read what the chart has; nothing is changed. Where it cannot be reached, the chart is rendered without
it, and Kubernetes' own kinds are known.

A chart that has Roles itself can only be upgraded by who has what they give, so that is granted too.

-o values prints the rules for deploy/charts/upkeep instead, -o json a list of the objects.`,
		Example: "  upkeep rbac --target shop | kubectl apply -f -\n  upkeep rbac --target shop --procedure RecoverService --dry-run-only\n  upkeep rbac --target shop -o values > rights.yaml && helm upgrade upkeep deploy/charts/upkeep --reuse-values --values rights.yaml",
		Args:    args(0, "no argument"),
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if c.output == "values" {
				return nil
			}
			return c.checkOutput()
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), lookWithin)
			defer cancel()
			return c.printRights(ctx, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.target, "target", "", "the target in upkeep.yaml; may be left out when there is only one")
	f.StringArrayVar(&o.procedures, "procedure", nil, "only this procedure; may be given again (default: all that can run on the target)")
	f.StringArrayVar(&o.capabilities, "capability", nil, "only the account of this capability, database or cluster; may be given again")
	f.BoolVar(&o.dryRunOnly, "dry-run-only", false, "only what dry runs need: nothing that writes")
	f.StringVar(&o.account, "service-account", "", "whom the rights are given, as namespace/name (default: upkeep/upkeep-database and upkeep/upkeep-cluster, as deploy/charts/upkeep makes them)")
	f.BoolVar(&o.outside, "outside", false, "the workers are not in the target's cluster (known where the target has kubeconfigFrom or context)")
	f.BoolVar(&o.offline, "offline", false, "ask no cluster")
	f.StringVar(&o.chart, "chart", "", "a chart instead of the target's rollout: a folder, an archive, or oci://host/repository")
	f.StringVar(&o.version, "chart-version", "", "the version of the chart, instead of the target's rollout")
	f.StringArrayVar(&o.values, "values", nil, "a file of values instead of the target's rollout; may be given again")
	f.StringArrayVar(&o.set, "set", nil, "a value of the chart by its dotted path, as path=value, in JSON or as text; may be given again")
	return cmd
}

func (c *cli) printRights(ctx context.Context, o rights) error {
	known, err := config.Load(c.configPath)
	if err != nil {
		return err
	}
	t, err := known.Target(o.target)
	if err != nil {
		return err
	}
	if t.Kubernetes.Namespace == "" {
		return failure.New(failure.NoCluster, "target %s is in no cluster, so nothing is to be granted for it", t.Name).
			Do("say where it is with kubernetes: {namespace: ..., release: ...} in upkeep.yaml")
	}
	accounts, err := o.accounts()
	if err != nil {
		return err
	}
	target := rbac.Of(t)
	target.Outside = target.Outside || o.outside
	if o.procedures, err = o.chosen(t, target); err != nil {
		return err
	}
	change, err := o.change(t)
	if err != nil {
		return err
	}
	remarks, err := o.look(ctx, t, &target, change)
	if err != nil {
		return err
	}
	needs, err := target.Needs(o.procedures, o.dryRunOnly)
	if err != nil {
		return err
	}
	for _, name := range rbac.Capabilities() {
		if _, wanted := accounts[name]; !wanted {
			delete(needs, name)
			continue
		}
		remarks = append(remarks, needs[name].Remarks...)
	}
	return c.writeRights(t.Name, o, needs, accounts, remarks)
}

func (c *cli) writeRights(target string, o rights, needs map[string]*rbac.Set, accounts map[string]rbac.Account, remarks []string) error {
	what := strings.Join(o.procedures, ", ")
	if o.dryRunOnly {
		what += " (dry runs only)"
	}
	remarks = append([]string{fmt.Sprintf("What Upkeep needs on target %s for %s; made by upkeep rbac.", target, what)}, remarks...)
	if c.output == "values" {
		text, err := rbac.YAML(remarks, rbac.Values(needs[rbac.Database], needs[rbac.Cluster]))
		if err == nil {
			_, err = fmt.Fprint(c.out, text)
		}
		return err
	}
	var objects []any
	for _, name := range rbac.Capabilities() {
		if needs[name] != nil {
			objects = append(objects, needs[name].Manifest("upkeep-"+target+"-"+name, accounts[name])...)
		}
	}
	if c.output == "json" {
		c.json(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
		return nil
	}
	text, err := rbac.YAML(remarks, objects...)
	if err == nil {
		_, err = fmt.Fprint(c.out, text)
	}
	return err
}

// accounts are who is given rights, by capability.
func (o rights) accounts() (map[string]rbac.Account, error) {
	chosen := o.capabilities
	if len(chosen) == 0 {
		chosen = rbac.Capabilities()
	}
	accounts := map[string]rbac.Account{}
	for _, name := range chosen {
		if !slices.Contains(rbac.Capabilities(), name) {
			return nil, usage{strictjson.Unknown("the capability", name, rbac.Capabilities())}
		}
		accounts[name] = rbac.Account{Namespace: "upkeep", Name: "upkeep-" + name}
		if o.account == "" {
			continue
		}
		namespace, account, ok := strings.Cut(o.account, "/")
		if !ok || kube.NameProblem(account) != "" || kube.NameProblem(namespace) != "" {
			return nil, usage{fmt.Errorf("--service-account %.100q is not namespace/name", o.account)}
		}
		accounts[name] = rbac.Account{Namespace: namespace, Name: account}
	}
	return accounts, nil
}

// chosen are the procedures that are asked for, or all that can run.
func (o rights) chosen(t *config.Target, target rbac.Target) ([]string, error) {
	can := func(p string) bool {
		switch p {
		case recoverservice.WorkflowType:
			return target.Release != ""
		case rolloutrelease.WorkflowType:
			return target.Release != "" && (t.Rollout != nil || o.chart != "")
		}
		return true
	}
	var all []string
	for _, p := range rbac.Procedures() {
		if len(o.procedures) == 0 && can(p) {
			all = append(all, p)
		}
	}
	for _, p := range o.procedures {
		switch {
		case !slices.Contains(rbac.Procedures(), p):
			return nil, usage{strictjson.Unknown("the procedure", p, rbac.Procedures())}
		case !can(p):
			return nil, failure.New(failure.BadInput, "%s cannot run on target %s", p, t.Name).
				Do("name its release (kubernetes.release) in upkeep.yaml, and for a rollout the chart (rollout, or --chart)")
		}
		all = append(all, p)
	}
	return all, nil
}

// change is what the release is to become; nil: that is not asked for.
func (o rights) change(t *config.Target) (*helmrelease.UpgradeRequest, error) {
	if !slices.Contains(o.procedures, rolloutrelease.WorkflowType) {
		return nil, nil
	}
	change := helm.Change{Set: map[string]any{}}
	if t.Rollout != nil {
		change.Chart, change.Version, change.Values = t.Rollout.Chart, t.Rollout.Version, t.Rollout.Values
	}
	if o.chart != "" {
		where := o.chart
		if !strings.HasPrefix(where, "oci://") {
			path, err := filepath.Abs(where)
			if err != nil {
				return nil, usage{err}
			}
			where = path
		}
		var problem string
		if change.Chart, problem = config.ParseChart(where); problem != "" {
			return nil, usage{errors.New("--chart " + problem)}
		}
		change.Version = ""
	}
	if o.version != "" {
		change.Version = o.version
	}
	if len(o.values) > 0 {
		change.Values = o.values
	}
	set, err := pairs(o.set)
	if err != nil {
		return nil, err
	}
	for path, text := range set {
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		change.Set[path] = value
	}
	if err := helm.CheckSet(change.Set); err != nil {
		return nil, err
	}
	request, err := change.Request()
	return &request, err
}

// look learns from the cluster what the target's rights depend on. Where it cannot, it says so, and the chart
// is rendered without it.
func (o rights) look(ctx context.Context, t *config.Target, target *rbac.Target, change *helmrelease.UpgradeRequest) (remarks []string, err error) {
	if !o.offline {
		err := o.lookAt(ctx, t, target, change)
		f, known := failure.As(err)
		unreached := known && (f.Code == failure.ClusterUnreachable || f.Code == failure.ClusterLogin || f.Code == failure.ClusterForbids || f.Code == failure.MissingSecret)
		if err == nil || !unreached {
			return nil, err
		}
		remarks = append(remarks, "The cluster was not looked at: "+strings.Join(strings.Fields(f.What), " "))
	}
	target.Past, target.Rollout, target.ClientOwners, target.ReleaseOwners = nil, nil, nil, nil
	if change == nil {
		return remarks, nil
	}
	f, err := helmrelease.FootprintOffline(ctx, target.Namespace, target.Release, *change)
	target.Rollout = &f
	return append(remarks, "The chart was rendered without the cluster, so the release as it is now is not known."), err
}

func (o rights) lookAt(ctx context.Context, t *config.Target, target *rbac.Target, change *helmrelease.UpgradeRequest) error {
	cluster, err := t.Kubernetes.Connect(ctx)
	if err != nil {
		return err
	}
	if _, err := cluster.Client.CoreV1().Namespaces().Get(ctx, cluster.Namespace, metav1.GetOptions{}); err != nil {
		return kube.Classify(err, "look at namespace "+cluster.Namespace)
	}
	if err := o.owners(ctx, cluster, target); err != nil {
		return err
	}
	for _, of := range []struct {
		procedure string
		request   *helmrelease.UpgradeRequest
		into      **helmrelease.Footprint
	}{{recoverservice.WorkflowType, nil, &target.Past}, {rolloutrelease.WorkflowType, change, &target.Rollout}} {
		if !slices.Contains(o.procedures, of.procedure) {
			continue
		}
		release, err := helmrelease.Open(cluster.Config, cluster.Namespace, target.Release)
		if err != nil {
			return err
		}
		f, err := release.Footprint(ctx, of.request)
		if err != nil {
			return err
		}
		*of.into = &f
	}
	return nil
}

// owners finds those that runs would suspend.
func (o rights) owners(ctx context.Context, cluster *kube.Cluster, target *rbac.Target) error {
	if slices.Contains(o.procedures, recoverdata.WorkflowType) && len(target.Clients) > 0 {
		s, err := quiesce.New(cluster)
		if err != nil {
			return err
		}
		owners, err := s.Owners(ctx, target.Clients, time.Now())
		if err != nil {
			return err
		}
		target.ClientOwners = suspended(owners, target.Suspends)
	}
	if target.Suspends && (slices.Contains(o.procedures, recoverservice.WorkflowType) || slices.Contains(o.procedures, rolloutrelease.WorkflowType)) {
		seen, err := health.Observe(ctx, cluster, health.Scope{Release: target.Release})
		if err != nil {
			return err
		}
		var owners []ownership.Owner
		for _, w := range seen.Workloads {
			owners = append(owners, w.Owners...)
		}
		target.ReleaseOwners = suspended(owners, true)
	}
	return nil
}

// suspended are those of the owners whom a run suspends.
func suspended(owners []ownership.Owner, all bool) []ownership.Ref {
	refs := []ownership.Ref{}
	for _, owner := range owners {
		if owner.Suspendable && (all || owner.Ref.Kind == "ScaledObject") { // an autoscaler is part of what is stopped
			refs = append(refs, owner.Ref)
		}
	}
	return refs
}
