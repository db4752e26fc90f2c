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
	//go:embed guide/restore.sh
	guideScript string
)

// writeGuide writes RESTORE.md and restore.sh into the backup's folder.
func writeGuide(ctx context.Context, store objstore.Store, m *format.Manifest) ([]format.File, error) {
	var files []format.File
	for _, f := range []struct{ name, text string }{
		{"RESTORE.md", strings.NewReplacer("{{backup}}", m.Backup, "{{target}}", m.Target).Replace(guideText)},
		{"restore.sh", guideScript},
	} {
		key := format.BackupKey(m.Target, m.Backup, f.name)
		sum := sha256.Sum256([]byte(f.text))
		// A twin of another version may have written its own; the manifest says which one counts.
		if err := store.Create(ctx, key, []byte(f.text)); errors.Is(err, objstore.ErrExist) {
			if err := store.Replace(ctx, key, []byte(f.text)); err != nil {
				return nil, err
			}
		} else if err != nil {
			return nil, err
		}
		files = append(files, format.File{Name: f.name, Size: int64(len(f.text)), SHA256: hex.EncodeToString(sum[:])})
	}
	return files, nil
}
