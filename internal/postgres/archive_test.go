package postgres

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
)

func TestContentsOfAnArchive(t *testing.T) {
	const list = `;
; Archive created at 2026-11-24 11:53:37 UTC
;     Dump Version: 1.14-0
;
; Selected TOC Entries:
;
3521; 1262 16384 DATABASE - golden postgres
7; 2615 16400 SCHEMA - odd " schema ann
215; 1259 16401 TABLE public ACL x; 1 2 ACL - y ann
3530; 0 0 ACL - TABLE facts ann
3531; 826 16499 DEFAULT ACL - DEFAULT PRIVILEGES FOR TABLES ann
`
	entries, err := parseContents(strings.NewReader(list))
	require.NoError(t, err)
	require.Len(t, entries, 5)
	require.Equal(t, ArchiveEntry{DumpID: 7, TableOid: 2615, Oid: 16400, Line: `7; 2615 16400 SCHEMA - odd " schema ann`, Rest: `SCHEMA - odd " schema ann`}, entries[1])
	require.False(t, entries[2].Is("ACL"), "a name is not a description")
	require.True(t, entries[3].Is("ACL"))
	require.True(t, entries[4].Is("DEFAULT ACL"))
	require.False(t, entries[4].Is("ACL"))
	for _, bad := range []string{"99999999999999999999; 0 0 TABLE x", "1; 4294967296 0 TABLE x", "1; 0 4294967296 TABLE x", strings.Repeat("x", maxContentsLine+1)} {
		_, err := parseContents(strings.NewReader(bad))
		require.True(t, failure.Is(err, failure.BackupDamaged), "%.40q: %v", bad, err)
	}
}

func TestOnlyTheClientsOwnCommandsAreDropped(t *testing.T) {
	const head, body, end = "--\n-- PostgreSQL database dump\n--\n\n\\restrict Ab1\n\n", "SELECT 1;\n\\restrict in a text\n\\unrestrict in a text\nSELECT 2;\n", "\n--\n-- done\n--\n\n\\unrestrict Ab1\n\n"
	require.Equal(t, "--\n-- PostgreSQL database dump\n--\n\n\n"+body+"\n--\n-- done\n--\n\n\n", withoutClientCommands(head+body+end))
	require.Equal(t, body, withoutClientCommands(body))
	require.Empty(t, withoutClientCommands(""))
}

// FuzzContents: whatever an archive's names pretend to be, an entry is what its line says, and the list
// that is handed back to pg_restore names nothing else.
func FuzzContents(f *testing.F) {
	f.Add("7; 2615 16400 SCHEMA - odd ann\n; a comment\n215; 1259 16401 TABLE public x ann\n")
	f.Add("1; 0 0 ACL - \r\n\x00")
	f.Fuzz(func(t *testing.T, list string) {
		entries, err := parseContents(strings.NewReader(list))
		if err != nil {
			if !failure.Is(err, failure.BackupDamaged) {
				t.Fatalf("an error that nobody can act on: %v", err)
			}
			return
		}
		for _, e := range entries {
			if !strings.Contains(list, e.Line) || !strings.HasSuffix(e.Line, e.Rest) || strings.Contains(e.Line, "\n") || e.DumpID < 0 {
				t.Fatalf("%q is not of the list", e.Line)
			}
		}
	})
}

// FuzzClientCommands: nothing but lines of the client's own is ever dropped.
func FuzzClientCommands(f *testing.F) {
	f.Add("--\n\\restrict a\nSELECT 1;\n\\unrestrict a\n")
	f.Add("\\restrict a\n\\restrict b\n")
	f.Fuzz(func(t *testing.T, text string) {
		left := withoutClientCommands(text)
		before, after := strings.SplitAfter(text, "\n"), strings.SplitAfter(left, "\n")
		dropped := 0
		for _, line := range before {
			if len(after) > 0 && line == after[0] {
				after = after[1:]
				continue
			}
			if !strings.HasPrefix(line, `\restrict `) && !strings.HasPrefix(line, `\unrestrict `) {
				t.Fatalf("dropped %q", line)
			}
			dropped++
		}
		if len(after) > 1 || len(after) == 1 && after[0] != "" || dropped > 2 {
			t.Fatalf("dropped %d lines of %q and left %q", dropped, text, left)
		}
	})
}
