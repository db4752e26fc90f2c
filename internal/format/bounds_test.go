package format_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
)

// What somebody could put in a manifest's place to make its reader work without end or run out of
// memory: it is refused, or read, in time and memory that grow as the file does.
func TestManifestsThatAreMeantToHurtAreBounded(t *testing.T) {
	const million = 1_000_000
	m := sample(t)
	whole, err := format.Encode(m)
	require.NoError(t, err)
	raw := string(whole[117 : len(whole)-2])
	list := func(field, item string) []byte {
		t.Helper()
		old := `"` + field + `":[]`
		require.Contains(t, raw, old)
		return seal(1, []byte(strings.Replace(raw, old, `"`+field+`":[`+item+strings.Repeat(","+item, million-1)+"]", 1)))
	}
	tables := func(item string) []byte {
		t.Helper()
		start := strings.Index(raw, `"tables":[`) + len(`"tables":[`)
		return seal(1, []byte(raw[:start]+strings.Repeat(item+",", million/10)+raw[start:]))
	}
	for name, c := range map[string]struct {
		data []byte
		says string // "" where it is read
	}{
		"a million texts":                {list("leftOut", `""`), ""},
		"many tables":                    {tables(`{}`), "no name, or no range"},
		"many tables of one name":        {tables(`{"schema":"s","name":"n"}`), "no name, or no range"},
		"a million fields":               {[]byte(`{"upkeep":"backup",` + strings.Repeat(`"x":1,`, million) + `"format":1}`), "unknown field"},
		"the same field a million times": {seal(1, []byte(`{`+strings.Repeat(`"format":1,`, million)+raw[1:])), ""},
		"a text of two million letters":  {seal(1, []byte(strings.Replace(raw, `"engine":"test"`, `"engine":"`+strings.Repeat("x", 2*million)+`"`, 1))), ""},
		"lists in lists":                 {bytes.Repeat([]byte("["), 2*million), "not a manifest"},
		"lists in lists in a manifest":   {seal(1, append(bytes.Repeat([]byte(`[`), million), bytes.Repeat([]byte(`]`), million)...)), "not a manifest"},
		"objects in objects":             {append(bytes.Repeat([]byte(`{"manifest":`), million), append([]byte("1"), bytes.Repeat([]byte("}"), million)...)...), "not a manifest"},
		"a number of a million digits":   {seal(1, []byte(strings.Replace(raw, `"versionNum":150018`, `"versionNum":1`+strings.Repeat("0", million), 1))), "not a manifest"},
		"a name of a million letters":    {seal(1, []byte(strings.Replace(raw, `"backup":"b1"`, `"backup":"`+strings.Repeat("b", million)+`"`, 1))), "it is the manifest of"},
		"an unknown name of a million":   {seal(1, []byte(`{"`+strings.Repeat("b", million)+`":1}`)), "unknown field"},
		"escapes":                        {bytes.Repeat([]byte(`\u`), million), "not a manifest"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		_, err := format.Decode(c.data, m.Target, m.Backup)
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		if c.says == "" {
			require.NoError(t, err, name)
		} else {
			require.True(t, failure.Is(err, failure.BackupDamaged), "%s: %v", name, err)
			require.ErrorContains(t, err, c.says, name)
			require.Less(t, len(err.Error()), 1000, name)
		}
		require.Less(t, took, time.Minute, name)
		allocated := int64(after.TotalAlloc - before.TotalAlloc)
		require.Less(t, allocated, 64<<20+int64(500*len(c.data)), "%s: %s allocated for %d bytes", name, fmt.Sprint(allocated), len(c.data))
	}
}

func TestWhatIsSaidOfAManifestIsShort(t *testing.T) {
	m := sample(t)
	m.Tables[0].Name, m.Tables[1].Schema = strings.Repeat("x", 1_000_000), strings.Repeat("y", 1_000_000)
	require.Len(t, m.Disagreements(), 4)
	for _, d := range m.Disagreements() {
		require.Less(t, len(d), 500)
	}
}
