// Command bench-deps measures `upkeep updates` beside Renovate's look-up, on the same repositories and
// registries, in turns, cold and warm, and lists every update in which the two differ, with the reason.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/dev/internal/measure"
)

// options are the flags.
type options struct {
	rounds   int
	upkeep   string
	renovate string
	data     string
	fixtures string
	out      string
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == childFlag {
		if err := asParent(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench-deps:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.IntVar(&o.rounds, "runs", 3, "how often everything is measured")
	flag.StringVar(&o.upkeep, "upkeep", "../bin/upkeep", "the program to measure")
	flag.StringVar(&o.renovate, "renovate", "", "a folder with Renovate in its node_modules; it is installed into the user's cache if left out")
	flag.StringVar(&o.fixtures, "fixtures", "bench-deps/testdata", "the folder of the repositories that are looked up")
	flag.StringVar(&o.out, "out", "", "the Markdown file to write; standard output when empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-deps:", err)
		os.Exit(1)
	}
}

// renovateVersion is the last major that runs on Debian's Node.
const renovateVersion = "renovate@40"

func bench(ctx context.Context, o options) (err error) {
	if o.upkeep, err = filepath.Abs(o.upkeep); err != nil {
		return err
	}
	if o.data, err = os.MkdirTemp("", "bench-deps-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.data)) }()
	if err := o.install(ctx); err != nil {
		return err
	}
	r := results{options: o, began: time.Now()}
	if err := r.describe(ctx); err != nil {
		return err
	}
	recorder, err := startRecorder(filepath.Join(o.data, "recorded"))
	if err != nil {
		return err
	}
	defer recorder.Close()
	for _, name := range []string{"small", "large"} {
		for _, environment := range [][]string{nil, recorder.environment()} {
			repository, err := o.checkout(ctx, name)
			if err != nil {
				return err
			}
			if environment != nil {
				repository.name, repository.environment, repository.npm = name+", recorded", environment, recorder.URL+"/npm/"
			}
			r.repositories = append(r.repositories, repository)
		}
	}
	for _, repository := range r.repositories {
		if repository.environment != nil {
			measure.Say("recording %s", repository.name)
			if err := repository.record(ctx, o); err != nil {
				return err
			}
		}
	}
	for i := range o.rounds {
		for _, repository := range r.repositories {
			measure.Say("%s: round %d of %d", repository.name, i+1, o.rounds)
			if err := repository.round(ctx, o); err != nil {
				return fmt.Errorf("%s: %w", repository.name, err)
			}
		}
		r.done = i + 1
		if err := r.tell(); err != nil { // one that is broken off leaves its whole rounds
			return err
		}
	}
	return nil
}

// install brings Renovate, without running what its packages bring.
func (o *options) install(ctx context.Context) error {
	if o.renovate != "" {
		return nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	o.renovate = filepath.Join(cache, "upkeep", renovateVersion)
	if _, err := os.Stat(o.program()); err == nil {
		return nil
	}
	if err := os.MkdirAll(o.renovate, 0o755); err != nil {
		return err
	}
	measure.Say("installing %s", renovateVersion)
	c := exec.CommandContext(ctx, "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", renovateVersion)
	c.Dir, c.Stderr = o.renovate, os.Stderr
	return c.Run()
}

func (o *options) program() string {
	return filepath.Join(o.renovate, "node_modules", "renovate", "dist", "renovate.js")
}

// checkout makes a git repository of a fixture. Its go.mod has another name there, so that it is no module of
// ours.
func (o *options) checkout(ctx context.Context, name string) (*repository, error) {
	path, err := os.MkdirTemp(o.data, name+"-")
	if err != nil {
		return nil, err
	}
	r := &repository{name: name, path: path}
	if err := os.CopyFS(r.path, os.DirFS(filepath.Join(o.fixtures, name))); err != nil {
		return nil, err
	}
	if err := os.Rename(filepath.Join(r.path, "go.mod.txt"), filepath.Join(r.path, "go.mod")); err != nil {
		return nil, err
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"-c", "user.name=bench", "-c", "user.email=bench@example.com", "commit", "-qm", "what is looked up"}} {
		c := exec.CommandContext(ctx, "git", args...)
		c.Dir, c.Stderr = r.path, os.Stderr
		if err := c.Run(); err != nil {
			return nil, fmt.Errorf("git %s: %w", args[0], err)
		}
	}
	return r, nil
}
