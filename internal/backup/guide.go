package backup

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// The guide by which a backup is brought back without Upkeep. The text and the script are the same
// for every backup of one version of Upkeep but for the names, so writing them twice is harmless.
var (
	//go:embed guide/RESTORE.md
	guideText string
	//go:embed guide/RESTORE-sealed.md
	guideSealed string
	//go:embed guide/restore.sh
	guideScript string
)

// writeGuide writes RESTORE.md and restore.sh into the backup's folder. In a folder that has a manifest
// it changes nothing: the manifest vouches for what is there.
func writeGuide(ctx context.Context, store objstore.Store, m *format.Manifest) ([]format.File, error) {
	text := guideText
	if m.Format == format.Sealed {
		text = guideSealed
	}
	var files []format.File
	for _, f := range []struct{ name, text string }{
		{"RESTORE.md", strings.NewReplacer("{{backup}}", m.Backup, "{{target}}", m.Target).Replace(text)},
		{"restore.sh", guideScript},
	} {
		key := format.BackupKey(m.Target, m.Backup, f.name)
		sum := sha256.Sum256([]byte(f.text))
		err := store.Create(ctx, key, []byte(f.text))
		if errors.Is(err, objstore.ErrExist) {
			// A twin of another version may have written its own, and may have taken the backup since.
			_, err = store.Stat(ctx, format.ManifestKey(m.Target, m.Backup))
			if errors.Is(err, objstore.ErrNotExist) {
				err = store.Replace(ctx, key, []byte(f.text))
			}
		}
		if err != nil {
			return nil, err
		}
		files = append(files, format.File{Name: f.name, Size: int64(len(f.text)), SHA256: hex.EncodeToString(sum[:])})
	}
	return files, nil
}
