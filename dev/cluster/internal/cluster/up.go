// Package cluster brings the cluster up, says how it stands, and takes it down.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/dev/cluster/internal/cgroup"
	"github.com/upkeep-run/upkeep/dev/cluster/internal/layout"
	"github.com/upkeep-run/upkeep/dev/cluster/internal/node"
	"github.com/upkeep-run/upkeep/dev/cluster/internal/parts"
	"github.com/upkeep-run/upkeep/dev/cluster/manifests"
	"github.com/upkeep-run/upkeep/dev/kit/image"
	"github.com/upkeep-run/upkeep/dev/kit/part"
)

// Cluster is the one of this machine.
type Cluster struct {
	Builder part.Builder
	Say     func(format string, args ...any)

	programs map[string]string
}

// group holds every process of the cluster.
var group = cgroup.New(layout.Cgroup)

// readyMark is written when everything was seen to work.
var readyMark = layout.In("ready")

// Up brings the cluster up, unless it is; what a crash left of one before is removed first.
func (c *Cluster) Up(ctx context.Context) error {
	if err := checkMachine(); err != nil {
		return err
	}
	programs, err := c.Builder.Build(ctx, parts.All...)
	if err != nil {
		return err
	}
	c.programs = programs
	if err := c.linkTools(); err != nil {
		return err
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	if up, err := IsUp(); err != nil || up {
		if up {
			c.Say("the cluster is up")
		}
		return err
	}
	if err := c.clean(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := c.begin(ctx); err != nil {
		return fmt.Errorf("%w\n%s%s\n\"make cluster-down\" removes what is there; \"make cluster\" tries anew", err, nodeLog(), c.pods())
	}
	c.Say("the cluster is up after %.0f s; kubectl and helm are in %s, and this is its kubeconfig:", time.Since(began).Seconds(), filepath.Join(c.Builder.Cache, "tools"))
	return nil
}

// IsUp says whether the cluster runs and was seen to work when it came up.
func IsUp() (bool, error) {
	pids, err := group.Processes()
	if err != nil {
		return false, err
	}
	_, err = os.Stat(readyMark)
	return err == nil && len(pids) > 0, nil
}

func (c *Cluster) begin(ctx context.Context) error {
	if err := networksAreFree(); err != nil {
		return err
	}
	c.Say("starting containerd, etcd and the programs of Kubernetes")
	for _, folder := range []string{"log", "pki", "kubeconfigs", "cni", "etcd", "images", "node", "volumes"} {
		mode := os.FileMode(0o755)
		if folder == "etcd" || folder == "pki" || folder == "kubeconfigs" {
			mode = 0o700
		}
		if err := os.MkdirAll(layout.In(folder), mode); err != nil {
			return err
		}
	}
	if err := saveSettings(); err != nil {
		return err
	}
	if err := identities(); err != nil {
		return err
	}
	for _, place := range layout.MountPoints {
		if err := os.MkdirAll(place, 0o755); err != nil {
			return err
		}
	}
	if err := c.startNode(ctx); err != nil {
		return err
	}
	if err := c.images(ctx); err != nil {
		return err
	}
	return c.addons(ctx)
}

// startNode starts the node. It is in its control group before it is told to go on, so that whatever
// it starts is found there.
func (c *Cluster) startNode(ctx context.Context) error {
	for _, module := range []string{"overlay", "br_netfilter", "ip_set", "xt_set", "ip_tables", "nf_conntrack"} {
		_ = exec.CommandContext(ctx, "modprobe", module).Run() // built in, or said by what misses it
	}
	if err := group.Create(); err != nil {
		return err
	}
	process, goAhead, err := node.Start(layout.In("log", "node.log"))
	if err != nil {
		return err
	}
	if err := group.Enter(process.Pid); err != nil {
		return errors.Join(err, process.Kill())
	}
	for _, line := range []string{
		"ip link add " + layout.Link + " type veth peer name eth0 netns " + strconv.Itoa(process.Pid),
		"ip address add " + layout.MachineAddr + layout.LinkBits + " dev " + layout.Link,
		"ip link set " + layout.Link + " up",
		"ip route add " + layout.NodePods.String() + " via " + layout.NodeAddr,
		"ip route add " + layout.ServiceNet.String() + " via " + layout.NodeAddr,
	} {
		if err := run(ctx, line); err != nil {
			return errors.Join(err, process.Kill())
		}
	}
	return goAhead(node.Config{Programs: c.programs})
}

// images gives containerd what the add-ons run.
func (c *Cluster) images(ctx context.Context) error {
	busybox, err := image.Busybox(ctx)
	if err != nil {
		return err
	}
	all := []*image.Image{busybox}
	for _, p := range []part.Part{parts.Pause, parts.CoreDNS, parts.Metrics, parts.LocalPath} {
		static, err := image.Static(p.Name, c.programs[p.Name])
		if err != nil {
			return err
		}
		all = append(all, static)
	}
	if err := c.wait(ctx, "containerd answers", 30*time.Second, func(ctx context.Context) error {
		return run(ctx, "ctr --address "+layout.Containerd+" version")
	}); err != nil {
		return err
	}
	return c.Import(ctx, all...)
}

// Import gives images to the cluster.
func (c *Cluster) Import(ctx context.Context, images ...*image.Image) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for _, i := range images {
		if err := image.Import(ctx, i, layout.Containerd, layout.In("images")); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) addons(ctx context.Context) error {
	if err := c.wait(ctx, "kube-apiserver answers", 90*time.Second, func(ctx context.Context) error {
		_, err := c.kubectl(ctx, "", "get", "--raw", "/readyz")
		return err
	}); err != nil {
		return err
	}
	if err := c.apply(ctx, manifests.Addons); err != nil {
		return err
	}
	if err := c.wait(ctx, "the node is ready", 90*time.Second, func(ctx context.Context) error {
		return c.condition(ctx, "node/"+layout.NodeName, "Ready")
	}); err != nil {
		return err
	}
	c.Say("the node is ready; starting DNS, metrics and storage")
	for _, deployment := range []string{"kube-system/coredns", "kube-system/metrics-server", "local-path-storage/local-path-provisioner"} {
		namespace, name, _ := strings.Cut(deployment, "/")
		if err := c.wait(ctx, name+" runs", 2*time.Minute, func(ctx context.Context) error {
			return c.condition(ctx, "deployment/"+name, "Available", "--namespace", namespace)
		}); err != nil {
			return err
		}
	}
	if err := c.wait(ctx, "the default service account is there", 30*time.Second, func(ctx context.Context) error {
		_, err := c.kubectl(ctx, "", "get", "serviceaccount", "default")
		return err
	}); err != nil {
		return err
	}
	if err := c.apply(ctx, manifests.Probe); err != nil {
		return err
	}
	if err := c.wait(ctx, "DNS answers the machine", 30*time.Second, resolves); err != nil {
		return err
	}
	if err := c.wait(ctx, "a pod resolves a name and writes to a volume", 90*time.Second, func(ctx context.Context) error {
		phase, err := c.kubectl(ctx, "", "get", "pod/probe", "--namespace", "upkeep-probe", "-o", "jsonpath={.status.phase}")
		if err == nil && phase != "Succeeded" {
			err = fmt.Errorf("the pod upkeep-probe/probe is %s", phase)
		}
		return err
	}); err != nil {
		return err
	}
	if err := c.wait(ctx, "the metrics API has rows", 2*time.Minute, func(ctx context.Context) error {
		rows, err := c.kubectl(ctx, "", "get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes")
		if err == nil && !strings.Contains(rows, `"usage"`) {
			err = errors.New("it has none yet")
		}
		return err
	}); err != nil {
		return err
	}
	if _, err := c.kubectl(ctx, "", "delete", "namespace", "upkeep-probe", "--wait=true", "--timeout=60s"); err != nil {
		return err
	}
	return os.WriteFile(readyMark, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o644)
}

// resolves asks the cluster's DNS through its Service, as a pod would.
func resolves(ctx context.Context) error {
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(layout.DNSService, "53"))
	}
	addresses, err := (&net.Resolver{PreferGo: true, Dial: dial}).LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
	if err == nil && (len(addresses) != 1 || addresses[0] != layout.APIService) {
		err = fmt.Errorf("kubernetes.default.svc.cluster.local is %v, not %s", addresses, layout.APIService)
	}
	return err
}

func (c *Cluster) apply(ctx context.Context, manifest string) error {
	_, err := c.kubectl(ctx, manifest, "apply", "--server-side", "--force-conflicts", "-f", "-")
	return err
}

// condition is nil if the object has the condition.
func (c *Cluster) condition(ctx context.Context, object, condition string, args ...string) error {
	status, err := c.kubectl(ctx, "", append([]string{"get", object, "-o", fmt.Sprintf(`jsonpath={.status.conditions[?(@.type==%q)]}`, condition)}, args...)...)
	if err == nil && !strings.Contains(status, `"status":"True"`) {
		err = fmt.Errorf("%s is not %s: %s", object, condition, status)
	}
	return err
}

func (c *Cluster) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, c.programs[parts.Kubernetes.Name], append([]string{"kubectl", "--kubeconfig", layout.Kubeconfig}, args...)...)
	command.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(output), nil
}

// wait looks until a condition holds; the error of the last look says why it did not.
func (c *Cluster) wait(ctx context.Context, what string, within time.Duration, look func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for last := error(nil); ; {
		once, done := context.WithTimeout(ctx, 10*time.Second)
		err := look(once)
		done()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // not the one of a look that the deadline cut short
			last = err
		}
		if pids, err := group.Processes(); err == nil && len(pids) == 0 {
			return fmt.Errorf("the node has ended before %s", what)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s until %s, in vain: %w; the logs are in %s", within, what, last, layout.In("log"))
		case <-tick.C:
		}
	}
}

// linkTools leaves kubectl and helm, as the cluster uses them, in a folder of the cache.
func (c *Cluster) linkTools() error {
	folder := filepath.Join(c.Builder.Cache, "tools")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, program := range map[string]string{"kubectl": c.programs[parts.Kubernetes.Name], "helm": c.programs[parts.Helm.Name]} {
		link := filepath.Join(folder, name)
		if to, err := os.Readlink(link); err == nil && to == program {
			continue
		}
		_ = os.Remove(link + ".new")
		if err := os.Symlink(program, link+".new"); err != nil {
			return err
		}
		if err := os.Rename(link+".new", link); err != nil {
			return err
		}
	}
	return nil
}

// Tools builds kubectl and helm and returns the folder that they are in.
func (c *Cluster) Tools(ctx context.Context) (string, error) {
	programs, err := c.Builder.Build(ctx, parts.Kubernetes, parts.Helm)
	if err != nil {
		return "", err
	}
	c.programs = programs
	return filepath.Join(c.Builder.Cache, "tools"), c.linkTools()
}

func checkMachine() error {
	if os.Geteuid() != 0 {
		return errors.New("a cluster needs root, as it makes namespaces, mounts and control groups; say: sudo make cluster")
	}
	for program, packages := range map[string]string{
		"containerd": "containerd", "ctr": "containerd", "runc": "runc", "ip": "iproute2", "iptables": "iptables", "ipset": "ipset",
		"conntrack": "conntrack", "/bin/busybox": "busybox-static",
	} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is missing; install it with: apt-get install %s", program, packages)
		}
	}
	return nil
}

// networksAreFree refuses to hide something of the machine's behind the cluster.
func networksAreFree() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addresses {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			for _, ours := range []netip.Prefix{layout.LinkNet, layout.PodNet, layout.ServiceNet} {
				if prefix.Bits() > 0 && ours.Contains(prefix.Addr()) {
					return fmt.Errorf("the network interface %s has the address %s, which is in %s, a network of the cluster; take one of them away", i.Name, prefix, ours)
				}
			}
		}
	}
	return nil
}

// lock keeps two of these programs from working on the cluster at once.
func lock() (unlock func(), err error) {
	file, err := os.OpenFile(layout.Dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, errors.New("another \"make cluster\" or \"make cluster-down\" is at work; wait until it has ended")
	}
	return func() { file.Close() }, nil
}

func run(ctx context.Context, line string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	fields := strings.Fields(line)
	if output, err := exec.CommandContext(ctx, fields[0], fields[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(output)))
	}
	return nil
}

// pods is how all pods stand, if the cluster is far enough to say.
func (c *Cluster) pods() string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if all, err := c.kubectl(ctx, "", "get", "pods", "--all-namespaces"); err == nil {
		return "\nits pods:\n" + all
	}
	return ""
}

// nodeLog is the end of what the node says of its programs.
func nodeLog() string {
	content, err := os.ReadFile(layout.In("log", "node.log"))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return "the node's last words:\n  " + strings.Join(lines[max(0, len(lines)-8):], "\n  ")
}
