package kube

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// Classify gives an error of the API server, or of the way to it, its code. Doing is what could not be
// done, as in "delete pod web-1". What the server says names objects and rights, no contents.
func Classify(err error, doing string) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	}
	if _, ok := failure.As(err); ok {
		return err
	}
	fail := func(code failure.Code) *failure.Error { return failure.New(code, "could not %s", doing).Because(err) }
	switch {
	case apierrors.IsUnauthorized(err):
		return fail(failure.ClusterLogin).Do("give the worker a kubeconfig or a service account that the cluster accepts, then resume the run")
	case apierrors.IsForbidden(err):
		return fail(failure.ClusterForbids).Do("if a right is missing, grant it to the worker's account (upkeep rbac prints what it needs on a target); if a quota or an admission policy says no, see to that; then resume the run")
	case apierrors.IsNotFound(err), apierrors.IsGone(err):
		return fail(failure.MissingObject).Do("see that it is there (kubectl get), and that upkeep.yaml names the right namespace and release")
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return fail(failure.ObjectConflict).Do("somebody changes the same object; see who (kubectl get -o yaml --show-managed-fields)")
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err), apierrors.IsMethodNotSupported(err):
		return fail(failure.ObjectRefused).Do("see what the API server says is wrong with it")
	}
	return fail(failure.ClusterUnreachable).Do("see whether the API server is up and can be reached from the worker")
}
