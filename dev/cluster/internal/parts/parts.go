// Package parts names the programs that the cluster is made of.
package parts

import "github.com/upkeep-run/upkeep/dev/kit/part"

// kubernetesVersion is what the programs say of themselves: clients ask the server for it.
const kubernetesVersion = "-X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34"

// The parts. Kubernetes comes first: most of what the others share with it is then compiled.
var (
	Kubernetes = part.Part{Name: "kubernetes", Module: "parts/kubernetes", Package: ".", LDFlags: kubernetesVersion, About: "some six minutes on two cores"}
	Etcd       = part.Part{Name: "etcd", Module: "parts/etcd", Package: "go.etcd.io/etcd/server/v3", About: "half a minute"}
	KubeRouter = part.Part{Name: "kube-router", Module: "parts/kube-router", Package: "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router", About: "half a minute"}
	CoreDNS    = part.Part{Name: "coredns", Module: "parts/coredns", Package: ".", About: "half a minute"}
	Metrics    = part.Part{Name: "metrics-server", Module: "parts/metrics-server", Package: "sigs.k8s.io/metrics-server/cmd/metrics-server", About: "half a minute"}
	LocalPath  = part.Part{Name: "local-path-provisioner", Module: "parts/local-path-provisioner", Package: "github.com/rancher/local-path-provisioner", About: "half a minute"}
	Helm       = part.Part{Name: "helm", Module: "parts/helm", Package: "helm.sh/helm/v3/cmd/helm", About: "a minute"}
	Pause      = part.Part{Name: "pause", Module: ".", Package: "./cmd/pause", About: "a second"}
)

// All is every part, in the order in which to build them.
var All = []part.Part{Kubernetes, Etcd, KubeRouter, CoreDNS, Metrics, LocalPath, Helm, Pause}
