package kube

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/upkeep-run/upkeep/internal/failure"
)

func TestClassify(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for code, err := range map[failure.Code]error{
		failure.ClusterLogin:       apierrors.NewUnauthorized("no"),
		failure.ClusterForbids:     apierrors.NewForbidden(pods, "a", errors.New("no")),
		failure.MissingObject:      apierrors.NewNotFound(pods, "a"),
		failure.ObjectConflict:     apierrors.NewConflict(pods, "a", errors.New("changed")),
		failure.ObjectRefused:      apierrors.NewBadRequest("what"),
		failure.ClusterUnreachable: apierrors.NewTooManyRequests("later", 1),
	} {
		got := Classify(fmt.Errorf("around: %w", err), "delete pod a")
		require.True(t, failure.Is(got, code), "%s: %v", code, got)
		require.ErrorContains(t, got, "could not delete pod a")
	}
	for _, err := range []error{apierrors.NewInternalError(errors.New("x")), apierrors.NewServiceUnavailable("x"), errors.New("connection refused"), context.DeadlineExceeded} {
		require.True(t, failure.Is(Classify(err, "look"), failure.ClusterUnreachable), "%v", err)
	}
	require.NoError(t, Classify(nil, "look"))
	require.ErrorIs(t, Classify(context.Canceled, "look"), context.Canceled)
	own := failure.New(failure.WrongPassword, "no")
	require.Same(t, error(own), Classify(own, "look"))
}

func TestOnlyATargetsNamespace(t *testing.T) {
	for _, name := range []string{"kube-system", "kube-public", "kube-node-lease", "", "A", "a/b", "a.b"} {
		require.True(t, failure.Is(CheckNamespace(name), failure.BadConfig), name)
	}
	require.NoError(t, CheckNamespace("lang-observatory"))
}

const kubeconfig = `
apiVersion: v1
kind: Config
current-context: one
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: hunter2}}]
contexts: [{name: one, context: {cluster: c, user: u}}, {name: production, context: {cluster: c, user: u}}]
`

func TestConnect(t *testing.T) {
	text := func(s string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return s, nil }
	}
	c, err := Connect(t.Context(), Options{Kubeconfig: text(kubeconfig), Context: "production", Namespace: "shop"})
	require.NoError(t, err)
	require.False(t, c.Inside)
	require.Negative(t, c.Config.QPS, "no throttle of the client's own")
	require.NotContains(t, fmt.Sprint(c.Config), "hunter2")

	_, err = Connect(t.Context(), Options{Kubeconfig: text(kubeconfig), Context: "prodution", Namespace: "shop"})
	require.True(t, failure.Is(err, failure.BadConfig))
	require.ErrorContains(t, err, `did you mean "production"?`)
	for _, bad := range []string{"", "{", "password: hunter2", "apiVersion: v1\nkind: Config\n"} {
		_, err = Connect(t.Context(), Options{Kubeconfig: text(bad), Namespace: "shop"})
		require.True(t, failure.Is(err, failure.BadConfig), "%q: %v", bad, err)
		require.NotContains(t, err.Error(), "hunter2")
	}
	missing := failure.New(failure.MissingSecret, "not there")
	_, err = Connect(t.Context(), Options{Kubeconfig: func(context.Context) (string, error) { return "", missing }, Namespace: "shop"})
	require.ErrorIs(t, err, missing)
}
