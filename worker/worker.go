// Package worker wires Upkeep's workflows and activities to Temporal's task queues.
package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.uber.org/zap"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/github"
	"github.com/upkeep-run/upkeep/activities/helm"
	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/activities/store"
	"github.com/upkeep-run/upkeep/api/backupdatabase"
	"github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/prunebackups"
	"github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/reviewaccess"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/rotatesecret"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/api/updatedependencies"
	"github.com/upkeep-run/upkeep/api/validatenetwork"
	"github.com/upkeep-run/upkeep/api/verifybackup"
	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/dependency/lock"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/version"
	"github.com/upkeep-run/upkeep/worker/zaplog"
	backupworkflow "github.com/upkeep-run/upkeep/workflows/backupdatabase"
	containworkflow "github.com/upkeep-run/upkeep/workflows/containincident"
	drillworkflow "github.com/upkeep-run/upkeep/workflows/drillrecovery"
	followworkflow "github.com/upkeep-run/upkeep/workflows/followpullrequest"
	pruneworkflow "github.com/upkeep-run/upkeep/workflows/prunebackups"
	recoverdataworkflow "github.com/upkeep-run/upkeep/workflows/recoverdata"
	recoverserviceworkflow "github.com/upkeep-run/upkeep/workflows/recoverservice"
	restoreworkflow "github.com/upkeep-run/upkeep/workflows/restoredatabase"
	reviewaccessworkflow "github.com/upkeep-run/upkeep/workflows/reviewaccess"
	rolloutworkflow "github.com/upkeep-run/upkeep/workflows/rolloutrelease"
	rotateworkflow "github.com/upkeep-run/upkeep/workflows/rotatesecret"
	targetworkflow "github.com/upkeep-run/upkeep/workflows/target"
	updateworkflow "github.com/upkeep-run/upkeep/workflows/updatedependencies"
	networkworkflow "github.com/upkeep-run/upkeep/workflows/validatenetwork"
	verifyworkflow "github.com/upkeep-run/upkeep/workflows/verifybackup"
)

const (
	// StopTimeout is how long running activities have to end when the worker stops. Give the process
	// a longer grace.
	StopTimeout = 20 * time.Second
	// reapEvery is how often scratch servers and half databases of ended runs are looked for.
	reapEvery = time.Minute
	// takeOverWithin is how long the half database of a run that was ended from outside stays for a
	// new run to go on with.
	takeOverWithin = 30 * time.Minute
	// heavyAtOnce is how many database activities run at once on one worker.
	heavyAtOnce = 4
	// followedAtOnce is how many activities of the code capability run at once on one worker. Most of them wait
	// for news, one for each pull request that is open, as long as it is: if these could take all places, none
	// would be left for what is to be done. What is heavy among the others bounds itself.
	followedAtOnce = 2000
)

// Attributes are the search attributes that runs carry where the server knows them.
func Attributes() map[string]enumspb.IndexedValueType {
	attributes := make(map[string]enumspb.IndexedValueType)
	for name, kind := range run.AttributeTypes() {
		attributes[name], _ = enumspb.IndexedValueTypeFromString(kind) // each is one of its names
	}
	return attributes
}

// Options configure a worker.
type Options struct {
	// Client says how to reach Temporal.
	Client client.Options
	// ConfigPath is the configuration file; it is read anew by every run.
	ConfigPath string
	// Capabilities are what it serves; empty: all of them.
	Capabilities []string
	// Name tells this worker from others, and stays the same when it is restarted; the host's name
	// when empty.
	Name string
	// DataDir holds the private scratch servers.
	DataDir string
	// HealthAddress is where /livez, /readyz and /metrics are; empty: nowhere.
	HealthAddress string
	Logger        *zap.Logger
}

// Worker is a running worker.
type Worker struct {
	// Fatal receives the error that ended the worker by itself.
	Fatal <-chan error
	// HealthAddress is where the health checks and the metrics are.
	HealthAddress string

	client        client.Client
	workers       []sdkworker.Worker
	config        func() (*config.Config, error)
	configuration *configuration.Activities
	postgres      *postgres.Activities
	helm          *helm.Activities
	kubernetes    *kubernetes.Activities
	github        *github.Activities
	store         store.Activities
	health        *health
	metrics       *metrics
	log           *zap.Logger
	stop          context.CancelFunc
	tidying       sync.WaitGroup
}

// Start connects to Temporal and serves the queues of Upkeep. Close ends it.
func Start(ctx context.Context, o Options) (_ *Worker, err error) {
	if o.Name == "" {
		if o.Name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("name the worker: %w", err)
		}
	}
	serves, err := chosen(o.Capabilities)
	if err != nil {
		return nil, err
	}
	// Workflows alone see no target: they read no configuration, sign nothing and tidy nowhere.
	acts := slices.ContainsFunc(serves, func(c capability) bool { return c.name != Workflows })
	if acts {
		if _, err := config.Load(o.ConfigPath); err != nil {
			return nil, err
		}
	}
	o.Client.Logger = zaplog.Temporal(o.Logger)
	o.Client.Identity = "upkeep-worker " + version.String() + " " + o.Name
	o.Client.PayloadLimits.MemoSizeWarning = 64 << 10 // the run's document is in the memo, by design
	m, err := newMetrics(o.Logger)
	if err != nil {
		return nil, err
	}
	o.Client.MetricsHandler = m.Temporal
	c, err := client.DialContext(ctx, o.Client)
	if err != nil {
		return nil, fmt.Errorf("reach Temporal at %s (set TEMPORAL_ADDRESS or a profile): %w", o.Client.HostPort, err)
	}
	fatal := make(chan error, 8)
	w := &Worker{
		client: c, log: o.Logger, metrics: m, Fatal: fatal,
		config: func() (*config.Config, error) { return config.Load(o.ConfigPath) },
		postgres: &postgres.Activities{
			Version: version.String(),
			Scratch: &postgres.Scratch{Root: filepath.Join(o.DataDir, "scratch"), Queue: run.DatabaseQueue + "-" + o.Name},
		},
		helm: &helm.Activities{Attempt: o.Name, Temporal: o.Client.HostPort},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close(context.WithoutCancel(ctx)))
		}
	}()
	if o.HealthAddress != "" {
		if w.health, err = startHealth(o.HealthAddress, c, m.Handler); err != nil {
			return nil, err
		}
		w.HealthAddress = w.health.Address
	}
	namespace := o.Client.Namespace
	if namespace == "" {
		namespace = client.DefaultNamespace
	}
	if w.postgres.Realm, err = namespaceID(ctx, c, namespace); err != nil {
		return nil, err
	}
	w.postgres.Ended = w.endedFor(0)
	w.kubernetes = &kubernetes.Activities{Realm: w.postgres.Realm, Ended: w.postgres.Ended, Temporal: o.Client.HostPort}
	if slices.ContainsFunc(serves, func(c capability) bool { return c.name == Code }) {
		registries, err := lookup.FromEnvironment(os.LookupEnv)
		if err != nil {
			return nil, err
		}
		w.github = &github.Activities{Registries: registries, Tools: lock.FromEnvironment(os.LookupEnv, filepath.Join(o.DataDir, "lock"))}
	}
	if acts {
		if w.store.AuditKey, err = audit.LoadKey(o.DataDir); err != nil {
			return nil, err
		}
		w.kubernetes.Key = w.store.AuditKey
		w.store.Ended = m.ended
		registered, why := registerAttributes(ctx, c, namespace)
		if !registered {
			w.log.Warn("runs carry no search attributes", zap.String("why", why))
		}
		w.configuration = &configuration.Activities{Load: w.config, Attributes: func() (bool, string) { return registered, why }}
	}
	for _, part := range serves {
		for _, queue := range part.queues(w) {
			served := w.options(fatal)
			if part.name == Code {
				served.MaxConcurrentActivityExecutionSize = followedAtOnce
			}
			served.LocalActivityWorkerOnly = part.name == Workflows
			served.DisableWorkflowWorker = !served.LocalActivityWorkerOnly
			s := sdkworker.New(c, queue, served)
			part.register(w, s)
			if err := s.Start(); err != nil {
				return nil, fmt.Errorf("serve the queue %s: %w", queue, err)
			}
			w.workers = append(w.workers, s)
		}
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	if slices.ContainsFunc(serves, func(c capability) bool { return c.name == Database }) {
		w.tidying.Go(func() { w.keepTidy(background) })
		if w.health != nil {
			w.tidying.Go(func() { m.watch(background, w.config) })
		}
	}
	if w.health != nil {
		w.health.serving.Store(true)
	}
	return w, nil
}

func (w *Worker) options(fatal chan<- error) sdkworker.Options {
	return sdkworker.Options{
		MaxConcurrentActivityExecutionSize: heavyAtOnce,
		WorkerStopTimeout:                  StopTimeout,
		MaxHeartbeatThrottleInterval:       heartbeatEvery,
		DefaultHeartbeatThrottleInterval:   heartbeatEvery,
		Interceptors:                       Interceptors(),
		OnFatalError: func(err error) {
			if w.health != nil {
				w.health.fatal.Store(&err)
			}
			select {
			case fatal <- err:
			default: // one is enough
			}
		},
	}
}

// RegisterWorkflows registers every procedure, and the workflow of targets, under their names.
func RegisterWorkflows(s sdkworker.WorkflowRegistry) {
	for name, fn := range map[string]any{
		backupdatabase.WorkflowType:     backupworkflow.Workflow,
		containincident.WorkflowType:    containworkflow.Workflow,
		drillrecovery.WorkflowType:      drillworkflow.Workflow,
		followpullrequest.WorkflowType:  followworkflow.Workflow,
		prunebackups.WorkflowType:       pruneworkflow.Workflow,
		recoverdata.WorkflowType:        recoverdataworkflow.Workflow,
		recoverservice.WorkflowType:     recoverserviceworkflow.Workflow,
		restoredatabase.WorkflowType:    restoreworkflow.Workflow,
		reviewaccess.WorkflowType:       reviewaccessworkflow.Workflow,
		rolloutrelease.WorkflowType:     rolloutworkflow.Workflow,
		rotatesecret.WorkflowType:       rotateworkflow.Workflow,
		target.WorkflowType:             targetworkflow.Workflow,
		updatedependencies.WorkflowType: updateworkflow.Workflow,
		validatenetwork.WorkflowType:    networkworkflow.Workflow,
		verifybackup.WorkflowType:       verifyworkflow.Workflow,
	} {
		s.RegisterWorkflowWithOptions(fn, workflow.RegisterOptions{Name: name})
	}
}

// namespaceID is the namespace's own id, which no namespace of another server has, whatever its name.
func namespaceID(ctx context.Context, c client.Client, namespace string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	d, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	if err != nil {
		return "", fmt.Errorf("look for Temporal's namespace %q: %w", namespace, err)
	}
	return d.GetNamespaceInfo().GetId(), nil
}

// registerAttributes makes the search attributes known to the server. Where the worker may not, runs
// do without them and say why.
func registerAttributes(ctx context.Context, c client.Client, namespace string) (bool, string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	known, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return false, "the server does not list its search attributes: " + err.Error()
	}
	missing := make(map[string]enumspb.IndexedValueType)
	for name, kind := range Attributes() {
		have, ok := known.GetCustomAttributes()[name]
		switch {
		case !ok:
			missing[name] = kind
		case have != kind:
			return false, fmt.Sprintf("the server has the search attribute %s with another type", name)
		}
	}
	if len(missing) == 0 {
		return true, ""
	}
	_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: missing})
	if err != nil {
		return false, "the server does not let the worker add search attributes: " + err.Error()
	}
	return true, ""
}

// keepTidy clears away, again and again, what ended runs left.
func (w *Worker) keepTidy(ctx context.Context) {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		if err := w.tidy(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("could not clear away all that ended runs left", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tidy removes the private servers of ended runs on this worker, and their half databases wherever.
func (w *Worker) tidy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reapEvery)
	defer cancel()
	all := w.postgres.Scratch.Reap(ctx, w.endedFor(0))
	c, err := w.config()
	if err != nil {
		return errors.Join(all, err)
	}
	store, err := objstore.Open(ctx, c.Store)
	if err != nil {
		return errors.Join(all, err)
	}
	for _, t := range c.Databases() {
		all = errors.Join(all, w.postgres.ReapCopies(ctx, store, t.Name, w.endedFor(takeOverWithin)), w.postgres.ReapPods(ctx, &t, w.endedFor(0)))
	}
	return errors.Join(all, store.Close())
}

// endedFor reports whether a run has been over for so long.
func (w *Worker) endedFor(least time.Duration) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, runID string) (bool, error) { return runs.Ended(ctx, w.client, runID, least) }
}

// Close stops serving, gives running activities StopTimeout to end, and ends the scratch servers,
// whose folders stay for the worker's next process.
func (w *Worker) Close(ctx context.Context) error {
	if w.health != nil {
		w.health.serving.Store(false)
	}
	if w.stop != nil {
		w.stop()
	}
	var stopping sync.WaitGroup
	for _, s := range w.workers {
		stopping.Add(1)
		go func() {
			defer stopping.Done()
			s.Stop()
		}()
	}
	stopping.Wait()
	w.tidying.Wait()
	all := w.postgres.Scratch.Stop(ctx)
	if w.health != nil {
		all = errors.Join(all, w.health.close(ctx))
	}
	w.client.Close()
	return all
}
