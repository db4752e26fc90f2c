package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/dev/internal/measure"
	"github.com/upkeep-run/upkeep/dev/internal/stack"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/starter"
)

// size is how much data a stack has.
type size struct {
	name, about string
	traces      int // of 10 KiB each, that do not compress to much less than a half
}

var (
	small = size{"small", "100 traces (1 MB)", 100}
	large = size{"large", "20 000 traces (200 MB)", 20_000}
	sizes = []size{small, large}
)

const (
	// master is the database that losses are repaired from between measurements, without anybody's backup.
	master = "bench_master"
	// values are the stack's, for everybody who installs or upgrades it.
	values = `langfuse: {replicas: 3}
postgresql: {storage: 2Gi}
`
	// readyWithin is how long what is applied may take to be ready, for everybody.
	readyWithin = 30 * time.Second
	// bake is how long Upkeep watches a release that is ready. Helm has nothing like it.
	bake = 20 * time.Second
	// pods are the prober, and a hand to do things from within the cluster.
	pods = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "prober", "labels": {"access": "langfuse"}}, "spec": {
		"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [
		{"name": "prober", "image": "upkeep.test/web:dev", "imagePullPolicy": "Never", "args": ["probe", %q]},
		{"name": "hand", "image": "upkeep.test/busybox:dev", "imagePullPolicy": "Never", "command": ["sleep", "100000"]}]}}`
)

// place is a stack, and the pod that calls its service.
type place struct {
	stack.Namespace
	size    size
	prober  *prober
	cluster *kube.Cluster
	before  picture // as it should be
}

func newPlace(s size, began time.Time) *place {
	return &place{Namespace: stack.Namespace(fmt.Sprintf("upkeep-bench-%d-%s", began.Unix(), s.name)), size: s}
}

// install makes the stack with its data, and begins to probe it.
func (p *place) install(ctx context.Context, f *field) (err error) {
	if p.cluster, err = kube.Connect(ctx, kube.Options{Namespace: string(p.Namespace)}); err != nil {
		return err
	}
	if err := os.WriteFile(f.values(), []byte(values), 0o600); err != nil {
		return err
	}
	if err := p.Create(); err != nil {
		return err
	}
	// With the hook that migrates; afterwards without, as a release that everybody goes back to.
	if err := p.Install(f.chart, "--values", f.values()); err != nil {
		return err
	}
	if err := p.upgrade(f); err != nil {
		return err
	}
	_, err = p.Psql("langfuse", fmt.Sprintf(`INSERT INTO traces (name) SELECT (SELECT string_agg(md5(i::text || j::text), '') FROM generate_series(1, 320) j) FROM generate_series(1, %d) i`, p.size.traces))
	if err != nil {
		return err
	}
	if _, err = p.Psql("postgres", "ALTER DATABASE langfuse ALLOW_CONNECTIONS false", // a template has no sessions
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'langfuse'",
		"CREATE DATABASE "+master+" TEMPLATE langfuse OWNER langfuse", "ALTER DATABASE langfuse ALLOW_CONNECTIONS true"); err != nil {
		return err
	}
	address, err := p.Kubectl("get", "service", stack.Release+"-langfuse", "-o", "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}")
	if err != nil {
		return err
	}
	if err := p.Apply(fmt.Sprintf(pods, "http://"+address+"/traces/count")); err != nil {
		return err
	}
	if _, err := p.Kubectl("wait", "--for=condition=Ready", "pod/prober", "--timeout=60s"); err != nil {
		return err
	}
	p.prober = follow(string(p.Namespace), "prober")
	if err := p.well(ctx); err != nil {
		return err
	}
	p.before, err = p.look()
	return err
}

func (p *place) remove() error {
	if p.prober != nil {
		p.prober.stop()
	}
	return p.Remove()
}

func (f *field) values() string { return filepath.Join(f.dir, "values.yaml") }

// backup is the file of the guide's backup of a place.
func (f *field) backup(p *place) string { return filepath.Join(f.dir, p.size.name+".sql.gz") }

// target is the place in Upkeep's configuration.
func (p *place) target(f *field) string {
	return fmt.Sprintf(`  - name: %s
    kubernetes: {namespace: %s, release: %s, probes: [{name: traces, service: %[3]s-langfuse, port: 3000, path: /traces/count}]}
    database: {service: %[3]s-postgresql, name: langfuse, role: postgres, passwordFrom: {secret: {name: langfuse-postgresql, key: postgres-password}}}
    rollout: {chart: %[4]q, values: [%[5]q], bake: %[6]s, timeout: %[7]s, migrations: compatible}
`, p.size.name, p.Namespace, stack.Release, f.good, f.values(), bake, readyWithin)
}

// upgrade brings the release to what it should be.
func (p *place) upgrade(f *field, more ...string) error {
	_, err := p.Helm(append([]string{"upgrade", stack.Release, f.good, "--values", f.values(), "--wait", "--timeout", "2m"}, more...)...)
	return err
}

// protect takes the backups that the ways restore from: Upkeep's, proven by a drill, and the guide's.
func (p *place) protect(ctx context.Context, f *field) error {
	began := time.Now()
	if _, err := f.upkeep.Succeed(ctx, starter.Order{Procedure: drillrecovery.WorkflowType, Target: p.size.name}); err != nil {
		return err
	}
	drilled := time.Now()
	out := f.script(ctx, p, "backup.sh", "BACKUP="+f.backup(p))
	measure.Say("    Upkeep, with a drill: %.1f s; the guide's pg_dump | gzip: %.1f s", drilled.Sub(began).Seconds(), time.Since(drilled).Seconds())
	if out.err != nil {
		return fmt.Errorf("%w: %s", out.err, out.text)
	}
	return nil
}

// repair brings everything back to where it was, by nobody's way.
func (p *place) repair(ctx context.Context, f *field) error {
	now, err := p.look()
	if err != nil {
		return err
	}
	if strings.HasPrefix(now.status, "pending-") { // which no upgrade gets past
		if _, err := p.Helm("rollback", stack.Release); err != nil {
			return err
		}
	}
	if now.status != p.before.status || now.manifest != p.before.manifest || now.template != p.before.template {
		if err := p.upgrade(f, "--force"); err != nil {
			return err
		}
	}
	if now.tables != p.before.tables {
		if _, err := p.Psql("postgres", "DROP DATABASE langfuse WITH (FORCE)", "CREATE DATABASE langfuse TEMPLATE "+master+" OWNER langfuse"); err != nil {
			return err
		}
	}
	for _, name := range now.databases {
		if _, err := p.Psql("postgres", "DROP DATABASE "+strconv.Quote(name)+" WITH (FORCE)"); err != nil {
			return err
		}
	}
	if now.unready > 0 {
		if _, err := p.Kubectl("delete", "pods", "-l", "app.kubernetes.io/name=langfuse", "--wait=false"); err != nil {
			return err
		}
	}
	if _, err := p.Kubectl("scale", stack.Web, "--replicas=3"); err != nil {
		return err
	}
	if err := p.well(ctx); err != nil {
		return err
	}
	now, err = p.look()
	if left := now.differences(p.before); err == nil && len(left) > 0 {
		err = errors.New("the stack could not be repaired: " + strings.Join(left, "; "))
	}
	if err == nil {
		_, err = p.Psql("postgres", "CHECKPOINT") // the next does not pay for it
	}
	return err
}

// well waits until the service is whole and has been right for a while.
func (p *place) well(ctx context.Context) error {
	if _, err := p.Kubectl("rollout", "status", stack.Web, "--timeout=80s"); err != nil {
		return err
	}
	return p.prober.steady(ctx, int64(p.size.traces), true, 2*time.Second, time.Minute)
}

// wedge makes every pod of the service lock itself up.
func (p *place) wedge() error {
	addresses, err := p.Kubectl("get", "pods", "-l", "app.kubernetes.io/name=langfuse", "-o", "jsonpath={.items[*].status.podIP}")
	if err != nil {
		return err
	}
	for _, address := range strings.Fields(addresses) {
		if _, err := p.Kubectl("exec", "prober", "-c", "hand", "--", "timeout", "5", "wget", "-qO-", "--post-data", "", "http://"+address+":3000/wedge"); err != nil {
			return err
		}
	}
	return nil
}

// versions are those of what the place is made of.
func (p *place) versions(ctx context.Context) ([]string, error) {
	var all []string
	for _, program := range [][]string{{"kubectl", "version"}, {"helm", "version", "--short"}, {"bash", "--version"}} {
		version, err := measure.VersionOf(ctx, program[0], program[1:]...)
		if err != nil {
			return nil, err
		}
		all = append(all, cmp.Or(map[string]string{"helm": "helm " + version, "kubectl": "kubectl: " + version}[program[0]], version))
	}
	server, err := p.cluster.Client.Discovery().ServerVersion()
	if err != nil {
		return nil, err
	}
	database, err := p.Psql("postgres", "SHOW server_version")
	return append(all, "Kubernetes "+server.GitVersion, "PostgreSQL "+database), err
}
