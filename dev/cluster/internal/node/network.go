package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/dev/cluster/internal/layout"
)

// network sets up the node's half of the link to the machine, and the bridge of its pods. There is no
// default route: nothing that runs in the cluster can reach further than the machine it is on.
func network() error {
	bridge, services := layout.Bridge, layout.ServiceNet.String()
	for _, line := range []string{
		"ip link set lo up",
		"ip address add " + layout.NodeAddr + layout.LinkBits + " dev eth0",
		"ip link set eth0 up",
		// The bridge's plugin would make it with the first pod; but kube-proxy and kube-router want to
		// see it before.
		"ip link add " + bridge + " type bridge",
		"ip address add " + layout.BridgeAddr + "/24 dev " + bridge,
		"ip link set " + bridge + " up",
		// The addresses of Services need some route, or the kernel gives up on them before kube-proxy's
		// rules put a pod's address in their place.
		"ip route add " + services + " dev " + bridge,
		// One that still has a Service's address after those rules is of a Service without pods, or one
		// that kube-proxy does not know yet: say no at once.
		"iptables -w 10 -I OUTPUT -d " + services + " -j REJECT",
		"iptables -w 10 -I FORWARD -d " + services + " -j REJECT",
	} {
		if err := run(line); err != nil {
			return err
		}
	}
	for name, value := range map[string]string{
		"net/ipv4/ip_forward":                "1",
		"net/bridge/bridge-nf-call-iptables": "1",
	} {
		err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(name, "net/bridge") {
			return errors.New("the kernel has no bridge netfilter, by which network policies work between pods of a node; load the module br_netfilter")
		}
		if err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

func run(line string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	fields := strings.Fields(line)
	if output, err := exec.CommandContext(ctx, fields[0], fields[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(output)))
	}
	return nil
}
