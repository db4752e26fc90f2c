package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/dev/internal/stack"
)

// hollow is a node without a machine, as those of kubemark: its pods are objects that nobody runs, and this process
// answers the API server for its kubelet, which is asked for nothing but logs.
type hollow struct {
	name   string
	client kubernetes.Interface
	log    []byte // of every container
	server *http.Server
}

// newHollow makes the node beside one of the cluster's own, which must be on this machine.
func newHollow(ctx context.Context, config *rest.Config, log []byte) (_ *hollow, err error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, err
	}
	address := ""
	for _, n := range nodes.Items {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				address = a.Address
			}
		}
	}
	// The API server, which is on that node, comes back to the address from which this machine goes there.
	way, err := net.Dial("udp", net.JoinHostPort(address, "9")) // nothing is sent
	if err != nil {
		return nil, fmt.Errorf("find the way to the node %s: %w", address, err)
	}
	address = way.LocalAddr().(*net.UDPAddr).IP.String()
	if err := way.Close(); err != nil {
		return nil, err
	}
	h := &hollow{name: fmt.Sprintf("upkeep-hollow-%d", time.Now().Unix()), client: client, log: log}
	certificate, err := h.certificate(ctx, config, address)
	if err != nil {
		return nil, fmt.Errorf("a certificate for the hollow node's logs: %w", err)
	}
	listener, err := tls.Listen("tcp", net.JoinHostPort(address, "0"), &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, fmt.Errorf("serve the hollow node's logs: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(h.log) // who asks may hang up
	})
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = h.server.Serve(listener) }() // until close
	defer func() {
		if err != nil {
			err = errors.Join(err, h.remove())
		}
	}()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: h.name, Labels: map[string]string{"kubernetes.io/hostname": h.name}}, Spec: corev1.NodeSpec{Unschedulable: true}}
	if node, err = client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(listener.Addr().(*net.TCPAddr).Port)
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(), Reason: "Hollow"}}
	_, err = client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return h, err
}

// certificate has the cluster sign one, as a kubelet does.
func (h *hollow) certificate(ctx context.Context, config *rest.Config, address string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	user := "system:node:" + h.name
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: user, Organization: []string{"system:nodes"}}, IPAddresses: []net.IP{net.ParseIP(address)},
	}, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	asNode := rest.CopyConfig(config)
	asNode.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:nodes", "system:authenticated"}}
	nodes, err := kubernetes.NewForConfig(asNode)
	if err != nil {
		return tls.Certificate{}, err
	}
	csr, err := nodes.CertificatesV1().CertificateSigningRequests().Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: h.name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}), SignerName: certificatesv1.KubeletServingSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return tls.Certificate{}, err
	}
	requests := h.client.CertificatesV1().CertificateSigningRequests()
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Benchmark"})
	if _, err := requests.UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		return tls.Certificate{}, err
	}
	err = stack.Until(30*time.Second, func() error {
		if csr, err = requests.Get(ctx, h.name, metav1.GetOptions{}); err == nil && len(csr.Status.Certificate) == 0 {
			err = fmt.Errorf("it is not signed: %v", csr.Status.Conditions)
		}
		return err
	})
	if err != nil {
		return tls.Certificate{}, err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(csr.Status.Certificate, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}))
}

// remove removes the node; its pods are to be gone.
func (h *hollow) remove() error {
	err := errors.Join(
		h.client.CoreV1().Nodes().Delete(context.Background(), h.name, metav1.DeleteOptions{}),
		h.client.CertificatesV1().CertificateSigningRequests().Delete(context.Background(), h.name, metav1.DeleteOptions{}))
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return errors.Join(err, h.server.Close())
}

// pods makes pods on the node that seem to run.
func (h *hollow) pods(ctx context.Context, namespace string, n int) error {
	return many(n, func(i int) error {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("suspect-%03d", i), Labels: map[string]string{"app": "web", "access": "db", "tier": "front"}},
			Spec: corev1.PodSpec{
				NodeName: h.name, ServiceAccountName: account, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				TerminationGracePeriodSeconds: new(int64), AutomountServiceAccountToken: new(bool),
				Containers: []corev1.Container{{Name: "main", Image: "hollow.test/suspect:1"}},
			},
		}
		pod, err := h.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
		pod.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.255.%d.%d", i/250, i%250+1), PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.255.%d.%d", i/250, i%250+1)}},
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main", Image: "hollow.test/suspect:1", ImageID: "hollow.test/suspect@sha256:" + strings.Repeat("a", 64), ContainerID: "containerd://" + strings.Repeat("b", 64), Ready: true, State: running}},
		}
		_, err = h.client.CoreV1().Pods(namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		return err
	})
}

// logOf is what each container has written.
func logOf(size int) []byte {
	line := []byte("2026-01-01T00:00:00.000000000Z " + strings.Repeat("a line of a log ", 4) + "12345\n")
	return bytes.Repeat(line, size/len(line))
}
