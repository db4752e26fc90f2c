package objstoretest

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Behind is a way to the same server that leads through something that understands HTTP. Each request is
// shown to change, which may alter it, or answer it and return true. What is handed on is signed anew.
func (s *S3) Behind(t testing.TB, change func(http.ResponseWriter, *http.Request) bool) *S3 {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) }}
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: s.Address})
		r.Out.Header.Del("Authorization")
		// The request goes on to the server even if it cannot be signed, and is refused there.
		_ = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).SignHTTP(r.Out.Context(),
			aws.Credentials{AccessKeyID: AccessKey, SecretAccessKey: SecretKey}, r.Out, r.Out.Header.Get("X-Amz-Content-Sha256"), "s3", "us-east-1", time.Now())
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !change(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		server.Close()
		transport.CloseIdleConnections()
	})
	dial := func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(server.URL, "http://"))
	}
	return &S3{Proxy: StartProxy(t, dial), Folder: s.Folder, Hidden: s.Hidden, dial: dial}
}

// Unconditional is a way to the server on which conditions of a write are lost (status 0), or answered
// with an error.
func (s *S3) Unconditional(t testing.TB, status int, answer string) *S3 {
	t.Helper()
	return s.Behind(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("If-None-Match") == "" {
			return false
		}
		if status == 0 {
			r.Header.Del("If-None-Match")
			return false
		}
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("Connection", "close")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer)) // who does not read it has gone
		return true
	})
}
