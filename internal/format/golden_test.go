package format_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/rowhash"
)

// The golden backup was written by the first version. Its manifest is read, and would be written the
// same today, byte for byte.
func TestGoldenManifestIsReadAndWritten(t *testing.T) {
	const id = "20261124T115500Z-901de4"
	data, err := os.ReadFile(filepath.Join("testdata/golden", filepath.FromSlash(format.ManifestKey("shop", id))))
	require.NoError(t, err)
	m, err := format.Decode(data, "shop", id)
	require.NoError(t, err)
	again, err := format.Encode(m)
	require.NoError(t, err)
	require.Equal(t, string(data), string(again))

	require.Equal(t, 150018, m.Server.VersionNum)
	require.Equal(t, "the golden one: \\ ' \" ü \U0001F600", m.Database.Comment)
	require.Equal(t, format.RoleSetting{Role: "golden_group", Name: "DateStyle", Value: "German, DMY"}, m.Database.Settings[2])
	require.Equal(t, format.Sequence{Schema: "public", Name: "ticket", Last: 4, Called: true}, m.Sequences[len(m.Sequences)-1])
	require.EqualValues(t, 3, m.LargeObjects.Count)
	tables := make(map[string]format.Table)
	for _, table := range m.Tables {
		tables[table.Name] = table
		for _, r := range table.Ranges {
			for _, c := range r.Chunks {
				_, err := os.Stat(filepath.Join("testdata/golden", filepath.FromSlash(format.ChunkKey("shop", c.SHA256))))
				require.NoError(t, err)
			}
		}
	}
	require.Len(t, tables, 14)
	require.EqualValues(t, 1276, m.Totals.Rows)
	require.Len(t, tables["long"].Ranges, 2)
	require.EqualValues(t, 1200, tables["long"].Rows)
	require.Equal(t, &format.Name{Schema: "public", Name: "hashed"}, tables["hashed_0"].Root)
	require.Empty(t, tables["nothing"].Columns)
	require.NotContains(t, tables["everything"].Columns, "doubled")
}

// docs/format.md is what strangers write readers by.
func TestTheDocumentIsOfThisFormat(t *testing.T) {
	data, err := os.ReadFile("../../docs/format.md")
	require.NoError(t, err)
	text := string(data)
	var fields func(of reflect.Type)
	seen := make(map[reflect.Type]bool)
	fields = func(of reflect.Type) {
		for of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct || of.PkgPath() != reflect.TypeFor[format.Manifest]().PkgPath() || seen[of] {
			return
		}
		seen[of] = true
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			require.NotEmpty(t, name)
			require.Contains(t, text, "`"+name+"`", "of %s", of)
			fields(of.Field(i).Type)
		}
	}
	fields(reflect.TypeFor[format.Manifest]())
	fields(reflect.TypeFor[format.Index]())
	require.Len(t, seen, 21, "every part of a manifest was looked at")

	var both rowhash.Sum
	for _, row := range []string{"1\tone", "2\t\\N"} {
		var one rowhash.Sum
		one.Add([]byte(row))
		both.Add([]byte(row))
		require.Contains(t, text, one.Hex())
	}
	require.Contains(t, text, "| both: their sum | `"+both.Hex()+"` |")
	var empty rowhash.Sum
	empty.Add(nil)
	require.Contains(t, text, "| an empty line | `"+empty.Hex()+"` |")

	require.Contains(t, text, "multiples of 262,144")
	require.Equal(t, 262144, format.LargeObjectPiece)
	require.Equal(t, []int{256 << 20, 1 << 30, 16 << 20, 1 << 20}, []int{format.MaxManifest, format.MaxChunk, format.MaxFile, int(format.MaxStored(0))}, "the document names these limits")
	require.True(t, regexp.MustCompile("(?m)^\\{\"upkeep\":\"backup\",\"format\":1,\"sha256\":\"<64 hex digits>\",\"manifest\":<the manifest>\\}$").MatchString(text))
}

// The document says at which bytes the parts of a manifest's file stand; restore.sh counts on it.
func TestTheEnvelopeStandsWhereItIsSaidTo(t *testing.T) {
	m := sample(t)
	data, err := format.Encode(m)
	require.NoError(t, err)
	require.Equal(t, `,"sha256":"`, string(data[29:40]))
	require.Regexp(t, "^[0-9a-f]{64}$", string(data[40:104]))
	require.Equal(t, `","manifest":{"format":1,`, string(data[104:129]))
	require.Equal(t, "}}\n", string(data[len(data)-3:]))
}
