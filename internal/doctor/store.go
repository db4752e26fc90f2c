package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/pgserver"
)

const (
	checkOpens = "opens"
	checkKeeps = "keeps what is written"
	checkFrees = "what is removed"
	checkSpace = "free space"
)

const (
	// probeTries is how often a probe is tried that another doctor on this machine may have crossed.
	probeTries = 3
	// probePause is the longest pause between two tries.
	probePause = 500 * time.Millisecond
	// maxProbe bounds a probe, in bytes.
	maxProbe = 1 << 10
	// removeWithin bounds the removal of a probe when the time of its check is over.
	removeWithin = 5 * time.Second
)

// examineStore looks at the store; the patients say how much it will have to hold.
func examineStore(ctx context.Context, o Options, patients []*patient) []Finding {
	l := &List{Subject: "store"}
	var encrypted []Finding
	folder := storeFolder(o.Config.Store)
	var store objstore.Store
	opened := l.Reach(ctx, checkOpens, func(ctx context.Context) (string, error) {
		if err := thereAlready(folder); err != nil {
			return "", err
		}
		s, err := objstore.Open(ctx, o.Config.Store)
		if err != nil {
			return "", err
		}
		store = s
		return s.URL(""), nil
	})
	if !opened {
		l.Skip("the store is not open", checkKeeps)
	} else {
		defer func() { _ = store.Close() }()
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		l.Reach(ctx, checkKeeps, func(ctx context.Context) (string, error) {
			return "an object was created, not created a second time, read back, listed and removed", probe(ctx, store, format.ProbeKey(host))
		})
		for _, p := range patients {
			encrypted = append(encrypted, examineKeys(ctx, store, p.target)...)
		}
	}
	if folder == "" && opened {
		l.Look(ctx, checkFrees, func(ctx context.Context) (string, error) { return frees(ctx, store) })
	}
	if folder != "" {
		l.Look(ctx, checkSpace, func(ctx context.Context) (string, error) { return room(ctx, folder, store, patients) })
	}
	return append(l.Findings, encrypted...)
}

// storeFolder is the folder of a store in files, or "".
func storeFolder(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "file" {
		return ""
	}
	return filepath.Clean(u.Path)
}

// thereAlready keeps a folder from being made by looking: it would be this OS user's and not the worker's.
func thereAlready(folder string) error {
	if _, err := os.Stat(folder); folder == "" || !errors.Is(err, fs.ErrNotExist) {
		return nil // whatever else is wrong with it, opening it will say
	}
	if err := makable(folder); err != nil {
		return failure.New(failure.StoreUnwritable, "the store's folder %s is not there and cannot be made", folder).Because(err).
			Do("make it, as a folder of the worker's OS user")
	}
	return &Doubt{
		Found:  fmt.Sprintf("the store's folder %s is not there yet; the first run makes it", folder),
		Remedy: fmt.Sprintf("see that nothing should be mounted there; to have it looked at, make it as the worker's OS user: mkdir -p %s", folder),
	}
}

// makable says why this process could not make a folder or write into it, or nil.
func makable(dir string) error {
	for {
		st, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir):
			dir = filepath.Dir(dir)
			continue
		case err != nil:
			return err
		case !st.IsDir():
			return fmt.Errorf("%s: %w", dir, syscall.ENOTDIR)
		}
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		return nil
	}
}

// errCrossed says that the probe was not as this process left it.
var errCrossed = errors.New("the probe was changed meanwhile")

// probe does with an object what Upkeep does with its own. Every doctor on this machine has the same
// object, so that one that is killed leaves no more than that; where two have crossed, each tries again.
func probe(ctx context.Context, store objstore.Store, key string) error {
	for try := 1; ; try++ {
		if try == probeTries { // nobody is at it for so long: a doctor that was killed has left it
			if err := store.Delete(ctx, key); err != nil {
				return err
			}
		}
		err := probeOnce(ctx, store, key)
		if !errors.Is(err, errCrossed) {
			return err
		}
		if try == probeTries {
			return failure.New(failure.StoreUnwritable, "%s was not what had been written, in %d tries", store.URL(key), try).
				Do("see that no other upkeep doctor runs on this machine; if none does, do not trust the store")
		}
		select {
		case <-time.After(rand.N(probePause)): // so that two do not keep step
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func probeOnce(ctx context.Context, store objstore.Store, key string) (err error) {
	data := fmt.Appendf(nil, "upkeep doctor %016x\n", rand.Uint64())
	err = store.Create(ctx, key, data)
	if errors.Is(err, objstore.ErrExist) {
		return errCrossed
	}
	defer func() { // also after a create that failed: the object may be there
		removing, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeWithin)
		defer cancel()
		removed := store.Delete(removing, key)
		if err == nil && removed == nil {
			if _, gone := store.Stat(removing, key); !errors.Is(gone, objstore.ErrNotExist) {
				removed = errCrossed
			}
		}
		if err == nil {
			err = removed
		}
	}()
	if err != nil {
		return err
	}
	err = store.Create(ctx, key, []byte("a second time"))
	if err == nil {
		return failure.New(failure.StoreUnwritable, "the store lets an object be created that is there already, so two runs could overwrite each other's").
			Do("use a store that knows conditional writes (If-None-Match), as Amazon S3, GCS, Azure and folders do")
	}
	if !errors.Is(err, objstore.ErrExist) {
		return err
	}
	read, err := store.Read(ctx, key, maxProbe)
	if errors.Is(err, objstore.ErrNotExist) || err == nil && !bytes.Equal(read, data) {
		return errCrossed
	}
	if err != nil {
		return err
	}
	listed := false
	if err := store.List(ctx, key, func(i objstore.Info) error {
		listed = listed || i.Key == key
		return nil
	}); err != nil {
		return err
	}
	if !listed {
		return errCrossed
	}
	return nil
}

// frees says what becomes of the space of what a prune removes.
func frees(ctx context.Context, store objstore.Store) (string, error) {
	k, err := objstore.KeepingOf(ctx, store)
	if err != nil {
		return "", err
	}
	locked := ""
	if k.Lock != "" {
		locked = "; for " + k.Lock + " after it was written, no version can be removed for good by anybody or any rule"
	}
	switch {
	case k.Unknown != "":
		return "", &Doubt{
			Found: "it is not known whether the bucket keeps versions of what is removed: " + k.Unknown, Optional: true,
			Remedy: "give the worker the rights s3:GetBucketVersioning, s3:GetBucketObjectLockConfiguration and s3:GetLifecycleConfiguration, or look yourself: " +
				"a bucket that keeps versions frees what is pruned only by a lifecycle rule",
		}
	case !k.Versions:
		return "it is gone at once, and its space is free", nil
	case k.Expires == 0:
		return "", &Doubt{
			Found: "the bucket keeps versions: what is pruned is freed by a lifecycle rule for noncurrent versions, and none is known" + locked, Optional: true,
			Remedy: "add this rule to those of the bucket's lifecycle: " + k.Rule(),
		}
	}
	return fmt.Sprintf("the bucket keeps versions: what is pruned is hidden, and freed %d days later by the bucket's own rule%s", k.Expires, locked), nil
}

// room compares the free space of the store's disk with what another whole backup of every target takes:
// as much as the newest one did, or, where there is none, no more than the database.
func room(ctx context.Context, folder string, store objstore.Store, patients []*patient) (string, error) {
	free, err := pgserver.FreeBytes(folder)
	if err != nil {
		return "", failure.New(failure.StoreUnreachable, "the free space of %s cannot be seen", folder).Because(err).Do("see to the store's disk")
	}
	var need int64
	var unknown []string
	for _, p := range patients {
		newest := newestBackup(ctx, store, p.target)
		switch {
		case newest != nil:
			need += newest.Size()
		case p.size > 0:
			need += p.size
		default:
			unknown = append(unknown, p.target.Name)
		}
	}
	if len(unknown) > 0 {
		return "", &Doubt{
			Found:  fmt.Sprintf("%s are free in %s, and it is not known how large the databases are of %s", size(free), folder, strings.Join(unknown, ", ")),
			Remedy: "mend what keeps those databases from being looked at",
		}
	}
	found := fmt.Sprintf("%s are free in %s; whole backups of these targets take up to %s", size(free), folder, size(need))
	if free < need {
		return "", &Doubt{
			Found:  found + "; it may be enough, since they are packed and what is there already is not stored again",
			Remedy: fmt.Sprintf("free %s on that disk, or move the store to a larger one", size(need-free)),
		}
	}
	return found, nil
}

// newestBackup is the newest backup's index; nil when there is none, or none that can be read, which
// is for VerifyBackup to say.
func newestBackup(ctx context.Context, store objstore.Store, target config.Target) *format.Index {
	if store == nil {
		return nil
	}
	i, err := catalog.LoadIndex(ctx, store, target.Name, catalog.Latest, target.Encryption.Ring(store, target.Name))
	if err != nil {
		return nil
	}
	return i
}

// inside reports whether a path is within a folder, wherever links lead.
func inside(path, folder string) bool {
	rel, err := filepath.Rel(resolved(folder), resolved(path))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// resolved follows the links of a path as far as it is there.
func resolved(path string) string {
	rest := ""
	for dir := path; ; dir = filepath.Dir(dir) {
		if there, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(there, rest)
		}
		if dir == filepath.Dir(dir) {
			return path
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}
