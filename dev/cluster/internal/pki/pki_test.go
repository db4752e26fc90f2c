package pki

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestACertificateIsTrustedForWhatItNames(t *testing.T) {
	folder := t.TempDir()
	ca, err := NewAuthority(folder, "ca")
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewAuthority(folder, "other")
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Issue(Identity{Name: "server", User: "server", Groups: []string{"group"}, Hosts: []string{"10.0.0.1", "name"}}); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "server.crt"), filepath.Join(folder, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	check := func(a *Authority, name string) error {
		roots := x509.NewCertPool()
		roots.AddCert(a.cert)
		_, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
		return err
	}
	for _, name := range []string{"10.0.0.1", "name"} {
		if err := check(ca, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if check(ca, "another") == nil {
		t.Error("it is trusted for a name that it does not have")
	}
	if check(other, "name") == nil {
		t.Error("another authority vouches for it")
	}
	config := filepath.Join(folder, "kubeconfig")
	if err := ca.WriteKubeconfig(config, "https://10.0.0.1:6443", "server"); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(config)
	if err != nil || !strings.Contains(string(content), `"https://10.0.0.1:6443"`) {
		t.Errorf("kubeconfig: %v\n%s", err, content)
	}
}
