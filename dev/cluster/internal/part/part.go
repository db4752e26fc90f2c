// Package part builds the programs that the cluster is made of, each from a Go module of its own that
// pins its version, and keeps them outside the checkout by what they were built from.
package part

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Part is a program to build.
type Part struct {
	Name    string
	Module  string // its folder, below dev/cluster
	Package string
	LDFlags string
	About   string // how long it takes where nothing is cached
}

// kubernetesVersion is what the programs say of themselves: clients ask the server for it.
const kubernetesVersion = "-X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34"

// The parts. Kubernetes comes first: most of what the others share with it is then compiled.
var (
	Kubernetes = Part{Name: "kubernetes", Module: "parts/kubernetes", Package: ".", LDFlags: kubernetesVersion, About: "some six minutes on two cores"}
	Etcd       = Part{Name: "etcd", Module: "parts/etcd", Package: "go.etcd.io/etcd/server/v3", About: "half a minute"}
	KubeRouter = Part{Name: "kube-router", Module: "parts/kube-router", Package: "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router", About: "half a minute"}
	CoreDNS    = Part{Name: "coredns", Module: "parts/coredns", Package: ".", About: "half a minute"}
	Metrics    = Part{Name: "metrics-server", Module: "parts/metrics-server", Package: "sigs.k8s.io/metrics-server/cmd/metrics-server", About: "half a minute"}
	LocalPath  = Part{Name: "local-path-provisioner", Module: "parts/local-path-provisioner", Package: "github.com/rancher/local-path-provisioner", About: "half a minute"}
	Helm       = Part{Name: "helm", Module: "parts/helm", Package: "helm.sh/helm/v3/cmd/helm", About: "a minute"}
	Pause      = Part{Name: "pause", Module: ".", Package: "./cmd/pause", About: "a second"}
)

// All is every part, in the order in which to build them.
var All = []Part{Kubernetes, Etcd, KubeRouter, CoreDNS, Metrics, LocalPath, Helm, Pause}

// Builder builds parts.
type Builder struct {
	Source string // the folder dev/cluster of a checkout
	Cache  string
	Say    func(format string, args ...any)
}

// CacheDir is where built programs are kept: upkeep/cluster in the user's cache.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for what is built: %w; set XDG_CACHE_HOME", err)
	}
	return filepath.Join(base, "upkeep", "cluster"), nil
}

// Build returns the paths of the parts' programs, by name, and builds those that are not there.
func (b Builder) Build(ctx context.Context, parts ...Part) (map[string]string, error) {
	paths := map[string]string{}
	for _, p := range parts {
		path, err := b.build(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("building %s: %w", p.Name, err)
		}
		paths[p.Name] = path
	}
	return paths, nil
}

func (b Builder) build(ctx context.Context, p Part) (string, error) {
	key, err := b.key(ctx, p)
	if err != nil {
		return "", err
	}
	folder := filepath.Join(b.Cache, p.Name+"-"+key)
	path := filepath.Join(folder, p.Name)
	if _, err := os.Stat(path); err == nil {
		now := time.Now()
		return path, os.Chtimes(folder, now, now) // "forget" removes what was not used for longest
	}
	if err := os.MkdirAll(b.Cache, 0o755); err != nil {
		return "", err
	}
	temporary, err := os.MkdirTemp(b.Cache, ".building-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temporary)
	b.Say("building %s; where nothing is cached this takes %s", p.Name, p.About)
	began := time.Now()
	done := b.sayThatItGoesOn(p.Name, began)
	err = b.compile(ctx, p, filepath.Join(temporary, p.Name))
	done()
	if err != nil {
		return "", err
	}
	if err := os.Chmod(temporary, 0o755); err != nil {
		return "", err
	}
	// Two that build the same at once both succeed; the second keeps what the first put there.
	if err := os.Rename(temporary, folder); err != nil {
		if _, missing := os.Stat(path); missing != nil {
			return "", err
		}
	}
	b.Say("built %s in %.0f s", p.Name, time.Since(began).Seconds())
	return path, b.forget(p)
}

func (b Builder) compile(ctx context.Context, p Part, out string) error {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", strings.TrimSpace("-s -w "+p.LDFlags), "-o", out, p.Package)
	build.Dir = filepath.Join(b.Source, p.Module)
	build.Env = environment()
	build.Cancel = func() error { return build.Process.Signal(os.Interrupt) } // so that it removes its temporary files
	build.WaitDelay = 10 * time.Second
	var output bytes.Buffer
	build.Stdout, build.Stderr = &output, &output
	if err := build.Run(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", build.Dir, err, lastLines(output.String(), 30))
	}
	return nil
}

// environment is the caller's, less what would make the same sources another program.
func environment() []string {
	kept := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains([]string{"GOFLAGS", "GOWORK", "CGO_ENABLED", "GOOS", "GOARCH"}, name)
	})
	return append(kept, "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
}

// key tells two programs apart by what they are built from: the module's files, which pin the hash of
// every dependency, Go itself, and the flags.
func (b Builder) key(ctx context.Context, p Part) (string, error) {
	toolchain := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOHOSTOS", "GOHOSTARCH", "GOAMD64")
	toolchain.Dir, toolchain.Env = filepath.Join(b.Source, p.Module), environment()
	version, err := toolchain.Output()
	if err != nil {
		return "", fmt.Errorf("asking Go for its version: %w", err)
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%s\n%s\n%s\n", version, p.Package, p.LDFlags)
	files := []string{"go.mod", "go.sum"}
	sources, err := filepath.Glob(filepath.Join(b.Source, p.Module, p.Package, "*.go"))
	if err != nil {
		return "", err
	}
	for _, source := range sources {
		relative, err := filepath.Rel(filepath.Join(b.Source, p.Module), source)
		if err != nil {
			return "", err
		}
		files = append(files, relative)
	}
	for _, name := range files {
		content, err := os.ReadFile(filepath.Join(b.Source, p.Module, name))
		if errors.Is(err, fs.ErrNotExist) && name == "go.sum" { // a module without dependencies
			continue
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(content), content)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// forget keeps the two newest builds of a part, so that the cache does not grow with every version.
func (b Builder) forget(p Part) error {
	folders, err := filepath.Glob(filepath.Join(b.Cache, p.Name+"-????????????????"))
	if err != nil {
		return err
	}
	age := map[string]time.Time{}
	for _, folder := range folders {
		if info, err := os.Stat(folder); err == nil {
			age[folder] = info.ModTime()
		}
	}
	slices.SortFunc(folders, func(a, b string) int { return age[b].Compare(age[a]) })
	for _, folder := range folders[min(2, len(folders)):] {
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	return nil
}

func (b Builder) sayThatItGoesOn(name string, began time.Time) (done func()) {
	stop := make(chan struct{})
	go func() {
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				b.Say("still building %s, for %.0f minutes now", name, time.Since(began).Minutes())
			}
		}
	}()
	return func() { close(stop) }
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
