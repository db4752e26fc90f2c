package objstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
)

var (
	pointCreateBefore  = fault.NewPoint("store/create/before")
	pointCreateWritten = fault.NewPoint("store/create/written")
	pointCreateAfter   = fault.NewPoint("store/create/after")
	pointDeleteBefore  = fault.NewPoint("store/delete/before")
	pointDeleteAfter   = fault.NewPoint("store/delete/after")
	pointMoveBefore    = fault.NewPoint("store/move/before")
	pointMoveAfter     = fault.NewPoint("store/move/after")
)

const (
	// temporaryPrefix begins the names of files that are being written. They are never objects.
	temporaryPrefix = ".upkeep-tmp-"
	// staleAfter is how old a temporary file must be to be taken for a dead writer's.
	staleAfter = 24 * time.Hour
)

// folder is a store in a folder. Every path is resolved inside an os.Root, so neither a key nor a
// symbolic link leads out of it.
type folder struct {
	path string
	root *os.Root
}

func openFolder(dir string) (Store, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, classifyFile(err, dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, classifyFile(err, dir)
	}
	return &folder{path: dir, root: root}, nil
}

func (f *folder) Close() error { return f.root.Close() }

func (f *folder) URL(key string) string {
	return "file://" + filepath.ToSlash(filepath.Join(f.path, filepath.FromSlash(key)))
}

func (f *folder) Create(ctx context.Context, key string, data []byte) error {
	return f.put(ctx, key, func(dir *os.File) error {
		file, err := unnamed(dir)
		if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EISDIR) {
			return f.createNamed(dir, key, data) // a file system without unnamed files, such as NFS
		}
		if err != nil {
			return err
		}
		if err := fill(file, data); err != nil {
			return errors.Join(err, file.Close())
		}
		pointCreateWritten.Hit()
		// A link to an existing name fails, whoever made it: an atomic create-if-absent, and a
		// writer that dies before it leaves nothing behind.
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", file.Fd()), int(dir.Fd()), path.Base(key), unix.AT_SYMLINK_FOLLOW)
		return errors.Join(err, file.Close())
	})
}

// unnamed makes a file without a name in the folder; the kernel frees it with its last descriptor.
func unnamed(dir *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "unnamed"), nil
}

func (f *folder) createNamed(_ *os.File, key string, data []byte) error {
	return f.withTemporary(key, data, func(tmp string) error {
		if err := f.root.Link(tmp, key); err != nil {
			return err
		}
		return f.root.Remove(tmp)
	})
}

func (f *folder) Replace(ctx context.Context, key string, data []byte) error {
	return f.put(ctx, key, func(*os.File) error {
		return f.withTemporary(key, data, func(tmp string) error { return f.root.Rename(tmp, key) })
	})
}

// put makes an object by the given means and makes its name durable.
func (f *folder) put(ctx context.Context, key string, write func(dir *os.File) error) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	parent := path.Dir(key)
	if err := f.makeFolders(parent); err != nil {
		return classifyFile(err, f.URL(key))
	}
	dir, err := f.root.Open(parent)
	if err != nil {
		return classifyFile(err, f.URL(key))
	}
	defer func() { _ = dir.Close() }()
	pointCreateBefore.Hit()
	err = write(dir)
	if errors.Is(err, fs.ErrExist) {
		return ErrExist
	}
	if err == nil {
		err = dir.Sync()
	}
	if err != nil {
		return classifyFile(err, f.URL(key))
	}
	pointCreateAfter.Hit()
	return nil
}

// withTemporary writes a durable temporary file beside the object and hands on its name.
func (f *folder) withTemporary(key string, data []byte, name func(tmp string) error) (err error) {
	tmp := path.Join(path.Dir(key), temporaryPrefix+suffix())
	file, err := f.root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.root.Remove(tmp)
		}
	}()
	if err = errors.Join(fill(file, data), file.Close()); err != nil {
		return err
	}
	pointCreateWritten.Hit()
	return name(tmp)
}

func fill(file *os.File, data []byte) error {
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.Sync()
}

// makeFolders makes a folder and those above it, each durable in its parent.
func (f *folder) makeFolders(dir string) error {
	if dir == "." {
		return nil
	}
	if st, err := f.root.Stat(dir); err == nil && st.IsDir() {
		f.sweep(dir)
		return nil
	}
	if err := f.makeFolders(path.Dir(dir)); err != nil {
		return err
	}
	if err := f.root.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return f.sync(path.Dir(dir))
}

// sweep removes what a dead writer left in the folder of a backup or a run. Chunk folders are many
// and large; they are swept when the store is listed.
func (f *folder) sweep(dir string) {
	if strings.Contains(dir, "/chunks/") {
		return
	}
	entries, err := fs.ReadDir(f.root.FS(), dir)
	if err != nil {
		return // only tidying
	}
	for _, e := range entries {
		f.removeStale(path.Join(dir, e.Name()), e)
	}
}

func (f *folder) removeStale(name string, e fs.DirEntry) bool {
	if !strings.HasPrefix(e.Name(), temporaryPrefix) {
		return false
	}
	if st, err := e.Info(); err == nil && time.Since(st.ModTime()) > staleAfter {
		_ = f.root.Remove(name) // another sweeper may have been faster
	}
	return true
}

// sync makes a folder's names durable.
func (f *folder) sync(dir string) error {
	d, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closed := d.Close(); err == nil {
		err = closed
	}
	return err
}

func (f *folder) Read(ctx context.Context, key string, limit int64) ([]byte, error) {
	file, err := f.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return readAll(file, key, limit)
}

func readAll(r io.Reader, key string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, failure.New(failure.StoreUnreachable, "could not read %s", key).Because(err).Do("see to the store")
	}
	if int64(len(data)) > limit {
		return nil, failure.New(failure.UnsafeArchive, "%s has more than %d bytes", key, limit).Do("it is not what Upkeep writes; do not trust it")
	}
	return data, nil
}

func (f *folder) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	file, err := f.root.Open(key)
	if err != nil {
		return nil, classifyFile(err, f.URL(key))
	}
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		_ = file.Close()
		return nil, fmt.Errorf("%s is not a file: %w", key, ErrNotExist)
	}
	return file, nil
}

func (f *folder) Stat(ctx context.Context, key string) (Info, error) {
	if err := checkKey(key); err != nil {
		return Info{}, err
	}
	st, err := f.root.Stat(key)
	if err != nil {
		return Info{}, classifyFile(err, f.URL(key))
	}
	if !st.Mode().IsRegular() {
		return Info{}, ErrNotExist
	}
	return Info{Key: key, Size: st.Size(), ModTime: st.ModTime()}, nil
}

func (f *folder) List(ctx context.Context, prefix string, each func(Info) error) error {
	start := path.Dir(prefix + "x") // the deepest folder that the prefix names whole
	var found []Info
	err := fs.WalkDir(f.root.FS(), start, func(name string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone meanwhile, or nothing there yet
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case e.IsDir() || f.removeStale(name, e) || !strings.HasPrefix(name, prefix) || !e.Type().IsRegular():
			return nil
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			found = append(found, Info{Key: name, Size: st.Size(), ModTime: st.ModTime()})
		}
		return err
	})
	if err != nil {
		return classifyFile(err, f.URL(prefix))
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Key < found[j].Key })
	for _, info := range found {
		if err := each(info); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) Move(_ context.Context, from, to string) error {
	if err := errors.Join(checkKey(from), checkKey(to)); err != nil {
		return err
	}
	if err := f.makeFolders(path.Dir(to)); err != nil {
		return classifyFile(err, f.URL(to))
	}
	pointMoveBefore.Hit()
	if err := f.root.Rename(from, to); err != nil {
		return classifyFile(err, f.URL(from))
	}
	if err := errors.Join(f.sync(path.Dir(to)), f.sync(path.Dir(from))); err != nil {
		return classifyFile(err, f.URL(to))
	}
	pointMoveAfter.Hit()
	return nil
}

func (f *folder) Delete(_ context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	pointDeleteBefore.Hit()
	if err := f.root.Remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return classifyFile(err, f.URL(key))
	}
	pointDeleteAfter.Hit()
	return f.sync(path.Dir(key))
}

func suffix() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// classifyFile turns an error of the file system into one of the catalogue.
func classifyFile(err error, what string) error {
	fail := func(code failure.Code, format string) *failure.Error {
		var pathErr *fs.PathError
		cause := err
		if errors.As(err, &pathErr) {
			cause = pathErr.Err
		}
		return failure.New(code, format, what).Because(cause)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", what, ErrNotExist)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return fail(failure.DiskFull, "no space to write %s").Do("free space on the store's disk, then resume the run")
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EXDEV):
		return fail(failure.StoreUnwritable, "could not use %s").Do("give the worker's user the right to read and write the store's folder, then resume the run")
	}
	return fail(failure.StoreUnreachable, "could not use %s").Do("see to the store's disk")
}
