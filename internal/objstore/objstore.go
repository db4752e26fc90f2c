// Package objstore is the object store as Upkeep needs it: whole objects that
// appear at once or not at all, are durable when Put returns, and are never
// overwritten. A folder (file://) and gocloud's S3, GCS and Azure buckets are
// behind it.
package objstore

import (
	"context"
	"errors"
	"io"
	"time"
)

// ErrNotExist says that there is no object of that key.
var ErrNotExist = errors.New("object does not exist")

// ErrExist says that Create found an object of that key.
var ErrExist = errors.New("object exists already")

// Info describes one object.
type Info struct {
	Key     string
	Size    int64
	ModTime time.Time
}

// Store holds objects by key. Keys are slash-separated and relative; a key that is
// empty, absolute, or has an empty, "." or ".." part, a backslash or a control
// character is refused. All methods are safe for concurrent use, and classify
// their errors with package failure (DiskFull, StoreUnwritable, StoreUnreachable).
type Store interface {
	// Create stores data under a key that must not exist yet, else ErrExist.
	// When it returns nil the object is whole, durable and visible.
	Create(ctx context.Context, key string, data []byte) error
	// Replace stores data under a key, whether it exists or not, atomically. Only for what may be
	// written again: documents that are derived (reports, marks), and good bytes over damaged ones.
	Replace(ctx context.Context, key string, data []byte) error
	// Read returns a whole object of at most limit bytes; a larger one is an error.
	Read(ctx context.Context, key string, limit int64) ([]byte, error)
	// Open streams an object. The errors of its Read are classified too.
	Open(ctx context.Context, key string) (io.ReadCloser, error)
	// Stat describes an object, or returns ErrNotExist.
	Stat(ctx context.Context, key string) (Info, error)
	// List calls each for every object whose key has the prefix, in key order.
	List(ctx context.Context, prefix string, each func(Info) error) error
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, key string) error
	// URL names an object for people.
	URL(key string) string
	// Close frees what the store holds.
	Close() error
}
