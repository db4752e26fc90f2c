package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
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

// Encode writes a manifest's file: pure ASCII, so that any database's encoding can read it.
func Encode(m *Manifest) ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("encode the manifest: %w", err)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode the manifest: %w", err)
	}
	raw = ascii(raw)
	sum := sha256.Sum256(raw)
	var out bytes.Buffer
	fmt.Fprintf(&out, `{"upkeep":"backup","format":%d,"sha256":%q,"manifest":`, m.Format, hex.EncodeToString(sum[:]))
	out.Write(raw)
	out.WriteString("}\n")
	if out.Len() > MaxManifest {
		return nil, failure.New(failure.Internal, "the manifest has %d bytes, more than %d", out.Len(), MaxManifest)
	}
	return out.Bytes(), nil
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

// Decode reads a manifest's file and believes nothing in it: the checksum, the names that it must
// have by its place in the store, and every number that others rely on.
func Decode(data []byte, target, backup string) (*Manifest, error) {
	key := ManifestKey(target, backup)
	damaged := func(format string, args ...any) error {
		return failure.New(failure.BackupDamaged, "%s: %s", key, fmt.Sprintf(format, args...)).
			Do("use another backup; this one cannot be trusted")
	}
	var e envelope
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return nil, damaged("not a manifest (%v)", err)
	}
	if rest := data[d.InputOffset():]; strings.TrimSpace(string(rest)) != "" {
		return nil, damaged("%d bytes after the end", len(rest))
	}
	if e.Upkeep != "backup" {
		return nil, damaged("not the manifest of a backup")
	}
	if e.Format > Version {
		return nil, failure.New(failure.FormatTooNew, "%s is in format %d, and this Upkeep reads up to %d", key, e.Format, Version).
			Do("use a newer Upkeep")
	}
	sum := sha256.Sum256(e.Manifest)
	if hex.EncodeToString(sum[:]) != e.SHA256 {
		return nil, damaged("its checksum is wrong")
	}
	m := new(Manifest)
	d = json.NewDecoder(bytes.NewReader(e.Manifest))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, damaged("not a manifest (%v)", err)
	}
	if m.Format != e.Format || m.Backup != backup || m.Target != target {
		return nil, damaged("it is the manifest of backup %q of target %q in format %d", m.Backup, m.Target, m.Format)
	}
	if err := m.validate(); err != nil {
		return nil, damaged("%v", err)
	}
	return m, nil
}
