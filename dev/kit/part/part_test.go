package part

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestAProgramIsBuiltOncePerContent(t *testing.T) {
	source, cache := t.TempDir(), t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(source, "it", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(source, "it"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("go.mod", "module example.test/it\n\ngo 1.26.0\n")
	program := func(says string) { write("main.go", "package main\n\nfunc main() { println(\""+says+"\") }\n") }
	builds := 0
	b := Builder{Source: source, Cache: cache, Say: func(format string, _ ...any) {
		if strings.HasPrefix(format, "built") {
			builds++
		}
	}}
	run := func() string {
		t.Helper()
		paths, err := b.Build(t.Context(), Part{Name: "it", Module: "it", Package: "."})
		if err != nil {
			t.Fatal(err)
		}
		output, err := exec.Command(paths["it"]).CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(output))
	}
	for step, want := range []struct {
		says   string
		builds int
	}{{"one", 1}, {"one", 1}, {"two", 2}, {"one", 2}, {"three", 3}, {"four", 4}} {
		program(want.says)
		if got := run(); got != want.says || builds != want.builds {
			t.Fatalf("step %d: the program says %q after %d builds, not %q after %d", step, got, builds, want.says, want.builds)
		}
	}
	kept, err := filepath.Glob(filepath.Join(cache, "it-*"))
	if err != nil || len(kept) != 2 {
		t.Errorf("the cache keeps %v, not the two newest (%v)", kept, err)
	}
	write("main.go", "package main\n\nfunc main() { nothing }\n")
	if _, err := b.Build(t.Context(), Part{Name: "it", Module: "it", Package: "."}); err == nil || !strings.Contains(err.Error(), "main.go:3") {
		t.Errorf("a build that fails says %v", err)
	}
	left, err := filepath.Glob(filepath.Join(cache, ".building-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}
