package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/restore"
)

const (
	checkPrograms   = "server programs"
	checkExtensions = "extensions"
	checkFolder     = "folder"
	checkRights     = "version and rights"
	checkAnother    = "is another server"
	checkImage      = "image"
)

// privateScratch looks at what a private server on this machine needs. Why says why nothing is known of
// the target's database, if so.
func (p *patient) privateScratch(ctx context.Context, why string) {
	l := &p.scratch
	folder := filepath.Join(p.options.DataDir, "scratch")
	var binaries pgserver.Binaries
	if why == "" {
		found := l.Look(ctx, checkPrograms, func(ctx context.Context) (string, error) {
			b, err := pgserver.Find(ctx, p.said.major())
			if err != nil {
				return "", err
			}
			binaries = b
			return fmt.Sprintf("PostgreSQL %d in %s", b.Major, b.Dir), nil
		})
		if found {
			l.Look(ctx, checkExtensions, func(ctx context.Context) (string, error) {
				have, err := binaries.Extensions(ctx)
				if err != nil {
					return "", &Doubt{Found: "it could not be seen which extensions the server programs bring: " + err.Error(), Remedy: "install pg_config beside them, if you want this to be looked at", Optional: true}
				}
				return p.extensions(ctx, have)
			})
		} else {
			l.Skip("there are no server programs", checkExtensions)
		}
	} else {
		l.Skip(why, checkPrograms, checkExtensions)
	}
	l.Look(ctx, checkFolder, func(context.Context) (string, error) {
		if err := makable(folder); err != nil {
			return "", failure.New(failure.ScratchUnavailable, "private scratch servers cannot be made in %s", folder).Because(err).
				Do("give the worker a folder that it may write with --data")
		}
		if err := pgserver.Reaches(folder); err != nil {
			return "", err
		}
		if os.Geteuid() != 0 {
			return folder + "; the servers run as this OS user, since it is not root", nil
		}
		return folder + "; the servers run as the OS user " + pgserver.DefaultAccount, nil
	})
	if p.size == 0 {
		l.Skip("the database's size is not known", checkSpace)
		return
	}
	l.Look(ctx, checkSpace, func(context.Context) (string, error) {
		need := restore.NeededBytes(&format.Manifest{Database: format.Database{SizeBytes: p.size}})
		if err := pgserver.RequireFree(folder, need); err != nil {
			return "", err
		}
		free, err := pgserver.FreeBytes(folder)
		return fmt.Sprintf("a copy needs about %s, and %s are free in %s", size(need), size(free), folder), err
	})
}

// configuredScratch looks at the server that the configuration names for drills.
func (p *patient) configuredScratch(ctx context.Context, why string) {
	l := &p.scratch
	cfg := p.target.Database.Scratch
	if !secret(ctx, l, &p.target.Kubernetes, cfg.Password) {
		l.Skip("its password is missing", checkConnection, checkRights, checkAnother, checkExtensions)
		return
	}
	var conn *pgx.Conn
	var said serverSaid
	connected := l.Reach(ctx, checkConnection, func(ctx context.Context) (string, error) {
		c, err := p.target.ScratchServer("upkeep-doctor").Connect(ctx)
		if err != nil {
			return "", err
		}
		s, err := ask(ctx, c)
		if err != nil {
			_ = c.Close(context.WithoutCancel(ctx))
			return "", err
		}
		conn, said = c, s
		return where(c) + ": " + s.String(), nil
	})
	if !connected {
		l.Skip("there is no connection", checkRights, checkAnother, checkExtensions)
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if why != "" {
		l.Skip("of the target's database, "+why, checkRights, checkAnother, checkExtensions)
		return
	}
	l.Look(ctx, checkRights, func(context.Context) (string, error) { return p.scratchRights(conn, said) })
	l.Look(ctx, checkAnother, func(context.Context) (string, error) {
		if said.born.Equal(p.said.born) {
			return "", failure.New(failure.BadConfig, "the scratch server is the server of the target itself: a drill would burden it, and run there what the backup holds").
				Do("name another server, or leave scratch: out for a private one on the worker")
		}
		return "yes", nil
	})
	l.Look(ctx, checkExtensions, func(ctx context.Context) (string, error) {
		have, err := texts(ctx, conn, "list the extensions that the scratch server can make", "SELECT name FROM pg_available_extensions")
		if err != nil {
			return "", err
		}
		return p.extensions(ctx, have)
	})
}

// scratchRights says whether a copy of the target can be made on the server.
func (p *patient) scratchRights(conn *pgx.Conn, said serverSaid) (string, error) {
	if said.major() < p.said.major() {
		return "", failure.New(failure.ServerTooOld, "the target is PostgreSQL %d and the scratch server is %d", p.said.major(), said.major()).
			Do("use a scratch server of version %d or newer", p.said.major())
	}
	if said.standby {
		return "", failure.New(failure.MissingRight, "the scratch server is a standby, on which no database can be made").Do("name its primary, or another server")
	}
	if !said.super && !said.creates {
		return "", failure.New(failure.MissingRight, "the role may not create databases on the scratch server").
			Do("ALTER ROLE %s CREATEDB", postgres.Quote(conn.Config().User))
	}
	return fmt.Sprintf("version %d, and the role may create databases", said.major()), nil
}

// extensions compares what the target's database has with what a copy's server can make.
func (p *patient) extensions(ctx context.Context, have []string) (string, error) {
	conn, err := p.session(ctx)
	if err != nil {
		return "", err
	}
	missing, err := texts(ctx, conn, "list the extensions", "SELECT extname FROM pg_extension WHERE extname <> ALL ($1::text[]) ORDER BY 1", have)
	if err != nil {
		return "", err
	}
	if len(missing) > 0 {
		return "", failure.New(failure.MissingProgram, "the database has extensions that the scratch server cannot make: %s", named(missing)).
			Do("install the packages that bring them, for PostgreSQL %d, where the scratch server is", p.said.major())
	}
	return "all that the database has are there", nil
}
