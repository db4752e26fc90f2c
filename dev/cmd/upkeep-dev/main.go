// Command upkeep-dev runs everything in one process on one machine: a Temporal server on a SQLite
// file, its Web UI, and a worker; and, unless told otherwise, a demonstration: a private PostgreSQL
// server with a sample database, and a drill on it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/upkeep-run/upkeep/dev/internal/devserver"
	"github.com/upkeep-run/upkeep/dev/sample"
	"github.com/upkeep-run/upkeep/internal/version"
	"github.com/upkeep-run/upkeep/starter"
	"github.com/upkeep-run/upkeep/worker"
)

// options are the flags.
type options struct {
	config string
	data   string
	port   int
	uiPort int
	noDemo bool
	once   bool
	traces int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // whoever asks a second time means at once
	err := command().ExecuteContext(ctx)
	var exit starter.Exit
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(exit.Code)
	default:
		fmt.Fprintln(os.Stderr, "upkeep-dev:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	o := options{}
	cmd := &cobra.Command{
		Use:   "upkeep-dev",
		Short: "Run Temporal, its Web UI and an Upkeep worker in one process",
		Long: `Runs a Temporal server (on a SQLite file), its Web UI and an Upkeep worker in one process, on
127.0.0.1 only, until Ctrl-C.

Without --config and --no-demo it makes itself a private PostgreSQL server with a sample database,
runs DrillRecovery on it and shows the result. With UPKEEP_DSN in the environment it drills that
database instead, and writes nothing to its server.`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true, Version: version.String(),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.config, "config", "", "a configuration of your own; no demonstration is run")
	f.StringVar(&o.data, "data", defaultData(), "the folder for everything: Temporal's database, the sample, the store")
	f.IntVar(&o.port, "port", 7233, "Temporal's port")
	f.IntVar(&o.uiPort, "ui-port", 8233, "the Web UI's port; 0: no Web UI")
	f.BoolVar(&o.noDemo, "no-demo", false, "no demonstration: server, Web UI and worker for your own work (needs --config, or an upkeep.yaml)")
	f.BoolVar(&o.once, "once", os.Getenv("ONCE") == "1", "end after the demonstration; exit code 0 only if the drill is PASS, 3 if it waits for a person (also: ONCE=1)")
	f.IntVar(&o.traces, "sample-traces", sample.Default.Traces, "the size of the sample; ten thousand traces are about 35 MB")
	return cmd
}

// defaultData is a folder that the private servers' own OS user can reach.
func defaultData() string {
	if os.Geteuid() == 0 {
		return "/var/lib/upkeep-dev"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "upkeep-dev")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "upkeep-dev")
	}
	return filepath.Join(home, ".local", "state", "upkeep-dev")
}

func run(ctx context.Context, o options) (err error) {
	if o.data, err = filepath.Abs(o.data); err != nil {
		return err
	}
	if err := os.MkdirAll(o.data, 0o755); err != nil {
		return fmt.Errorf("make the data folder (--data): %w", err)
	}
	var d *demo
	if !o.noDemo && o.config == "" {
		if d, err = prepareDemo(ctx, o); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.stop(context.WithoutCancel(ctx))) }()
		o.config = d.config
	}
	say("starting Temporal and its Web UI")
	server, err := devserver.Start(ctx, devserver.Options{Dir: filepath.Join(o.data, "temporal"), Port: o.port, UIPort: o.uiPort, SearchAttributes: worker.Attributes()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	log, err := fileLog(filepath.Join(o.data, "worker.log"))
	if err != nil {
		return err
	}
	w, err := worker.Start(ctx, worker.Options{
		Client: server.ClientOptions(), ConfigPath: o.config, Name: "upkeep-dev", DataDir: filepath.Join(o.data, "worker"), Logger: log,
	})
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), worker.StopTimeout+10*time.Second)
		defer cancel()
		err = errors.Join(err, w.Close(closing))
	}()
	if d == nil {
		say("serving: Temporal on %s, Web UI on %s", server.Address, orNone(server.UIURL))
		say("start something, in another terminal:\n\n    TEMPORAL_ADDRESS=%s bin/upkeep run DrillRecovery --wait%s\n", server.Address, configFlag(o.config))
		return wait(ctx, w)
	}
	ended := d.drill(ctx, server, o.once)
	if o.once || ctx.Err() != nil {
		return ended
	}
	if ended != nil && !errors.As(ended, &starter.Exit{}) {
		return ended
	}
	d.next(server)
	return errors.Join(wait(ctx, w))
}

func configFlag(path string) string {
	if path == "" {
		return ""
	}
	return " --config " + path
}

func orNone(s string) string {
	if s == "" {
		return "no port"
	}
	return s
}

// wait serves until a person or an error ends it.
func wait(ctx context.Context, w *worker.Worker) error {
	say("serving until Ctrl-C")
	select {
	case <-ctx.Done():
		say("stopping")
		return nil
	case err := <-w.Fatal:
		return err
	}
}

func say(format string, args ...any) {
	fmt.Fprintln(os.Stderr, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
}

// fileLog logs into a file that only this user can read, for it may name what is in a database.
func fileLog(path string) (*zap.Logger, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	err = errors.Join(file.Chmod(0o600), file.Close()) // earlier ones were open to all
	if err != nil {
		return nil, err
	}
	c := zap.NewProductionConfig()
	c.OutputPaths, c.ErrorOutputPaths = []string{path}, []string{path}
	c.DisableStacktrace = true
	return c.Build()
}
