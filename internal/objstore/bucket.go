package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob://
	_ "gocloud.dev/blob/gcsblob"   // gs://
	_ "gocloud.dev/blob/s3blob"    // s3://
	"gocloud.dev/gcerrors"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// bucket is a store in a bucket of gocloud.
type bucket struct {
	name string // the URL without its query
	b    *blob.Bucket
}

func openBucket(ctx context.Context, u *url.URL) (Store, error) {
	b, err := blob.OpenBucket(ctx, u.String())
	if err != nil {
		return nil, failure.New(failure.BadConfig, "the store %s cannot be opened", u.Redacted()).Because(err).
			Do("check the url's parameters and the credentials in the worker's environment")
	}
	name := u.Scheme + "://" + u.Host
	if prefix := strings.Trim(u.Query().Get("prefix"), "/"); prefix != "" {
		name += "/" + prefix
	}
	return &bucket{name: name, b: b}, nil
}

func (s *bucket) Close() error { return s.b.Close() }

func (s *bucket) URL(key string) string { return s.name + "/" + key }

func (s *bucket) Create(ctx context.Context, key string, data []byte) error {
	pointCreateBefore.Hit()
	if err := s.write(ctx, key, data, &blob.WriterOptions{IfNotExist: true}); err != nil {
		return err
	}
	pointCreateAfter.Hit()
	return nil
}

func (s *bucket) Replace(ctx context.Context, key string, data []byte) error {
	return s.write(ctx, key, data, &blob.WriterOptions{})
}

func (s *bucket) write(ctx context.Context, key string, data []byte, o *blob.WriterOptions) error {
	if err := checkKey(key); err != nil {
		return err
	}
	o.ContentType = "application/octet-stream"
	return s.classify(s.b.WriteAll(ctx, key, data, o), key)
}

func (s *bucket) Read(ctx context.Context, key string, limit int64) ([]byte, error) {
	r, err := s.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	return readAll(r, key, limit)
}

func (s *bucket) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	r, err := s.b.NewReader(ctx, key, nil)
	if err != nil {
		return nil, s.classify(err, key)
	}
	return r, nil
}

func (s *bucket) Stat(ctx context.Context, key string) (Info, error) {
	if err := checkKey(key); err != nil {
		return Info{}, err
	}
	a, err := s.b.Attributes(ctx, key)
	if err != nil {
		return Info{}, s.classify(err, key)
	}
	return Info{Key: key, Size: a.Size, ModTime: a.ModTime}, nil
}

func (s *bucket) List(ctx context.Context, prefix string, each func(Info) error) error {
	objects := s.b.List(&blob.ListOptions{Prefix: prefix})
	for {
		o, err := objects.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.classify(err, prefix)
		}
		if o.IsDir {
			continue
		}
		if err := each(Info{Key: o.Key, Size: o.Size, ModTime: o.ModTime}); err != nil {
			return err
		}
	}
}

func (s *bucket) Move(ctx context.Context, from, to string) error {
	if err := errors.Join(checkKey(from), checkKey(to)); err != nil {
		return err
	}
	pointMoveBefore.Hit()
	if err := s.b.Copy(ctx, to, from, nil); err != nil {
		return s.classify(err, from)
	}
	pointMoveAfter.Hit()
	return s.Delete(ctx, from)
}

func (s *bucket) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	pointDeleteBefore.Hit()
	if err := s.b.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return s.classify(err, key)
	}
	pointDeleteAfter.Hit()
	return nil
}

func (s *bucket) classify(err error, key string) error {
	if err == nil {
		return nil
	}
	what := s.URL(key)
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		return fmt.Errorf("%s: %w", what, ErrNotExist)
	case gcerrors.AlreadyExists, gcerrors.FailedPrecondition:
		return fmt.Errorf("%s: %w", what, ErrExist)
	case gcerrors.PermissionDenied:
		return failure.New(failure.StoreUnwritable, "the store refused %s", what).
			Do("give the worker's credentials the right to read, write, list and delete in the bucket, then resume the run")
	case gcerrors.Canceled:
		return context.Canceled
	}
	text := err.Error()
	for _, refused := range []string{"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "StatusCode: 403"} {
		if strings.Contains(text, refused) {
			return failure.New(failure.StoreUnwritable, "the store refused %s (%s)", what, refused).
				Do("check the credentials in the worker's environment and their rights on the bucket, then resume the run")
		}
	}
	return failure.New(failure.StoreUnreachable, "could not reach %s", what).Because(errors.New(cut(text, 300))).
		Do("see whether the store is up and reachable from the worker")
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n] + "..."
	}
	return s
}
