// Command compose-images makes stand-ins for the images of docker-compose.yml that no registry is needed
// for, under the same names: the real programs, built from their modules, in images of Debian's tools;
// and Docker Compose itself. What it made is printed: the program first, then the archives.
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
	"strings"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/dev/kit/image"
	"github.com/upkeep-run/upkeep/dev/kit/part"
)

// The versions are those of the modules in dev/kit/parts, and of docker-compose.yml.
const (
	temporalVersion = "1.32.0"
	uiVersion       = "2.55.0"
	uiModule        = "github.com/temporalio/ui-server/v2"
)

var (
	server  = part.Part{Name: "temporal-server", Module: "parts/temporal", Package: "go.temporal.io/server/cmd/server", About: "three minutes"}
	sqlTool = part.Part{Name: "temporal-sql-tool", Module: "parts/temporal", Package: "go.temporal.io/server/cmd/tools/sql", About: "a minute"}
	ui      = part.Part{Name: "ui-server", Module: "parts/temporal", Package: uiModule + "/cmd/server", About: "a minute"}
	// The newest that can be built from modules alone: 1.9.1 needs one that was never published.
	temporal = part.Part{Name: "temporal", Module: "parts/cli", Package: "github.com/temporalio/cli/cmd/temporal", About: "four minutes"}
	compose  = part.Part{Name: "docker-compose", Module: "parts/docker-compose", Package: "github.com/docker/compose/v2/cmd", About: "two minutes"}
)

// temporalStart tells the other services of the server where it is, as the real image does.
const temporalStart = `#!/bin/sh
set -eu
: "${TEMPORAL_BROADCAST_ADDRESS:=$(hostname -i | cut -d' ' -f1)}"
export TEMPORAL_BROADCAST_ADDRESS
exec temporal-server start
`

// postgresStart makes what the real image makes of POSTGRES_USER and POSTGRES_PASSWORD at its first
// start: a superuser, and a database of the same name. While it does so it listens to nobody else.
const postgresStart = `#!/bin/sh
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  umask 077
  printf '%s\n' "$POSTGRES_PASSWORD" > /tmp/password
  initdb -D "$PGDATA" -U "$POSTGRES_USER" -E UTF8 --locale=C.UTF-8 --auth-local=trust --auth-host=scram-sha-256 --pwfile=/tmp/password
  rm /tmp/password
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
  createdb -U "$POSTGRES_USER" "$POSTGRES_USER"
  pg_ctl -D "$PGDATA" -w stop
fi
unset POSTGRES_PASSWORD
exec postgres -D "$PGDATA" -c listen_addresses='*'
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	source := flag.String("source", ".", "the folder dev/kit of a checkout")
	to := flag.String("to", "", "the folder for the archives")
	flag.Parse()
	if err := do(ctx, *source, *to); err != nil {
		fmt.Fprintln(os.Stderr, "compose-images:", err)
		os.Exit(1)
	}
}

func do(ctx context.Context, source, to string) error {
	if to == "" {
		return errors.New("--to is missing: the folder for the archives")
	}
	cache, err := part.CacheDir("compose")
	if err != nil {
		return err
	}
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	programs, err := part.Builder{Source: source, Cache: cache, Say: say}.Build(ctx, server, sqlTool, ui, temporal, compose)
	if err != nil {
		return err
	}
	fmt.Println(programs[compose.Name])
	made := map[string]func() (*image.Image, error){
		"server":      func() (*image.Image, error) { return temporalServer(ctx, programs) },
		"admin-tools": func() (*image.Image, error) { return adminTools(ctx, programs) },
		"ui":          func() (*image.Image, error) { return webUI(ctx, source, programs) },
		"postgres":    func() (*image.Image, error) { return postgres(ctx) },
	}
	for name, make := range made {
		i, err := make()
		if err == nil {
			err = i.Write(filepath.Join(to, name+".tar"))
		}
		if err != nil {
			return fmt.Errorf("the image of %s: %w", name, err)
		}
		fmt.Println(filepath.Join(to, name+".tar"))
	}
	return nil
}

// tools begins an image with a shell and small tools, and programs beside them.
func tools(ctx context.Context, name string, programs map[string]string, of ...part.Part) (*image.Image, error) {
	i := image.New(name)
	i.User = "1000:1000"
	i.Text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\ntemporal:x:1000:1000::/:/bin/sh\n", 0o644)
	i.Text("/etc/group", "root:x:0:\ntemporal:x:1000:\n", 0o644)
	for _, p := range of {
		if err := i.File("/usr/local/bin/"+p.Name, programs[p.Name]); err != nil {
			return nil, err
		}
	}
	return i, i.Busybox(ctx)
}

func temporalServer(ctx context.Context, programs map[string]string) (*image.Image, error) {
	i, err := tools(ctx, "temporalio/server:"+temporalVersion, programs, server)
	if err != nil {
		return nil, err
	}
	i.Cmd = []string{"/etc/temporal/entrypoint.sh"}
	i.Text("/etc/temporal/entrypoint.sh", temporalStart, 0o755)
	return i, nil
}

func adminTools(ctx context.Context, programs map[string]string) (*image.Image, error) {
	i, err := tools(ctx, "temporalio/admin-tools:"+temporalVersion, programs, sqlTool, temporal)
	if err != nil {
		return nil, err
	}
	i.Cmd = []string{"sh", "-c", "sleep infinity"}
	return i, nil
}

// webUI takes the configuration that the real image has from the module.
func webUI(ctx context.Context, source string, programs map[string]string) (*image.Image, error) {
	i, err := tools(ctx, "temporalio/ui:"+uiVersion, programs, ui)
	if err != nil {
		return nil, err
	}
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", uiModule)
	list.Dir = filepath.Join(source, ui.Module)
	folder, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("find the module %s: %w", uiModule, err)
	}
	i.Entrypoint = []string{"ui-server", "--root", "/home/ui-server", "--env", "docker", "start"}
	return i, i.File("/home/ui-server/config/docker.yaml", filepath.Join(strings.TrimSpace(string(folder)), "config", "docker.yaml"))
}

func postgres(ctx context.Context) (*image.Image, error) {
	i, major, err := image.NewestPostgres(ctx, "/var/lib/postgresql", postgresStart)
	if err != nil {
		return nil, err
	}
	i.Name = "postgres:" + major
	i.Env = append(i.Env, "PGDATA=/var/lib/postgresql/data")
	i.Owned("/var/lib/postgresql/data", 0o700, 999)
	i.Volumes = []string{"/var/lib/postgresql/data"}
	return i, nil
}
