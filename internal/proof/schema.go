package proof

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/census"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
)

// schema dumps the copy's schema and holds it against the stored one.
func (c *checker) schema(ctx context.Context) (run.Check, error) {
	const name = "schema"
	progress.Report(ctx, progress.Progress{Phase: "comparing the schema"})
	dump, err := postgres.FindTool(ctx, "pg_dump", c.server.VersionNum/10000)
	if err != nil {
		return run.Check{}, err
	}
	restore, err := postgres.FindTool(ctx, "pg_restore", dump.Major)
	if err != nil {
		return run.Check{}, err
	}
	want, err := postgres.SchemaText(ctx, restore, c.Archive)
	if err != nil {
		return run.Check{}, err
	}
	archive, _, err := postgres.DumpSchema(ctx, dump, c.Copy, c.Database, "", 10*time.Second)
	if err != nil {
		return run.Check{}, err
	}
	have, err := postgres.SchemaText(ctx, restore, archive)
	if err != nil {
		return run.Check{}, err
	}
	if have == want {
		sum := sha256.Sum256([]byte(have))
		return run.Check{Name: name, Verdict: run.Pass, Detail: fmt.Sprintf("the schema dump of the copy equals the stored one, line for line (%d lines, SHA-256 %.12s...)",
			strings.Count(have, "\n"), hex.EncodeToString(sum[:]))}, nil
	}
	// Recreated, some definitions change places: pg_dump writes what inherits in another order of
	// columns, and sorts what has the same name by number. The statements themselves must be the same.
	missing, extra := difference(statements(want), statements(have))
	if len(missing)+len(extra) == 0 {
		return run.Check{Name: name, Verdict: run.Pass, Detail: "the schema dump of the copy has the same statements as the stored one, some in another order"}, nil
	}
	reloaded, err := c.reload(ctx, dump, restore)
	switch {
	case err != nil:
		return run.Check{}, err
	case reworded(missing, extra, reloaded):
		return run.Check{Name: name, Verdict: run.Pass, Detail: fmt.Sprintf("the schema dump of the copy has the same statements as the stored one, %d of them in the words that pg_dump finds "+
			"after pg_restore alone has made the schema beside it", len(extra))}, nil
	case !c.sameAs:
		return run.Check{Name: name, Verdict: run.NotProven, Detail: fmt.Sprintf("the copy is on PostgreSQL %s and the original on %s, which write schemas in other words", c.server.Version, c.Manifest.Server.Version)}, nil
	case strconv.Itoa(dump.Major) != strings.SplitN(c.Manifest.Schema.PgDump, ".", 2)[0]:
		return run.Check{Name: name, Verdict: run.NotProven, Detail: fmt.Sprintf("the schema was dumped by pg_dump %s and the copy's by %s, which write schemas in other words", c.Manifest.Schema.PgDump, dump.Version)}, nil
	}
	var f findings
	for _, s := range missing {
		f.add("missing: %s", cutTo(heading(s), 160))
	}
	for _, s := range extra {
		f.add("not in the original: %s", cutTo(heading(s), 160))
	}
	return f.check(name, ""), nil
}

// statements cuts a schema's text at pg_dump's headings and sorts the lines of each part, so that
// order within a part does not count.
func statements(text string) []string {
	var parts []string
	var part []string
	end := func() {
		if len(part) > 0 {
			sort.Strings(part)
			parts = append(parts, strings.Join(part, "\n"))
		}
		part = nil
	}
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "-- Name: ") {
			end()
		}
		if line = strings.TrimSuffix(strings.TrimSpace(line), ","); line != "" && line != "--" {
			part = append(part, line)
		}
	}
	end()
	return sorted(parts)
}

func sorted(all []string) []string {
	sort.Strings(all)
	return all
}

// difference compares two sorted lists as multisets.
func difference(want, have []string) (missing, extra []string) {
	for len(want) > 0 || len(have) > 0 {
		switch {
		case len(have) == 0 || len(want) > 0 && want[0] < have[0]:
			missing, want = append(missing, want[0]), want[1:]
		case len(want) == 0 || have[0] < want[0]:
			extra, have = append(extra, have[0]), have[1:]
		default:
			want, have = want[1:], have[1:]
		}
	}
	return missing, extra
}

// heading is pg_dump's heading of a statement: what it is of; for what comes before the first, all of it.
func heading(statement string) string {
	for _, line := range strings.Split(statement, "\n") {
		if name, ok := strings.CutPrefix(line, "-- Name: "); ok {
			return name
		}
	}
	return statement
}

func cutTo(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "..."
	}
	return s
}

// objects counts the copy's other objects as the census counted the original's.
func (c *checker) objects(ctx context.Context) (run.Check, error) {
	const name = "objects"
	have, err := census.Objects(ctx, c.conn)
	if err != nil {
		return run.Check{}, err
	}
	var f findings
	var total int64
	for _, kind := range sortedKeys(c.Manifest.Census.Objects) {
		total += c.Manifest.Census.Objects[kind]
		if have[kind] != c.Manifest.Census.Objects[kind] {
			f.add("%s: %d, not %d", kind, have[kind], c.Manifest.Census.Objects[kind])
		}
	}
	check := f.check(name, "%d indexes, constraints, triggers, grants, views, functions and other objects, counted by kind, are as many as in the original", total)
	if check.Verdict == run.Fail && !c.sameAs {
		check.Verdict = run.NotProven // another version counts some things otherwise
	}
	return check, nil
}

func sortedKeys(m map[string]int64) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// properties compares what belongs to the database itself.
func (c *checker) properties(ctx context.Context) (run.Check, error) {
	have, err := postgres.ReadDatabase(ctx, c.conn, c.server.VersionNum)
	if err != nil {
		return run.Check{}, err
	}
	want := c.Manifest.Database
	var f findings
	for _, p := range []struct {
		name       string
		want, have any
	}{
		{"owner", want.Owner, have.Owner}, {"encoding", want.Encoding, have.Encoding},
		{"collation", want.Collate, have.Collate}, {"character type", want.Ctype, have.Ctype},
		{"locale provider", want.LocaleProvider, have.LocaleProvider}, {"locale", want.Locale, have.Locale},
		{"comment", want.Comment, have.Comment}, {"connection limit", want.ConnectionLimit, have.ConnectionLimit},
		{"settings", want.Settings, have.Settings}, {"grants", want.ACL, have.ACL},
	} {
		if a, b := reflect.ValueOf(p.want), reflect.ValueOf(p.have); a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0 {
			continue
		}
		if !reflect.DeepEqual(p.want, p.have) {
			f.add("the database's %s differs", p.name)
		}
	}
	return f.check("database", "owner, encoding, locale, settings, grants, comment and connection limit are the original's"), nil
}

// indexes looks at the state of every index and constraint of the copy.
func (c *checker) indexes(ctx context.Context) (run.Check, error) {
	rows, err := c.conn.Query(ctx, `
		SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_index i
		JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'i' AND NOT (i.indisvalid AND i.indisready AND i.indislive) ORDER BY 1`)
	if err != nil {
		return run.Check{}, postgres.Classify(err, "read the copy's indexes")
	}
	invalid, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return run.Check{}, postgres.Classify(err, "read the copy's indexes")
	}
	var f findings
	for _, name := range invalid {
		f.add("index %s is not valid", name)
	}
	want := c.Manifest.Census.Objects["valid indexes"]
	return f.check("indexes and constraints", "all %d indexes are there and valid, all %d constraints validated", want, c.Manifest.Census.Objects["validated constraints"]), nil
}

var pointAmcheck = fault.NewPoint("proof/amcheck")

// amcheck walks every B-tree with all of its heap, and every heap from version 14 on.
func (c *checker) amcheck(ctx context.Context) (run.Check, error) {
	const name = "amcheck"
	notProven := func(why string) run.Check {
		return run.Check{Name: name, Verdict: run.NotProven, Optional: true, Detail: "not proven: " + why}
	}
	if !c.Amcheck {
		return notProven("it would put an extension into a database that stays"), nil
	}
	var available bool
	if err := c.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'amcheck')").Scan(&available); err != nil {
		return run.Check{}, postgres.Classify(err, "look for amcheck")
	}
	if !available {
		return notProven("the extension amcheck is not installed on the copy's server (Debian: postgresql-contrib)"), nil
	}
	// The extension is made in a transaction that is rolled back: whatever ends the check, the next one
	// finds the copy as it was restored.
	defer func() {
		if _, err := c.conn.Exec(context.WithoutCancel(ctx), "ROLLBACK"); err != nil {
			_ = c.conn.Close(context.WithoutCancel(ctx)) // which rolls back too
		}
	}()
	// As a replica: the original's event triggers are not for what is made here.
	if _, err := c.conn.Exec(ctx, "BEGIN; SET LOCAL session_replication_role = replica; CREATE SCHEMA IF NOT EXISTS upkeep_amcheck; CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA upkeep_amcheck; SET LOCAL session_replication_role = origin",
		pgx.QueryExecModeSimpleProtocol); err != nil {
		if ctx.Err() != nil {
			return run.Check{}, ctx.Err()
		}
		return notProven("the extension amcheck cannot be made in the copy: " + postgres.Classify(err, "create the extension").Error()), nil
	}
	pointAmcheck.Hit()
	var schema string
	if err := c.conn.QueryRow(ctx, "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'").Scan(&schema); err != nil {
		return run.Check{}, postgres.Classify(err, "look for amcheck")
	}
	var f findings
	trees, err := c.each(ctx, &f, `
		SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND c.relpersistence <> 't' ORDER BY 2`,
		"SELECT 0 FROM (SELECT "+postgres.Quote(schema)+".bt_index_check($1::oid::regclass, true)) s")
	if err != nil {
		return run.Check{}, err
	}
	heaps := 0
	if c.server.VersionNum >= 140000 {
		heaps, err = c.each(ctx, &f, `
			SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' ORDER BY 2`,
			"SELECT count(*)::int FROM "+postgres.Quote(schema)+".verify_heapam($1::oid::regclass)")
		if err != nil {
			return run.Check{}, err
		}
	}
	return f.check(name, "%d B-trees hold every row of their tables, %d heaps are sound", trees, heaps), nil
}

// each runs a check, which returns the number of faults or fails, on every relation that list finds.
func (c *checker) each(ctx context.Context, f *findings, list, check string) (int, error) {
	rows, err := c.conn.Query(ctx, list)
	if err != nil {
		return 0, postgres.Classify(err, "list what amcheck checks")
	}
	type relation struct {
		Oid  uint32
		Name string
	}
	relations, err := pgx.CollectRows(rows, pgx.RowToStructByPos[relation])
	if err != nil {
		return 0, postgres.Classify(err, "list what amcheck checks")
	}
	for i, r := range relations {
		progress.Report(ctx, progress.Progress{Phase: "amcheck", Done: int64(i), Total: int64(len(relations)), Unit: "relations", Note: r.Name})
		// A savepoint for each, so that one that fails does not end the others, and its locks go.
		if _, err := c.conn.Exec(ctx, "SAVEPOINT one"); err != nil {
			return 0, postgres.Classify(err, "check "+r.Name)
		}
		var faults int
		err := c.conn.QueryRow(ctx, check, r.Oid).Scan(&faults)
		corrupt := slices.Contains([]string{"XX001", "XX002"}, postgres.State(err))
		if err != nil && !corrupt {
			return 0, postgres.Classify(err, "check "+r.Name)
		}
		if _, err := c.conn.Exec(ctx, "ROLLBACK TO SAVEPOINT one"); err != nil {
			return 0, postgres.Classify(err, "check "+r.Name)
		}
		if corrupt {
			f.add("%s is corrupt", r.Name)
		}
		if faults > 0 {
			f.add("%s has %d faults", r.Name, faults)
		}
	}
	return len(relations), nil
}
