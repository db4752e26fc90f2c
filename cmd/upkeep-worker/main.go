// Command upkeep-worker runs Upkeep's workflows and activities.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.uber.org/zap"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/version"
	"github.com/upkeep-run/upkeep/worker"
	"github.com/upkeep-run/upkeep/worker/zaplog"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // whoever asks a second time means at once
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "upkeep-worker:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	o := worker.Options{}
	verbose := false
	cmd := &cobra.Command{
		Use:   "upkeep-worker",
		Short: "Run Upkeep's workflows and activities",
		Long: `Runs Upkeep's workflows and activities until it is told to stop (SIGTERM, SIGINT).

Temporal is found by TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS_* or a
profile (TEMPORAL_PROFILE, TEMPORAL_CONFIG_FILE). A worker serves every capability, or only those
named by --capabilities, and then needs only their credentials: workflows (none at all), database
(the databases' and the store's), cluster (Kubernetes' and the store's) and code (the repositories',
the registries' and the store's). Running activities have ` + worker.StopTimeout.String() + ` to end when the worker stops, so give the
process a longer grace. A worker that is killed loses nothing: its runs go on when it, or another
one, is back.`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true, Version: version.String(),
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), o, verbose) },
	}
	f := cmd.Flags()
	f.StringVar(&o.ConfigPath, "config", "", "the configuration file (default: $UPKEEP_CONFIG, ./upkeep.yaml, /etc/upkeep/upkeep.yaml)")
	f.StringSliceVar(&o.Capabilities, "capabilities", worker.Capabilities(), "what to serve")
	f.StringVar(&o.Name, "name", "", "the worker's name, the same after a restart (default: the host's name)")
	f.StringVar(&o.DataDir, "data", config.WorkerData(), "the folder for private scratch servers")
	f.StringVar(&o.HealthAddress, "health-address", "127.0.0.1:8091", "where /livez, /readyz and /metrics answer; empty: nowhere")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more, as text")
	return cmd
}

func serve(ctx context.Context, o worker.Options, verbose bool) error {
	if len(o.Capabilities) == 0 {
		return errors.New("--capabilities is empty; leave it out to serve all")
	}
	log, err := zaplog.New(verbose)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }() // stderr may not be a file
	o.Logger = log
	if o.Client, err = envconfig.LoadDefaultClientOptions(); err != nil {
		return fmt.Errorf("read Temporal's client configuration: %w", err)
	}
	w, err := worker.Start(ctx, o)
	if err != nil {
		return err
	}
	log.Info("serving", zap.Strings("capabilities", o.Capabilities), zap.String("version", version.String()), zap.String("health", w.HealthAddress))
	var fatal error
	select {
	case <-ctx.Done():
		log.Info("stopping")
	case fatal = <-w.Fatal:
		log.Error("a fatal error ends the worker", zap.Error(fatal))
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), worker.StopTimeout+10*time.Second)
	defer cancel()
	return errors.Join(fatal, w.Close(closing))
}
