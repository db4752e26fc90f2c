package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"go.temporal.io/sdk/client"
	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/dev/internal/devserver"
	"github.com/upkeep-run/upkeep/dev/sample"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/starter"
)

const (
	// dsnEnv names a database of the user's own to drill.
	dsnEnv = "UPKEEP_DSN"
	// originEnv says where make got it from: make's own command line is visible to everybody.
	originEnv = "UPKEEP_DSN_ORIGIN"
	// passwordEnv carries the password of the user's database to the worker, which is this process.
	passwordEnv = "UPKEEP_DSN_PASSWORD"
)

// demo is the database that is drilled and its configuration.
type demo struct {
	config string
	target string
	server *pgserver.Server // nil for a database of the user's own
}

// prepareDemo makes what the demonstration drills.
func prepareDemo(ctx context.Context, o options) (*demo, error) {
	if dsn := os.Getenv(dsnEnv); dsn != "" {
		return ownDatabase(dsn, o)
	}
	say("making a private PostgreSQL server in %s", filepath.Join(o.data, "sample"))
	binaries, err := pgserver.Find(ctx, 0)
	if err != nil {
		return nil, err
	}
	server, err := pgserver.Start(ctx, pgserver.Options{Dir: filepath.Join(o.data, "sample"), Binaries: binaries, Durable: true})
	if err != nil {
		return nil, err
	}
	d := &demo{target: "sample", server: server}
	if err := fillOnce(ctx, server, sample.Size{Traces: o.traces}); err != nil {
		return nil, errors.Join(err, d.stop(context.WithoutCancel(ctx)))
	}
	d.config, err = writeConfig(o.data, d.target, server.DSN("", "sample"), "")
	if err != nil {
		return nil, errors.Join(err, d.stop(context.WithoutCancel(ctx)))
	}
	return d, nil
}

// ownDatabase configures the user's own database. Its password, if the environment has it in the
// DSN, goes on as a reference.
func ownDatabase(dsn string, o options) (*demo, error) {
	u, err := url.Parse(dsn)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return nil, errors.New("UPKEEP_DSN cannot be read: write it as postgres://role@host:port/database")
	}
	password, has := u.User.Password()
	if has && os.Getenv(originEnv) == "command line" {
		return nil, errors.New("a password stands in make's arguments, where everybody on this machine can see it: put UPKEEP_DSN into the environment instead (UPKEEP_DSN=... make run), or use .pgpass")
	}
	env := ""
	if has {
		u.User = url.User(u.User.Username())
		if err := os.Setenv(passwordEnv, password); err != nil {
			return nil, err
		}
		env = passwordEnv
	}
	if err := os.Unsetenv(dsnEnv); err != nil {
		return nil, err
	}
	d := &demo{target: "own"}
	d.config, err = writeConfig(o.data, d.target, u.String(), env)
	return d, err
}

// fillOnce makes the sample database, under another name until it is whole.
func fillOnce(ctx context.Context, server *pgserver.Server, size sample.Size) error {
	admin, err := pgx.Connect(ctx, server.DSN("", "postgres"))
	if err != nil {
		return fmt.Errorf("reach the private server: %w", err)
	}
	defer func() { _ = admin.Close(context.WithoutCancel(ctx)) }()
	var there bool
	if err := admin.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'sample')").Scan(&there); err != nil || there {
		return err
	}
	say("filling the sample database (once; %d traces)", size.Traces)
	began := time.Now()
	for _, sql := range []string{
		"DROP DATABASE IF EXISTS sample_half", "CREATE DATABASE sample_half", "COMMENT ON DATABASE sample_half IS 'made up by upkeep-dev'",
		"ALTER DATABASE sample_half SET work_mem = '16MB'",
	} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			return fmt.Errorf("make the sample database: %w", err)
		}
	}
	conn, err := pgx.Connect(ctx, server.DSN("", "sample_half"))
	if err != nil {
		return fmt.Errorf("reach the sample database: %w", err)
	}
	err = sample.Fill(ctx, conn, size)
	if err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	if _, err := admin.Exec(ctx, "ALTER DATABASE sample_half RENAME TO sample"); err != nil {
		return fmt.Errorf("name the sample database: %w", err)
	}
	say("filled in %.0f s", time.Since(began).Seconds())
	return nil
}

// writeConfig writes the demonstration's configuration, which a person can copy from.
func writeConfig(data, target, dsn, passwordEnv string) (string, error) {
	database := map[string]any{"url": dsn}
	if passwordEnv != "" {
		database["passwordFrom"] = map[string]string{"env": passwordEnv}
	}
	text, err := yaml.Marshal(map[string]any{
		"version": config.Version, "store": "file://" + filepath.Join(data, "store"),
		"targets": []any{map[string]any{"name": target, "database": database}},
	})
	if err != nil {
		return "", err
	}
	path := filepath.Join(data, "upkeep.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", fmt.Errorf("write the configuration: %w", err)
	}
	return path, nil
}

// drill runs DrillRecovery and shows it. The error is nil only for a PASS. Once means that nobody is
// there whom a run could wait for.
func (d *demo) drill(ctx context.Context, server *devserver.Server, once bool) error {
	c, err := client.DialContext(ctx, server.ClientOptions())
	if err != nil {
		return fmt.Errorf("reach Temporal: %w", err)
	}
	defer c.Close()
	s := &starter.Starter{Client: c, Store: func(context.Context) (*config.Config, error) { return config.Load(d.config) }}
	id, err := s.Start(ctx, starter.Order{Procedure: drillrecovery.WorkflowType, Target: d.target})
	if err != nil {
		return err
	}
	if server.UIURL != "" {
		say("Web UI: %s/namespaces/default/workflows/%s", server.UIURL, id)
	}
	follow := starter.Follow
	if once {
		follow = starter.FollowUnattended
	}
	doc, err := follow(ctx, s, id, os.Stderr)
	if err != nil {
		return err
	}
	if doc.WaitingFor != "" { // Follow has said why
		say(`The run waits for a person, and is kept. Start this again without ONCE=1 and --once, mend what it waits for, and go on in another terminal:

    TEMPORAL_ADDRESS=%s UPKEEP_CONFIG=%s bin/upkeep resume %s --wait
`, server.Address, d.config, id)
		return starter.Exit{Code: starter.ExitPartially}
	}
	starter.Print(os.Stdout, doc)
	if code := starter.ExitCode(doc); code != starter.ExitSucceeded {
		return starter.Exit{Code: code}
	}
	return nil
}

// next says how to go on by hand.
func (d *demo) next(server *devserver.Server) {
	say(`
Go on, in another terminal:

    export TEMPORAL_ADDRESS=%s UPKEEP_CONFIG=%s
    bin/upkeep run BackupDatabase --target %s --wait
    bin/upkeep run DrillRecovery --target %s --set backup=latest --wait
    bin/upkeep runs
`, server.Address, d.config, d.target, d.target)
}

func (d *demo) stop(ctx context.Context) error {
	if d.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return d.server.Stop(ctx)
}
