// Package stack installs the stack of dev/stack in a namespace of a cluster, and calls kubectl and helm
// there, as a person would.
package stack

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Release is the name under which the stack is installed.
const Release = "lang-observatory"

// Web is the service's Deployment, and Database the pod of its database.
const (
	Web      = "deployment/" + Release + "-langfuse"
	Database = Release + "-postgresql-0"
)

// Namespace is where a stack is.
type Namespace string

// Create makes the namespace, and waits for the account that its pods need, which comes a moment later.
func (n Namespace) Create() error {
	if _, err := Command(time.Minute, "", "kubectl", "create", "namespace", string(n)); err != nil {
		return err
	}
	return Until(30*time.Second, func() error {
		_, err := n.Kubectl("get", "serviceaccount", "default")
		return err
	})
}

// Remove removes the namespace and waits, so that its volumes are gone too.
func (n Namespace) Remove() error {
	_, err := Command(3*time.Minute, "", "kubectl", "delete", "namespace", string(n), "--wait=true", "--ignore-not-found")
	return err
}

// Install installs the stack, and waits until it is ready.
func (n Namespace) Install(chart string, more ...string) error {
	_, err := n.Helm(append([]string{"install", Release, chart, "--wait", "--timeout", "3m"}, more...)...)
	return err
}

// Apply makes objects.
func (n Namespace) Apply(objects string) error {
	_, err := Command(time.Minute, objects, "kubectl", "--namespace", string(n), "apply", "-f", "-")
	return err
}

// Kubectl calls kubectl there.
func (n Namespace) Kubectl(args ...string) (string, error) {
	return Command(90*time.Second, "", "kubectl", append([]string{"--namespace", string(n)}, args...)...)
}

// Helm calls helm there.
func (n Namespace) Helm(args ...string) (string, error) {
	return Command(4*time.Minute, "", "helm", append([]string{"--namespace", string(n)}, args...)...)
}

// Psql asks the stack's database, statement after statement, and returns rows with columns between bars.
func (n Namespace) Psql(database string, statements ...string) (string, error) {
	args := []string{"exec", Database, "--", "psql", "-XAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database}
	for _, sql := range statements {
		args = append(args, "-c", sql)
	}
	out, err := n.Kubectl(args...)
	return strings.TrimSpace(out), err
}

// Command calls a program, and returns what it wrote to standard output.
func Command(within time.Duration, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	c.Stderr = &stderr
	output, err := c.Output()
	if err != nil {
		return string(output), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), errors.Join(err, ctx.Err()), strings.TrimSpace(stderr.String()))
	}
	return string(output), nil
}

// Until looks until there is no error, and returns the last one if it stays.
func Until(within time.Duration, look func() error) error {
	deadline := time.Now().Add(within)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}
