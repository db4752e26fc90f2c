// Package reconciler is a controller for tests: it keeps the replicas of a Deployment, and the image of its
// first container, at what a HelmRelease of Flux says, unless that is suspended, and takes back every other
// change of them within a second.
package reconciler

import (
	"context"
	"encoding/json"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// CRD makes the cluster know HelmReleases, as far as the controller needs.
const CRD = `{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "helmreleases.helm.toolkit.fluxcd.io"},
"spec": {"group": "helm.toolkit.fluxcd.io", "scope": "Namespaced", "names": {"kind": "HelmRelease", "plural": "helmreleases", "singular": "helmrelease"},
"versions": [{"name": "v2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}`

var (
	releases    = schema.GroupVersionResource{Group: "helm.toolkit.fluxcd.io", Version: "v2", Resource: "helmreleases"}
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
)

// every is how often it looks.
const every = 200 * time.Millisecond

// Run reconciles the Deployment of a HelmRelease's spec.deployment, spec.replicas and spec.image (none: any)
// until the context ends.
func Run(ctx context.Context, client dynamic.Interface, namespace, release string) {
	for ; ctx.Err() == nil; time.Sleep(every) {
		r, err := client.Resource(releases).Namespace(namespace).Get(ctx, release, metav1.GetOptions{})
		if err != nil {
			continue // it is looked at again
		}
		suspended, _, _ := unstructured.NestedBool(r.Object, "spec", "suspend")
		name, _, _ := unstructured.NestedString(r.Object, "spec", "deployment")
		want, _, _ := unstructured.NestedInt64(r.Object, "spec", "replicas")
		d, err := client.Resource(deployments).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil || suspended {
			continue
		}
		patch := map[string]any{}
		if has, _, _ := unstructured.NestedInt64(d.Object, "spec", "replicas"); has != want {
			patch["replicas"] = want
		}
		containers, _, _ := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
		if image, _, _ := unstructured.NestedString(r.Object, "spec", "image"); image != "" && len(containers) > 0 {
			if first, is := containers[0].(map[string]any); is && first["image"] != image {
				first["image"] = image
				patch["template"] = map[string]any{"spec": map[string]any{"containers": containers}}
			}
		}
		if len(patch) == 0 {
			continue
		}
		if data, err := json.Marshal(map[string]any{"spec": patch}); err == nil {
			_, _ = client.Resource(deployments).Namespace(namespace).Patch(ctx, name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: "helm-controller"})
		}
	}
}
