package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/upkeep-run/upkeep/internal/dependency/lookup"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/goproxy"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/npm"
)

// latency is what each recorded answer takes.
const latency = 30 * time.Millisecond

// recorder is a registry of both kinds on this machine. It asks the real ones once for each thing, and then
// gives the same bytes again, each after the same time, in the way of the public registries: compressed, with
// an ETag, to be kept for five minutes, npm's documents abbreviated for who asks for that.
type recorder struct {
	*httptest.Server
	dir, ca  string
	upstream map[string]string // by the first part of the path
	mu       sync.Mutex
	turns    map[string]*sync.Mutex
}

func startRecorder(dir string) (*recorder, error) {
	operator, err := lookup.FromEnvironment(os.LookupEnv)
	if err != nil {
		return nil, err
	}
	proxy, _, _ := strings.Cut(cmp.Or(operator.Go.Proxy, goproxy.DefaultProxy), ",")
	r := &recorder{dir: dir, ca: filepath.Join(dir, "ca.pem"), turns: make(map[string]*sync.Mutex), upstream: map[string]string{
		"go": strings.TrimSuffix(proxy, "/"), "npm": strings.TrimSuffix(cmp.Or(operator.NPM.Registry, npm.DefaultRegistry), "/"),
	}}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r.Server = httptest.NewUnstartedServer(r)
	r.EnableHTTP2 = true
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.StartTLS()
	return r, os.WriteFile(r.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}), 0o644)
}

// environment sends a program to the recorder.
func (r *recorder) environment() []string {
	return []string{
		"GOPROXY=" + r.URL + "/go", "npm_config_registry=" + r.URL + "/npm/", "NPM_CONFIG_USERCONFIG=" + filepath.Join(r.dir, "none"),
		"SSL_CERT_FILE=" + r.ca, "NODE_EXTRA_CA_CERTS=" + r.ca,
	}
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	began := time.Now()
	kind, path, _ := strings.Cut(strings.TrimPrefix(q.URL.EscapedPath(), "/"), "/")
	short := kind == "npm" && strings.Contains(q.Header.Get("Accept"), "install-v1")
	file, status, err := r.recorded(q.Context(), kind, path, short)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	time.Sleep(latency - time.Since(began)) // a measured delay, and no wait for anything
	w.Header().Set("Cache-Control", "public, max-age=300")
	if status != http.StatusOK {
		w.WriteHeader(status)
		return
	}
	tag := `"` + filepath.Base(file) + `"`
	w.Header().Set("ETag", tag)
	w.Header().Set("Content-Type", map[string]string{"go": "text/plain", "npm": "application/json"}[kind])
	if q.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body, err := os.Open(file)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	defer func() { _ = body.Close() }()
	if strings.Contains(q.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.Copy(w, body)
		return
	}
	if z, err := gzip.NewReader(body); err == nil {
		_, _ = io.Copy(w, z) //nolint:gosec // bytes of our own
	}
}

// recorded is the file of an answer; it is asked for if it is not there yet.
func (r *recorder) recorded(ctx context.Context, kind, path string, short bool) (string, int, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %t", kind, path, short))
	file := filepath.Join(r.dir, hex.EncodeToString(sum[:]))
	r.mu.Lock()
	turn := r.turns[file]
	if turn == nil {
		turn = new(sync.Mutex)
		r.turns[file] = turn
	}
	r.mu.Unlock()
	turn.Lock()
	defer turn.Unlock()
	if _, err := os.Stat(file); err == nil {
		return file, http.StatusOK, nil
	}
	if _, err := os.Stat(file + ".missing"); err == nil {
		return "", http.StatusNotFound, nil
	}
	var body []byte
	var err error
	for range 4 {
		if body, err = r.ask(ctx, r.upstream[kind]+"/"+path); err == nil || errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if errors.Is(err, os.ErrNotExist) {
		return "", http.StatusNotFound, os.WriteFile(file+".missing", nil, 0o644)
	}
	if err == nil && short {
		body, err = abbreviate(body)
	}
	if err != nil {
		return "", 0, err
	}
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	if _, err := g.Write(body); err != nil {
		return "", 0, err
	}
	if err := g.Close(); err != nil {
		return "", 0, err
	}
	return file, http.StatusOK, os.WriteFile(file, z.Bytes(), 0o644)
}

// ask asks the real registry. What it refuses it does not have, as far as public packages go.
func (r *recorder) ask(ctx context.Context, url string) ([]byte, error) {
	q, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	switch response.StatusCode {
	case http.StatusOK:
		return io.ReadAll(response.Body)
	case http.StatusNotFound, http.StatusGone, http.StatusForbidden:
		return nil, os.ErrNotExist
	}
	return nil, fmt.Errorf("%s answers %d", url, response.StatusCode)
}

// inShort are the fields that npm's abbreviated documents have of each version.
var inShort = []string{
	"name", "version", "deprecated", "dependencies", "optionalDependencies", "devDependencies", "bundleDependencies", "peerDependencies", "peerDependenciesMeta",
	"bin", "directories", "dist", "engines", "cpu", "os", "hasInstallScript", "funding",
}

func abbreviate(document []byte) ([]byte, error) {
	var d struct {
		Name     string                                `json:"name"`
		Modified string                                `json:"modified,omitempty"`
		Tags     map[string]string                     `json:"dist-tags"`
		Versions map[string]map[string]json.RawMessage `json:"versions"`
	}
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, err
	}
	for v, all := range d.Versions {
		short := make(map[string]json.RawMessage)
		for _, field := range inShort {
			if value, known := all[field]; known {
				short[field] = value
			}
		}
		d.Versions[v] = short
	}
	return json.Marshal(d)
}
