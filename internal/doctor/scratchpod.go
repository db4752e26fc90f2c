package doctor

import (
	"context"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/rbac"
)

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
	l.Look(ctx, checkRights, func(ctx context.Context) (string, error) { return p.allowed(ctx, cluster) })
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

// allowed asks the API server whether the account may do all that procedures on the target's database take.
func (p *patient) allowed(ctx context.Context, c *kube.Cluster) (string, error) {
	target := rbac.Of(&p.target)
	target.Outside = !c.Inside
	needs, err := target.Needs(rbac.Procedures(), false)
	if err != nil {
		return "", err
	}
	var missing []string
	for _, r := range needs[rbac.Database].Rights() {
		resource, sub, _ := strings.Cut(r.Resource, "/")
		review, err := c.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: r.Namespace, Group: r.Group, Resource: resource, Subresource: sub, Verb: r.Verb, Name: r.Name,
			}}}, metav1.CreateOptions{})
		if err != nil {
			return "", kube.Classify(err, "ask the cluster what the account may do")
		}
		if !review.Status.Allowed {
			missing = append(missing, strings.TrimSpace(r.Verb+" "+r.Resource+" "+r.Name))
		}
	}
	if len(missing) > 0 {
		return "", failure.New(failure.ClusterForbids, "in namespace %s the account may not %s", c.Namespace, strings.Join(missing, ", ")).
			Do("upkeep rbac --target %s --capability database prints the Role for it", p.target.Name)
	}
	return fmt.Sprintf("in namespace %s the account may do all that procedures on the database take", c.Namespace), nil
}
