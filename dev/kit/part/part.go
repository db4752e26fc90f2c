// Package part builds programs of others, each from a Go module of its own that pins its version, and
// keeps them outside the checkout by what they were built from.
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
	Module  string // its folder, below the builder's source
	Package string
	LDFlags string
	About   string // how long it takes where nothing is cached
}

// Builder builds parts.
type Builder struct {
	Source string // the folder of a checkout that has the modules
	Cache  string
	Say    func(format string, args ...any)
}

// CacheDir is where built programs are kept: upkeep/<of> in the user's cache.
func CacheDir(of string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for what is built: %w; set XDG_CACHE_HOME", err)
	}
	return filepath.Join(base, "upkeep", of), nil
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
