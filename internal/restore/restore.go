// Package restore builds a copy of a backed-up database beside others, under a name of its own. Each
// piece of work is one transaction together with its mark and a check that no newer attempt has
// taken over, so a restore that was killed anywhere goes on with exactly what is missing, in the
// same run or a later one.
package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// closeTimeout bounds the farewell to a server that may not listen any more.
const closeTimeout = 5 * time.Second

// Options say what to restore and where.
type Options struct {
	Manifest *format.Manifest
	// Open streams a chunk's plain bytes. Its last Read must fail when they are not what was written.
	Open func(context.Context, format.Chunk) (io.ReadCloser, error)

	// Server is where the copy is built. Its URL leads to another database of that server, as a role
	// that may create databases.
	Server postgres.Config
	// Private says that the server is Upkeep's own and thrown away: roles are made there, and rows
	// are loaded in sessions of their tables' owners, who log in without a password.
	Private bool

	Database string // the name under which the copy is built: see BuildName
	Final    string // the name that it gets by Publish; equal to Database when it is to be thrown away
	Oid      uint32 // of the copy, as Create returned it; 0 when not known yet
	// Owner names the run that works on the copy: the same over its attempts and restarts.
	Owner       string
	Connections int // sessions that load rows or build indexes at once
}

// BuildName is the name under which a copy is built: the same for every run that wants the same
// backup under the same final name, so that a later run takes over what an earlier one left.
func BuildName(target, backup, final string) string {
	sum := sha256.Sum256([]byte(target + "\x00" + backup + "\x00" + final))
	return "upkeep_restore_" + hex.EncodeToString(sum[:8])
}

// Preview is what a restore would do.
type Preview struct {
	Server       format.Server // of the place
	Tables       int
	Rows         int64
	Bytes        int64    // of COPY text to load
	NeededBytes  int64    // of disk, estimated from the original's size
	MissingRoles []string // empty on private servers, where they are made
}

// Result is what Load did.
type Result struct {
	Rows    int64
	Bytes   int64 // of COPY text
	Chunks  int
	Skipped int // chunks that an earlier attempt had loaded
}

// NeededBytes estimates the disk that a copy needs: the database, the files by which its indexes are
// sorted, the write-ahead log, and the server's own.
func NeededBytes(m *format.Manifest) int64 {
	const server, maxLog = 256 << 20, 5 << 28
	size := m.Database.SizeBytes
	return size*6/5 + min(size, maxLog) + server
}

// Plan looks at the place as a restore would and changes nothing. It refuses what Create would refuse.
func Plan(ctx context.Context, o Options) (*Preview, error) {
	admin, err := o.connectAdmin(ctx)
	if err != nil {
		return nil, err
	}
	defer closeSession(ctx, admin)
	server, err := postgres.ReadServer(ctx, admin)
	if err != nil {
		return nil, err
	}
	if err := o.checkVersion(server); err != nil {
		return nil, err
	}
	if _, err := o.restoreTool(ctx); err != nil {
		return nil, err
	}
	if err := o.refuseTaken(ctx, admin); err != nil {
		return nil, err
	}
	p := &Preview{Server: server, Tables: len(o.Manifest.Tables), Rows: o.Manifest.Totals.Rows, NeededBytes: NeededBytes(o.Manifest)}
	for _, t := range o.Manifest.Tables {
		p.Bytes += t.Bytes
	}
	if !o.Private {
		missing, err := missingRoles(ctx, admin, o.Manifest.Roles)
		if err != nil {
			return nil, err
		}
		for _, r := range missing {
			p.MissingRoles = append(p.MissingRoles, r.Name)
		}
	}
	return p, nil
}

// checkVersion refuses a server that is older than the one that was read.
func (o Options) checkVersion(server format.Server) error {
	from, to := o.Manifest.Server.VersionNum/10000, server.VersionNum/10000
	if to < from {
		return failure.New(failure.ServerTooOld, "the backup is of PostgreSQL %d and the server to restore on is %d", from, to).
			Do("restore on a server of version %d or newer", from)
	}
	return nil
}

// restoreTool finds a pg_restore that can read the backup's archive.
func (o Options) restoreTool(ctx context.Context) (postgres.Tool, error) {
	major, _, _ := strings.Cut(o.Manifest.Schema.PgDump, ".")
	n, err := strconv.Atoi(strings.TrimFunc(major, func(r rune) bool { return r < '0' || r > '9' }))
	if err != nil {
		n = o.Manifest.Server.VersionNum / 10000
	}
	return postgres.FindTool(ctx, "pg_restore", n)
}

// refuseTaken refuses a final name that a database has already.
func (o Options) refuseTaken(ctx context.Context, admin *pgx.Conn) error {
	if o.Final == o.Database {
		return nil
	}
	found, err := findDatabase(ctx, admin, o.Final, 0)
	if err != nil || found == nil {
		return err
	}
	return failure.New(failure.DatabaseExists, "a database named %q is already there", o.Final).
		Do("choose another name; nothing is ever restored over a database")
}

// readArchive reads the schema's archive.
func (o Options) readArchive(ctx context.Context) ([]byte, error) {
	c := o.Manifest.Schema.Archive
	r, err := o.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // it was read to its end or failed
	archive, err := io.ReadAll(io.LimitReader(r, c.Size+1))
	if err != nil {
		return nil, fmt.Errorf("read the schema's archive: %w", err)
	}
	return archive, nil
}

func (o Options) connectAdmin(ctx context.Context) (*pgx.Conn, error) {
	return o.Server.Connect(ctx, postgres.WithApp("upkeep-admin"))
}

// closeSession ends a session whose work is done or has failed; nothing is left to save in it.
func closeSession(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx)
}

// effect is a pair of points around something that outlives the process.
type effect struct{ before, after fault.Point }

func newEffect(name string) effect {
	return effect{fault.NewPoint("restore/" + name + "/before"), fault.NewPoint("restore/" + name + "/after")}
}

var (
	effectRoles          = newEffect("roles")
	effectCreateDatabase = newEffect("create-database")
	effectPrepare        = newEffect("prepare")
	effectClaim          = newEffect("claim")
	effectPreData        = newEffect("pre-data")
	effectChunk          = newEffect("chunk")
	effectMark           = newEffect("mark")
	effectIndex          = newEffect("index")
	effectConstraint     = newEffect("constraint")
	effectForeignKey     = newEffect("foreign-key")
	effectStructure      = newEffect("structure")
	effectRest           = newEffect("rest")
	effectSequences      = newEffect("sequences")
	effectLargeObject    = newEffect("large-object")
	effectFinish         = newEffect("finish")
	effectRename         = newEffect("rename")
	effectDrop           = newEffect("drop")
)
