package kube

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// ReadSecret reads one key of a Secret in the target's namespace. Errors name the Secret and the key,
// never the value.
func (c *Cluster) ReadSecret(ctx context.Context, name, key string) (string, error) {
	s, err := c.Client.CoreV1().Secrets(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	err = Classify(err, "read the Secret "+name+" in namespace "+c.Namespace)
	if failure.Is(err, failure.MissingObject) {
		return "", failure.New(failure.MissingSecret, "there is no Secret %s in namespace %s", name, c.Namespace).
			Do("create it, or correct passwordFrom in upkeep.yaml, then resume the run")
	}
	if err != nil {
		return "", err
	}
	value, ok := s.Data[key]
	if !ok || len(value) == 0 {
		return "", failure.New(failure.MissingSecret, "the Secret %s in namespace %s has no key %s, or nothing under it", name, c.Namespace, key).
			Do("put it there, or correct passwordFrom in upkeep.yaml, then resume the run")
	}
	return string(value), nil
}
