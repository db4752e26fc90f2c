package kube

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// systemNamespaces are the cluster's own. No target lives there.
var systemNamespaces = []string{"kube-system", "kube-public", "kube-node-lease"}

// NamespaceProblem says what is wrong with the name of a target's namespace, or "".
func NamespaceProblem(name string) string {
	if len(validation.IsDNS1123Label(name)) > 0 {
		return "must be the name of a namespace: small letters, digits and -, at most 63"
	}
	if slices.Contains(systemNamespaces, name) {
		return "must not be " + name + ", which is the cluster's own"
	}
	return ""
}

// CheckNamespace refuses what cannot be, or must not be, a target's namespace.
func CheckNamespace(name string) error {
	if problem := NamespaceProblem(name); problem != "" {
		return failure.New(failure.BadConfig, "kubernetes.namespace %s (it is %.100q)", problem, name).Do("correct upkeep.yaml and start a new run")
	}
	return nil
}

// NameProblem says what is wrong with the name of a pod, Service, Secret or workload, or "".
func NameProblem(name string) string {
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return "must be a name in Kubernetes: small letters, digits, - and ., at most 253"
	}
	return ""
}

// ReleaseProblem says what is wrong with the name of a Helm release, or "".
func ReleaseProblem(name string) string {
	if len(name) > 53 || len(validation.IsDNS1123Subdomain(name)) > 0 || strings.HasPrefix(name, "-") {
		return "must be the name of a Helm release: small letters, digits, - and ., at most 53"
	}
	return ""
}
