// Package layout says where the cluster keeps its things and which addresses it has. One machine has
// one cluster, so these are constants.
package layout

import (
	"net/netip"
	"path/filepath"
)

// Dir is the cluster's folder. Everything that it writes is in there.
const Dir = "/var/lib/upkeep-cluster"

// Kubeconfig is the administrator's.
const Kubeconfig = Dir + "/kubeconfig"

// AuditLog is where kube-apiserver writes what service accounts ask of it. Tests of rights read it.
const AuditLog = Dir + "/log/audit.log"

// Containerd is the socket of the cluster's own containerd. It is a file of the disk, not of /run, so
// that it is seen from outside the node's mounts too.
const Containerd = Dir + "/containerd.sock"

// Cgroup is where all processes of the cluster are, below the root of every hierarchy. What is in it
// is the cluster's and nothing else is: this is how they are found again after any crash.
const Cgroup = "upkeep-cluster"

// MountPoints are folders whose paths are compiled into the programs. The node has its own in their
// place; on the machine they only have to be there.
var MountPoints = []string{"/var/lib/kubelet", "/var/lib/cni", "/var/log"}

// The node is in a network namespace of its own, and this link is its only way out: to the machine.
const (
	Link        = "upkeep0" // the machine's end
	MachineAddr = "10.243.0.1"
	NodeAddr    = "10.243.0.2"
	LinkBits    = "/30"

	Bridge     = "cni0"
	BridgeAddr = "10.244.0.1"

	APIService = "10.96.0.1"
	DNSService = "10.96.0.10"
)

// The networks, which the machine must not use for something else.
var (
	LinkNet    = netip.MustParsePrefix("10.243.0.0/30")
	PodNet     = netip.MustParsePrefix("10.244.0.0/16")
	NodePods   = netip.MustParsePrefix("10.244.0.0/24")
	ServiceNet = netip.MustParsePrefix("10.96.0.0/16")
	// Insiders are who is not hidden behind the node's address when they call a Service: pods, and the
	// machine. Network policies then see who it is.
	Insiders = netip.MustParsePrefix("10.240.0.0/12")
)

// NodeName is the node's name in Kubernetes.
const NodeName = "node-1"

// API is where the machine and the node reach kube-apiserver.
const API = "https://" + NodeAddr + ":6443"

// In is a path in the cluster's folder.
func In(elements ...string) string { return filepath.Join(append([]string{Dir}, elements...)...) }
