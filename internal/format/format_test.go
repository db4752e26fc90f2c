package format_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/format/formattest"
)

func sample(t testing.TB) *format.Manifest {
	t.Helper()
	return formattest.Manifest(t, formattest.Folder(t), "b1", formattest.At, formattest.Rows(3)...)
}

func TestEncodedIsDecoded(t *testing.T) {
	m := sample(t)
	data, err := format.Encode(m)
	require.NoError(t, err)
	for i, b := range data {
		require.True(t, b < utf8.RuneSelf && (b >= ' ' || i == len(data)-1), "byte %d is not plain ASCII", i)
	}
	require.Contains(t, string(data), `shop \ud83d\ude00`)
	got, err := format.Decode(data, m.Target, m.Backup)
	require.NoError(t, err)
	require.Equal(t, m, got)
	again, err := format.Encode(got)
	require.NoError(t, err)
	require.Equal(t, data, again)
}

func TestNamesThatAreNoText(t *testing.T) {
	for name, ok := range map[string]bool{"a\xffb": false, "\xc3": false, "\uFFFD is a letter too": true, `\ufffd`: true, `\\ufffd`: true, "ü\u2028<&>\U0001F600": true} {
		m := sample(t)
		m.Database.Comment = name
		data, err := format.Encode(m)
		if !ok {
			require.True(t, failure.Is(err, failure.UnsupportedName), "%q: %v", name, err)
			continue
		}
		require.NoError(t, err)
		got, err := format.Decode(data, m.Target, m.Backup)
		require.NoError(t, err)
		require.Equal(t, name, got.Database.Comment)
	}
}

// seal wraps a manifest's bytes as Encode does, with the right checksum.
func seal(version int, raw []byte) []byte {
	sum := sha256.Sum256(raw)
	return fmt.Appendf(nil, `{"upkeep":"backup","format":%d,"sha256":"%s","manifest":%s}`+"\n", version, hex.EncodeToString(sum[:]), raw)
}

func TestDecodeRefuses(t *testing.T) {
	m := sample(t)
	whole, err := format.Encode(m)
	require.NoError(t, err)
	raw := whole[bytes.Index(whole, []byte(`"manifest":`))+len(`"manifest":`) : len(whole)-2]
	require.Equal(t, whole, seal(1, raw))
	replace := func(old, by string) []byte {
		t.Helper()
		require.Contains(t, string(raw), old)
		return seal(1, bytes.Replace(raw, []byte(old), []byte(by), 1))
	}
	for name, c := range map[string]struct {
		data           []byte
		target, backup string
		code           failure.Code
		says           string
	}{
		"nothing":               {[]byte{}, "shop", "b1", failure.BackupDamaged, "not a manifest"},
		"half":                  {whole[:len(whole)/2], "shop", "b1", failure.BackupDamaged, "not a manifest"},
		"twice":                 {append(bytes.Clone(whole), whole...), "shop", "b1", failure.BackupDamaged, "after the end"},
		"a space more":          {append(bytes.Clone(whole), ' '), "shop", "b1", failure.BackupDamaged, "around the manifest"},
		"a field more":          {bytes.Replace(whole, []byte(`{`), []byte(`{"more":1,`), 1), "shop", "b1", failure.BackupDamaged, "more"},
		"a field more inside":   {replace(`{"format"`, `{"more":1,"format"`), "shop", "b1", failure.BackupDamaged, "more"},
		"of another target":     {whole, "other", "b1", failure.BackupDamaged, `target "shop"`},
		"of another backup":     {whole, "shop", "b2", failure.BackupDamaged, `backup "b1"`},
		"not of a backup":       {bytes.Replace(whole, []byte(`"backup"`), []byte(`"BACKUP"`), 1), "shop", "b1", failure.BackupDamaged, "around the manifest"},
		"another checksum":      {bytes.Replace(whole, []byte(`"engine":"test"`), []byte(`"engine":"tess"`), 1), "shop", "b1", failure.BackupDamaged, "checksum"},
		"a newer format":        {seal(3, []byte(`{"format":3,"newer":{}}`)), "shop", "b1", failure.FormatTooNew, "format 3"},
		"a newer envelope":      {[]byte(`{"upkeep":"backup","format":4,"newer":1,"manifest":{"format":4}}`), "shop", "b1", failure.FormatTooNew, "format 4"},
		"newer only outside":    {seal(3, raw), "shop", "b1", failure.BackupDamaged, "around the manifest"},
		"an older format":       {seal(0, raw), "shop", "b1", failure.BackupDamaged, "around the manifest"},
		"null":                  {[]byte("null\n"), "shop", "b1", failure.BackupDamaged, ""},
		"an empty manifest":     {seal(1, []byte("{}")), "shop", "b1", failure.BackupDamaged, ""},
		"a number out of range": {replace(`"versionNum":150018`, `"versionNum":1e99`), "shop", "b1", failure.BackupDamaged, "not a manifest"},
	} {
		_, err := format.Decode(c.data, c.target, c.backup)
		require.True(t, failure.Is(err, c.code), "%s: %v", name, err)
		require.ErrorContains(t, err, c.target+"/backups/"+c.backup+"/manifest.json", name)
		require.ErrorContains(t, err, c.says, name)
		f, _ := failure.As(err)
		require.NotEmpty(t, f.Remedy)
	}
}

// Whatever bit of the file is flipped, it is seen.
func TestDecodeSeesEveryBit(t *testing.T) {
	m := sample(t)
	data, err := format.Encode(m)
	require.NoError(t, err)
	for i := range data {
		for bit := range 8 {
			if bit > 0 && i > 400 && i%17 != 0 {
				continue // the manifest itself is under one checksum: a sample of its bits is enough
			}
			data[i] ^= 1 << bit
			_, err := format.Decode(data, m.Target, m.Backup)
			require.True(t, failure.Is(err, failure.BackupDamaged), "byte %d bit %d (%q): %v", i, bit, data[max(0, i-10):min(len(data), i+10)], err)
			data[i] ^= 1 << bit
		}
	}
}

// A manifest that lies under a right checksum is refused where others would rely on it.
func TestValidation(t *testing.T) {
	sum := strings.Repeat("a", 64)
	for name, change := range map[string]func(*format.Manifest){
		"another format":             func(m *format.Manifest) { m.Format = 2 },
		"an id that climbs":          func(m *format.Manifest) { m.Backup = "../b1" },
		"an empty id":                func(m *format.Manifest) { m.Backup = "" },
		"a target that climbs":       func(m *format.Manifest) { m.Target = ".." },
		"no time":                    func(m *format.Manifest) { m.SnapshotAt = time.Time{} },
		"no server version":          func(m *format.Manifest) { m.Server.VersionNum = 0 },
		"no block size":              func(m *format.Manifest) { m.Server.BlockSize = -8192 },
		"no encoding":                func(m *format.Manifest) { m.Database.Encoding = "" },
		"no checksum of the schema":  func(m *format.Manifest) { m.Schema.TextSHA256 = "" },
		"an archive that climbs":     func(m *format.Manifest) { m.Schema.Archive.SHA256 = "../../../../etc/passwd" },
		"upper case":                 func(m *format.Manifest) { m.Schema.Archive.SHA256 = strings.ToUpper(sum) },
		"a checksum and a newline":   func(m *format.Manifest) { m.Schema.Archive.SHA256 = sum + "\n" },
		"a huge archive":             func(m *format.Manifest) { m.Schema.Archive.Size = 1 << 40 },
		"a negative size":            func(m *format.Manifest) { m.Schema.Archive.Size = -1 },
		"nothing stored":             func(m *format.Manifest) { m.Schema.Archive.StoredSize = 0 },
		"stored larger than plain":   func(m *format.Manifest) { m.Schema.Archive.StoredSize = m.Schema.Archive.Size + 2<<20 },
		"an entry on no table":       func(m *format.Manifest) { m.Schema.PostData[0].Table = len(m.Tables) },
		"an entry before all tables": func(m *format.Manifest) { m.Schema.PostData[0].Table = -2 },
		"an entry without a number":  func(m *format.Manifest) { m.Schema.PostData[0].DumpID = 0 },
		"an unknown kind":            func(m *format.Manifest) { m.Schema.PostData[0].Kind = "trigger" },
		"a table twice":              func(m *format.Manifest) { m.Tables[1] = m.Tables[0] },
		"a table without a name":     func(m *format.Manifest) { m.Tables[1].Name = "" },
		"a table without ranges":     func(m *format.Manifest) { m.Tables[1].Ranges = nil },
		"a root without a name":      func(m *format.Manifest) { m.Tables[1].Root = &format.Name{Schema: "public"} },
		"a gap":                      func(m *format.Manifest) { m.Tables[0].Ranges[1].First++ },
		"not from the start":         func(m *format.Manifest) { m.Tables[1].Ranges[0].First = 1 },
		"not to the end":             func(m *format.Manifest) { m.Tables[0].Ranges[1].End = 2 },
		"an end in the middle":       func(m *format.Manifest) { m.Tables[0].Ranges[0].End = -1 },
		"a range backwards":          func(m *format.Manifest) { m.Tables[0].Ranges[0].End = 0 },
		"a chunk left out":           func(m *format.Manifest) { m.Tables[0].Ranges[1].Chunks = nil },
		"a chunk twice":              func(m *format.Manifest) { r := &m.Tables[0].Ranges[1]; r.Chunks = append(r.Chunks, r.Chunks[0]) },
		"rows that do not add up":    func(m *format.Manifest) { m.Tables[0].Rows++ },
		"bytes that do not add up":   func(m *format.Manifest) { m.Tables[0].Bytes-- },
		"a hash that does not add":   func(m *format.Manifest) { m.Tables[0].RowHash = m.Tables[1].RowHash },
		"a hash that is none":        func(m *format.Manifest) { m.Tables[0].Ranges[0].Chunks[0].RowHash = "x" },
		"more rows than bytes":       func(m *format.Manifest) { m.Tables[0].Ranges[0].Chunks[0].Rows = 1 << 40 },
		"a chunk without rows":       func(m *format.Manifest) { m.Tables[0].Ranges[0].Chunks[0].Rows = 0 },
		"large objects left out":     func(m *format.Manifest) { m.LargeObjects.Chunks = nil },
		"large objects below zero":   func(m *format.Manifest) { m.LargeObjects.Count = -1 },
		"a file that climbs":         func(m *format.Manifest) { m.Files[0].Name = "../../x" },
		"a file in a folder":         func(m *format.Manifest) { m.Files[0].Name = "a/b" },
		"a hidden file":              func(m *format.Manifest) { m.Files[0].Name = ".x" },
		"the manifest as a file":     func(m *format.Manifest) { m.Files[0].Name = "manifest.json" },
		"a file twice":               func(m *format.Manifest) { m.Files[1] = m.Files[0] },
		"a huge file":                func(m *format.Manifest) { m.Files[0].Size = 1 << 40 },
		"a file without a checksum":  func(m *format.Manifest) { m.Files[0].SHA256 = "" },
	} {
		m := sample(t)
		change(m)
		_, err := format.Encode(m)
		require.Error(t, err, name)
		raw, err := json.Marshal(m)
		require.NoError(t, err)
		_, err = format.Decode(seal(1, raw), m.Target, m.Backup)
		require.True(t, failure.Is(err, failure.BackupDamaged), "%s: %v", name, err)
	}
}

func TestDisagreements(t *testing.T) {
	require.Empty(t, sample(t).Disagreements())
	require.NoError(t, sample(t).Agrees())
	for says, change := range map[string]func(*format.Manifest){
		`"customers" has 6 rows and 5 were read`: func(m *format.Manifest) { m.Tables[0].Rows-- },
		`"empty" was not read`:                   func(m *format.Manifest) { m.Tables = append(m.Tables[:1], m.Tables[2:]...) },
		`the catalog has it not`:                 func(m *format.Manifest) { m.Census.Tables = m.Census.Tables[1:] },
		`pages and 1000 were to be read`:         func(m *format.Manifest) { m.Tables[0].Pages = 1000 },
		`was not read to its last page`:          func(m *format.Manifest) { r := m.Tables[0].Ranges; r[len(r)-1].End = 5 },
		`1 sequences and 0 were read`:            func(m *format.Manifest) { m.Sequences = nil },
		`2 large objects and 1 were read`:        func(m *format.Manifest) { m.LargeObjects.Count = 1 },
	} {
		m := sample(t)
		change(m)
		require.Len(t, m.Disagreements(), 1)
		require.Contains(t, m.Disagreements()[0], says)
		require.True(t, failure.Is(m.Agrees(), failure.BackupIncomplete))
		require.ErrorContains(t, m.Agrees(), says)
	}
}

func TestKeys(t *testing.T) {
	sum := strings.Repeat("0123456789abcdef", 4)
	require.Equal(t, "shop/backups/b1/manifest.json", format.ManifestKey("shop", "b1"))
	require.Equal(t, "shop/chunks/01/"+sum+".zst", format.ChunkKey("shop", sum))
	require.Equal(t, "shop/quarantine/"+sum+".fedcba9876543210", format.QuarantineKey("shop", sum, "fedcba98765432100000"))
	require.Equal(t, "shop/marks/b1.json", format.MarkKey("shop", "b1"))
	for key, id := range map[string]string{
		"shop/backups/b1/manifest.json": "b1", "shop/backups/b1/restore.sh": "", "shop/backups/b1/x/manifest.json": "", "shop/backups/manifest.json": "",
		"other/backups/b1/manifest.json": "", "shop/backups/.b/manifest.json": "", "shop/backups//manifest.json": "",
	} {
		got, ok := format.BackupOfManifest("shop", key)
		require.Equal(t, id != "", ok, key)
		if ok {
			require.Equal(t, id, got)
		}
	}
	for id, ok := range map[string]bool{"b1": true, "20261123T120000Z-0011": true, "": false, ".": false, "..": false, "a/b": false, "-a": false, "a b": false, "a\n": false, strings.Repeat("a", 101): false} {
		require.Equal(t, ok, format.ValidID(id), "%q", id)
	}
}

func TestTrendKeysAreInTheOrderOfTime(t *testing.T) {
	ended := time.Date(2026, 11, 23, 19, 15, 0, 5, time.FixedZone("there", 3600))
	key := format.TrendKey("shop", "DrillRecovery", ended, "../../a")
	require.Regexp(t, `^shop/trend/DrillRecovery/20261123T181500\.000000005Z-[0-9a-f]{16}\.json$`, key)
	require.Equal(t, key, format.TrendKey("shop", "DrillRecovery", ended.UTC(), "../../a"))
	require.Less(t, key, format.TrendKey("shop", "DrillRecovery", ended.Add(6), "a"))
	require.NotEqual(t, key, format.TrendKey("shop", "DrillRecovery", ended, "a"))
	for k, is := range map[string]bool{
		key: true, key + "x": false, "x" + key: false, "shop/trend/DrillRecovery/": false, "shop/trend/DrillRecovery/x.json": false,
		strings.Replace(key, "DrillRecovery/", "DrillRecovery/a/", 1): false, strings.Replace(key, "shop", "other", 1): false,
	} {
		require.Equal(t, is, format.IsTrendKey("shop", "DrillRecovery", k), k)
	}
}

func TestAProbeIsNoTargets(t *testing.T) {
	require.Equal(t, "_probe-box%2Eexample", format.ProbeKey("box.example"))
	require.False(t, format.ValidID(format.ProbeKey("box")), "no target is named so")
}

func TestRunKeysNeverMeet(t *testing.T) {
	ids := []string{
		"drill-recovery-shop-1", "a/b", "a%2Fb", "a b", "..", ".", "", "ü", "a\x00b", "A", "a",
		strings.Repeat("x", 200), strings.Repeat("x", 201), strings.Repeat("x", 202), strings.Repeat("/", 500), strings.Repeat("/", 501),
	}
	seen := map[string]string{}
	for _, id := range ids {
		key := format.RunKey(id, "run.json")
		require.Empty(t, seen[key], "%q and %q", id, seen[key])
		seen[key] = id
		require.Equal(t, 2, strings.Count(key, "/"), key)
		require.Less(t, len(key), 230)
		require.NotContains(t, key, "/.")
	}
	require.Equal(t, "runs/drill-recovery-shop-1/run.json", format.RunKey("drill-recovery-shop-1", "run.json"))
}

// FuzzDecode: whatever is read, there is no panic, and what is accepted is exactly what was written.
func FuzzDecode(f *testing.F) {
	m := sample(f)
	data, err := format.Encode(m)
	require.NoError(f, err)
	f.Add(data)
	f.Add([]byte(`{"upkeep":"backup","format":1,"sha256":"","manifest":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := format.Decode(data, m.Target, m.Backup)
		if err != nil {
			if _, ok := failure.As(err); !ok {
				t.Fatalf("an error that nobody can act on: %v", err)
			}
			return
		}
		if _, err := format.Encode(got); err != nil {
			t.Fatalf("accepted, and cannot be written: %v", err)
		}
	})
}

// FuzzValidate gives the manifest a right checksum, so that what it says is looked at.
func FuzzValidate(f *testing.F) {
	m := sample(f)
	whole, err := format.Encode(m)
	require.NoError(f, err)
	f.Add(whole[bytes.Index(whole, []byte(`"manifest":`))+len(`"manifest":`) : len(whole)-2])
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := format.Decode(seal(1, raw), m.Target, m.Backup)
		if err != nil {
			return
		}
		for _, c := range got.Chunks() {
			if key := format.ChunkKey(m.Target, c.SHA256); strings.Contains(key, "..") || c.Size < 0 || c.Size > format.MaxChunk {
				t.Fatalf("accepted the chunk %q", key)
			}
		}
		for _, r := range got.Tables {
			if len(r.Ranges) == 0 || r.Ranges[len(r.Ranges)-1].End != -1 {
				t.Fatalf("accepted a table that is not covered")
			}
		}
	})
}
