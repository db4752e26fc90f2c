package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/dev/internal/stack"
)

// many does something n times, some at once, and returns the first error.
func many(n int, do func(int) error) error {
	var group errgroup.Group
	group.SetLimit(32)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	return group.Wait()
}

// quarantine is the label and the policy of the other ways.
const quarantine = "quarantine"

var denyAll = networkingv1.NetworkPolicy{
	ObjectMeta: metav1.ObjectMeta{Name: quarantine},
	Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{quarantine: "yes"}},
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
	},
}

// responder is a program as responders are written: client-go as it comes (5 requests a second, 10 at first), one pod
// after the other, read before it is written. It takes away the labels by which pods are let through and found.
func responder(ctx context.Context, config *rest.Config, namespace string) error {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 0, 0 // as it comes
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if _, err := c.NetworkingV1().NetworkPolicies(namespace).Get(ctx, quarantine, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		if _, err = c.NetworkingV1().NetworkPolicies(namespace).Create(ctx, &denyAll, metav1.CreateOptions{}); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	pods, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.serviceAccountName=" + account})
	if err != nil {
		return err
	}
	for _, p := range pods.Items {
		pod, err := c.CoreV1().Pods(namespace).Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		pod.Labels = map[string]string{quarantine: "yes"}
		if _, err := c.CoreV1().Pods(namespace).Update(ctx, pod, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// typed is what a person types who knows it by heart: the policy, and one label more for all pods. Allow policies and
// Services that select the pods by their other labels go on to.
func typed(namespace string) error {
	policy := denyAll
	policy.APIVersion, policy.Kind = "networking.k8s.io/v1", "NetworkPolicy"
	text, err := json.Marshal(policy)
	if err != nil {
		return err
	}
	here := stack.Namespace(namespace)
	if err := here.Apply(string(text)); err != nil {
		return err
	}
	_, err = here.Kubectl("label", "pods", "--field-selector", "spec.serviceAccountName="+account, quarantine+"=yes")
	return err
}

// dumped is kubectl's own way to keep what there is: objects, events and logs of a namespace.
func dumped(namespace string) (took time.Duration, err error) {
	dir, err := os.MkdirTemp("", "upkeep-bench-dump-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	began := time.Now()
	_, err = stack.Command(10*time.Minute, "", "kubectl", "cluster-info", "dump", "--namespaces", namespace, "--output-directory", dir)
	return time.Since(began), err
}

// empty is a workflow of steps that do nothing, run by a worker of this process.
type empty struct {
	client client.Client
	worker worker.Worker
}

const emptyQueue, emptyStep = "upkeep-bench-empty", "Nothing"

func newEmpty(c client.Client) (*empty, error) {
	e := &empty{c, worker.New(c, emptyQueue, worker.Options{})}
	e.worker.RegisterActivityWithOptions(func(context.Context) error { return nil }, activity.RegisterOptions{Name: emptyStep})
	e.worker.RegisterWorkflowWithOptions(func(ctx workflow.Context, steps int) error {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
		for range steps {
			if err := workflow.ExecuteActivity(ctx, emptyStep).Get(ctx, nil); err != nil {
				return err
			}
		}
		return nil
	}, workflow.RegisterOptions{Name: "Empty"})
	return e, e.worker.Start()
}

// run is how long so many empty steps take.
func (e *empty) run(ctx context.Context, steps int) (time.Duration, error) {
	started, err := e.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: emptyQueue}, "Empty", steps)
	if err != nil {
		return 0, err
	}
	if err := started.Get(ctx, nil); err != nil {
		return 0, err
	}
	h, err := upTo(ctx, e.client, started.GetID(), emptyStep)
	return h.took(), err
}

// stretch is a part of a run: from its start to the last end of an activity.
type stretch struct {
	began, ended time.Time
	steps        int // activities that had ended by then
}

func (s stretch) took() time.Duration { return s.ended.Sub(s.began) }

// upTo reads it from the run's history.
func upTo(ctx context.Context, c client.Client, id, name string) (s stretch, err error) {
	ours, ended := make(map[int64]bool), 0
	for events := c.GetWorkflowHistory(ctx, id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		e, err := events.Next()
		if err != nil {
			return s, err
		}
		switch e.GetEventType() {
		case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
			s.began = e.GetEventTime().AsTime()
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
			ours[e.GetEventId()] = e.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == name
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
			ended++
			if ours[e.GetActivityTaskCompletedEventAttributes().GetScheduledEventId()] {
				s.ended, s.steps = e.GetEventTime().AsTime(), ended
			}
		}
	}
	if s.steps == 0 {
		err = fmt.Errorf("run %s has not ended %s", id, name)
	}
	return s, err
}

// clear removes what a round has left in a namespace, but the pods' account.
func clear(ctx context.Context, c kubernetes.Interface, namespace string) error {
	err := errors.Join(
		c.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{}),
		c.NetworkingV1().NetworkPolicies(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	if err != nil {
		return err
	}
	return stack.Until(2*time.Minute, func() error {
		left, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d pods are left in %s", len(left.Items), namespace)
		}
		return err
	})
}

// account is the pods' ServiceAccount, by which they are suspects.
const account = "suspect"

func makeAccount(ctx context.Context, c kubernetes.Interface, namespace string) error {
	_, err := c.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	return err
}
