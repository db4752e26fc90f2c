// Package pki makes the certificates and kubeconfigs by which the cluster's programs know each other.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// lifetime is long for a cluster that is made for an afternoon.
const lifetime = 365 * 24 * time.Hour

// Authority signs certificates and keeps them in a folder as NAME.crt and NAME.key.
type Authority struct {
	folder string
	name   string
	cert   *x509.Certificate
	key    crypto.Signer
}

// NewAuthority makes one, with a certificate of its own in NAME.crt.
func NewAuthority(folder, name string) (*Authority, error) {
	template, err := certificate(pkix.Name{CommonName: name})
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	key, err := NewKey(filepath.Join(folder, name+".key"))
	if err != nil {
		return nil, err
	}
	a := &Authority{folder: folder, name: name, cert: template, key: key}
	signed, err := a.sign(template, key.Public(), filepath.Join(folder, name+".crt"))
	if err != nil {
		return nil, err
	}
	a.cert = signed
	return a, nil
}

// Identity is whom a certificate names. Hosts are names and addresses where it also serves.
type Identity struct {
	Name   string // of the files
	User   string
	Groups []string
	Hosts  []string
}

// Issue makes the certificate of an identity.
func (a *Authority) Issue(id Identity) error {
	template, err := certificate(pkix.Name{CommonName: id.User, Organization: id.Groups})
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, host := range id.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	if len(id.Hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	key, err := NewKey(filepath.Join(a.folder, id.Name+".key"))
	if err != nil {
		return err
	}
	_, err = a.sign(template, key.Public(), filepath.Join(a.folder, id.Name+".crt"))
	return err
}

// WriteKubeconfig writes a kubeconfig for an identity that was issued. It holds all it needs, so that
// it can be copied.
func (a *Authority) WriteKubeconfig(path, server, identity string) error {
	var encoded [3]string
	for i, name := range []string{a.name + ".crt", identity + ".crt", identity + ".key"} {
		content, err := os.ReadFile(filepath.Join(a.folder, name))
		if err != nil {
			return err
		}
		encoded[i] = base64.StdEncoding.EncodeToString(content)
	}
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: upkeep
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: %s
  user: {client-certificate-data: %s, client-key-data: %s}
contexts:
- name: upkeep
  context: {cluster: upkeep, user: %s}
current-context: upkeep
`, server, encoded[0], identity, encoded[1], encoded[2], identity)
	return os.WriteFile(path, []byte(config), 0o600)
}

// NewKey makes a private key and writes it to path.
func NewKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// WritePublic writes a key's public half.
func WritePublic(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644)
}

func certificate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(lifetime)}, nil
}

func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey, path string) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
