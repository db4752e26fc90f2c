// Command bench measures Upkeep against PostgreSQL's own tools on this machine and writes what it
// found, losses included. Everything runs in turns, round after round, on one private server, so that
// a slow moment of the machine meets everybody.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/dev/internal/measure"
)

// options are the flags.
type options struct {
	megabytes int
	rounds    int
	data      string
	worker    string
	out       string
}

func main() {
	var o options
	flag.IntVar(&o.megabytes, "mb", 4096, "the size of each set on disk, in MiB")
	flag.IntVar(&o.rounds, "runs", 3, "how often everything is measured")
	flag.StringVar(&o.data, "data", defaultData(), "the folder for the server, its sets and the backups; the sets stay for the next time")
	flag.StringVar(&o.worker, "worker", "../bin/upkeep-worker", "the worker to measure")
	flag.StringVar(&o.out, "out", "", "the Markdown file to write; standard output when empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// defaultData is a folder that the private server's own OS user can reach.
func defaultData() string {
	if os.Geteuid() == 0 {
		return "/var/cache/upkeep-bench"
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "upkeep-bench")
}

func bench(ctx context.Context, o options) (err error) {
	if o.data, err = filepath.Abs(o.data); err != nil {
		return err
	}
	if err := os.MkdirAll(o.data, 0o755); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	db, err := openDatabase(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.stop()) }()
	for _, s := range sets {
		if err := db.fill(ctx, s, o.megabytes); err != nil {
			return err
		}
	}
	scratch := filepath.Join(o.data, "scratch")
	if err := os.RemoveAll(scratch); err != nil {
		return err
	}
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	product, err := startUpkeep(ctx, o, db, scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, product.Stop()) }()
	r := &results{options: o, began: time.Now()}
	if err := r.describe(ctx, db); err != nil {
		return err
	}
	return r.measure(ctx, db, product, scratch, r.tell)
}

// tell writes what was found so far: a measurement that is broken off leaves its whole rounds.
func (r *results) tell() error {
	if r.out == "" && r.done < r.rounds {
		return nil
	}
	return measure.Write(r.out, r.write)
}

// sizeOf adds up the files of a folder, or is the size of a file, in bytes.
func sizeOf(path string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}
