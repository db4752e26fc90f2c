package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// members are the contents of an archive, by name; links and folders have none.
func members(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	found := map[string]string{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		found[header.Name] = string(content) + header.Linkname
	}
}

func TestAnImageHoldsWhatWasPutIntoIt(t *testing.T) {
	folder := t.TempDir()
	program := filepath.Join(folder, "program")
	if err := os.WriteFile(program, []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	var archives [2]string
	for n := range archives {
		i := New("upkeep.test/it:dev", "/bin/it")
		if err := i.File("/bin/it", program); err != nil {
			t.Fatal(err)
		}
		i.Link("/bin/also", "it")
		i.Text("/etc/deep/down", "words", 0o600)
		out := filepath.Join(folder, "out.tar")
		if err := i.Write(out); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		archives[n] = string(content)
	}
	if archives[0] != archives[1] {
		t.Error("the same content gave two archives")
	}
	archive := members(t, strings.NewReader(archives[0]))
	var manifest []struct{ Config, RepoTags, Layers any }
	if err := json.Unmarshal([]byte(archive["manifest.json"]), &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("manifest %s: %v", archive["manifest.json"], err)
	}
	sum := sha256.Sum256([]byte(archive["layer.tar"]))
	if !strings.Contains(archive["config.json"], hex.EncodeToString(sum[:])) {
		t.Error("the configuration does not name the layer's digest")
	}
	layer := members(t, bytes.NewReader([]byte(archive["layer.tar"])))
	for name, want := range map[string]string{"bin/it": "a program", "bin/also": "it", "etc/deep/down": "words", "etc/deep/": ""} {
		if got, there := layer[name]; !there || got != want {
			t.Errorf("%s holds %q (there: %t), not %q", name, got, there, want)
		}
	}
}
