package quiesce

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/held"
)

func TestWhoIsStopped(t *testing.T) {
	database := []Ref{{"StatefulSet", "postgresql"}}
	for name, c := range map[string]struct {
		chain []Ref
		stops []Ref
		stays string
	}{
		"a Deployment's pod":          {[]Ref{{"ReplicaSet", "web-1"}, {"Deployment", "web"}}, []Ref{{"Deployment", "web"}}, ""},
		"a ReplicaSet's own":          {[]Ref{{"ReplicaSet", "web"}}, []Ref{{"ReplicaSet", "web"}}, ""},
		"a DaemonSet's":               {[]Ref{{"DaemonSet", "agent"}}, []Ref{{"DaemonSet", "agent"}}, ""},
		"a Job's":                     {[]Ref{{"Job", "load"}}, []Ref{{"Job", "load"}}, ""},
		"a CronJob's Job":             {[]Ref{{"Job", "report-1"}, {"CronJob", "report"}}, []Ref{{"Job", "report-1"}, {"CronJob", "report"}}, ""},
		"an operator's ReplicaSet":    {[]Ref{{"ReplicaSet", "web-1"}, {"Rollout", "web"}}, []Ref{{"ReplicaSet", "web-1"}}, ""},
		"an operator's own pod":       {[]Ref{{"Cluster", "db"}}, nil, "which cannot be stopped and started again"},
		"a pod of its own":            {nil, nil, "which nothing would make again"},
		"another pod of the database": {database, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var f Found
			f.add("10.0.0.1", "pod-1", c.chain, database)
			f.add("10.0.0.2", "pod-2", c.chain, database) // another of the same
			require.Equal(t, c.stops, f.Clients)
			if c.stays == "" {
				require.Empty(t, f.Stay)
			} else {
				require.Len(t, f.Stay, 2)
				require.Contains(t, f.Stay[0], "10.0.0.1 is pod pod-1")
				require.Contains(t, f.Stay[0], c.stays)
			}
		})
	}
}

func TestWords(t *testing.T) {
	for want, c := range map[string]Client{
		"Deployment web (3)":           {Ref: Ref{"Deployment", "web"}, Before: json.RawMessage("3")},
		"CronJob report":               {Ref: Ref{"CronJob", "report"}, Before: json.RawMessage("false")},
		"Job load (suspended already)": {Ref: Ref{"Job", "load"}, Before: json.RawMessage("true")},
		"DaemonSet agent":              {Ref: Ref{"DaemonSet", "agent"}, Before: json.RawMessage("null")},
		"StatefulSet queue (1), which an earlier run has left stopped": {Ref: Ref{"StatefulSet", "queue"}, Before: json.RawMessage("1"), StoppedBy: "a"},
	} {
		require.Equal(t, want, c.Words())
	}
	require.Equal(t, "kubectl scale statefulset queue -n shop --replicas=0", Ref{"StatefulSet", "queue"}.command("shop"))
	require.Equal(t, `kubectl patch job load -n shop -p '{"spec":{"suspend":true}}'`, Ref{"Job", "load"}.command("shop"))
}

func TestKinds(t *testing.T) {
	for _, kind := range Kinds() {
		require.Empty(t, KindProblem(kind))
		f := Ref{kind, "x"}.field("shop")
		require.NotEmpty(t, f.Resource.Resource, kind)
		require.NotNil(t, f.Value, kind)
	}
	require.Contains(t, KindProblem("Pod"), "CronJob, DaemonSet, Deployment, Job, ReplicaSet, StatefulSet")
	require.NotEmpty(t, KindProblem("deployment"))
}

func TestDescribe(t *testing.T) {
	object := func(text string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{}
		require.NoError(t, json.Unmarshal([]byte(text), &o.Object))
		return o
	}
	web, err := Describe(object(`{"kind":"Deployment","metadata":{"name":"web"},"spec":{"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web","tier":"front"}}}}}`))
	require.NoError(t, err)
	require.True(t, web.Selector.Matches(labels.Set{"app": "web", "x": "y"}))
	require.False(t, web.Selector.Matches(labels.Set{"app": "other"}))
	require.Equal(t, "front", web.Pods["tier"])

	report, err := Describe(object(`{"kind":"CronJob","metadata":{"name":"report"},"spec":{"jobTemplate":{"spec":{"template":{"metadata":{"labels":{"app":"report"}}}}}}}`))
	require.NoError(t, err)
	require.True(t, report.Selector.Matches(labels.Set{"app": "report"}))
	bare, err := Describe(object(`{"kind":"CronJob","metadata":{"name":"report"},"spec":{}}`))
	require.NoError(t, err)
	require.False(t, bare.Selector.Matches(labels.Set{"app": "report"}), "no labels are not all labels")

	for _, spec := range []string{`{}`, `{"selector":{}}`, `{"selector":{"matchLabels":{}}}`, `{"selector":{"matchLabels":"x"}}`, `{"selector":{"matchExpressions":[{"key":"a","operator":"Like"}]}}`} {
		_, err := Describe(object(`{"kind":"Deployment","metadata":{"name":"web"},"spec":` + spec + `}`))
		require.True(t, failure.Is(err, failure.ObjectRefused), "%s: %v", spec, err)
	}
}

func TestUnready(t *testing.T) {
	object := func(text string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{}
		require.NoError(t, o.UnmarshalJSON([]byte(text)))
		return o
	}
	web, agent := Ref{"Deployment", "web"}, Ref{"DaemonSet", "agent"}
	require.Empty(t, unready(web, object(`{"kind":"Deployment","metadata":{"generation":2},"spec":{"replicas":2},"status":{"readyReplicas":2,"observedGeneration":2}}`)))
	require.Contains(t, unready(web, object(`{"kind":"Deployment","metadata":{"generation":2},"spec":{"replicas":2},"status":{"readyReplicas":1,"observedGeneration":2}}`)), "1 of 2")
	require.NotEmpty(t, unready(web, object(`{"kind":"Deployment","metadata":{"generation":2},"spec":{"replicas":2},"status":{"readyReplicas":2,"observedGeneration":1}}`)), "what is counted is from before")
	require.Empty(t, unready(web, object(`{"kind":"Deployment","metadata":{"generation":2},"spec":{"replicas":0},"status":{"observedGeneration":2}}`)))
	require.Empty(t, unready(agent, object(`{"kind":"DaemonSet","metadata":{"generation":3},"status":{"desiredNumberScheduled":2,"numberReady":2,"observedGeneration":3}}`)))
	require.Contains(t, unready(agent, object(`{"kind":"DaemonSet","metadata":{"generation":3},"status":{"desiredNumberScheduled":2,"observedGeneration":3}}`)), "0 of 2")
}

func TestWhatIsLeftStopped(t *testing.T) {
	yes := true
	of := func(controller string) *metav1.PartialObjectMetadata {
		o := &metav1.PartialObjectMetadata{}
		o.Annotations = map[string]string{held.Note: `{"key":"a","target":"shop","at":"2026-03-01T12:00:00Z","before":3}`}
		if controller != "" {
			o.OwnerReferences = []metav1.OwnerReference{{Kind: controller, Name: "web", Controller: &yes}}
		}
		return o
	}
	require.True(t, left(of(""), "shop"))
	require.True(t, left(of("CronJob"), "shop"), "its Jobs are stopped by themselves")
	require.False(t, left(of("Deployment"), "shop"), "the note is the Deployment's")
	require.False(t, left(of(""), "books"))
}
