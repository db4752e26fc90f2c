package cluster

import (
	"github.com/upkeep-run/upkeep/dev/cluster/internal/layout"
	"github.com/upkeep-run/upkeep/dev/cluster/internal/pki"
)

// identities makes the certificates and kubeconfigs of all who take part.
func identities() error {
	folder := layout.In("pki")
	ca, err := pki.NewAuthority(folder, "ca")
	if err != nil {
		return err
	}
	frontProxy, err := pki.NewAuthority(folder, "front-proxy-ca")
	if err != nil {
		return err
	}
	if err := frontProxy.Issue(pki.Identity{Name: "front-proxy-client", User: "front-proxy-client"}); err != nil {
		return err
	}
	const administrators = "system:masters"
	for _, id := range []pki.Identity{
		{Name: "apiserver", User: "kube-apiserver", Hosts: []string{layout.NodeAddr, layout.APIService, "127.0.0.1", "localhost",
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}},
		{Name: "apiserver-to-kubelet", User: "kube-apiserver-kubelet-client", Groups: []string{administrators}},
		{Name: "kubelet", User: "system:node:" + layout.NodeName, Groups: []string{"system:nodes"}, Hosts: []string{layout.NodeAddr, layout.NodeName}},
		{Name: "controllers", User: "system:kube-controller-manager"},
		{Name: "scheduler", User: "system:kube-scheduler"},
		{Name: "proxy", User: "system:kube-proxy"},
		{Name: "kube-router", User: "kube-router", Groups: []string{administrators}}, // it starts before its role could be applied
		{Name: "admin", User: "admin", Groups: []string{administrators}},
	} {
		if err := ca.Issue(id); err != nil {
			return err
		}
	}
	for _, user := range []string{"kubelet", "controllers", "scheduler", "proxy", "kube-router"} {
		if err := ca.WriteKubeconfig(layout.In("kubeconfigs", user), layout.API, user); err != nil {
			return err
		}
	}
	if err := ca.WriteKubeconfig(layout.Kubeconfig, layout.API, "admin"); err != nil {
		return err
	}
	key, err := pki.NewKey(layout.In("pki", "service-accounts.key"))
	if err != nil {
		return err
	}
	return pki.WritePublic(layout.In("pki", "service-accounts.pub"), key)
}
