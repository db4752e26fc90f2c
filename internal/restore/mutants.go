package restore

import (
	"bytes"
	"context"
	"io"

	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// Faults that the proof must find.
var (
	mutantSkipTable       = fault.NewMutant("restore-skip-table")
	mutantSkipIndex       = fault.NewMutant("restore-skip-index")
	mutantSkipGrant       = fault.NewMutant("restore-skip-grant")
	mutantSkipSequence    = fault.NewMutant("restore-skip-sequence")
	mutantSkipLargeObject = fault.NewMutant("restore-skip-large-object")
	mutantNull            = fault.NewMutant("restore-null-becomes-empty")
	mutantRepeatChunk     = fault.NewMutant("restore-repeat-chunk")
)

// skippedIndex is the dump id of the index that the mutant leaves out: the first of a plain table, on
// which no index of a partitioned table waits.
func (l *loader) skippedIndex() int {
	for _, p := range l.Manifest.Schema.PostData {
		if p.Kind == format.PostIndex && p.Table >= 0 && l.Manifest.Tables[p.Table].Kind == "table" {
			return p.DumpID
		}
	}
	return 0
}

// expendable is a table whose rows can be left out or doubled without anything else complaining: one
// with rows and without index or constraint; -1 when there is none.
func (l *loader) expendable() int {
	bound := make(map[int]bool)
	for _, p := range l.Manifest.Schema.PostData {
		bound[p.Table] = true
	}
	for i, t := range l.Manifest.Tables {
		if t.Rows > 0 && !bound[i] {
			return i
		}
	}
	return -1
}

// nullEater turns the first NULL of a column that can hold text into an empty string, in every chunk.
type nullEater struct {
	r     io.Reader
	text  []bool // by column
	at    int
	fresh bool // at the beginning of a field
	done  bool
}

func newNullEater(ctx context.Context, l *loader, t format.Table, r io.Reader) io.Reader {
	e := &nullEater{r: r, text: make([]bool, len(t.Columns)), fresh: true, done: len(t.Columns) == 0}
	conn, err := l.connect(ctx)
	if err != nil {
		return r
	}
	defer closeSession(ctx, conn)
	for i, name := range t.Columns {
		// A table that is not there, or any other trouble, leaves the column as it is.
		_ = conn.QueryRow(ctx, `SELECT y.typcategory = 'S' AND NOT a.attnotnull FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid WHERE a.attrelid = to_regclass($1) AND a.attname = $2`,
			postgres.Quote(t.Schema, t.Name), name).Scan(&e.text[i])
	}
	return e
}

func (e *nullEater) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if e.done {
		return n, err
	}
	for i := 0; i < n; i++ {
		if e.fresh && e.text[min(e.at, len(e.text)-1)] && bytes.HasPrefix(p[i:n], []byte(`\N`)) {
			copy(p[i:], p[i+2:n])
			e.done = true
			return n - 2, err
		}
		e.fresh = p[i] == '\t' || p[i] == '\n'
		switch p[i] {
		case '\t':
			e.at++
		case '\n':
			e.at = 0
		}
	}
	return n, err
}
