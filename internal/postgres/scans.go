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

// Pages reads the sizes of the tables' heaps, in pages.
func Pages(ctx context.Context, conn *pgx.Conn, server format.Server, tables []format.Table) ([]int64, error) {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = Quote(t.Schema, t.Name)
	}
	rows, err := conn.Query(ctx, `SELECT pg_relation_size(p.name::regclass) / $2::bigint FROM unnest($1::text[]) WITH ORDINALITY AS p(name, i) ORDER BY p.i`,
		names, server.BlockSize)
	if err != nil {
		return nil, Classify(err, "read the tables' sizes")
	}
	pages, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	return pages, Classify(err, "read the tables' sizes")
}

// Scan is a table, or a range of its pages, that one COPY reads.
type Scan struct {
	Table int // its place among the tables
	Range format.Range
}

// Scans shares tables of so many pages out between sessions that take the scans in turns. A table that
// fits into one session's fair share is read whole. That costs the server a third less, because for a
// range of pages it does not keep to a few buffers. Others are cut into ranges of at most size pages,
// ascending, without a gap, the last without an end, so that pages that the heap grows by are read
// too. What is large comes first and the ranges last, so that the sessions end together.
func Scans(server format.Server, tables []format.Table, pages []int64, sessions int, size int64) []Scan {
	order := make([]int, len(tables))
	var total int64
	for i, n := range pages {
		order[i] = i
		total += n
	}
	sort.SliceStable(order, func(a, b int) bool { return pages[order[a]] > pages[order[b]] })
	loads := make([]int64, max(1, sessions))
	var whole, ranges []Scan
	for _, i := range order {
		least := slices.Index(loads, slices.Min(loads))
		if server.VersionNum < tidRanges || tables[i].Where != "" || pages[i] <= size || loads[least]+pages[i] <= total/int64(len(loads)) {
			loads[least] += pages[i]
			whole = append(whole, Scan{i, format.Range{First: 0, End: -1}})
			continue
		}
		for first := int64(0); first < pages[i]; first += size {
			ranges = append(ranges, Scan{i, format.Range{First: first, End: first + size}})
		}
		ranges[len(ranges)-1].Range.End = -1
	}
	return append(whole, ranges...)
}

// Whole reports whether a range is a whole table.
func Whole(r format.Range) bool { return r.First == 0 && r.End < 0 }
