// Command bench-access measures a review of access on a real cluster with many roles and bindings: the whole
// of it, from the first request to the bytes of the review, in a process of its own, so that its memory is
// what the review takes. Beside it is kubectl, which reads the same objects and judges nothing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/dev/internal/measure"
	"github.com/upkeep-run/upkeep/dev/internal/stack"
	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// namespaces numbers those that the roles are spread over; half of the roles are in the first, which is
// reviewed, and the rest in those with odd numbers.
const namespaces = 10

func main() {
	n := flag.Int("n", 10_000, "how many roles there are, and as many bindings")
	rounds := flag.Int("runs", 5, "how often everything is measured")
	out := flag.String("out", "", "the Markdown file to write; standard output when empty")
	review := flag.String("review", "", "review this namespace once and say what it took; what the benchmark calls itself with")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var err error
	if *review != "" {
		err = once(ctx, *review)
	} else {
		err = bench(ctx, *n, *rounds, *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-access:", err)
		os.Exit(1)
	}
}

// took is what one review took, and what it found.
type took struct {
	Seconds, Reading                float64
	Subjects, Risks, Paths, Written int
}

func once(ctx context.Context, namespace string) error {
	c, err := kube.Connect(ctx, kube.Options{Namespace: namespace})
	if err != nil {
		return err
	}
	began := time.Now()
	seen, err := access.Look(ctx, c)
	if err != nil {
		return err
	}
	read := time.Since(began)
	r := access.Judge(seen, []string{namespace})
	data := r.Encode()
	access.HashOf(data)
	return json.NewEncoder(os.Stdout).Encode(took{time.Since(began).Seconds(), read.Seconds(), len(r.Subjects), len(r.Risks), len(r.Paths), len(data)})
}

func bench(ctx context.Context, n, rounds int, out string) (err error) {
	first := stack.Namespace(fmt.Sprintf("upkeep-bench-access-%d", time.Now().Unix()))
	defer func() { err = errors.Join(err, remove(first)) }()
	measure.Say("making %d roles and %d bindings", n, n)
	if err := fill(ctx, string(first), n); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ways := []*way{
		{name: "ReviewAccess", args: []string{self, "-review", string(first)}},
		{name: "`kubectl get clusterroles,roles,clusterrolebindings,rolebindings,serviceaccounts -A -o json`", args: []string{"kubectl", "get", "clusterroles,roles,clusterrolebindings,rolebindings,serviceaccounts", "-A", "-o", "json"}},
	}
	var found took
	for i := range rounds {
		for _, w := range ways {
			measure.Say("round %d: %s", i+1, w.name)
			data, err := w.run(ctx)
			if err != nil {
				return err
			}
			if w == ways[0] {
				if err := json.Unmarshal(data, &found); err != nil {
					return err
				}
				w.seconds[i], w.reading = found.Seconds, append(w.reading, found.Reading)
			}
		}
	}
	return measure.Write(out, func(to io.Writer) error {
		fmt.Fprintf(to, "# A review of access, measured\n\n`make bench-access` wrote this on %s, on %s. A cluster with %d Roles, no two alike, and %d RoleBindings in %d namespaces; half of them are in the namespace that is reviewed. Each way is a process of its own, in turns, %d rounds: the median, and the least and the most. The whole of the review: reading from the API server, judging, and the bytes of the review (%d subjects, %d risks, %d ways to more, %.1f MiB). The API server is on the same machine. kubectl reads the same and judges nothing.\n\n| | seconds | of them reading | peak memory, MiB |\n| --- | ---: | ---: | ---: |\n",
			time.Now().UTC().Format(time.DateOnly), measure.Machine(), n, n, namespaces/2+1, rounds, found.Subjects, found.Risks, found.Paths, float64(found.Written)/(1<<20))
		for _, w := range ways {
			reading := ""
			if len(w.reading) > 0 {
				reading = measure.Spread(w.reading)
			}
			fmt.Fprintf(to, "| %s | %s | %s | %s |\n", measure.Cell(w.name), measure.Spread(w.seconds), reading, measure.Spread(w.memory))
		}
		return nil
	})
}

// way is one way to look at the access.
type way struct {
	name                     string
	args                     []string
	seconds, reading, memory []float64
}

func (w *way) run(ctx context.Context) ([]byte, error) {
	cmd := exec.CommandContext(ctx, w.args[0], w.args[1:]...)
	var text strings.Builder
	cmd.Stderr = &text
	began := time.Now()
	data, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", w.name, err, text.String())
	}
	w.seconds = append(w.seconds, time.Since(began).Seconds())
	w.memory = append(w.memory, float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)/1024)
	return data, nil
}

// fill makes the namespaces, and in them the roles and bindings.
func fill(ctx context.Context, first string, n int) error {
	c, err := kube.Connect(ctx, kube.Options{Namespace: first})
	if err != nil {
		return err
	}
	name := func(i int) string {
		if i%2 == 0 {
			return first
		}
		return fmt.Sprintf("%s-%d", first, i%namespaces)
	}
	for i := range namespaces {
		if i%2 == 1 || i == 0 {
			if err := stack.Namespace(name(i)).Create(); err != nil {
				return err
			}
		}
	}
	made := atomic.Int64{}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	next := make(chan int)
	var makers sync.WaitGroup
	makeOne := func(i int) error {
		called := fmt.Sprintf("team-%05d", i)
		rules := []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{called}, Verbs: []string{"get", "list"}},
			{APIGroups: []string{"", "apps"}, Resources: []string{"pods", "services", "deployments"}, Verbs: []string{"get", "list", "watch"}},
		}
		if i%10 == 0 {
			rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/exec", "secrets"}, Verbs: []string{"create", "get"}})
		}
		_, err := c.Client.RbacV1().Roles(name(i)).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: called}, Rules: rules}, metav1.CreateOptions{})
		if err == nil {
			_, err = c.Client.RbacV1().RoleBindings(name(i)).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: called},
				RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: called},
				Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: called}, {Kind: rbacv1.ServiceAccountKind, Namespace: name(i), Name: "default"}}}, metav1.CreateOptions{})
		}
		if done := made.Add(1); done%1000 == 0 {
			measure.Say("%d of %d", done, n)
		}
		return err
	}
	for range 16 {
		makers.Go(func() {
			for i := range next {
				if err := makeOne(i); err != nil {
					stop(err)
					return
				}
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	makers.Wait()
	return context.Cause(ctx)
}

// remove takes the namespaces away, and does not wait for the last object to be gone.
func remove(first stack.Namespace) error {
	c, err := kube.Connect(context.Background(), kube.Options{Namespace: string(first)})
	if err != nil {
		return err
	}
	for i := range namespaces {
		name := fmt.Sprintf("%s-%d", first, i)
		if i == 0 {
			name = string(first)
		}
		if e := c.Client.CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{}); e != nil && !apierrors.IsNotFound(e) {
			err = errors.Join(err, e)
		}
	}
	return err
}
