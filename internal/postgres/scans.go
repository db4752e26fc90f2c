package postgres

import (
	"context"
	"slices"
	"sort"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/format"
)

// tidRanges is the first version that reads a range of pages without reading the whole table, as
// server_version_num.
const tidRanges = 140000

// Size is what a table takes on disk, in pages.
type Size struct {
	Heap int64 // of the table's own file, which ranges are of
	All  int64 // with the values that are stored out of line: what reading it costs
}

// Sizes reads the sizes of tables.
func Sizes(ctx context.Context, conn *pgx.Conn, server format.Server, tables []format.Table) ([]Size, error) {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = Quote(t.Schema, t.Name)
	}
	rows, err := conn.Query(ctx, `
		SELECT pg_relation_size(p.name::regclass) / $2::bigint, pg_table_size(p.name::regclass) / $2::bigint
		FROM unnest($1::text[]) WITH ORDINALITY AS p(name, i) ORDER BY p.i`, names, server.BlockSize)
	if err != nil {
		return nil, Classify(err, "read the tables' sizes")
	}
	sizes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Size])
	return sizes, Classify(err, "read the tables' sizes")
}

// Scan is a table, or a range of its pages, that one COPY reads.
type Scan struct {
	Table int // its place among the tables
	Range format.Range
}

// Scans shares tables of such sizes out between sessions that take the scans in turns. A table that
// fits into one session's fair share is read whole. That costs the server a third less, because for a
// range of pages it does not keep to a few buffers. Others are cut into ranges of at most atOnce
// pages, ascending, without a gap, the last without an end, so that pages that the heap grows by are
// read too. What is large comes first and the ranges last, so that the sessions end together. Before
// says which tables an earlier reading took whole: near the border it stays so, since the ends of
// chunks depend on it.
func Scans(server format.Server, tables []format.Table, sizes []Size, sessions int, atOnce int64, before map[format.Name]bool) []Scan {
	order := make([]int, len(tables))
	var total int64
	for i, size := range sizes {
		order[i] = i
		total += size.All
	}
	sort.SliceStable(order, func(a, b int) bool { return sizes[order[a]].All > sizes[order[b]].All })
	loads := make([]int64, max(1, sessions))
	var whole, ranges []Scan
	for _, i := range order {
		size, least := sizes[i], slices.Index(loads, slices.Min(loads))
		share := total / int64(len(loads))
		if whole, known := before[format.Name{Schema: tables[i].Schema, Name: tables[i].Name}]; known && whole {
			share += share / 5
		} else if known {
			share -= share / 5
		}
		if server.VersionNum < tidRanges || tables[i].Where != "" || size.Heap <= atOnce || loads[least]+size.All <= share {
			loads[least] += size.All
			whole = append(whole, Scan{i, format.Range{First: 0, End: -1}})
			continue
		}
		for first := int64(0); first < size.Heap; first += atOnce {
			ranges = append(ranges, Scan{i, format.Range{First: first, End: first + atOnce}})
		}
		ranges[len(ranges)-1].Range.End = -1
	}
	return append(whole, ranges...)
}

// Whole reports whether a range is a whole table.
func Whole(r format.Range) bool { return r.First == 0 && r.End < 0 }
