package quarantine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// renewedNote is on an account that was made anew: for which case.
const renewedNote = "upkeep.run/renewed-for"

// maxAccount bounds what is kept of an account, in bytes: it goes into a history.
const maxAccount = 32 << 10

var (
	accountBefore = fault.NewPoint("quarantine/account/before")
	accountAfter  = fault.NewPoint("quarantine/account/after")
)

// Renewed is an account that is deleted and made again with all that it has: tokens are good for one account of a
// name, and not for the next.
type Renewed struct {
	Ref
	UID         types.UID                     `json:"uid"`
	Labels      map[string]string             `json:"labels,omitempty"`
	Annotations map[string]string             `json:"annotations,omitempty"`
	Secrets     []corev1.ObjectReference      `json:"secrets,omitempty"`
	PullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
	Automount   *bool                         `json:"automountServiceAccountToken,omitempty"`
	// Hits are other pods that run as it: their tokens end too.
	Hits []string `json:"hits,omitempty"`
	More int      `json:"more,omitempty"` // others besides
	Not  string   `json:"not,omitempty"`  // why it stays as it is
}

// Users names all the other pods that are hit.
func (r Renewed) Users() string {
	if r.More > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(r.Hits, ", "), r.More)
	}
	return strings.Join(r.Hits, ", ")
}

// PlanRenewal says which of the accounts are made anew, and whom that hits. It changes nothing.
func PlanRenewal(ctx context.Context, c *kube.Cluster, accounts []Suspected) (all []Renewed, err error) {
	for _, a := range accounts {
		r := Renewed{Ref: a.Ref, Hits: a.Others, More: a.More, Not: a.Not}
		if r.Not == "" {
			got, err := c.Client.CoreV1().ServiceAccounts(a.Namespace).Get(ctx, a.Name, metav1.GetOptions{})
			switch err = kube.Classify(err, "read account "+a.String()); {
			case failure.Is(err, failure.MissingObject):
				r.Not = "it is not there; if an earlier run of the case was ended while it made it anew, that run's stored plan has all that it had"
			case failure.Is(err, failure.ClusterForbids):
				r.Not = "it may not be read, so it could not be made as it was; by hand: " + renewByHand(a.Ref)
			case err != nil:
				return nil, err
			default:
				r.image(got)
			}
		}
		all = append(all, r)
	}
	return all, nil
}

func renewByHand(r Ref) string {
	return fmt.Sprintf("kubectl get serviceaccount %s -n %s -o yaml | kubectl replace --force -f -", r.Name, r.Namespace)
}

// image keeps what an account has.
func (r *Renewed) image(a *corev1.ServiceAccount) {
	r.UID = a.UID
	size := 0
	for _, set := range []map[string]string{a.Labels, a.Annotations} {
		for key, value := range set {
			size += len(key) + len(value)
		}
	}
	switch why := itself.Marked(a); {
	case why != "":
		r.Not = "it has " + why
	case len(a.OwnerReferences) > 0:
		r.Not = fmt.Sprintf("%s %s made it, and would have to make it again", a.OwnerReferences[0].Kind, a.OwnerReferences[0].Name)
	case len(a.Finalizers) > 0:
		r.Not = "it has finalizers, which may keep it for as long as they like"
	case size > maxAccount || len(a.Secrets)+len(a.ImagePullSecrets) > maxUsers:
		r.Not = "it has more labels, annotations or secrets than a run keeps"
	default:
		r.Labels, r.Annotations, r.Secrets, r.PullSecrets, r.Automount = a.Labels, a.Annotations, a.Secrets, a.ImagePullSecrets, a.AutomountServiceAccountToken
	}
}

// Renew makes the accounts of a plan anew. Done twice, it finds it done: the first of the name is deleted by its UID,
// and the next has the case's note.
func Renew(ctx context.Context, c *kube.Cluster, accounts []Renewed, o Order) (out Released, err error) {
	var (
		lock sync.Mutex
		errs []error
	)
	each(accounts, func(r Renewed) {
		if r.Not != "" {
			return
		}
		var remark string
		err := again(func() (err error) {
			remark, err = r.step(ctx, c, o)
			return err
		})
		lock.Lock()
		defer lock.Unlock()
		if remark != "" {
			out.Remarks, out.Undone = append(out.Remarks, remark), true
			out.FollowUps = append(out.FollowUps, "make account "+r.String()+" anew, whose tokens are good still: "+renewByHand(r.Ref))
			return
		}
		if err != nil {
			errs = append(errs, err)
			return
		}
		out.Renewed = append(out.Renewed, r.Ref)
	})
	slices.SortFunc(out.Renewed, compare)
	slices.Sort(out.Remarks)
	slices.Sort(out.FollowUps)
	return out, errors.Join(errs...)
}

// step looks at the account and goes one step on. A conflict is that there is another to go.
func (r Renewed) step(ctx context.Context, c *kube.Cluster, o Order) (remark string, err error) {
	accounts := c.Client.CoreV1().ServiceAccounts(r.Namespace)
	got, err := accounts.Get(ctx, r.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", r.make(ctx, c, o, nil)
	}
	switch err = kube.Classify(err, "read account "+r.String()); {
	case failure.Is(err, failure.ClusterForbids):
		return "account " + r.String() + " is not made anew: it may not be read", nil
	case err != nil:
		return "", err
	case got.UID != r.UID:
		return "", r.complete(ctx, c, got, o)
	}
	now := Renewed{}
	if now.image(got); now.Not != "" || !r.same(now) {
		return "account " + r.String() + " is not made anew: somebody has changed it since this was decided", nil
	}
	// Nobody may end up without it, so it is tried before whether it could be made: then it is there already.
	switch err := r.make(ctx, c, o, []string{metav1.DryRunAll}); {
	case failure.Is(err, failure.ClusterForbids), failure.Is(err, failure.ObjectRefused):
		return "account " + r.String() + " is not made anew: the API server forbids to make it", nil
	case !failure.Is(err, failure.ObjectConflict):
		return "", err
	}
	accountBefore.Hit()
	err = accounts.Delete(ctx, r.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &r.UID, ResourceVersion: &got.ResourceVersion}})
	accountAfter.Hit()
	switch err = kube.Classify(err, "delete account "+r.String()); {
	case failure.Is(err, failure.ClusterForbids):
		return "account " + r.String() + " is not made anew: the API server forbids to delete it", nil
	case err != nil && !failure.Is(err, failure.MissingObject):
		return "", err
	}
	// From here to the next account nobody may be stopped: only the time that the attempt has ends it.
	whole, cancel := context.WithoutCancel(ctx), func() {}
	if end, ok := ctx.Deadline(); ok {
		whole, cancel = context.WithDeadline(whole, end)
	}
	defer cancel()
	return "", r.make(whole, c, o, nil)
}

// make makes the account. Where another of the name is there already it is a conflict: the namespace's own account
// "default" is made by Kubernetes at once.
func (r Renewed) make(ctx context.Context, c *kube.Cluster, o Order, dry []string) error {
	annotations := maps.Clone(r.Annotations)
	if annotations == nil {
		annotations = make(map[string]string)
	}
	annotations[renewedNote] = o.Case
	if len(dry) == 0 {
		accountBefore.Hit()
		defer accountAfter.Hit()
		// No object is there yet to hold a fence: an attempt that was frozen makes none that somebody has removed since.
		if end, ok := ctx.Deadline(); ok && time.Now().After(end) {
			return kube.Classify(context.DeadlineExceeded, "make account "+r.String())
		}
	}
	_, err := c.Client.CoreV1().ServiceAccounts(r.Namespace).Create(ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: r.Name, Labels: r.Labels, Annotations: annotations},
		Secrets:    r.Secrets, ImagePullSecrets: r.PullSecrets, AutomountServiceAccountToken: r.Automount,
	}, metav1.CreateOptions{FieldManager: manager, DryRun: dry})
	return kube.Classify(err, "make account "+r.String())
}

// complete gives an account that somebody else has made meanwhile what it lacks, once.
func (r Renewed) complete(ctx context.Context, c *kube.Cluster, got *corev1.ServiceAccount, o Order) error {
	if got.Annotations[renewedNote] == o.Case {
		return nil
	}
	with := func(had, has map[string]string) map[string]string {
		all := maps.Clone(had)
		if all == nil {
			all = make(map[string]string)
		}
		maps.Copy(all, has)
		return all
	}
	next := got.DeepCopy()
	next.Labels, next.Annotations = with(r.Labels, got.Labels), with(r.Annotations, got.Annotations)
	next.Annotations[renewedNote] = o.Case
	if len(got.Secrets) == 0 {
		next.Secrets = r.Secrets
	}
	if len(got.ImagePullSecrets) == 0 {
		next.ImagePullSecrets = r.PullSecrets
	}
	if got.AutomountServiceAccountToken == nil {
		next.AutomountServiceAccountToken = r.Automount
	}
	accountBefore.Hit()
	_, err := c.Client.CoreV1().ServiceAccounts(r.Namespace).Update(ctx, next, metav1.UpdateOptions{FieldManager: manager})
	accountAfter.Hit()
	return kube.Classify(err, "complete account "+r.String())
}

// same reports whether an account has what it had when it was planned.
func (r Renewed) same(o Renewed) bool {
	return maps.Equal(r.Labels, o.Labels) && maps.Equal(r.Annotations, o.Annotations) && slices.Equal(r.Secrets, o.Secrets) &&
		slices.Equal(r.PullSecrets, o.PullSecrets) && (r.Automount == nil) == (o.Automount == nil) && (r.Automount == nil || *r.Automount == *o.Automount)
}
