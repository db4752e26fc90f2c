package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/chunk"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// dumpSchema stores pg_dump's archive of the snapshot's schema, and says which of its entries build
// an index or a constraint and on which table.
func (k *keeper) dumpSchema(ctx context.Context, o Options, pool *chunk.Pool) (format.Schema, error) {
	archive, warned, err := postgres.DumpSchema(ctx, k.pgDump, o.Source, "", k.id, shareTimeout)
	var failed *postgres.ToolError
	if errors.As(err, &failed) && strings.Contains(failed.Said, "LOCK TABLE") { // the statement, in whatever language the reason is
		return format.Schema{}, failure.New(failure.ConcurrentDDL, "a change of a table waits for the backup and keeps its schema from being dumped").Because(err)
	}
	if err != nil {
		return format.Schema{}, err
	}
	text, err := postgres.SchemaText(ctx, k.pgRestore, archive)
	if err != nil {
		return format.Schema{}, err
	}
	entries, err := postgres.ListArchive(ctx, k.pgRestore, archive, postgres.PostData)
	if err != nil {
		return format.Schema{}, err
	}
	stored, _, err := pool.Write(ctx, archive)
	if err != nil {
		return format.Schema{}, err
	}
	sum := sha256.Sum256([]byte(text))
	s := format.Schema{Archive: stored, TextSHA256: hex.EncodeToString(sum[:]), PgDump: k.pgDump.Version, PostData: []format.PostData{}}
	built, err := o.readBuilt(ctx, k)
	if err != nil {
		return s, err
	}
	k.warned = warned
	k.builtOn = nil
	for _, e := range entries {
		if b, ok := built[[2]uint32{e.TableOid, e.Oid}]; ok {
			b.DumpID = e.DumpID
			s.PostData = append(s.PostData, b.PostData)
			k.builtOn = append(k.builtOn, b.on)
		}
	}
	return s, nil
}

// built is an index or constraint and the oid of its table.
type built struct {
	format.PostData
	on uint32
}

// place says for each entry which of the manifest's tables it is built on.
func (k *keeper) place(m *format.Manifest) {
	position := make(map[format.Name]int, len(m.Tables))
	for i, t := range m.Tables {
		position[format.Name{Schema: t.Schema, Name: t.Name}] = i
	}
	tables := make(map[uint32]int, len(k.relations))
	for _, r := range k.relations {
		if i, ok := position[format.Name{Schema: r.Schema, Name: r.Name}]; ok {
			tables[r.Oid] = i
		}
	}
	for i := range m.Schema.PostData {
		m.Schema.PostData[i].Table = -1 // a partitioned table or a materialized view
		if at, ok := tables[k.builtOn[i]]; ok {
			m.Schema.PostData[i].Table = at
		}
	}
}

// readBuilt reads the indexes and constraints of the snapshot by the oids that the archive names
// them with. Names would not do: they can hold anything.
func (o Options) readBuilt(ctx context.Context, k *keeper) (map[[2]uint32]built, error) {
	conn, err := o.Source.Connect(ctx, postgres.WithApp(o.app())) // the keeper's is busy counting
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return nil, postgres.Classify(err, "begin to read")
	}
	if _, err := conn.Exec(ctx, "SET TRANSACTION SNAPSHOT "+postgres.Literal(k.id)); err != nil {
		return nil, postgres.Classify(err, "share the snapshot")
	}
	rows, err := conn.Query(ctx, `
		SELECT 1259::oid, i.indexrelid, i.indrelid, 'index', n.nspname, c.relname FROM pg_index i
		JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.indexrelid >= 16384
		UNION ALL
		SELECT 2606::oid, k.oid, k.conrelid, CASE k.contype WHEN 'f' THEN 'foreignKey' ELSE 'constraint' END, n.nspname, k.conname FROM pg_constraint k
		JOIN pg_namespace n ON n.oid = k.connamespace WHERE k.contype IN ('p', 'u', 'x', 'f') AND k.oid >= 16384`)
	if err != nil {
		return nil, postgres.Classify(err, "list the indexes and constraints")
	}
	found := make(map[[2]uint32]built)
	var catalog, oid uint32
	var b built
	_, err = pgx.ForEachRow(rows, []any{&catalog, &oid, &b.on, &b.Kind, &b.Schema, &b.Name}, func() error {
		found[[2]uint32{catalog, oid}] = b
		return nil
	})
	return found, postgres.Classify(err, "list the indexes and constraints")
}
