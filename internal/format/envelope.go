package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// MaxManifest bounds a manifest's file, in bytes.
const MaxManifest = 256 << 20

// envelope is what the manifest's file holds: the manifest and the checksum of its bytes.
type envelope struct {
	Upkeep   string          `json:"upkeep"`
	Format   int             `json:"format"`
	SHA256   string          `json:"sha256"`
	Manifest json.RawMessage `json:"manifest"`
}

// Encode writes a manifest's file: pure ASCII, so that any database's encoding can read it. That of a
// sealed backup is not for the store as it is, but for EncodeSealed.
func Encode(m *Manifest) ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("encode the manifest: %w", err)
	}
	return enclose(m.Format, m)
}

// enclose puts a manifest, or what stands in its place, into its envelope.
func enclose(format int, m any) ([]byte, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode the manifest: %w", err)
	}
	if replaced(raw) {
		return nil, failure.New(failure.UnsupportedName, "a name or a text in the catalog is not valid in UTF-8, so the manifest cannot hold it").
			Do("rename what has a name of other bytes; a database in SQL_ASCII can hold such names")
	}
	raw = ascii(raw)
	sum := sha256.Sum256(raw)
	var out bytes.Buffer
	out.WriteString(head(format, hex.EncodeToString(sum[:])))
	out.Write(raw)
	out.WriteString(tail)
	if out.Len() > MaxManifest {
		return nil, failure.New(failure.Internal, "the manifest has %d bytes, more than %d", out.Len(), MaxManifest)
	}
	return out.Bytes(), nil
}

// head and tail are what stands around the manifest.
func head(format int, sum string) string {
	return fmt.Sprintf(`{"upkeep":"backup","format":%d,"sha256":%q,"manifest":`, format, sum)
}

const tail = "}\n"

// replaced reports whether the JSON encoder has put its replacement, which it writes as an escape, in
// the place of bytes that are no text. A true U+FFFD it writes as it is.
func replaced(raw []byte) bool {
	mark := []byte(`\ufffd`)
	for at := bytes.Index(raw, mark); at >= 0; at = bytes.Index(raw, mark) {
		before := len(raw[:at]) - len(bytes.TrimRight(raw[:at], `\`))
		if before%2 == 0 { // otherwise the backslash is itself escaped
			return true
		}
		raw = raw[at+len(mark):]
	}
	return false
}

// ascii escapes what is not ASCII; in JSON it can only stand inside strings.
func ascii(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for len(raw) > 0 {
		if raw[0] < utf8.RuneSelf {
			out, raw = append(out, raw[0]), raw[1:]
			continue
		}
		r, n := utf8.DecodeRune(raw)
		raw = raw[n:]
		if r > 0xFFFF {
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xD800+(r>>10), 0xDC00+(r&0x3FF))
		} else {
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// Decode reads the file of a plain backup's manifest and believes nothing in it: the checksum, the names
// that it must have by its place in the store, and every number that others rely on. Any bit of the file
// that is not as it was written is an error.
func Decode(data []byte, target, backup string) (*Manifest, error) {
	return decode(data, target, backup, Plain)
}

// damaged is the failure of a manifest.
func damaged(target, backup, format string, args ...any) error {
	return failure.New(failure.BackupDamaged, "%s: %s", ManifestKey(target, backup), fmt.Sprintf(format, args...)).
		Do("use another backup; this one cannot be trusted")
}

func decode(data []byte, target, backup string, format int) (*Manifest, error) {
	m := new(Manifest)
	if err := open(data, target, backup, format, m); err != nil {
		return nil, err
	}
	if m.Format != format || m.Backup != backup || m.Target != target {
		return nil, damaged(target, backup, "it is the manifest of backup %.120q of target %.120q in format %d", m.Backup, m.Target, m.Format)
	}
	if err := m.validate(); err != nil {
		return nil, damaged(target, backup, "%v", err)
	}
	return m, nil
}

// open takes a manifest, or what stands in its place, out of its envelope.
func open(data []byte, target, backup string, format int, into any) error {
	if newer := newerFormat(data); newer > 0 {
		return failure.New(failure.FormatTooNew, "%s is in format %d, and this Upkeep reads up to %d", ManifestKey(target, backup), newer, newest).
			Do("use a newer Upkeep")
	}
	var e envelope
	if err := strict(data, &e); err != nil {
		return damaged(target, backup, "not a manifest (%.200v)", err)
	}
	sum := sha256.Sum256(e.Manifest)
	if hex.EncodeToString(sum[:]) != e.SHA256 {
		return damaged(target, backup, "its checksum is wrong")
	}
	before := head(format, e.SHA256)
	if len(data) != len(before)+len(e.Manifest)+len(tail) || !bytes.HasPrefix(data, []byte(before)) || !bytes.HasSuffix(data, []byte(tail)) {
		return damaged(target, backup, "the bytes around the manifest are not what was written")
	}
	if err := strict(e.Manifest, into); err != nil {
		return damaged(target, backup, "not a manifest (%.200v)", err)
	}
	return nil
}

// newerFormat returns the format of a manifest that a newer Upkeep wrote, which may have fields that
// are unknown here, and 0 for any other file. Envelope and manifest must say the same, so that a
// flipped bit is not taken for news.
func newerFormat(data []byte) int {
	var e struct {
		Format   int
		Manifest struct{ Format int }
	}
	if json.Unmarshal(data, &e) != nil || e.Format <= newest || e.Manifest.Format != e.Format {
		return 0
	}
	return e.Format
}

// strict decodes one JSON value with known fields and nothing after it.
func strict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if rest := bytes.TrimSpace(data[d.InputOffset():]); len(rest) > 0 {
		return fmt.Errorf("%d bytes after the end", len(rest))
	}
	return nil
}
