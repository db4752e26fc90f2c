package objstoretest

import (
	"context"
	"io"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// Faulty is a store that fails as it is told to. Op is the name of the method in small letters.
type Faulty struct {
	objstore.Store
	// Before runs before each operation. An error stands for it; to be slow, wait for the context.
	Before func(ctx context.Context, op, key string) error
	// After runs after each operation that did something; its error hides that it did.
	After func(ctx context.Context, op, key string) error
}

// Unreachable is the failure of a store that does not answer.
func Unreachable() error { return failure.New(failure.StoreUnreachable, "the store does not answer") }

// Full is the failure of a store without space.
func Full() error { return failure.New(failure.DiskFull, "no space left in the store") }

func (f *Faulty) do(ctx context.Context, op, key string, work func() error) error {
	if f.Before != nil {
		if err := f.Before(ctx, op, key); err != nil {
			return err
		}
	}
	if err := work(); err != nil {
		return err
	}
	if f.After != nil {
		return f.After(ctx, op, key)
	}
	return nil
}

// Create is objstore.Store's.
func (f *Faulty) Create(ctx context.Context, key string, data []byte) error {
	return f.do(ctx, "create", key, func() error { return f.Store.Create(ctx, key, data) })
}

// Replace is objstore.Store's.
func (f *Faulty) Replace(ctx context.Context, key string, data []byte) error {
	return f.do(ctx, "replace", key, func() error { return f.Store.Replace(ctx, key, data) })
}

// Read is objstore.Store's.
func (f *Faulty) Read(ctx context.Context, key string, limit int64) (data []byte, err error) {
	err = f.do(ctx, "read", key, func() (err error) {
		data, err = f.Store.Read(ctx, key, limit)
		return err
	})
	return data, err
}

// Open is objstore.Store's.
func (f *Faulty) Open(ctx context.Context, key string) (r io.ReadCloser, err error) {
	err = f.do(ctx, "open", key, func() (err error) {
		r, err = f.Store.Open(ctx, key)
		return err
	})
	return r, err
}

// Stat is objstore.Store's.
func (f *Faulty) Stat(ctx context.Context, key string) (info objstore.Info, err error) {
	err = f.do(ctx, "stat", key, func() (err error) {
		info, err = f.Store.Stat(ctx, key)
		return err
	})
	return info, err
}

// List is objstore.Store's.
func (f *Faulty) List(ctx context.Context, prefix string, each func(objstore.Info) error) error {
	return f.do(ctx, "list", prefix, func() error { return f.Store.List(ctx, prefix, each) })
}

// Delete is objstore.Store's.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	return f.do(ctx, "delete", key, func() error { return f.Store.Delete(ctx, key) })
}
