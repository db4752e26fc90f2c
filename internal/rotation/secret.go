package rotation

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/held"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// Note is the annotation, with the entry's name behind it, that says how far a rotation has come.
	Note = "upkeep.run/rotation."
	// MaxName bounds an entry's name, which is part of that annotation's.
	MaxName = 40
	// pendingSuffix makes the name of an entry's pending Secret.
	pendingSuffix = "-upkeep-pending"
	beforePrefix  = "before."
	roleKey       = "username"
	passwordKey   = "password"
	maxNote       = 4 << 10 // bytes
	manager       = "upkeep"
)

var (
	pendingBefore = fault.NewPoint("rotate/pending/before")
	pendingAfter  = fault.NewPoint("rotate/pending/after")
	switchBefore  = fault.NewPoint("rotate/switch/before")
	switchAfter   = fault.NewPoint("rotate/switch/after")
	sealBefore    = fault.NewPoint("rotate/seal/before")
	sealAfter     = fault.NewPoint("rotate/seal/after")
	restoreBefore = fault.NewPoint("rotate/restore/before")
	restoreAfter  = fault.NewPoint("rotate/restore/after")
	finishBefore  = fault.NewPoint("rotate/finish/before")
	finishAfter   = fault.NewPoint("rotate/finish/after")
	removeBefore  = fault.NewPoint("rotate/remove/before")
	removeAfter   = fault.NewPoint("rotate/remove/after")
)

// State is how far a rotation has come, as the programs' Secret says.
type State string

// The states. A Secret without a note was never touched.
const (
	Switched    State = "switched"    // it holds the new password; all can be undone
	Withdrawing State = "withdrawing" // the old one is being withdrawn: nothing is undone any more
	Done        State = "done"        // over
	Undone      State = "undone"      // over: it holds what it did
)

func (s State) over() bool { return s == Done || s == Undone }

// note is what is written on a Secret.
type note struct {
	held.Order
	State   State     `json:"state,omitempty"`   // of the programs' Secret
	Pending types.UID `json:"pending,omitempty"` // whose value it has, or had
	// Changed says that the programs' Secret has held the new password, if only for a while.
	Changed bool   `json:"changed,omitempty"`
	Secret  string `json:"secret,omitempty"` // of the pending Secret: the programs'
}

// Order is a rotation that was decided on.
type Order struct {
	Entry Entry      `json:"entry"`
	Order held.Order `json:"order"`
	UID   types.UID  `json:"uid"` // of the programs' Secret
	From  string     `json:"from"`
	To    string     `json:"to"`
}

// Secrets changes the Secrets of a rotation.
type Secrets struct{ Cluster *kube.Cluster }

// pending is a pending Secret.
type pending struct {
	object         *corev1.Secret
	note           note
	role, password string
	before         map[string][]byte // of the keys concerned
}

// after is what the programs' Secret gets.
func (p *pending) after(k Keys) map[string][]byte { return k.write(p.before, p.role, p.password) }

// old is the password that there was before.
func (p *pending) old(e Entry) (string, error) {
	_, password, err := e.read(p.before)
	return password, err
}

// PendingName is the name of the pending Secret of an entry.
func (e Entry) PendingName() string { return e.Name + pendingSuffix }

func void(format string, args ...any) error {
	return failure.New(failure.PlanVoid, "the plan is void: %s", fmt.Sprintf(format, args...)).Do("look at the new plan and decide again")
}

func (s Secrets) get(ctx context.Context, name string) (*corev1.Secret, error) {
	object, err := s.Cluster.Client.CoreV1().Secrets(s.Cluster.Namespace).Get(ctx, name, metav1.GetOptions{})
	return object, kube.Classify(err, "read the Secret "+name+" in namespace "+s.Cluster.Namespace)
}

// pending reads the pending Secret of an entry; nil: there is none.
func (s Secrets) pending(ctx context.Context, e Entry) (*pending, error) {
	object, err := s.get(ctx, e.PendingName())
	if failure.Is(err, failure.MissingObject) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := &pending{object: object, role: string(object.Data[roleKey]), password: string(object.Data[passwordKey]), before: make(map[string][]byte)}
	n, err := readNote(object, e)
	if err != nil {
		return nil, err
	}
	for _, key := range e.Keys.All() {
		p.before[key] = object.Data[beforePrefix+key]
	}
	if n == nil || n.Secret != e.Secret || p.role == "" || p.password == "" {
		return nil, failure.New(failure.NotRotatable, "Secret %s in namespace %s is in the way: it is not the pending value of secret %s", object.Name, object.Namespace, e.Name).
			Do("see whose it is (kubectl describe secret %s), remove it if nobody needs it, and start a new run", object.Name)
	}
	p.note = *n
	return p, nil
}

// ours reads the pending Secret of an order; one that is not there, or is a later order's, makes the plan void.
func (s Secrets) ours(ctx context.Context, o Order) (*pending, error) {
	p, err := s.pending(ctx, o.Entry)
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return nil, void("the pending Secret %s is gone", o.Entry.PendingName())
	case !p.note.At.Equal(o.Order.At) || p.note.Key != o.Order.Key:
		return nil, void("the pending Secret %s is another run's", o.Entry.PendingName())
	case p.role != o.To:
		return nil, void("the pending Secret %s is for role %s", o.Entry.PendingName(), p.role)
	}
	return p, nil
}

func readNote(object *corev1.Secret, e Entry) (*note, error) {
	text := object.Annotations[Note+e.Name]
	if text == "" {
		return nil, nil
	}
	var n note
	if len(text) > maxNote || json.Unmarshal([]byte(text), &n) != nil || n.Key == "" || n.At.IsZero() {
		return nil, failure.New(failure.ObjectRefused, "the annotation %s of Secret %s cannot be read", Note+e.Name, object.Name).
			Do("see who wrote it, remove it, and start a new run")
	}
	return &n, nil
}

// stale reports whether a pending Secret is of no use: its rotation is over, or somebody has changed what
// it was to replace.
func (p *pending) stale(programs *corev1.Secret, n *note, e Entry) bool {
	if n != nil && n.Pending == p.object.UID {
		return n.State.over()
	}
	return !has(programs, p.before)
}

// has reports whether a Secret has these values.
func has(object *corev1.Secret, values map[string][]byte) bool {
	for key, value := range values {
		if !bytes.Equal(object.Data[key], value) {
			return false
		}
	}
	return true
}

// MakePending makes the new password and puts it into the pending Secret, with what the programs' Secret
// has now. What an earlier order has left there is taken over, value and all. Done twice, it finds it done.
func (s Secrets) MakePending(ctx context.Context, o Order) error {
	programs, n, err := s.programs(ctx, o)
	if err != nil {
		return err
	}
	if n != nil && n.At.Equal(o.Order.At) && n.State.over() {
		return void("this run has ended already what it began with Secret %s", o.Entry.Secret)
	}
	p, err := s.pending(ctx, o.Entry)
	if err != nil {
		return err
	}
	if p != nil && p.stale(programs, n, o.Entry) && !p.note.At.After(o.Order.At) {
		if err := s.remove(ctx, p); err != nil {
			return err
		}
		p = nil
	}
	if p != nil {
		return s.takeOver(ctx, p, o)
	}
	role, _, err := o.Entry.read(programs.Data)
	if err != nil {
		return err
	}
	if role != o.From {
		return void("Secret %s named role %s, and names %s", o.Entry.Secret, o.From, role)
	}
	text, err := json.Marshal(note{Order: o.Order, Secret: o.Entry.Secret})
	if err != nil {
		return fmt.Errorf("encode a note: %w", err)
	}
	made := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.Entry.PendingName(), Namespace: s.Cluster.Namespace, Annotations: map[string]string{Note + o.Entry.Name: string(text)},
			Labels: map[string]string{"app.kubernetes.io/managed-by": manager},
		},
		Data: map[string][]byte{roleKey: []byte(o.To), passwordKey: []byte(newPassword())},
	}
	for _, key := range o.Entry.Keys.All() {
		made.Data[beforePrefix+key] = programs.Data[key]
	}
	pendingBefore.Hit()
	made, err = s.Cluster.Client.CoreV1().Secrets(s.Cluster.Namespace).Create(ctx, made, metav1.CreateOptions{FieldManager: manager})
	if err != nil {
		return kube.Classify(err, "create the Secret "+o.Entry.PendingName()) // one that is there by now is seen by the next attempt
	}
	pendingAfter.Hit()
	// Whoever was frozen before may have come after all was over.
	_, n, err = s.programs(ctx, o)
	if err == nil && n != nil && n.At.Equal(o.Order.At) && n.State.over() {
		err = void("this run has ended already what it began with Secret %s", o.Entry.Secret)
	}
	if failure.Is(err, failure.PlanVoid) {
		err = errors.Join(err, s.remove(ctx, &pending{object: made}))
	}
	return err
}

// programs reads the programs' Secret and its note; one that is not there as the order was decided, or that
// is a later order's, makes the plan void.
func (s Secrets) programs(ctx context.Context, o Order) (*corev1.Secret, *note, error) {
	object, err := s.get(ctx, o.Entry.Secret)
	if err != nil {
		return nil, nil, err
	}
	n, err := readNote(object, o.Entry)
	switch {
	case err != nil:
		return nil, nil, err
	case object.UID != o.UID:
		return nil, nil, void("Secret %s is another one than was looked at", object.Name)
	case n != nil && n.At.After(o.Order.At):
		return nil, nil, void("a later run has come to Secret %s", object.Name)
	}
	return object, n, nil
}

// takeOver makes what an earlier order has left an order's own.
func (s Secrets) takeOver(ctx context.Context, p *pending, o Order) error {
	switch {
	case p.note.At.Equal(o.Order.At) && p.note.Key == o.Order.Key:
		return nil
	case p.note.At.After(o.Order.At):
		return void("the pending Secret %s is a later run's", p.object.Name)
	case p.note.Target != o.Order.Target:
		return failure.New(failure.LockHeld, "the pending Secret %s is of a run for target %s, which goes first", p.object.Name, p.note.Target).
			Do("wait until that run is over, or start it again if it was terminated, then resume the run")
	case p.role != o.To:
		return void("an earlier run has left a password for role %s", p.role)
	}
	return s.patch(ctx, p.object, o.Entry, nil, note{Order: o.Order, Secret: o.Entry.Secret}, pendingBefore, pendingAfter)
}

// Switch puts the new password into the programs' Secret: its keys, and no others. Done twice, it finds it
// done. A Secret that has neither what it had nor what it gets was changed by somebody: the plan is void.
func (s Secrets) Switch(ctx context.Context, o Order) error {
	p, err := s.ours(ctx, o)
	if err != nil {
		return err
	}
	programs, n, err := s.programs(ctx, o)
	if err != nil {
		return err
	}
	after := p.after(o.Entry.Keys)
	switch {
	case n != nil && n.At.Equal(o.Order.At) && n.State.over():
		return void("this run has ended already what it began with Secret %s", programs.Name)
	case n != nil && n.At.Equal(o.Order.At) && has(programs, after):
		return nil
	case n != nil && n.State == Withdrawing && n.Pending == p.object.UID && has(programs, after): // an earlier order's, which is to be ended
		return s.patch(ctx, programs, o.Entry, nil, note{Order: o.Order, State: Withdrawing, Pending: p.object.UID, Changed: true}, switchBefore, switchAfter)
	case !has(programs, after) && !has(programs, p.before):
		return void("somebody has changed Secret %s meanwhile", programs.Name)
	}
	return s.patch(ctx, programs, o.Entry, after, note{Order: o.Order, State: Switched, Pending: p.object.UID, Changed: true}, switchBefore, switchAfter)
}

// Seal says that nothing is undone from now on. Done twice, it finds it done.
func (s Secrets) Seal(ctx context.Context, o Order) error {
	p, err := s.ours(ctx, o)
	if err != nil {
		return err
	}
	programs, n, err := s.programs(ctx, o)
	switch {
	case err != nil:
		return err
	case n == nil || !n.At.Equal(o.Order.At) || n.State.over():
		return void("Secret %s is not as this run has made it", programs.Name)
	case !has(programs, p.after(o.Entry.Keys)):
		return void("somebody has changed Secret %s meanwhile", programs.Name)
	case n.State == Withdrawing:
		return nil
	}
	return s.patch(ctx, programs, o.Entry, nil, note{Order: o.Order, State: Withdrawing, Pending: p.object.UID, Changed: true}, sealBefore, sealAfter)
}

// Restore puts back what the programs' Secret had, unless the old password is being withdrawn, and keeps late
// attempts of the order from changing it again. What somebody has changed meanwhile stays and is said.
func (s Secrets) Restore(ctx context.Context, o Order) (remark string, err error) {
	programs, n, err := s.programs(ctx, o)
	if failure.Is(err, failure.PlanVoid) || failure.Is(err, failure.MissingObject) {
		return fmt.Sprintf("Secret %s is left as it is: it is not this run's any more", o.Entry.Secret), nil
	}
	if err != nil {
		return "", err
	}
	if n != nil && n.At.Equal(o.Order.At) && (n.State.over() || n.State == Withdrawing) {
		return "", nil
	}
	over := note{Order: o.Order, State: Undone}
	p, err := s.pending(ctx, o.Entry)
	switch {
	case err != nil:
		return "", err
	case p != nil && p.note.At.After(o.Order.At):
		return fmt.Sprintf("Secret %s is left as it is: a later run goes on with it", programs.Name), nil
	case p != nil && !p.note.At.Equal(o.Order.At): // an earlier order's, which this one has not come to
		return "", nil
	case p == nil && n != nil && n.At.Equal(o.Order.At):
		return "", failure.New(failure.MissingObject, "the pending Secret %s is gone, and with it what Secret %s had", o.Entry.PendingName(), programs.Name).
			Do("put back into the Secret what it had, or start a new run, which rotates it once more")
	case p == nil: // nothing was made, so nothing was changed
		return "", s.patch(ctx, programs, o.Entry, nil, over, restoreBefore, restoreAfter)
	}
	if n != nil && n.Pending == p.object.UID {
		if n.State == Withdrawing { // an earlier order's
			return "", nil
		}
		over.Changed = n.Changed
	}
	over.Pending = p.object.UID
	var values map[string][]byte
	switch {
	case has(programs, p.before):
	case has(programs, p.after(o.Entry.Keys)):
		values = p.before
	default:
		remark = fmt.Sprintf("Secret %s was changed by somebody else meanwhile and stays as it is", programs.Name)
	}
	return remark, s.patch(ctx, programs, o.Entry, values, over, restoreBefore, restoreAfter)
}

// Finish says that the rotation is over, and removes the pending Secret. Done twice, it finds it done.
func (s Secrets) Finish(ctx context.Context, o Order) error {
	programs, n, err := s.programs(ctx, o)
	switch {
	case err != nil:
		return err
	case n == nil || !n.At.Equal(o.Order.At) || n.State != Withdrawing && n.State != Done:
		return void("Secret %s is not as this run has made it", programs.Name)
	case n.State == Withdrawing:
		n.State = Done
		if err := s.patch(ctx, programs, o.Entry, nil, *n, finishBefore, finishAfter); err != nil {
			return err
		}
	}
	return s.RemovePending(ctx, o)
}

// RemovePending removes the pending Secret of a rotation that is over. One whose rotation is not over is
// what it could still be ended, or undone, with, and stays.
func (s Secrets) RemovePending(ctx context.Context, o Order) error {
	p, err := s.pending(ctx, o.Entry)
	if err != nil || p == nil {
		return err
	}
	_, n, err := s.programs(ctx, o)
	switch {
	case failure.Is(err, failure.PlanVoid):
		return nil // a later run's
	case err != nil:
		return err
	case p.note.At.After(o.Order.At) || n == nil || !n.At.Equal(o.Order.At) || !n.State.over():
		return nil
	}
	return s.remove(ctx, p)
}

func (s Secrets) remove(ctx context.Context, p *pending) error {
	removeBefore.Hit()
	err := s.Cluster.Client.CoreV1().Secrets(s.Cluster.Namespace).Delete(ctx, p.object.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &p.object.UID},
	})
	removeAfter.Hit()
	err = kube.Classify(err, "delete the Secret "+p.object.Name)
	if failure.Is(err, failure.MissingObject) || failure.Is(err, failure.ObjectConflict) { // gone; what has its name now is another
		return nil
	}
	return err
}

// patch writes values and the note; it holds only for the object as it was read. No error quotes it: what
// the API server says of a Secret may have its values in it.
func (s Secrets) patch(ctx context.Context, object *corev1.Secret, e Entry, values map[string][]byte, n note, before, after fault.Point) error {
	text, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode a note: %w", err)
	}
	patch := map[string]any{"metadata": map[string]any{
		"uid": object.UID, "resourceVersion": object.ResourceVersion, "annotations": map[string]string{Note + e.Name: string(text)},
	}}
	if len(values) > 0 {
		data := make(map[string]string)
		for _, key := range slices.Sorted(maps.Keys(values)) {
			data[key] = base64.StdEncoding.EncodeToString(values[key])
		}
		patch["data"] = data
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return errors.New("encode a patch of a Secret")
	}
	before.Hit()
	_, err = s.Cluster.Client.CoreV1().Secrets(s.Cluster.Namespace).Patch(ctx, object.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: manager})
	if err = kube.Classify(err, "change the Secret "+object.Name+" in namespace "+object.Namespace); err != nil {
		if f, known := failure.As(err); known {
			f.Cause = nil
		}
		return err
	}
	after.Hit()
	return nil
}
