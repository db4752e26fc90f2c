// Command upkeep starts and steers runs.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/upkeep-run/upkeep/starter"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // whoever asks a second time means at once
	os.Exit(starter.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
