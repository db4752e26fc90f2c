package starter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/doctor"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// silentAfter is how long ago a worker may have asked for work and still be there: it asks again about
// once a minute.
const silentAfter = 2 * time.Minute

func (c *cli) doctor() *cobra.Command {
	var target, data string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Look at everything that the configuration names, and say what is missing and how to get it",
		Long: `Looks at every reference, connection, permission, version and free space that the configuration
names, at Temporal and its workers, and at what Upkeep itself runs on. It changes nothing but one
small object in the store, which it removes again. Of repositories on GitHub it only reads.

It sees what this machine and this OS user see: run it where the worker runs, with its environment.

Exit codes: 0 all that is required is PASS, 1 something is FAIL, 3 something required is NOT_PROVEN.`,
		Example: "  upkeep doctor\n  upkeep doctor --target shop -o json",
		Args:    args(0, "no argument"),
		// Not the root's: a configuration that cannot be read is a finding here.
		PersistentPreRunE: func(*cobra.Command, []string) error { return c.checkOutput() },
		RunE: func(cmd *cobra.Command, _ []string) error {
			known, findings := doctor.Configuration(cmd.Context(), c.configPath)
			o := doctor.Options{Config: known, DataDir: data}
			if known != nil {
				o.Targets = known.Targets
				if target != "" {
					only, err := known.Target(target)
					if err != nil {
						return err
					}
					o.Targets = []config.Target{*only}
				}
			}
			findings = append(findings, c.examineTemporal(cmd.Context(), o.Targets)...)
			if known != nil {
				findings = append(findings, doctor.Examine(cmd.Context(), o)...)
			}
			report := doctor.NewReport(findings)
			if c.output == "json" {
				c.json(report)
			} else {
				report.Text(c.out)
			}
			switch report.Verdict {
			case run.Pass:
				return nil
			case run.Fail:
				return Exit{ExitFailed}
			}
			return Exit{ExitPartially}
		},
	}
	cmd.Flags().StringVar(&target, "target", "", "only this target of upkeep.yaml; all if left out")
	cmd.Flags().StringVar(&data, "data", config.WorkerData(), "the worker's folder for private scratch servers")
	return cmd
}

const (
	checkServer     = "server"
	checkNamespace  = "namespace"
	checkAttributes = "search attributes"
)

// queueCheck is one queue that some worker has to serve.
type queueCheck struct {
	name, queue string
	kind        enumspb.TaskQueueType
}

// queueChecks are the queues that the work on the targets needs: two that every procedure needs, and that of
// the cluster where a target is in one, and that of code where one has repositories.
func queueChecks(targets []config.Target) []queueCheck {
	check := func(queue string, kind enumspb.TaskQueueType) queueCheck {
		return queueCheck{"a worker serves " + queue, queue, kind}
	}
	checks := []queueCheck{check(run.WorkflowQueue, enumspb.TASK_QUEUE_TYPE_WORKFLOW), check(run.DatabaseQueue, enumspb.TASK_QUEUE_TYPE_ACTIVITY)}
	if slices.ContainsFunc(targets, func(t config.Target) bool { return t.Kubernetes.Namespace != "" }) {
		checks = append(checks, check(run.ClusterQueue, enumspb.TASK_QUEUE_TYPE_ACTIVITY))
	}
	if slices.ContainsFunc(targets, func(t config.Target) bool { return len(t.Repositories) > 0 }) {
		checks = append(checks, check(run.CodeQueue, enumspb.TASK_QUEUE_TYPE_ACTIVITY))
	}
	return checks
}

// examineTemporal looks at the Temporal server that the environment names.
func (c *cli) examineTemporal(ctx context.Context, targets []config.Target) []doctor.Finding {
	l := &doctor.List{Subject: "Temporal"}
	o, err := envconfig.LoadDefaultClientOptions()
	if err == nil {
		address, namespace := cmp.Or(o.HostPort, client.DefaultHostPort), cmp.Or(o.Namespace, client.DefaultNamespace)
		err = c.connected(func(s *Starter) error {
			s.examine(ctx, l, address, namespace, queueChecks(targets))
			return nil
		})
	}
	if err != nil {
		l.Look(ctx, "client configuration", func(context.Context) (string, error) {
			return "", failure.New(failure.BadConfig, "Temporal's client configuration cannot be used").Because(err).
				Do("correct TEMPORAL_* in the environment, or the profile in $TEMPORAL_CONFIG_FILE")
		})
	}
	return l.Findings
}

// examine adds to the list what there is to say of Temporal.
func (s *Starter) examine(ctx context.Context, l *doctor.List, address, namespace string, queues []queueCheck) {
	rest := []string{checkAttributes}
	for _, q := range queues {
		rest = append(rest, q.name)
	}
	if !l.Reach(ctx, checkServer, func(ctx context.Context) (string, error) {
		r, err := s.Client.WorkflowService().GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
		if err != nil {
			return "", failure.New(failure.StillFailing, "Temporal cannot be reached at %s", address).Because(err).
				Do("start it (upkeep-dev runs one), or set TEMPORAL_ADDRESS")
		}
		return fmt.Sprintf("%s, version %s", address, r.GetServerVersion()), nil
	}) {
		l.Skip("Temporal cannot be reached", append([]string{checkNamespace}, rest...)...)
		return
	}
	if !l.Reach(ctx, checkNamespace, func(ctx context.Context) (string, error) { return s.seeNamespace(ctx, namespace) }) {
		l.Skip("the namespace is not there", rest...)
		return
	}
	l.Look(ctx, checkAttributes, func(ctx context.Context) (string, error) { return s.attributes(ctx, namespace) })
	for _, q := range queues {
		l.Look(ctx, q.name, func(ctx context.Context) (string, error) {
			r, err := s.Client.DescribeTaskQueue(ctx, q.queue, q.kind)
			if err != nil {
				return "", unreachable(err)
			}
			return served(q.queue, r.GetPollers(), time.Now())
		})
	}
}

func (s *Starter) seeNamespace(ctx context.Context, name string) (string, error) {
	d, err := s.Client.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: name})
	var unknown *serviceerror.NamespaceNotFound
	switch {
	case errors.As(err, &unknown), isGone(err):
		return "", failure.New(failure.BadConfig, "Temporal has no namespace %q", name).
			Do("temporal operator namespace create --namespace %s --retention 90d; or set TEMPORAL_NAMESPACE", name)
	case err != nil:
		return "", unreachable(err)
	}
	return fmt.Sprintf("%q, which keeps ended runs for %s", name, d.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration()), nil
}

// attributes compares the search attributes that runs carry with those that the server knows.
func (s *Starter) attributes(ctx context.Context, namespace string) (string, error) {
	doubt := &doctor.Doubt{Optional: true} // runs do without them
	r, err := s.Client.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		doubt.Found, doubt.Remedy = "the server does not list its search attributes: "+err.Error(), "let the worker list and add them, or do without"
		return "", doubt
	}
	wanted := run.AttributeTypes()
	var missing, other, add []string
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		have, ok := r.GetCustomAttributes()[name]
		kind, _ := enumspb.IndexedValueTypeFromString(wanted[name]) // each is one of its names
		switch {
		case !ok:
			missing, add = append(missing, name), append(add, fmt.Sprintf("--name %s --type %s", name, wanted[name]))
		case have != kind:
			other = append(other, name)
		}
	}
	switch {
	case len(other) > 0:
		doubt.Found = "the server has search attributes of these names with another type, so runs carry none: " + strings.Join(other, ", ")
		doubt.Remedy = "use a namespace of its own for Upkeep"
		return "", doubt
	case len(missing) > 0:
		doubt.Found = "the server does not know " + strings.Join(missing, ", ") + "; runs carry none until it does"
		doubt.Remedy = fmt.Sprintf("a worker adds them when it starts, if it may; or: temporal operator search-attribute create --namespace %s %s", namespace, strings.Join(add, " "))
		return "", doubt
	}
	return "all are registered", nil
}

// served says which workers ask for a queue's work.
func served(queue string, pollers []*taskqueuepb.PollerInfo, now time.Time) (string, error) {
	var names []string
	var newest time.Time
	for _, p := range pollers {
		if !slices.Contains(names, p.GetIdentity()) {
			names = append(names, p.GetIdentity())
		}
		if at := p.GetLastAccessTime().AsTime(); at.After(newest) {
			newest = at
		}
	}
	start := "start upkeep-worker --config ... where it reaches the databases, with this TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE"
	if queue == run.CodeQueue {
		start = "start upkeep-worker --config ... (with the capability code, if with any) where it reaches GitHub and the registries, with this TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE"
	}
	if queue == run.ClusterQueue {
		start = "start upkeep-worker --config ... (with the capability cluster, if with any) where it reaches the cluster, with this TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE"
	}
	if len(names) == 0 {
		return "", failure.New(failure.StillFailing, "no worker asks for the work of the queue %s, so runs wait", queue).Do("%s", start)
	}
	slices.Sort(names)
	if since := now.Sub(newest); since > silentAfter {
		return "", &doctor.Doubt{Found: fmt.Sprintf("%s asked for work %s ago, and not since", strings.Join(names, ", "), since.Round(time.Second)), Remedy: start}
	}
	return strings.Join(names, ", "), nil
}
