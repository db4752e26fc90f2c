package doctor

import (
	"context"
	"fmt"
	"net"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/prober"
)

const (
	checkThere   = "is there"
	checkAnswers = "answers"
)

// examineProber looks whether a target's standing prober is there, and asks it as ContainIncident does.
func examineProber(ctx context.Context, t config.Target) []Finding {
	l := &List{Subject: "target " + t.Name + ": standing prober"}
	p := t.Kubernetes.Network.Prober
	pod := prober.Pod(p.Standing)
	var cluster *kube.Cluster
	there := l.Look(ctx, checkThere, func(ctx context.Context) (string, error) {
		c, err := t.Kubernetes.Connect(ctx)
		if err != nil {
			return "", err
		}
		pods, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod, Limit: 2})
		if err != nil {
			return "", unlessForbidden(kube.Classify(err, "list pods in namespace "+c.Namespace))
		}
		if _, err := prober.Find(pods.Items, c.Namespace, p.Standing, p.Image); err != nil {
			return "", failure.New(failure.MissingObject, "%v", err).Do("install it (prober.namespaces of the chart), correct kubernetes.network.prober, or leave standing out")
		}
		cluster = c
		return fmt.Sprintf("pod %s in namespace %s, ready", pod, c.Namespace), nil
	})
	if !there {
		l.Skip("it was not found", checkAnswers)
		return l.Findings
	}
	l.Look(ctx, checkAnswers, func(ctx context.Context) (string, error) {
		a, err := prober.Ask(ctx, func(ctx context.Context) (net.Conn, error) { return cluster.Forward(ctx, pod, prober.Listen) })
		if err != nil {
			return "", unlessForbidden(err)
		}
		reached := 0
		for _, port := range a.Ports {
			if port.Reached() {
				reached++
			}
		}
		found := fmt.Sprintf("it tries %d ports, and reaches %d", len(a.Ports), reached)
		if a.Over > 0 {
			return "", &Doubt{Found: fmt.Sprintf("%s; it leaves out %d", found, a.Over), Remedy: "no more than that are tried in a namespace", Optional: true}
		}
		return found, nil
	})
	return l.Findings
}

// unlessForbidden makes a doubt of a missing right: the account that looks may not be that of the worker that asks.
func unlessForbidden(err error) error {
	if !failure.Is(err, failure.ClusterForbids) {
		return err
	}
	return &Doubt{Found: err.Error(), Remedy: "look with the account of the capability cluster; upkeep rbac prints what it needs", Optional: true}
}
