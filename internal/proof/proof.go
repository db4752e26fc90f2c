// Package proof holds a restored copy against its backup: the catalog's census, the schema, every
// row, the sequences, the large objects, the database's own properties, and the health of the
// indexes. It reads the copy anew; nothing that the restore said is believed.
package proof

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// maxNamed bounds how many differences one check names.
const maxNamed = 5

// Options say which copy to hold against which backup.
type Options struct {
	Copy        postgres.Config
	Database    string // the copy's name on its server
	Manifest    *format.Manifest
	Archive     []byte // the schema's archive
	Connections int
	// Amcheck asks for the check of index and heap structure, which installs the extension amcheck
	// in the copy: only for copies that are thrown away.
	Amcheck bool
	// Properties asks for the database's own owner, settings, grants and comment to be compared.
	Properties bool
}

// checker is one copy under check.
type checker struct {
	Options
	conn   *pgx.Conn
	server format.Server
	sameAs bool // the copy's server has the source's major version
}

// Compare runs every check and returns all of them, passed or not. An error means that the checks
// could not be carried out at all, and nothing is proven.
func Compare(ctx context.Context, o Options) ([]run.Check, error) {
	conn, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	c := &checker{Options: o, conn: conn}
	if c.server, err = postgres.ReadServer(ctx, conn); err != nil {
		return nil, err
	}
	c.sameAs = c.server.VersionNum/10000 == o.Manifest.Server.VersionNum/10000
	steps := []func(context.Context) (run.Check, error){
		c.complete, c.schema, c.rows, c.generated, c.objects, c.sequences, c.largeObjects,
	}
	if o.Properties {
		steps = append(steps, c.properties)
	}
	steps = append(steps, c.indexes)
	steps = append(steps, c.amcheck, c.elsewhere)
	var checks []run.Check
	for _, step := range steps {
		check, err := step(ctx)
		if err != nil {
			return nil, err
		}
		if check.Name != "" { // there was something to check
			checks = append(checks, check)
		}
	}
	return checks, nil
}

func (o Options) connect(ctx context.Context) (*pgx.Conn, error) {
	return o.Copy.Connect(ctx, postgres.WithDatabase(o.Database), postgres.WithApp("upkeep-compare "+o.Manifest.Backup))
}

// Verdict is the verdict of all checks together: FAIL if one fails, NOT_PROVEN if one that is not
// optional could not run, PASS otherwise. No checks prove nothing.
func Verdict(checks []run.Check) run.Verdict {
	verdict := run.Pass
	if len(checks) == 0 {
		verdict = run.NotProven
	}
	for _, c := range checks {
		switch {
		case c.Verdict == run.Fail:
			return run.Fail
		case c.Verdict != run.Pass && !c.Optional:
			verdict = run.NotProven
		}
	}
	return verdict
}

// findings gathers the differences of one check.
type findings struct {
	named []string
	count int
}

func (f *findings) add(format string, args ...any) {
	f.count++
	if len(f.named) < maxNamed {
		f.named = append(f.named, fmt.Sprintf(format, args...))
	}
}

// check turns the differences into a verdict; good says what was found equal.
func (f *findings) check(name, good string, args ...any) run.Check {
	if f.count == 0 {
		return run.Check{Name: name, Verdict: run.Pass, Detail: fmt.Sprintf(good, args...)}
	}
	detail := strings.Join(f.named, "; ")
	if more := f.count - len(f.named); more > 0 {
		detail += fmt.Sprintf("; and %d more", more)
	}
	return run.Check{Name: name, Verdict: run.Fail, Detail: detail}
}

// complete holds what was read against what the census counted in the same snapshot.
func (c *checker) complete(context.Context) (run.Check, error) {
	var f findings
	for _, d := range c.Manifest.Disagreements() {
		f.add("%s", d)
	}
	if left := c.Manifest.LeftOut; f.count == 0 && len(left) > 0 {
		f.named, f.count = left[:min(len(left), maxNamed)], len(left)
		check := f.check("complete", "")
		check.Verdict, check.Detail = run.NotProven, "left out of the backup: "+check.Detail
		return check, nil
	}
	return f.check("complete", "%d tables, %d rows, every page range, %d sequences and %d large objects agree with the catalog of the same snapshot",
		len(c.Manifest.Tables), c.Manifest.Totals.Rows, c.Manifest.Census.Sequences, c.Manifest.Census.LargeObjects), nil
}

// elsewhere names what looks like data of the database and is not in the backup by its nature. It does
// not stand against a PASS, and nobody should have to guess it.
func (c *checker) elsewhere(context.Context) (run.Check, error) {
	if len(c.Manifest.Elsewhere) == 0 {
		return run.Check{}, nil
	}
	f := findings{named: c.Manifest.Elsewhere[:min(len(c.Manifest.Elsewhere), maxNamed)], count: len(c.Manifest.Elsewhere)}
	check := f.check("not compared", "")
	check.Verdict, check.Optional = run.NotProven, true
	return check, nil
}

func (c *checker) sequences(ctx context.Context) (run.Check, error) {
	var f findings
	names, err := postgres.SequenceNames(ctx, c.conn)
	if err != nil {
		return run.Check{}, err
	}
	have, err := postgres.ReadSequences(ctx, c.conn, names)
	if err != nil {
		return run.Check{}, err
	}
	found := make(map[format.Name]format.Sequence, len(have))
	for _, s := range have {
		found[format.Name{Schema: s.Schema, Name: s.Name}] = s
	}
	for _, want := range c.Manifest.Sequences {
		key := format.Name{Schema: want.Schema, Name: want.Name}
		if got, ok := found[key]; !ok {
			f.add("sequence %s is missing", postgres.Quote(key.Schema, key.Name))
		} else if got != want {
			f.add("sequence %s stands elsewhere", postgres.Quote(key.Schema, key.Name))
		}
		delete(found, key)
	}
	for key := range found {
		f.add("sequence %s is not in the backup", postgres.Quote(key.Schema, key.Name))
	}
	return f.check("sequences", "%d sequences stand where they stood", len(c.Manifest.Sequences)), nil
}
