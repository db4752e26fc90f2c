package postgres_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

func TestScans(t *testing.T) {
	for _, c := range []struct {
		name     string
		version  int
		where    string // of all tables
		pages    []int64
		toast    []int64 // pages; none where it is left out
		sessions int
		before   map[format.Name]bool
		want     []string // table: range
	}{
		{name: "nothing", sessions: 2},
		{name: "empty tables are read too", pages: []int64{0, 0}, sessions: 2, want: []string{"0: 0 to -1", "1: 0 to -1"}},
		{name: "fair shares, the largest first", pages: []int64{40, 440, 480, 40}, sessions: 2,
			want: []string{"2: 0 to -1", "1: 0 to -1", "0: 0 to -1", "3: 0 to -1"}},
		{name: "more than a share is cut, and fills up", pages: []int64{350, 150}, sessions: 2,
			want: []string{"1: 0 to -1", "0: 0 to 100", "0: 100 to 200", "0: 200 to 300", "0: 300 to -1"}},
		{name: "three that two cannot share", pages: []int64{200, 200, 200}, sessions: 2,
			want: []string{"0: 0 to -1", "1: 0 to -1", "2: 0 to 100", "2: 100 to -1"}},
		{name: "what is stored out of line counts", pages: []int64{300, 300, 300}, toast: []int64{0, 900, 0}, sessions: 2,
			want: []string{"0: 0 to -1", "2: 0 to -1", "1: 0 to 100", "1: 100 to 200", "1: 200 to -1"}},
		{name: "near the border it stays whole", pages: []int64{300, 310}, sessions: 2, before: map[format.Name]bool{{Name: "0"}: true, {Name: "1"}: true},
			want: []string{"1: 0 to -1", "0: 0 to -1"}},
		{name: "near the border it stays cut", pages: []int64{300, 200, 150}, sessions: 2, before: map[format.Name]bool{{Name: "0"}: false},
			want: []string{"1: 0 to -1", "2: 0 to -1", "0: 0 to 100", "0: 100 to 200", "0: 200 to -1"}},
		{name: "far from it, what was before does not count", pages: []int64{700, 150, 150}, sessions: 2, before: map[format.Name]bool{{Name: "0"}: true, {Name: "1"}: false},
			want: []string{"1: 0 to -1", "2: 0 to -1", "0: 0 to 100", "0: 100 to 200", "0: 200 to 300", "0: 300 to 400", "0: 400 to 500", "0: 500 to 600", "0: 600 to -1"}},
		{name: "one session has no need of ranges", pages: []int64{500, 500}, sessions: 1, want: []string{"0: 0 to -1", "1: 0 to -1"}},
		{name: "no sessions are one", pages: []int64{500}, want: []string{"0: 0 to -1"}},
		{name: "a whole number of ranges", pages: []int64{200}, sessions: 2, want: []string{"0: 0 to 100", "0: 100 to -1"}},
		{name: "an old server knows no ranges", version: 130022, pages: []int64{350}, sessions: 2, want: []string{"0: 0 to -1"}},
		{name: "nor has an extension's part of a table", where: "WHERE a > 1", pages: []int64{350}, sessions: 2, want: []string{"0: 0 to -1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := format.Server{VersionNum: 150000}
			if c.version > 0 {
				server.VersionNum = c.version
			}
			tables, sizes := make([]format.Table, len(c.pages)), make([]postgres.Size, len(c.pages))
			for i := range tables {
				tables[i].Name, tables[i].Where = fmt.Sprint(i), c.where
				sizes[i] = postgres.Size{Heap: c.pages[i], All: c.pages[i]}
				if c.toast != nil {
					sizes[i].All += c.toast[i]
				}
			}
			var have []string
			for _, s := range postgres.Scans(server, tables, sizes, c.sessions, 100, c.before) {
				have = append(have, fmt.Sprintf("%d: %d to %d", s.Table, s.Range.First, s.Range.End))
			}
			require.Equal(t, c.want, have)
		})
	}
}
