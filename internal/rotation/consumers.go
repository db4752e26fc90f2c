package rotation

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
)

// maxNamed bounds how many of what is not restarted are named.
const maxNamed = 50

// Consumer is a workload that reads the password, as it was when it was looked at.
type Consumer struct {
	Ref
	UID types.UID `json:"uid"`
}

// Untold is a key of the Secret that is not rotated, and why.
type Untold struct {
	Key string `json:"key"`
	Why string `json:"why"`
}

// Plan is what of a rotation is in the cluster. No value is in it.
type Plan struct {
	UID  types.UID `json:"uid"` // of the programs' Secret
	Keys []string  `json:"keys"`
	From string    `json:"from"`
	To   string    `json:"to"`
	// Left is how far an earlier run has come, whose new password is used; "" where there is none.
	Left string `json:"left,omitempty"`
	// DoneAt is the moment of the order by which this very run has done it all already, before it was reset.
	DoneAt    time.Time          `json:"doneAt,omitzero"`
	Consumers []Consumer         `json:"consumers"`
	Others    []string           `json:"others,omitempty"` // who else reads it, and is not restarted
	Untouched []Untold           `json:"untouched,omitempty"`
	Remarks   []string           `json:"remarks,omitempty"`
	Owners    ownership.Measures `json:"owners,omitzero"`
}

// Sealed reports whether an earlier run has begun to withdraw the old password: then nothing can be undone,
// and what is left is to be done.
func (p Plan) Sealed() bool { return p.Left == string(Withdrawing) }

// Surroundings are what a plan is made in.
type Surroundings struct {
	Target string
	Key    string // of the run
	Self   itself.Self
	Serves *corev1.Pod // the database's; nil: it is in no pod
	Owners string      // ownership's policy
	Own    []string    // names of Secrets that Upkeep itself reads, each with a key, as name/key
}

// Look says what a rotation would do in the cluster. It changes nothing, and refuses what must not be done.
func (s Secrets) Look(ctx context.Context, e Entry, in Surroundings) (p Plan, err error) {
	programs, err := s.get(ctx, e.Secret)
	if failure.Is(err, failure.MissingObject) {
		return p, failure.New(failure.MissingSecret, "there is no Secret %s in namespace %s", e.Secret, s.Cluster.Namespace).Do("create it, or correct secrets in upkeep.yaml, then resume the run")
	}
	if err != nil {
		return p, err
	}
	p.UID, p.Keys = programs.UID, e.Keys.All()
	if err := s.allowed(programs, e, in.Own); err != nil {
		return p, err
	}
	n, err := readNote(programs, e)
	if err != nil {
		return p, err
	}
	left, err := s.pending(ctx, e)
	if err != nil {
		return p, err
	}
	var old string
	if p.From, old, err = e.read(programs.Data); err != nil {
		return p, err
	}
	if !e.Overlap() && !plain(old) {
		return p, failure.New(failure.NotRotatable, "the password in Secret %s has characters outside of ASCII, so it could not be given back if something fails", e.Secret).
			Do("rotate it by hand once (ALTER ROLE, the Secret, a restart), and start a new run the next time")
	}
	if n != nil && n.Key == in.Key && n.State == Done {
		p.DoneAt, p.To = n.At, p.From
		return p, nil
	}
	if left != nil && !left.stale(programs, n, e) {
		if left.note.Target != in.Target {
			return p, failure.New(failure.LockHeld, "secret %s is being rotated by a run for target %s, which goes first", e.Name, left.note.Target).
				Do("wait until that run is over, or start it again if it was terminated, then resume the run")
		}
		if p.From, _, err = e.read(left.before); err != nil {
			return p, err
		}
		p.Left = "pending"
		if n != nil && n.Pending == left.object.UID {
			p.Left = string(n.State)
		}
	}
	if p.To, err = e.Next(p.From); err != nil {
		return p, err
	}
	if p.Left != "" && left.role != p.To {
		return p, failure.New(failure.NotRotatable, "an earlier run has left secret %s on its way to role %s, which upkeep.yaml does not name any more", e.Name, left.role).
			Do("put the roles back into upkeep.yaml, and start a new run, which ends it")
	}
	for _, key := range slices.Sorted(maps.Keys(programs.Data)) {
		if !slices.Contains(p.Keys, key) {
			p.Untouched = append(p.Untouched, Untold{key, Untouched(key)})
		}
	}
	if programs.Labels["app.kubernetes.io/managed-by"] == "Helm" {
		p.Remarks = append(p.Remarks, fmt.Sprintf("Helm has made Secret %s: its chart must keep what the Secret has (lookup, or an existing Secret named in its values), or the next upgrade puts the old value back", e.Secret))
	}
	workloads, err := s.consumers(ctx, e, in.Serves, &p)
	if err != nil {
		return p, err
	}
	if err := in.Self.Check(ctx, s.Cluster, "rotate a password that they read", workloads); err != nil {
		return p, err
	}
	return p, s.owners(ctx, e, programs, workloads, in.Owners, &p)
}

// allowed refuses what must not be rotated at all.
func (s Secrets) allowed(programs *corev1.Secret, e Entry, own []string) error {
	if programs.Immutable != nil && *programs.Immutable {
		return failure.New(failure.NotRotatable, "Secret %s is immutable", programs.Name).Do("make it anew without immutable: true, and start a new run")
	}
	if why := itself.Marked(programs); why != "" {
		return failure.New(failure.NotItself, "could not rotate Secret %s: it is what Upkeep itself runs on (%s)", programs.Name, why).Do("rotate it by hand, with Upkeep's workers stopped")
	}
	for _, key := range e.Keys.All() {
		if why := KeyProblem(key); why != "" {
			return failure.New(failure.NotRotatable, "the key %s of Secret %s cannot be rotated safely: %s", key, programs.Name, why).Do("take it out of secrets in upkeep.yaml")
		}
		if slices.Contains(own, programs.Name+"/"+key) {
			return failure.New(failure.NotItself, "could not rotate the key %s of Secret %s: Upkeep itself logs in with it (passwordFrom in upkeep.yaml)", key, programs.Name).
				Do("give Upkeep a role and a Secret of its own, and start a new run")
		}
	}
	return nil
}

// workload is one of any kind, as far as it is looked at.
type workload struct {
	itself.Workload
	spec corev1.PodSpec
}

// list reads all workloads of the namespace that can be restarted.
func (s Secrets) list(ctx context.Context) (all []workload, err error) {
	apps := s.Cluster.Client.AppsV1()
	add := func(kind string, object metav1.Object, selector *metav1.LabelSelector, template corev1.PodTemplateSpec) {
		w, err := itself.Describe(kind, object, selector, template.Labels)
		if err != nil { // one whose pods nobody can tell is nobody's to restart
			w = itself.Workload{Kind: kind, Object: object, Selector: labels.Nothing(), Pods: template.Labels}
		}
		all = append(all, workload{w, template.Spec})
	}
	for kind, next := range map[string]func(metav1.ListOptions) (string, int, error){
		health.Deployment: func(o metav1.ListOptions) (string, int, error) {
			l, err := apps.Deployments(s.Cluster.Namespace).List(ctx, o)
			if err != nil {
				return "", 0, err
			}
			for i := range l.Items {
				add(health.Deployment, &l.Items[i], l.Items[i].Spec.Selector, l.Items[i].Spec.Template)
			}
			return l.Continue, len(l.Items), nil
		},
		health.StatefulSet: func(o metav1.ListOptions) (string, int, error) {
			l, err := apps.StatefulSets(s.Cluster.Namespace).List(ctx, o)
			if err != nil {
				return "", 0, err
			}
			for i := range l.Items {
				add(health.StatefulSet, &l.Items[i], l.Items[i].Spec.Selector, l.Items[i].Spec.Template)
			}
			return l.Continue, len(l.Items), nil
		},
		health.DaemonSet: func(o metav1.ListOptions) (string, int, error) {
			l, err := apps.DaemonSets(s.Cluster.Namespace).List(ctx, o)
			if err != nil {
				return "", 0, err
			}
			for i := range l.Items {
				add(health.DaemonSet, &l.Items[i], l.Items[i].Spec.Selector, l.Items[i].Spec.Template)
			}
			return l.Continue, len(l.Items), nil
		},
	} {
		if err := kube.Pages("list the "+kind+"s of namespace "+s.Cluster.Namespace, next); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b workload) int { return strings.Compare(a.ref().String(), b.ref().String()) })
	return all, nil
}

func (w workload) ref() Ref { return Ref{w.Kind, w.Object.GetName()} }

// consumers finds who reads the keys, and says who of them is restarted. What serves the database is not.
func (s Secrets) consumers(ctx context.Context, e Entry, serves *corev1.Pod, p *Plan) (found []itself.Workload, err error) {
	all, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	p.Consumers = []Consumer{}
	other := func(format string, args ...any) {
		if len(p.Others) < maxNamed {
			p.Others = append(p.Others, fmt.Sprintf(format, args...))
		}
	}
	restarted := func(w workload) {
		p.Consumers, found = append(p.Consumers, Consumer{w.ref(), w.Object.GetUID()}), append(found, w.Workload)
	}
	for _, ref := range e.Consumers {
		at := slices.IndexFunc(all, func(w workload) bool { return w.ref() == ref })
		if at < 0 {
			return nil, failure.New(failure.MissingObject, "there is no %s in namespace %s, which secret %s in upkeep.yaml names as a consumer", ref, s.Cluster.Namespace, e.Name).Do("correct it, and start a new run")
		}
		restarted(all[at])
	}
	for _, w := range all {
		switch {
		case slices.Contains(e.Consumers, w.ref()) || !reads(w.spec, e):
		case serves != nil && w.Selector.Matches(labels.Set(serves.Labels)):
			other("%s reads it and serves the database itself, so it is not restarted", w.ref())
		case len(e.Consumers) > 0:
			other("%s reads it, and is not among the consumers that are written out", w.ref())
		default:
			restarted(w)
		}
	}
	return found, s.loose(ctx, e, all, other)
}

// loose names who reads the keys and is restarted by nobody: pods of Jobs, and pods of their own.
func (s Secrets) loose(ctx context.Context, e Entry, all []workload, other func(string, ...any)) error {
	return kube.Pages("list the pods of namespace "+s.Cluster.Namespace, func(o metav1.ListOptions) (string, int, error) {
		l, err := s.Cluster.Client.CoreV1().Pods(s.Cluster.Namespace).List(ctx, o)
		if err != nil {
			return "", 0, err
		}
		for i := range l.Items {
			pod := &l.Items[i]
			ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
			if ended || !reads(pod.Spec, e) || slices.ContainsFunc(all, func(w workload) bool { return w.Selector.Matches(labels.Set(pod.Labels)) }) {
				continue
			}
			by := "nothing would make it again"
			if c := metav1.GetControllerOf(pod); c != nil {
				by = "it is of " + c.Kind + " " + c.Name
			}
			other("pod %s has read it and is not restarted (%s)", pod.Name, by)
		}
		return l.Continue, len(l.Items), nil
	})
}

// reads reports whether a pod is given one of the entry's keys.
func reads(spec corev1.PodSpec, e Entry) bool {
	keys := e.Keys.All()
	items := func(items []corev1.KeyToPath) bool {
		return len(items) == 0 || slices.ContainsFunc(items, func(i corev1.KeyToPath) bool { return slices.Contains(keys, i.Key) })
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, v := range c.Env {
			if f := v.ValueFrom; f != nil && f.SecretKeyRef != nil && f.SecretKeyRef.Name == e.Secret && slices.Contains(keys, f.SecretKeyRef.Key) {
				return true
			}
		}
		for _, from := range c.EnvFrom {
			if from.SecretRef != nil && from.SecretRef.Name == e.Secret {
				return true
			}
		}
	}
	for _, v := range spec.Volumes {
		if v.Secret != nil && v.Secret.SecretName == e.Secret && items(v.Secret.Items) {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if source.Secret != nil && source.Secret.Name == e.Secret && items(source.Secret.Items) {
				return true
			}
		}
	}
	return false
}

// owners finds who would take the changes back, and says what is done about it.
func (s Secrets) owners(ctx context.Context, e Entry, programs *corev1.Secret, workloads []itself.Workload, policy string, p *Plan) error {
	now := time.Now()
	changes := []ownership.Change{{
		Words: "change Secret " + e.Secret, Owners: ownersOf(programs, e, now),
		Command: fmt.Sprintf("kubectl edit secret %s -n %s", e.Secret, s.Cluster.Namespace),
	}}
	for _, w := range workloads {
		changes = append(changes, ownership.Change{
			Words: "restart " + w.Kind + " " + w.Object.GetName(), Owners: ownership.Detect(w.Object, now),
			Command: fmt.Sprintf("kubectl rollout restart %s %s -n %s", strings.ToLower(w.Kind), w.Object.GetName(), s.Cluster.Namespace),
		})
	}
	client, err := dynamic.NewForConfig(s.Cluster.Config)
	if err != nil {
		return kube.Classify(err, "make a client of the cluster")
	}
	p.Owners, err = ownership.Plan(ctx, client, policy, changes)
	return err
}

// external are marks of what makes Secrets out of something else, and would make them again.
var external = map[string]string{
	"reconcile.external-secrets.io/managed":    "External Secrets",
	"reconcile.external-secrets.io/data-hash":  "External Secrets",
	"sealedsecrets.bitnami.com/managed":        "Sealed Secrets",
	"secrets-store.csi.k8s.io/managed":         "the Secrets Store driver",
	"reflector.v1.k8s.emberstack.com/reflects": "the reflector of Secrets",
}

// ownersOf finds who else writes a Secret: beside those of any object, who makes it out of something else,
// and whoever has written one of the keys after it was made.
func ownersOf(programs *corev1.Secret, e Entry, now time.Time) []ownership.Owner {
	owners := ownership.Detect(programs, now)
	if len(owners) > 0 {
		return owners
	}
	for _, mark := range slices.Sorted(maps.Keys(external)) {
		_, annotated := programs.Annotations[mark]
		if _, labelled := programs.Labels[mark]; labelled || annotated {
			return []ownership.Owner{{By: external[mark], Why: "the mark " + mark}}
		}
	}
	for _, m := range programs.ManagedFields {
		if m.FieldsV1 == nil || m.Time == nil || ownership.Hand(m.Manager) || m.Time.Sub(programs.CreationTimestamp.Time) <= time.Minute {
			continue
		}
		for _, key := range e.Keys.All() {
			if strings.Contains(string(m.FieldsV1.Raw), `"f:`+key+`"`) {
				return []ownership.Owner{{By: "the field manager " + m.Manager, Why: "it wrote the key " + key + " at " + m.Time.UTC().Format(time.RFC3339)}}
			}
		}
	}
	return owners
}
