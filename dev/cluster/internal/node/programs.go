package node

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/upkeep-run/upkeep/dev/cluster/internal/layout"
)

// program is one that has to run as long as the node does.
type program struct {
	name  string
	path  string
	args  []string
	env   []string
	ready func() error // whether those after it can start; nil: at once
}

// programs are the node's, in the order in which they start.
func programs(parts map[string]string) ([]program, error) {
	files, err := configs()
	if err != nil {
		return nil, err
	}
	for name, content := range files {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	kubernetes := parts["kubernetes"]
	pki := func(name string) string { return layout.In("pki", name) }
	config := func(name string) string { return layout.In("kubeconfigs", name) }
	return []program{
		{name: "containerd", path: "containerd", args: []string{"--config", layout.In("containerd.toml")}},
		{name: "etcd", path: parts["etcd"], args: []string{
			"--data-dir=" + layout.In("etcd"),
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380",
			"--unsafe-no-fsync", // a cluster that is to be thrown away need not outlive the machine's crash
		}, ready: answers("http://127.0.0.1:2379/readyz", "")},
		{name: "kube-apiserver", path: kubernetes, args: []string{"kube-apiserver",
			"--etcd-servers=http://127.0.0.1:2379",
			"--bind-address=0.0.0.0", "--advertise-address=" + layout.NodeAddr, "--secure-port=6443",
			"--service-cluster-ip-range=" + layout.ServiceNet.String(),
			"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
			"--client-ca-file=" + pki("ca.crt"),
			"--audit-policy-file=" + layout.In("audit.yaml"), "--audit-log-path=" + layout.AuditLog,
			"--audit-log-maxsize=50", "--audit-log-maxbackup=1", // MB, of which there are two at most
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + pki("service-accounts.pub"), "--service-account-signing-key-file=" + pki("service-accounts.key"),
			"--kubelet-client-certificate=" + pki("apiserver-to-kubelet.crt"), "--kubelet-client-key=" + pki("apiserver-to-kubelet.key"),
			"--kubelet-certificate-authority=" + pki("ca.crt"),
			"--kubelet-preferred-address-types=InternalIP", // nobody resolves the node's name
			// For metrics-server, which is an API of the cluster that is served by a pod.
			"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-username-headers=X-Remote-User",
			"--proxy-client-cert-file=" + pki("front-proxy-client.crt"), "--proxy-client-key-file=" + pki("front-proxy-client.key"),
		}, ready: answers(layout.API+"/readyz", pki("ca.crt"))},
		{name: "kube-controller-manager", path: kubernetes, args: []string{"kube-controller-manager",
			"--kubeconfig=" + config("controllers"), "--bind-address=127.0.0.1", "--leader-elect=false",
			"--use-service-account-credentials=true", "--service-account-private-key-file=" + pki("service-accounts.key"),
			"--root-ca-file=" + pki("ca.crt"), "--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
			"--allocate-node-cidrs=true", "--cluster-cidr=" + layout.PodNet.String(), "--service-cluster-ip-range=" + layout.ServiceNet.String(),
			"--flex-volume-plugin-dir=" + layout.In("volume-plugins"), // not a folder of the machine's
			"--kube-api-qps=100", "--kube-api-burst=200",
		}},
		{name: "kube-scheduler", path: kubernetes, args: []string{"kube-scheduler",
			"--kubeconfig=" + config("scheduler"), "--bind-address=127.0.0.1", "--leader-elect=false",
			"--kube-api-qps=100", "--kube-api-burst=200",
		}},
		{name: "kubelet", path: kubernetes, args: []string{"kubelet",
			"--config=" + layout.In("kubelet.yaml"), "--kubeconfig=" + config("kubelet"),
			"--hostname-override=" + layout.NodeName, "--node-ip=" + layout.NodeAddr,
		}},
		{name: "kube-proxy", path: kubernetes, args: []string{"kube-proxy", "--config=" + layout.In("kube-proxy.yaml")}},
		{name: "kube-router", path: parts["kube-router"], env: []string{"NODE_NAME=" + layout.NodeName}, args: []string{
			"--kubeconfig=" + config("kube-router"), "--hostname-override=" + layout.NodeName,
			"--run-firewall=true", "--run-router=false", "--run-service-proxy=false",
			"--service-cluster-ip-range=" + layout.ServiceNet.String(), "--metrics-port=0", "--health-port=0",
		}},
	}, nil
}

// configs are the files that the programs are configured by.
func configs() (map[string]string, error) {
	plugins, err := pluginFolder()
	if err != nil {
		return nil, err
	}
	return map[string]string{
		layout.In("resolv.conf"): "", // for pods that do not ask the cluster's DNS: they have none
		layout.In("cni", "10-bridge.conflist"): fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": %q, "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`, layout.Bridge, layout.NodePods),
		// restrict_oom_score_adj: where the machine has no CAP_SYS_RESOURCE, runc would die otherwise.
		layout.In("containerd.toml"): fmt.Sprintf(`version = 2
root = %q
state = %q
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "upkeep.test/pause:dev"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`, layout.In("containerd"), "/run/containerd", layout.Containerd, layout.In("opt"), plugins, layout.In("cni")),
		layout.In("kubelet.yaml"): fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%s
cgroupDriver: cgroupfs
cgroupRoot: /%s
enforceNodeAllocatable: []
failSwapOn: false
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[3]s/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: %[3]s/kubelet.crt
tlsPrivateKeyFile: %[3]s/kubelet.key
clusterDomain: cluster.local
clusterDNS: [%[4]s]
resolvConf: %[5]s
volumePluginDir: %[6]s
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%}
imageGCHighThresholdPercent: 100 # images cannot be pulled again
serializeImagePulls: false
`, layout.Containerd, layout.Cgroup, layout.In("pki"), layout.DNSService, layout.In("resolv.conf"), layout.In("volume-plugins")),
		// One line for each request of an account that is not the cluster's own, without what was in it.
		layout.In("audit.yaml"): `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, userGroups: ["system:serviceaccounts:kube-system", "system:serviceaccounts:local-path-storage"]}
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
- {level: None}
`,
		layout.In("kube-proxy.yaml"): fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %s}
mode: iptables
clusterCIDR: %s
hostnameOverride: %s
conntrack: {maxPerCore: 0, min: 0}
iptables: {minSyncPeriod: 100ms}
`, layout.In("kubeconfigs", "proxy"), layout.Insiders, layout.NodeName),
	}, nil
}

// pluginFolder is where the CNI plugins are: Debian has them elsewhere than their project.
func pluginFolder() (string, error) {
	for _, folder := range []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"} {
		if _, err := os.Stat(filepath.Join(folder, "bridge")); err == nil {
			return folder, nil
		}
	}
	return "", errors.New("the CNI plugins are missing; install containernetworking-plugins")
}

// answers makes a check that a URL answers with 200.
func answers(url, ca string) func() error {
	return func() error {
		transport := &http.Transport{DisableKeepAlives: true}
		if ca != "" {
			pem, err := os.ReadFile(ca)
			if err != nil {
				return err
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(pem)
			transport.TLSClientConfig = &tls.Config{RootCAs: roots}
		}
		response, err := (&http.Client{Transport: transport, Timeout: 2 * time.Second}).Get(url)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, response.Status)
		}
		return nil
	}
}
