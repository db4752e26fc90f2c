// Package scratchpod runs throwaway PostgreSQL servers in pods, of the same image as the database's own, so
// that extensions and locales are those of the original. Such a server listens on its own loopback only, is
// reached through the API server, may connect to nothing, has no token and no secret, and is never started
// again: what a crash leaves of it is no copy.
package scratchpod

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

const (
	// startWithin is how long a try waits until a server answers; its image may have to be pulled, so there
	// are more.
	startWithin = 100 * time.Second
	pollEvery   = 250 * time.Millisecond
	port        = 5432
	folder      = "/scratch"
	container   = "postgres"
	// spareBytes is what a server needs beside the copy's data.
	spareBytes = 1 << 30

	labelScratch    = "upkeep.run/scratch"
	labelManagedBy  = "app.kubernetes.io/managed-by"
	annotationRun   = "upkeep.run/run"
	annotationRealm = "upkeep.run/realm"
	managedBy       = "upkeep"
)

// Options say what server to run.
type Options struct {
	// Key names the server: the same key is the same server.
	Key string
	// RunID and Realm are whose it is, for Reap.
	RunID, Realm string
	// Database is where the pod is whose image is taken.
	Database kube.Endpoint
	// Image is taken instead, where the database's pod may not be there.
	Image string
	// RunAsUser is the OS user, where the database's pod does not say; 0: the image's own.
	RunAsUser int64
	// Superuser is the role's name.
	Superuser string
	// Bytes is what the copy needs on disk.
	Bytes int64
}

// Name is the name of the pod, and of its NetworkPolicy, for a key.
func Name(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "upkeep-scratch-" + hex.EncodeToString(sum[:6])
}

// Ensure returns how to reach the server of the key, answering. One that has ended is replaced by an empty
// one.
func Ensure(ctx context.Context, c *kube.Cluster, o Options) (postgres.Config, error) {
	name := Name(o.Key)
	server := o.server(c, name)
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		p, err := o.find(ctx, c, name)
		switch {
		case failure.Is(err, failure.MissingObject):
			if err := o.create(ctx, c); err != nil {
				return server, err
			}
		case err != nil:
			return server, err
		case ended(p):
			if err := remove(ctx, c, p); err != nil {
				return server, err
			}
		case running(p):
			if conn, err := server.Connect(ctx); err == nil {
				return server, conn.Close(ctx)
			}
		default:
			if err := broken(p); err != nil {
				return server, err
			}
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			if p == nil {
				return server, kube.Classify(ctx.Err(), "wait for the scratch server's pod "+name)
			}
			code := failure.ServerUnreachable // it may still come
			if waits := why(p); strings.Contains(waits, "Err") || strings.Contains(waits, "BackOff") || strings.Contains(waits, "Unschedulable") || strings.Contains(waits, "Invalid") {
				code = failure.ScratchUnavailable
			}
			return server, failure.New(code, "the scratch server's pod %s does not start: %s", name, why(p)).
				Do("see kubectl describe pod %s -n %s, then resume the run", name, c.Namespace)
		}
	}
}

// Find returns how to reach the server of the key, which Ensure has made. One that is gone, or has ended, is
// CopyLost.
func Find(ctx context.Context, c *kube.Cluster, o Options) (postgres.Config, error) {
	name := Name(o.Key)
	p, err := o.find(ctx, c, name)
	if failure.Is(err, failure.MissingObject) || err == nil && ended(p) {
		return postgres.Config{}, lost(name)
	}
	return o.server(c, name), err
}

func lost(name string) error {
	return failure.New(failure.CopyLost, "the scratch server's pod %s has ended", name)
}

// find reads the server's pod, and refuses another's.
func (o Options) find(ctx context.Context, c *kube.Cluster, name string) (*corev1.Pod, error) {
	p, err := c.Client.CoreV1().Pods(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, kube.Classify(err, "see how the scratch server's pod "+name+" is")
	}
	if p.Annotations[annotationRun] != o.RunID || p.Labels[labelScratch] != name {
		return nil, failure.New(failure.ScratchUnavailable, "pod %s in namespace %s is not this run's", name, c.Namespace).
			Do("see whose it is, remove it, and resume the run")
	}
	return p, nil
}

// server says how to reach a server in a pod: always through the API server, as it listens on its own
// loopback only.
func (o Options) server(c *kube.Cluster, name string) postgres.Config {
	u := url.URL{Scheme: "postgres", User: url.User(o.Superuser), Host: net.JoinHostPort(name, fmt.Sprint(port)), Path: "/postgres"}
	return postgres.Config{URL: u.String(), App: "upkeep", Untrusted: true, Dial: func(ctx context.Context) (net.Conn, error) {
		conn, err := c.Forward(ctx, name, port)
		if failure.Is(err, failure.MissingObject) {
			return nil, lost(name)
		}
		return conn, err
	}}
}

func (o Options) create(ctx context.Context, c *kube.Cluster) error {
	pod, err := o.pod(ctx, c)
	if err != nil {
		return err
	}
	// The policy first, so that the pod never runs without it. Another attempt may be faster with either.
	_, err = c.Client.NetworkingV1().NetworkPolicies(c.Namespace).Create(ctx, policy(pod), metav1.CreateOptions{FieldManager: managedBy})
	if err = kube.Classify(err, "make the NetworkPolicy of the scratch server "+pod.Name); err != nil && !failure.Is(err, failure.ObjectConflict) {
		return err
	}
	_, err = c.Client.CoreV1().Pods(c.Namespace).Create(ctx, pod, metav1.CreateOptions{FieldManager: managedBy})
	if err = kube.Classify(err, "make the scratch server's pod "+pod.Name); err != nil && !failure.Is(err, failure.ObjectConflict) {
		return err
	}
	return nil
}

// policy denies everything, both ways.
func policy(pod *corev1.Pod) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Labels: pod.Labels, Annotations: pod.Annotations},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{labelScratch: pod.Name}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		},
	}
}

// pod is the pod of a server.
func (o Options) pod(ctx context.Context, c *kube.Cluster) (*corev1.Pod, error) {
	if o.Image != "" {
		return o.build(nil, nil), nil
	}
	of, at, err := origin(ctx, c, o.Database)
	if err != nil {
		return nil, err
	}
	return o.build(of, at), nil
}

// build takes of the database's pod, where there is one, the image, the OS user, and where it may be pulled
// from and run; none of its volumes, variables, labels and accounts.
func (o Options) build(of *corev1.Pod, at *corev1.Container) *corev1.Pod {
	name := Name(o.Key)
	yes, no := true, false
	server := corev1.Container{Name: container, Image: o.Image}
	spec := corev1.PodSpec{}
	if of != nil {
		server.Image, server.ImagePullPolicy, server.Resources = at.Image, at.ImagePullPolicy, at.Resources
		server.SecurityContext = user(of.Spec.SecurityContext, at.SecurityContext)
		spec.ImagePullSecrets, spec.NodeSelector, spec.Tolerations, spec.RuntimeClassName = of.Spec.ImagePullSecrets, of.Spec.NodeSelector, of.Spec.Tolerations, of.Spec.RuntimeClassName
	}
	if server.SecurityContext == nil {
		server.SecurityContext = &corev1.SecurityContext{}
	}
	if o.RunAsUser > 0 {
		server.SecurityContext.RunAsUser = &o.RunAsUser
	}
	s := server.SecurityContext
	s.AllowPrivilegeEscalation, s.ReadOnlyRootFilesystem, s.RunAsNonRoot = &no, &yes, &yes
	s.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
	s.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	server.VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: folder}, {Name: "tmp", MountPath: "/tmp"}}
	server.Env = []corev1.EnvVar{{Name: "LC_ALL", Value: "C"}}

	first := *server.DeepCopy()
	first.Name = "initdb"
	first.Command = []string{"initdb", "-D", folder + "/data", "-U", o.Superuser, "--encoding=UTF8", "--locale=C", "--auth=trust", "--no-sync"}
	server.Command = []string{"postgres", "-D", folder + "/data"}
	settings := pgserver.Throwaway()
	settings["listen_addresses"], settings["unix_socket_directories"] = "127.0.0.1", folder
	settings[settingHost], settings[settingPort] = "$(KUBERNETES_SERVICE_HOST)", "$(KUBERNETES_SERVICE_PORT)" // as Kubernetes writes them
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		server.Command = append(server.Command, "-c", key+"="+settings[key])
	}
	size := resource.NewQuantity(2*o.Bytes+spareBytes, resource.BinarySI)
	grace := int64(5)
	spec.InitContainers, spec.Containers = []corev1.Container{first}, []corev1.Container{server}
	spec.RestartPolicy, spec.AutomountServiceAccountToken, spec.EnableServiceLinks = corev1.RestartPolicyNever, &no, &no
	spec.TerminationGracePeriodSeconds = &grace
	spec.Volumes = []corev1.Volume{
		{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: size}}},
		{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{labelScratch: name, labelManagedBy: managedBy},
			Annotations: map[string]string{annotationRun: o.RunID, annotationRealm: o.Realm},
		},
		Spec: spec,
	}
}

// origin is the database's own pod, and the container in it that serves the database.
func origin(ctx context.Context, c *kube.Cluster, e kube.Endpoint) (*corev1.Pod, *corev1.Container, error) {
	p, port, err := c.Pod(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	for i, at := range p.Spec.Containers {
		if len(p.Spec.Containers) == 1 || slices.ContainsFunc(at.Ports, func(p corev1.ContainerPort) bool { return int(p.ContainerPort) == port }) {
			return p, &p.Spec.Containers[i], nil
		}
	}
	return nil, nil, failure.New(failure.BadConfig, "none of the containers of pod %s declares port %d, so it is not known which image is the database's", p.Name, port).
		Do("name the image with scratch.image in upkeep.yaml and start a new run")
}

// user is the OS user of the database's container.
func user(pod *corev1.PodSecurityContext, at *corev1.SecurityContext) *corev1.SecurityContext {
	out := &corev1.SecurityContext{}
	if pod != nil {
		out.RunAsUser, out.RunAsGroup = pod.RunAsUser, pod.RunAsGroup
	}
	if at != nil && at.RunAsUser != nil {
		out.RunAsUser = at.RunAsUser
	}
	if at != nil && at.RunAsGroup != nil {
		out.RunAsGroup = at.RunAsGroup
	}
	return out
}

func running(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
}

// ended reports whether a server comes no more.
func ended(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed && initialised(p)
}

// initialised reports whether a pod got as far as its server.
func initialised(p *corev1.Pod) bool {
	return !slices.ContainsFunc(p.Status.InitContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.State.Terminated != nil && s.State.Terminated.ExitCode != 0
	})
}

// broken says what a new try would not mend.
func broken(p *corev1.Pod) error {
	if initialised(p) {
		return nil
	}
	return failure.New(failure.ScratchUnavailable, "the scratch server's pod %s could not make its data folder", p.Name).
		Do("see kubectl logs %s -c initdb -n %s; where it must not be root, name the image's user with scratch.runAsUser in upkeep.yaml; then remove the pod, and resume the run or start a new one", p.Name, p.Namespace)
}

// why says what keeps a pod from running.
func why(p *corev1.Pod) string {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil && w.Reason != "PodInitializing" {
			return fmt.Sprintf("container %s waits: %s %.200s", s.Name, w.Reason, w.Message)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Status != corev1.ConditionTrue && c.Message != "" {
			return fmt.Sprintf("%s: %.200s", c.Reason, c.Message)
		}
	}
	return "its phase is " + string(p.Status.Phase)
}

// Remove removes the server of a key; done twice, it finds it done. Another run's stays.
func Remove(ctx context.Context, c *kube.Cluster, key, runID string) error {
	p, err := Options{RunID: runID}.find(ctx, c, Name(key))
	switch {
	case failure.Is(err, failure.MissingObject):
	case failure.Is(err, failure.ScratchUnavailable): // another's
		return nil
	case err != nil:
		return err
	default:
		if err := remove(ctx, c, p); err != nil {
			return err
		}
	}
	return removePolicy(ctx, c, Name(key))
}

func remove(ctx context.Context, c *kube.Cluster, p *corev1.Pod) error {
	err := kube.Classify(c.Client.CoreV1().Pods(c.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}}), "remove the scratch server's pod "+p.Name)
	if failure.Is(err, failure.MissingObject) {
		return nil
	}
	return err
}

func removePolicy(ctx context.Context, c *kube.Cluster, name string) error {
	err := kube.Classify(c.Client.NetworkingV1().NetworkPolicies(c.Namespace).Delete(ctx, name, metav1.DeleteOptions{}), "remove the NetworkPolicy of the scratch server "+name)
	if failure.Is(err, failure.MissingObject) {
		return nil
	}
	return err
}

// Reap removes the servers of a realm's ended runs. Ended reports whether the run of a workflow id is over;
// what it cannot tell stays.
func Reap(ctx context.Context, c *kube.Cluster, realm string, ended func(ctx context.Context, runID string) (bool, error)) error {
	list, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelScratch + "," + labelManagedBy + "=" + managedBy, Limit: 500})
	if err != nil {
		return kube.Classify(err, "list scratch servers in namespace "+c.Namespace)
	}
	var failed []string
	for _, p := range list.Items {
		if p.Annotations[annotationRealm] != realm {
			continue
		}
		over, err := ended(ctx, p.Annotations[annotationRun])
		if err == nil && over {
			if err = remove(ctx, c, &p); err == nil {
				err = removePolicy(ctx, c, p.Name)
			}
		}
		if err != nil {
			failed = append(failed, p.Name+": "+err.Error())
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("remove scratch servers in namespace %s: %s", c.Namespace, strings.Join(failed, "; "))
	}
	return nil
}
