package httpcache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/upkeep-run/upkeep/internal/objstore"
)

// Store keeps answers between runs. What it holds can be lost at any time. It is safe for use by several
// goroutines and processes.
type Store interface {
	// Get returns what is kept under a key, or nil.
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, data []byte) error
}

// maxEntry bounds what is kept of one answer.
const maxEntry = 8 << 20

// entry is a kept answer: what was distilled from it, and what is needed to ask whether it is still so.
type entry struct {
	URL      string    `json:"url"`
	Status   int       `json:"status"`
	ETag     string    `json:"etag,omitempty"`
	Modified string    `json:"modified,omitempty"`
	Asked    time.Time `json:"asked"` // when the server said so last
	Sum      string    `json:"sum"`   // of the payload, since files break
	payload  []byte
}

func (e entry) encode() []byte {
	sum := sha256.Sum256(e.payload)
	e.Sum = hex.EncodeToString(sum[:])
	head, _ := json.Marshal(e) // cannot fail: plain fields
	return append(append(head, '\n'), e.payload...)
}

// decode reads an entry; one that is damaged or another URL's is none.
func decode(data []byte, url string) *entry {
	head, payload, found := bytes.Cut(data, []byte{'\n'})
	var e entry
	if !found || json.Unmarshal(head, &e) != nil || e.URL != url {
		return nil
	}
	if sum := sha256.Sum256(payload); hex.EncodeToString(sum[:]) != e.Sum {
		return nil
	}
	e.payload = payload
	return &e
}

// Folder keeps answers as files of one person.
type Folder struct{ root *os.Root }

// OpenFolder makes the folder if there is none.
func OpenFolder(path string) (*Folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the cache: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open the cache: %w", err)
	}
	return &Folder{root}, nil
}

// UserFolder is where a person's answers are kept: in XDG_CACHE_HOME, or ~/.cache.
func UserFolder() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the folder for caches: %w", err)
	}
	return filepath.Join(dir, "upkeep", "lookups"), nil
}

// Close lets go of the folder.
func (f *Folder) Close() error { return f.root.Close() }

func (f *Folder) path(key string) string { return filepath.Join(key[:2], key[2:]) }

// Get implements Store.
func (f *Folder) Get(_ context.Context, key string) ([]byte, error) {
	file, err := f.root.Open(f.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer func() { _ = file.Close() }()
	var b bytes.Buffer
	if info, err := file.Stat(); err == nil {
		b.Grow(int(min(info.Size(), maxEntry)) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(io.LimitReader(file, maxEntry)); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return b.Bytes(), nil
}

// Put implements Store: a file is there whole or not at all.
func (f *Folder) Put(_ context.Context, key string, data []byte) error {
	dir := key[:2]
	if err := f.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a folder: %w", err)
	}
	temporary := filepath.Join(dir, fmt.Sprintf("%s.%d.new", key[2:], os.Getpid()))
	if err := f.root.WriteFile(temporary, data, 0o600); err != nil {
		_ = f.root.Remove(temporary)
		return fmt.Errorf("write: %w", err)
	}
	if err := f.root.Rename(temporary, f.path(key)); err != nil {
		_ = f.root.Remove(temporary)
		return fmt.Errorf("rename: %w", err)
	}
	return nil
}

// Tidy removes, at most once a day, what was written longer ago than keep.
func (f *Folder) Tidy(now time.Time, keep time.Duration) error {
	const mark = "tidied"
	if info, err := f.root.Stat(mark); err == nil && now.Sub(info.ModTime()) < 24*time.Hour {
		return nil
	}
	if err := f.root.WriteFile(mark, nil, 0o600); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	if err := f.root.Chtimes(mark, now, now); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	err := fs.WalkDir(f.root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == mark {
			return err
		}
		info, err := d.Info()
		if err == nil && now.Sub(info.ModTime()) > keep {
			err = f.root.Remove(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another process was faster
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("tidy the cache: %w", err)
	}
	return nil
}

// Objects keeps answers in an object store, under a prefix, for all workers.
type Objects struct {
	Store  objstore.Store
	Prefix string
}

// Get implements Store.
func (o Objects) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := o.Store.Read(ctx, o.Prefix+key, maxEntry)
	if errors.Is(err, objstore.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// Put implements Store.
func (o Objects) Put(ctx context.Context, key string, data []byte) error {
	return o.Store.Replace(ctx, o.Prefix+key, data)
}
