package proof

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/census"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/rowhash"
)

// content is what a table, or a whole partition tree loaded through its root, holds.
type content struct {
	rows  int64
	hash  rowhash.Sum
	nulls []int64
}

func (c *content) add(other content) {
	c.rows += other.rows
	c.hash = c.hash.Merge(other.hash)
	if len(c.nulls) < len(other.nulls) {
		c.nulls = append(c.nulls, make([]int64, len(other.nulls)-len(c.nulls))...)
	}
	for i, n := range other.nulls {
		c.nulls[i] += n
	}
}

// unit is the smallest thing whose rows can be compared: a table, or the root of partitions between
// which a new database may move rows.
func unit(t format.Table) format.Name {
	if t.Root != nil {
		return *t.Root
	}
	return format.Name{Schema: t.Schema, Name: t.Name}
}

// rows reads every table of the copy whole, and counts and hashes what it reads.
func (c *checker) rows(ctx context.Context) (run.Check, error) {
	want := make(map[format.Name]*content)
	counted := make(map[format.Name]format.Count, len(c.Manifest.Census.Tables))
	for _, n := range c.Manifest.Census.Tables {
		counted[format.Name{Schema: n.Schema, Name: n.Name}] = n
	}
	for _, t := range c.Manifest.Tables {
		sum, err := rowhash.Parse(t.RowHash)
		if err != nil {
			return run.Check{}, err
		}
		u := unit(t)
		if want[u] == nil {
			want[u] = &content{}
		}
		want[u].add(content{rows: t.Rows, hash: sum, nulls: counted[format.Name{Schema: t.Schema, Name: t.Name}].Nulls})
	}
	have, problems, err := c.readCopy(ctx)
	if err != nil {
		return run.Check{}, err
	}
	f := problems
	var rows int64
	for _, t := range c.Manifest.Tables {
		u := unit(t)
		w := want[u]
		if w == nil {
			continue // its unit is compared already
		}
		delete(want, u)
		rows += w.rows
		g := have[u]
		name := postgres.Quote(u.Schema, u.Name)
		switch {
		case g == nil:
			f.add("table %s could not be read in the copy", name)
		case g.rows != w.rows:
			f.add("table %s has %d rows, not %d", name, g.rows, w.rows)
		case g.hash != w.hash:
			f.add("table %s has %d rows as it should, but not the same ones", name, g.rows)
		case len(w.nulls) > 0 && !slices.Equal(g.nulls, w.nulls):
			f.add("table %s has NULLs where the original has none, or the reverse", name)
		}
	}
	return f.check("rows", "%d rows of %d tables, read anew, have the counts, the NULLs and the order-free hash of the originals", rows, len(c.Manifest.Tables)), nil
}

// readCopy reads the copy's tables with several sessions. What a table lacks is a finding, not an
// error.
func (c *checker) readCopy(ctx context.Context) (map[format.Name]*content, findings, error) {
	var (
		mu   sync.Mutex
		f    findings
		done int64
		have = make(map[format.Name]*content)
	)
	present, err := census.Tables(ctx, c.conn)
	if err != nil {
		return nil, f, err
	}
	exists := make(map[format.Name]bool, len(present))
	for _, n := range present {
		exists[n] = true
	}
	var tables []format.Table
	for _, t := range c.Manifest.Tables {
		name := format.Name{Schema: t.Schema, Name: t.Name}
		if !exists[name] {
			f.add("table %s is missing", postgres.Quote(t.Schema, t.Name))
			continue
		}
		delete(exists, name)
		tables = append(tables, t)
	}
	for name := range exists {
		f.add("table %s is not in the backup", postgres.Quote(name.Schema, name.Name))
	}
	sizes, err := postgres.Sizes(ctx, c.conn, c.server, tables)
	if err != nil {
		return nil, f, err
	}
	scans := postgres.Scans(c.server, tables, sizes, c.Connections, comparePages, nil)
	queue := make(chan postgres.Scan)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(queue)
		for _, s := range scans {
			select {
			case queue <- s:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range max(1, c.Connections) {
		group.Go(func() error {
			conn, err := c.connect(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
			for s := range queue {
				table := tables[s.Table]
				got, err := readPart(ctx, conn, table, s.Range, c.Manifest.Database.Encoding)
				if err != nil {
					return err
				}
				mu.Lock()
				u := unit(table)
				if have[u] == nil {
					have[u] = &content{}
				}
				have[u].add(got)
				done++
				progress.Report(ctx, progress.Progress{Phase: "comparing rows", Done: done, Total: int64(len(scans)), Unit: "ranges", Note: table.Schema + "." + table.Name})
				mu.Unlock()
			}
			return nil
		})
	}
	return have, f, group.Wait()
}

// generated holds the rows with their stored generated columns, which the copy's server has computed
// anew, against those of the original.
func (c *checker) generated(ctx context.Context) (run.Check, error) {
	const name = "generated columns"
	want, have, rooted := make(map[format.Name]*big.Int), make(map[format.Name]*big.Int), make(map[format.Name]format.Name)
	for _, t := range c.Manifest.Tables {
		rooted[format.Name{Schema: t.Schema, Name: t.Name}] = unit(t)
	}
	present, err := census.Tables(ctx, c.conn)
	if err != nil {
		return run.Check{}, err
	}
	unrecorded := 0
	for _, counted := range c.Manifest.Census.Tables {
		table := format.Name{Schema: counted.Schema, Name: counted.Name}
		if !slices.Contains(present, table) {
			continue // said by another check
		}
		sum, err := census.Generated(ctx, c.conn, table)
		if err != nil {
			return run.Check{}, err
		}
		if counted.Generated == "" && sum != "" {
			unrecorded++
			continue
		}
		u := rooted[table]
		if err := errors.Join(addTo(want, u, counted.Generated), addTo(have, u, sum)); err != nil {
			return run.Check{}, err
		}
	}
	var f findings
	for u, w := range want {
		if h := have[u]; h == nil || h.Cmp(w) != 0 {
			f.add("the generated columns of table %s have other values", postgres.Quote(u.Schema, u.Name))
		}
	}
	slices.Sort(f.named)
	switch {
	case f.count == 0 && unrecorded > 0:
		return run.Check{Name: name, Verdict: run.NotProven, Optional: true, Detail: fmt.Sprintf("an older Upkeep took this backup and did not record those of %d tables", unrecorded)}, nil
	case len(want) == 0:
		return run.Check{}, nil
	}
	return f.check(name, "the generated columns of %d tables have the values of the originals", len(want)), nil
}

// addTo adds a decimal to a unit's sum; an empty one is none.
func addTo(sums map[format.Name]*big.Int, u format.Name, decimal string) error {
	if decimal == "" {
		return nil
	}
	n, ok := new(big.Int).SetString(decimal, 10)
	if !ok {
		return fmt.Errorf("the sum of generated columns %.40q is no number", decimal)
	}
	if sums[u] == nil {
		sums[u] = new(big.Int)
	}
	sums[u].Add(sums[u], n)
	return nil
}

// comparePages is how many pages of a table that sessions share one of them reads at once.
const comparePages = 4096

func readPart(ctx context.Context, conn *pgx.Conn, t format.Table, span format.Range, encoding string) (content, error) {
	var hashed rowhash.Counter
	doing := "read table " + postgres.Quote(t.Schema, t.Name) + " of the copy"
	if _, err := conn.PgConn().CopyTo(ctx, &hashed, postgres.CopyOut(t, span, encoding)); err != nil {
		return content{}, postgres.Classify(err, doing)
	}
	if err := hashed.Close(); err != nil {
		return content{}, fmt.Errorf("%s: %w", doing, err)
	}
	out := content{rows: hashed.Rows(), hash: hashed.Sum()}
	if span.First == 0 {
		n, err := census.Count(ctx, conn, format.Name{Schema: t.Schema, Name: t.Name}, t.Columns, t.Where)
		if err != nil {
			return content{}, err
		}
		out.nulls = n.Nulls
	}
	return out, nil
}

// largeObjects reads the copy's large objects whole.
func (c *checker) largeObjects(ctx context.Context) (run.Check, error) {
	const objectsAtOnce = 500
	var f findings
	rows, err := c.conn.Query(ctx, "SELECT oid FROM pg_largeobject_metadata ORDER BY oid")
	if err != nil {
		return run.Check{}, postgres.Classify(err, "list the copy's large objects")
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return run.Check{}, postgres.Classify(err, "list the copy's large objects")
	}
	var all content
	for start := 0; start < len(oids); start += objectsAtOnce {
		var hashed rowhash.Counter
		statement := postgres.CopyLargeObjects(oids[start:min(start+objectsAtOnce, len(oids))], c.Manifest.Database.Encoding)
		if _, err := c.conn.PgConn().CopyTo(ctx, &hashed, statement); err != nil {
			return run.Check{}, postgres.Classify(err, "read the copy's large objects")
		}
		if err := hashed.Close(); err != nil {
			return run.Check{}, err
		}
		all.add(content{rows: hashed.Rows(), hash: hashed.Sum()})
	}
	want := c.Manifest.LargeObjects
	sum, err := rowhash.Parse(want.RowHash)
	if err != nil {
		return run.Check{}, err
	}
	if int64(len(oids)) != want.Count {
		f.add("the copy has %d large objects, not %d", len(oids), want.Count)
	} else if all.rows != want.Rows || all.hash != sum {
		f.add("the contents of the large objects differ")
	}
	return f.check("large objects", "%d large objects have the contents of the originals", want.Count), nil
}
