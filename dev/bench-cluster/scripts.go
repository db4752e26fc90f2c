package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/upkeep-run/upkeep/dev/internal/stack"
)

// script is a way of commands that a script types.
func script(name, file string, env ...string) way {
	return way{name, func(ctx context.Context, f *field, p *place) taken { return f.script(ctx, p, file, env...) }}
}

// script runs one of the scripts.
func (f *field) script(ctx context.Context, p *place, file string, env ...string) (t taken) {
	cmd := exec.CommandContext(ctx, "bash", filepath.Join(f.scripts, file))
	cmd.Env = append(os.Environ(), "NAMESPACE="+string(p.Namespace), "RELEASE="+stack.Release, "CHART="+f.good, "VALUES="+f.values(),
		"BACKUP="+f.backup(p), "TIMEOUT="+readyWithin.String())
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	t.text, t.err = string(out), err
	if n := strings.Count("\n"+t.text, "\nERROR: "); n > 0 && err == nil {
		t.notes = append(t.notes, fmt.Sprintf("it said nothing of %d errors of psql, and exited with 0", n))
	}
	return t
}
