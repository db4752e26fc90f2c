// Command bench-cluster measures recoveries on a real cluster: how long a service, its data and a bad
// release take to be right again by Upkeep, and by the commands of the maintenance guide and of Helm, typed
// by a script without a pause for thought. All go in turns, round after round, on one stack, and are
// measured from outside and alike, by a pod that calls the service twenty times a second.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/dev/internal/measure"
	"github.com/upkeep-run/upkeep/dev/internal/product"
)

// options are the flags.
type options struct {
	rounds   int
	only     string
	chart    string
	scripts  string
	worker   string
	out      string
	patience time.Duration
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "runs", 3, "how often everything is measured")
	flag.StringVar(&o.only, "only", "", "scenarios to measure, by their names with commas between; all when empty")
	flag.StringVar(&o.chart, "chart", "stack/chart", "the stack's chart")
	flag.StringVar(&o.scripts, "scripts", "bench-cluster/ways", "the folder of the scripts that are measured")
	flag.StringVar(&o.worker, "worker", "../bin/upkeep-worker", "the worker to measure")
	flag.StringVar(&o.out, "out", "", "the Markdown file to write; standard output when empty")
	flag.DurationVar(&o.patience, "patience", 20*time.Second, "how long after its end a way is given to show that it worked")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-cluster:", err)
		os.Exit(1)
	}
}

// field is what the ways have to work with.
type field struct {
	options
	upkeep *product.Upkeep
	places map[string]*place // by name
	good   string            // the chart that the stack is installed from
	dir    string            // for files
}

func bench(ctx context.Context, o options) (err error) {
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "upkeep-bench-cluster-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	f := &field{options: o, dir: dir, places: make(map[string]*place)}
	if f.good, err = withoutHook(o.chart, dir); err != nil {
		return err
	}
	defer func() {
		for _, p := range f.places {
			err = errors.Join(err, p.remove())
		}
	}()
	began := time.Now()
	targets := ""
	for _, size := range sizes {
		if !slices.ContainsFunc(chosen, func(s *scenario) bool { return s.size == size }) {
			continue
		}
		measure.Say("installing the stack with %s of data", size.about)
		p := newPlace(size, began)
		f.places[size.name] = p
		if err := p.install(ctx, f); err != nil {
			return fmt.Errorf("install the stack: %w", err)
		}
		targets += p.target(f)
	}
	if f.upkeep, err = product.Start(ctx, product.Options{Dir: dir, Worker: o.worker, Targets: targets}); err != nil {
		return err
	}
	defer func() {
		if err != nil { // which the folder is about to take with it
			log, _ := os.ReadFile(filepath.Join(dir, "worker.log"))
			fmt.Fprintf(os.Stderr, "the worker's log ends with:\n%s\n", log[max(0, len(log)-4000):])
		}
		err = errors.Join(err, f.upkeep.Stop())
	}()
	r := &results{options: o, began: began, scenarios: chosen}
	if err := r.describe(ctx, f); err != nil {
		return err
	}
	for _, p := range f.places {
		measure.Say("taking the backups that the losses of %s are restored from", p.size.about)
		if err := p.protect(ctx, f); err != nil {
			return fmt.Errorf("take backups: %w", err)
		}
	}
	return r.measure(ctx, f)
}

// choose picks scenarios by name.
func choose(names string) ([]*scenario, error) {
	all := scenarios()
	if names == "" {
		return all, nil
	}
	var chosen []*scenario
	for _, name := range strings.Split(names, ",") {
		at := slices.IndexFunc(all, func(s *scenario) bool { return s.name == name })
		if at < 0 {
			var known []string
			for _, s := range all {
				known = append(known, s.name)
			}
			return nil, fmt.Errorf("there is no scenario %q, only %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, all[at])
	}
	return chosen, nil
}

// withoutHook copies the chart without the Job that migrates: a bad image would be noticed there already.
func withoutHook(chart, dir string) (string, error) {
	to := filepath.Join(dir, "chart")
	if err := os.CopyFS(to, os.DirFS(chart)); err != nil {
		return "", err
	}
	return to, os.Remove(filepath.Join(to, "templates", "migrate.yaml"))
}
