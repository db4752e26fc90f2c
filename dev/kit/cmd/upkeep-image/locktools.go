package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/upkeep-run/upkeep/dev/kit/image"
	"github.com/upkeep-run/upkeep/dev/kit/part"
)

// addLockTools adds the machine's Go, as far as it looks modules and sources up, govulncheck, and its Node and npm.
// They compile and run nothing of anybody's: tests and the sources of Go's own programs are left out, and the tools
// of Go but for those that it asks for their version.
func addLockTools(ctx context.Context, i *image.Image) error {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOVERSION", "GOTOOLDIR").Output()
	if err != nil {
		return fmt.Errorf("go does not say where it is: %w", err)
	}
	said := strings.Fields(string(out))
	if len(said) != 3 {
		return fmt.Errorf("go does not say where it is: %q", out)
	}
	root, version, tools := said[0], said[1], said[2]
	for place, name := range map[string]string{"bin/go": "bin/go", "VERSION": "VERSION", "go.env": "go.env"} {
		if err := i.File("/usr/local/go/"+place, filepath.Join(root, name)); err != nil {
			return fmt.Errorf("Go is not whole: %w", err)
		}
	}
	skipped := func(name string) bool {
		base := filepath.Base(name)
		return base == "testdata" || strings.HasSuffix(base, "_test.go") || name == filepath.Join(root, "src", "cmd")
	}
	if err := i.TreeAt("/usr/local/go/src", filepath.Join(root, "src"), skipped); err != nil {
		return err
	}
	i.Folder("/usr/local/go/pkg/tool", 0o755) // by which go knows the folder for its own
	for _, name := range []string{"asm", "compile", "link"} {
		if err := i.File("/usr/local/go/pkg/tool/"+filepath.Base(tools)+"/"+name, filepath.Join(tools, name)); err != nil {
			return fmt.Errorf("Go is not whole: %w", err)
		}
	}
	if err := addGovulncheck(ctx, i); err != nil {
		return err
	}
	i.Link("/usr/local/bin/go", "../go/bin/go")

	npm, err := exec.LookPath("npm")
	if err == nil {
		npm, err = filepath.EvalSymlinks(npm)
	}
	if err != nil {
		return fmt.Errorf("npm is missing; install Node with it: %w", err)
	}
	home := filepath.Dir(filepath.Dir(npm)) // npm's file is bin/npm-cli.js
	if _, err := os.Stat(filepath.Join(home, "node_modules", "@npmcli", "arborist")); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("npm is not in one folder with what it needs, as Debian's own package has it (%s); install Node's own", home)
	}
	documents := func(name string) bool {
		base := filepath.Base(name)
		return name == filepath.Join(home, "docs") || name == filepath.Join(home, "man") || strings.HasSuffix(base, ".md") || strings.HasSuffix(base, ".map")
	}
	if err := i.TreeAt("/usr/local/lib/node_modules/npm", home, documents); err != nil {
		return err
	}
	i.Link("/usr/local/bin/npm", "../lib/node_modules/npm/bin/"+filepath.Base(npm))
	node, err := exec.LookPath("node")
	if err == nil {
		err = i.File("/usr/local/bin/node", node)
	}
	if err != nil {
		return fmt.Errorf("node is missing: %w", err)
	}
	i.Labels["run.upkeep.go"] = version
	return nil
}

// addGovulncheck adds the program that looks whether code calls what is vulnerable.
func addGovulncheck(ctx context.Context, i *image.Image) error {
	cache, err := part.CacheDir("parts")
	if err != nil {
		return err
	}
	say := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	p := part.Part{Name: "govulncheck", Module: "parts/govulncheck", Package: "golang.org/x/vuln/cmd/govulncheck", About: "a minute"}
	built, err := part.Builder{Source: ".", Cache: cache, Say: say}.Build(ctx, p)
	if err != nil {
		return err
	}
	return i.File("/usr/local/bin/govulncheck", built[p.Name])
}
