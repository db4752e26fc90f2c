package postgres

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
)

// maxArchive bounds a schema's archive and its text, in bytes.
const maxArchive = 1 << 30

// ArchiveEntry is one entry of a pg_dump archive's table of contents.
type ArchiveEntry struct {
	DumpID   int
	TableOid uint32 // of the source's catalog that Oid is in; 0 for entries without one
	Oid      uint32 // of the object in the source database
	Line     string // as pg_restore -l prints it; usable in a list file
	Rest     string // what follows the numbers: description, schema, name, owner
}

// Is reports whether the entry's description is the given one, e.g. "ACL" or "EVENT TRIGGER". It
// compares the beginning of the line only, so no object's name can pretend to be a description.
func (e ArchiveEntry) Is(description string) bool {
	return strings.HasPrefix(e.Rest, description+" ")
}

// Section is a section of an archive.
type Section string

// The sections that a schema's archive has.
const (
	PreData  Section = "pre-data"
	PostData Section = "post-data"
)

var archiveLine = regexp.MustCompile(`^(\d+); (\d+) (\d+) (.+)$`)

// mutantSkipGrants leaves the grants out of every dump, those that copies are compared by too: only
// the census, which asks the catalog, can find it.
var mutantSkipGrants = fault.NewMutant("backup-skip-grants")

// DumpSchema writes the pg_dump archive of a database's schema and large objects' metadata. With a
// snapshot it shows that snapshot, else the moment. Patience is how long it waits for a table's lock.
// LeftOut is what pg_dump warned that it did not write, such as subscriptions for want of a right.
func DumpSchema(ctx context.Context, tool Tool, from Config, database, snapshot string, patience time.Duration) (archive []byte, leftOut []string, err error) {
	args := []string{"--format=custom", "--compress=0", "--section=pre-data", "--section=post-data",
		fmt.Sprintf("--lock-wait-timeout=%d", patience.Milliseconds())}
	if mutantSkipGrants.On() {
		args = append(args, "--no-privileges")
	}
	if snapshot != "" {
		args = append(args, "--snapshot="+snapshot)
	}
	out := &bounded{limit: maxArchive}
	var said string
	if err := tool.RunOn(ctx, from, database, Invocation{Args: args, Stdout: out, Said: &said}); err != nil {
		return nil, nil, classifyTool(err, "dump the schema")
	}
	return out.Bytes(), warnings(said), nil
}

// RestoreSchema makes the objects of an archive in an empty database by pg_restore alone: without
// subscriptions, which would keep the database from being dropped, and without the contents of
// materialized views. What pg_restore cannot make is not there afterwards, which is for the caller to find.
func RestoreSchema(ctx context.Context, tool Tool, to Config, database string, archive []byte) error {
	all, err := ListArchive(ctx, tool, archive, "")
	if err != nil {
		return err
	}
	list, err := listFile(slices.DeleteFunc(all, func(e ArchiveEntry) bool {
		return e.Is("SUBSCRIPTION") || e.Is("COMMENT - SUBSCRIPTION") || e.Is("SECURITY LABEL - SUBSCRIPTION") || e.Is("MATERIALIZED VIEW DATA")
	}))
	if err != nil {
		return err
	}
	defer func() { _ = list.Close() }()
	err = tool.RunOn(ctx, to, database, Invocation{Args: []string{"--use-list=/proc/self/fd/3"}, Stdin: bytes.NewReader(archive), Files: []*os.File{list}})
	var said *ToolError
	if err = classifyTool(err, "make the schema once more"); errors.As(err, &said) && !failure.Is(err, failure.ServerUnreachable) {
		return nil
	}
	return err
}

// warnings are pg_dump's, but for the one about the order of rows, which it does not load here.
func warnings(said string) (found []string) {
	for _, line := range strings.Split(said, "\n") {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "pg_dump: warning: ")
		if ok && !strings.Contains(text, "circular foreign-key") {
			found = append(found, "pg_dump warns: "+text)
		}
	}
	return found
}

// ListArchive reads an archive's table of contents, in the archive's order; with a section, only
// the entries that pg_restore counts to it.
func ListArchive(ctx context.Context, tool Tool, archive []byte, section Section) ([]ArchiveEntry, error) {
	args := []string{"--list"}
	if section != "" {
		args = append(args, "--section="+string(section))
	}
	out := &bounded{limit: maxArchive}
	if err := tool.Run(ctx, Invocation{Args: args, Stdin: bytes.NewReader(archive), Stdout: out}); err != nil {
		return nil, unreadableArchive(err)
	}
	return parseContents(out)
}

// maxContentsLine bounds a line of a table of contents, in bytes: its names have 63 each.
const maxContentsLine = 1 << 20

// parseContents reads a table of contents as pg_restore lists it.
func parseContents(list io.Reader) ([]ArchiveEntry, error) {
	var entries []ArchiveEntry
	lines := bufio.NewScanner(list)
	lines.Buffer(nil, maxContentsLine)
	for lines.Scan() {
		m := archiveLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue // the header's comments
		}
		id, err1 := strconv.Atoi(m[1])
		table, err2 := strconv.ParseUint(m[2], 10, 32)
		oid, err3 := strconv.ParseUint(m[3], 10, 32)
		if err1 != nil || err2 != nil || err3 != nil {
			return nil, unreadableArchive(fmt.Errorf("entry %.40q", lines.Text()))
		}
		entries = append(entries, ArchiveEntry{DumpID: id, TableOid: uint32(table), Oid: uint32(oid), Line: lines.Text(), Rest: m[4]})
	}
	if err := lines.Err(); err != nil {
		return nil, unreadableArchive(err)
	}
	return entries, nil
}

// ArchiveSQL writes entries of an archive as SQL, in the order given; all of it when entries is nil.
// Nothing but SQL is in the text: the client's own commands that newer programs add are left out.
func ArchiveSQL(ctx context.Context, tool Tool, archive []byte, entries []ArchiveEntry) (string, error) {
	call := Invocation{Args: []string{"--file=-"}, Stdin: bytes.NewReader(archive)}
	if entries != nil {
		list, err := listFile(entries)
		if err != nil {
			return "", err
		}
		defer func() { _ = list.Close() }()
		call.Args = append(call.Args, "--use-list=/proc/self/fd/3")
		call.Files = []*os.File{list}
	}
	out := &bounded{limit: maxArchive}
	call.Stdout = out
	if err := tool.Run(ctx, call); err != nil {
		return "", unreadableArchive(err)
	}
	return withoutClientCommands(out.String()), nil
}

// listFile hands a list of entries to pg_restore in a file that has no name.
func listFile(entries []ArchiveEntry) (*os.File, error) {
	var text strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&text, "%d;\n", e.DumpID)
	}
	f, err := os.CreateTemp("", "upkeep-list-")
	if err != nil {
		return nil, failure.New(failure.DiskFull, "could not make a temporary file").Because(err).Do("see to the folder of temporary files ($TMPDIR)")
	}
	_ = os.Remove(f.Name())
	if _, err := f.WriteString(text.String()); err != nil {
		_ = f.Close()
		return nil, failure.New(failure.DiskFull, "could not write a temporary file").Because(err).Do("free space in the folder of temporary files ($TMPDIR)")
	}
	if _, err := f.Seek(0, 0); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// withoutClientCommands drops psql's \restrict and \unrestrict, which pg_dump and pg_restore write
// with a random key around their output. They stand on lines of their own, the first before any
// statement and the second after the last, so a row or a name cannot be mistaken for them.
func withoutClientCommands(text string) string {
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, `\restrict `) {
			lines[i] = ""
			break
		}
		if s := strings.TrimSpace(line); s != "" && !strings.HasPrefix(s, "--") {
			break
		}
	}
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(lines[i], `\unrestrict `) {
			lines[i] = ""
			break
		}
		if s := strings.TrimSpace(lines[i]); s != "" && !strings.HasPrefix(s, "--") {
			break
		}
	}
	return strings.Join(lines, "")
}

// SchemaText is the archive as comparable SQL: without the lines that name the moment and the
// programs.
func SchemaText(ctx context.Context, tool Tool, archive []byte) (string, error) {
	text, err := ArchiveSQL(ctx, tool, archive, nil)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, line := range strings.SplitAfter(text, "\n") {
		if strings.HasPrefix(line, "-- Dumped from ") || strings.HasPrefix(line, "-- Dumped by ") || strings.HasPrefix(line, "-- Started on ") || strings.HasPrefix(line, "-- Completed on ") {
			continue
		}
		out.WriteString(line)
	}
	return out.String(), nil
}

func unreadableArchive(err error) error {
	return failure.New(failure.BackupDamaged, "the schema's archive cannot be read").Because(err).
		Do("verify the backup; choose another one")
}

// bounded is a buffer that refuses to grow past its limit.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("more than %d bytes", b.limit)
	}
	return b.Buffer.Write(p)
}
