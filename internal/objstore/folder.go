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
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upkeep-run/upkeep/internal/failure"
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
	path    string
	root    *os.Root
	escapes error       // what the root says of a path that leads out of it
	named   atomic.Bool // the file system was found to have no unnamed files
	durable sync.Map    // folders whose names this store has synced
}

func openFolder(dir string) (Store, error) {
	if err := makeDurable(dir); err != nil {
		return nil, classifyFile(err, dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, classifyFile(err, dir)
	}
	f := &folder{path: dir, root: root, escapes: errors.ErrUnsupported}
	var outside *fs.PathError
	if _, err := root.Stat(".."); errors.As(err, &outside) {
		f.escapes = outside.Err
	}
	return f, nil
}

// makeDurable makes the store's own folder and those above it, each durable in its parent.
func makeDurable(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := makeDurable(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(parent)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *folder) Close() error { return f.root.Close() }

func (f *folder) URL(key string) string {
	return "file://" + filepath.ToSlash(filepath.Join(f.path, filepath.FromSlash(key)))
}

func (f *folder) Create(ctx context.Context, key string, data []byte) error {
	return f.put(ctx, key, pointsCreate, func(dir *os.File) error {
		file, err := f.unnamed(dir, data)
		if errors.Is(err, errNamed) {
			return f.withTemporary(key, data, pointsCreate, func(tmp string) error {
				return errors.Join(f.root.Link(tmp, key), f.root.Remove(tmp))
			})
		}
		if err != nil {
			return err
		}
		pointsCreate.written.Hit()
		// A link to an existing name fails, whoever made it: an atomic create-if-absent, and a
		// writer that dies before it leaves nothing behind.
		return errors.Join(link(file, dir, path.Base(key)), file.Close())
	})
}

// Replace gives the new file a temporary name only for the instant between two system calls, so a
// writer that dies leaves nothing but by the rarest chance, and that is swept later.
func (f *folder) Replace(ctx context.Context, key string, data []byte) error {
	return f.put(ctx, key, pointsReplace, func(dir *os.File) error {
		file, err := f.unnamed(dir, data)
		if errors.Is(err, errNamed) {
			return f.withTemporary(key, data, pointsReplace, func(tmp string) error { return f.root.Rename(tmp, key) })
		}
		if err != nil {
			return err
		}
		pointsReplace.written.Hit()
		tmp := temporaryPrefix + suffix()
		if err := errors.Join(link(file, dir, tmp), file.Close()); err != nil {
			return err
		}
		if err := unix.Renameat(int(dir.Fd()), tmp, int(dir.Fd()), path.Base(key)); err != nil {
			return errors.Join(err, unix.Unlinkat(int(dir.Fd()), tmp, 0))
		}
		return nil
	})
}

// errNamed says that the file system has no unnamed files.
var errNamed = errors.New("no unnamed files")

// unnamed makes a durable file without a name in the folder's file system; the kernel frees it with
// its last descriptor. Some file systems, such as NFS, have none: errNamed.
func (f *folder) unnamed(dir *os.File, data []byte) (*os.File, error) {
	if f.named.Load() {
		return nil, errNamed
	}
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o640)
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EISDIR) {
		f.named.Store(true)
		return nil, errNamed
	}
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "unnamed")
	if err := fill(file, data); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// link gives an unnamed file a name in the folder.
func link(file, dir *os.File, name string) error {
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", file.Fd()), int(dir.Fd()), name, unix.AT_SYMLINK_FOLLOW)
}

// withTemporary writes a durable temporary file beside the object and hands on its name.
func (f *folder) withTemporary(key string, data []byte, points effect, name func(tmp string) error) (err error) {
	tmp := path.Join(path.Dir(key), temporaryPrefix+suffix())
	file, err := f.root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	if err = errors.Join(fill(file, data), file.Close()); err == nil {
		points.written.Hit()
		err = name(tmp)
	}
	if err != nil {
		_ = f.root.Remove(tmp) // it may be gone; the first error counts
	}
	return err
}

// put makes an object by the given means and makes its name durable.
func (f *folder) put(ctx context.Context, key string, points effect, write func(dir *os.File) error) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	parent := path.Dir(key)
	if err := f.makeFolders(parent); err != nil {
		return f.classifyWrite(err, key)
	}
	dir, err := f.root.Open(parent)
	if err != nil {
		return f.classifyWrite(err, key)
	}
	defer func() { _ = dir.Close() }()
	points.before.Hit()
	err = write(dir)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", f.URL(key), ErrExist)
	}
	if err == nil {
		err = dir.Sync()
	}
	if err != nil {
		return f.classifyWrite(err, key)
	}
	points.after.Hit()
	return nil
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
	st, err := f.root.Stat(dir)
	there := err == nil && st.IsDir()
	if there {
		f.sweep(dir)
		if _, synced := f.durable.Load(dir); synced {
			return nil
		}
	}
	if err := f.makeFolders(path.Dir(dir)); err != nil {
		return err
	}
	if !there {
		if err := f.root.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	// Also of a folder that is there: whoever made it may not have come to this.
	if err := f.sync(path.Dir(dir)); err != nil {
		return err
	}
	f.durable.Store(dir, true)
	return nil
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

func (f *folder) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Without O_NONBLOCK a named pipe in a file's place would be waited for without end.
	file, err := f.root.OpenFile(key, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, f.classify(err, key)
	}
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		_ = file.Close()
		return nil, fmt.Errorf("%s is not a file: %w", key, ErrNotExist)
	}
	return &openFile{folder: f, key: key, file: file}, nil
}

// openFile is a file whose read errors are classified.
type openFile struct {
	folder *folder
	key    string
	file   *os.File
}

func (o *openFile) Read(p []byte) (int, error) {
	n, err := o.file.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = o.folder.classify(err, o.key)
	}
	return n, err
}

func (o *openFile) Close() error { return o.file.Close() }

func (f *folder) Stat(ctx context.Context, key string) (Info, error) {
	if err := checkKey(key); err != nil {
		return Info{}, err
	}
	st, err := f.root.Stat(key)
	if err != nil {
		return Info{}, f.classify(err, key)
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
		case e.IsDir() && name != "." && !strings.HasPrefix(name+"/", prefix) && !strings.HasPrefix(prefix, name+"/"):
			return fs.SkipDir // nothing in it has the prefix
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
		return f.classify(err, prefix)
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Key < found[j].Key })
	for _, info := range found {
		if err := each(info); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) Delete(_ context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	pointsDelete.before.Hit()
	err := f.root.Remove(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = f.sync(path.Dir(key))
	}
	if err != nil {
		return f.classify(err, key)
	}
	pointsDelete.after.Hit()
	return nil
}

func suffix() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// classifyWrite is classify where only the store's own folders can be missing.
func (f *folder) classifyWrite(err error, key string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return failure.New(failure.StoreUnwritable, "the folder of %s was removed while it was written to", f.URL(key)).
			Do("see who removed it, and that what the store is mounted on is there; then resume the run")
	}
	return f.classify(err, key)
}

// classify is classifyFile, and knows a path that a link leads out of the store.
func (f *folder) classify(err error, key string) error {
	if errors.Is(err, f.escapes) || errors.Is(err, syscall.ELOOP) {
		return failure.New(failure.UnsafeArchive, "%s is reached by a link that leads out of the store", f.URL(key)).
			Do("this is not of Upkeep's making; see who changed the store, and put the file itself in the link's place")
	}
	return classifyFile(err, f.URL(key))
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
