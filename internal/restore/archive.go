package restore

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// parts are the archive's entries by when they are run. Indexes, constraints and foreign keys that
// are built one by one are in none of them.
type parts struct {
	pre       []postgres.ArchiveEntry // before the rows
	structure []postgres.ArchiveEntry // before the foreign keys: what attaches indexes to partitioned ones, triggers, rules
	rest      []postgres.ArchiveEntry // after the foreign keys: grants, comments, policies, contents of materialized views
	last      []postgres.ArchiveEntry // event triggers, which would fire at everything else
	built     map[int]string          // the SQL of indexes, constraints and foreign keys by dump id
}

// splitArchive says when each entry of the archive is run. pg_restore puts grants and refreshes of one
// call behind everything else by itself.
func (l *loader) splitArchive(ctx context.Context) (parts, error) {
	var p parts
	pre, err := postgres.ListArchive(ctx, l.tool, l.archive, postgres.PreData)
	if err != nil {
		return p, err
	}
	post, err := postgres.ListArchive(ctx, l.tool, l.archive, postgres.PostData)
	if err != nil {
		return p, err
	}
	kinds := make(map[int]format.PostData)
	for _, e := range l.Manifest.Schema.PostData {
		kinds[e.DumpID] = e
	}
	for _, e := range pre {
		if isGrant(e) {
			p.rest = append(p.rest, e)
		} else {
			p.pre = append(p.pre, e)
		}
	}
	lastForeignKey := -1
	for i, e := range post {
		if kinds[e.DumpID].Kind == format.PostForeignKey {
			lastForeignKey = i
		}
	}
	var builds []postgres.ArchiveEntry
	for i, e := range post {
		k, built := kinds[e.DumpID]
		switch {
		case built && (k.Table >= 0 || k.Kind == format.PostForeignKey):
			builds = append(builds, e)
		case e.Is("EVENT TRIGGER"), e.Is("COMMENT - EVENT TRIGGER"), e.Is("SECURITY LABEL - EVENT TRIGGER"):
			p.last = append(p.last, e)
		case i > lastForeignKey, isGrant(e), e.Is("COMMENT"), e.Is("SECURITY LABEL"), e.Is("MATERIALIZED VIEW DATA"):
			p.rest = append(p.rest, e)
		default:
			p.structure = append(p.structure, e)
		}
	}
	if mutantSkipGrant.On() {
		if i := slices.IndexFunc(p.rest, func(e postgres.ArchiveEntry) bool { return e.Is("ACL") }); i >= 0 {
			p.rest = slices.Delete(p.rest, i, i+1)
		}
	}
	p.built, err = l.buildStatements(ctx, builds)
	return p, err
}

// heading is what pg_restore writes above the statements of an entry.
var heading = regexp.MustCompile(`(?m)^--\n-- Name: [^\n]*; Type: (?:INDEX|CONSTRAINT|FK CONSTRAINT); Schema: [^\n]*; Owner: [^\n]*\n--\n`)

// buildStatements writes the SQL of each entry. One call of pg_restore is enough where its text can be
// cut without doubt: every entry has a heading, so as many headings as entries means that no name
// or literal pretends to be one. Otherwise each entry gets a call of its own.
func (l *loader) buildStatements(ctx context.Context, entries []postgres.ArchiveEntry) (map[int]string, error) {
	built := make(map[int]string, len(entries))
	if len(entries) == 0 {
		return built, nil
	}
	all, err := postgres.ArchiveSQL(ctx, l.tool, l.archive, entries)
	if err != nil {
		return nil, err
	}
	at := heading.FindAllStringIndex(all, -1)
	if len(at) == len(entries) && !strings.Contains(all[at[0][0]:], "\nSET default_tablespace = ") {
		for i, e := range entries {
			end := len(all)
			if i+1 < len(at) {
				end = at[i+1][0]
			}
			built[e.DumpID] = all[:at[0][0]] + all[at[i][0]:end]
		}
		return built, nil
	}
	for _, e := range entries {
		if built[e.DumpID], err = postgres.ArchiveSQL(ctx, l.tool, l.archive, []postgres.ArchiveEntry{e}); err != nil {
			return nil, err
		}
	}
	return built, nil
}

func isGrant(e postgres.ArchiveEntry) bool { return e.Is("ACL") || e.Is("DEFAULT ACL") }

var (
	transactionTimeout = regexp.MustCompile(`(?m)^SET transaction_timeout = 0;$`)
	firstEntry         = regexp.MustCompile(`(?m)^-- Name: `)
)

// withoutUnknownSettings drops, from the head of the text, the one setting that newer client programs
// make and servers before version 17 do not know. The session has it pinned anyway.
func withoutUnknownSettings(sql string) string {
	end := len(sql)
	if at := firstEntry.FindStringIndex(sql); at != nil {
		end = at[0]
	}
	return transactionTimeout.ReplaceAllString(sql[:end], "") + sql[end:]
}
