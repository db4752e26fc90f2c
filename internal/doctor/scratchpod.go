package doctor

import (
	"context"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// podRights are what a scratch server in a pod takes.
var podRights = []authorizationv1.ResourceAttributes{
	{Verb: "get", Resource: "pods"}, {Verb: "list", Resource: "pods"}, {Verb: "create", Resource: "pods"}, {Verb: "delete", Resource: "pods"},
	{Verb: "create", Resource: "pods", Subresource: "portforward"},
	{Verb: "create", Group: "networking.k8s.io", Resource: "networkpolicies"}, {Verb: "delete", Group: "networking.k8s.io", Resource: "networkpolicies"},
}

// podScratch looks at what a scratch server in a pod needs.
func (p *patient) podScratch(ctx context.Context) {
	l := &p.scratch
	var cluster *kube.Cluster
	connected := l.Reach(ctx, checkConnection, func(ctx context.Context) (string, error) {
		c, err := p.target.Kubernetes.Connect(ctx)
		if err != nil {
			return "", err
		}
		v, err := c.Client.Discovery().ServerVersion()
		if err != nil {
			return "", kube.Classify(err, "ask the cluster for its version")
		}
		cluster = c
		return "the API server is Kubernetes " + v.GitVersion, nil
	})
	if !connected {
		l.Skip("there is no connection", checkRights, checkImage)
		return
	}
	l.Look(ctx, checkRights, func(ctx context.Context) (string, error) { return allowed(ctx, cluster, podRights) })
	l.Look(ctx, checkImage, func(ctx context.Context) (string, error) {
		if image := p.target.Database.Scratch.Image; image != "" {
			return image + ", as upkeep.yaml says", nil
		}
		pod, _, err := cluster.Pod(ctx, p.target.Database.In)
		if err != nil {
			return "", err
		}
		return "that of pod " + pod.Name, nil
	})
}

// allowed asks the API server whether the account may do all of it in the target's namespace.
func allowed(ctx context.Context, c *kube.Cluster, rights []authorizationv1.ResourceAttributes) (string, error) {
	var missing []string
	for _, r := range rights {
		r.Namespace = c.Namespace
		review, err := c.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &r}}, metav1.CreateOptions{})
		if err != nil {
			return "", kube.Classify(err, "ask the cluster what the account may do")
		}
		if !review.Status.Allowed {
			what := r.Resource
			if r.Subresource != "" {
				what += "/" + r.Subresource
			}
			missing = append(missing, r.Verb+" "+what)
		}
	}
	if len(missing) > 0 {
		return "", failure.New(failure.ClusterForbids, "in namespace %s the account may not %s", c.Namespace, strings.Join(missing, ", ")).
			Do("give it a Role with these verbs in that namespace")
	}
	return fmt.Sprintf("in namespace %s the account may do all that a scratch server in a pod takes", c.Namespace), nil
}
