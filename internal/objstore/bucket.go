package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob://
	_ "gocloud.dev/blob/gcsblob"   // gs://
	_ "gocloud.dev/blob/s3blob"    // s3://
	"gocloud.dev/gcerrors"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// Variables only for tests, which have less time.
var (
	// patience is how long the store may be silent in one request.
	patience = 2 * time.Minute
	// slowest is the slowest transfer that is waited for, in bytes a second.
	slowest = 64 << 10
)

// enough is how long a transfer of so many bytes may take.
func enough(bytes int64) time.Duration {
	return patience + time.Duration(bytes)*time.Second/time.Duration(slowest)
}

// resumes is how often the reading of one object goes on after its connection broke.
const resumes = 3

const contentType = "application/octet-stream"

// bucket is a store in a bucket of gocloud. Requests are tried again by the cloud's own library.
type bucket struct {
	name string // the URL without its query
	b    *blob.Bucket

	url            string     // whole
	bucket, prefix string     // the store's place, as the cloud knows it
	client         *s3.Client // of S3; else nil
	proving        sync.Mutex // held by who sees whether the store knows conditional writes
}

// checksums is the parameter for whether S3's own checksums are compared with what is read. They are
// not: bytes that rotted in the store would look like a store that is away. Our own hashes, which are
// over everything, tell damage from that.
const checksums = "response_checksum_validation"

func openBucket(ctx context.Context, u *url.URL) (Store, error) {
	query := u.Query()
	prefix := strings.Trim(query.Get("prefix"), "/")
	if query.Del("prefix"); prefix != "" {
		query.Set("prefix", prefix+"/") // gocloud would write "a/b" and "key" as "a/bkey"
	}
	if u.Scheme == "s3" && !query.Has(checksums) {
		query.Set(checksums, "when_required")
	}
	asked := *u
	asked.RawQuery = query.Encode()
	b, err := blob.OpenBucket(ctx, asked.String())
	if err != nil {
		return nil, failure.New(failure.BadConfig, "the store %s://%s cannot be opened", u.Scheme, u.Host).Because(plain(err)).
			Do("check the url's parameters and the credentials in the worker's environment")
	}
	name := u.Scheme + "://" + u.Host
	if prefix != "" {
		name += "/" + prefix
	}
	s := &bucket{name: name, b: b, url: asked.String(), bucket: u.Host, prefix: query.Get("prefix")}
	if !b.As(&s.client) {
		s.client = nil
	}
	return s, nil
}

func (s *bucket) Close() error { return s.b.Close() }

func (s *bucket) URL(key string) string { return s.name + "/" + key }

func (s *bucket) Create(ctx context.Context, key string, data []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := s.exclusive(ctx); err != nil {
		return err
	}
	pointsCreate.before.Hit()
	err := s.createOnce(ctx, key, data)
	if isThere(err) {
		err = s.createOverMark(ctx, key, data, err)
	}
	if isThere(err) {
		return fmt.Errorf("%s: %w", s.URL(key), ErrExist)
	}
	if err == nil {
		pointsCreate.after.Hit()
	}
	return s.classifyWrite(ctx, err, key)
}

// conflicting reports whether S3 could not say which of several writers of a key came first, and wants
// to be asked again.
func conflicting(err error) bool {
	return err != nil && strings.Contains(err.Error(), "ConditionalRequestConflict")
}

func (s *bucket) Replace(ctx context.Context, key string, data []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	pointsReplace.before.Hit()
	err := s.upload(ctx, key, data, &blob.WriterOptions{})
	if err == nil {
		pointsReplace.after.Hit()
	}
	return s.classifyWrite(ctx, err, key)
}

// upload writes an object. Its errors are not classified.
func (s *bucket) upload(ctx context.Context, key string, data []byte, o *blob.WriterOptions) error {
	limited, cancel := context.WithTimeout(ctx, enough(int64(len(data))))
	defer cancel()
	o.ContentType = contentType
	return s.b.WriteAll(limited, key, data, o)
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
	reading, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(patience, func() { cancel(errSlow) })
	r, err := s.b.NewReader(reading, key, nil)
	silence.Stop()
	if err != nil {
		err = s.classify(ctx, slow(reading, err), key)
		cancel(nil)
		return nil, err
	}
	return &download{bucket: s, ctx: ctx, reading: reading, key: key, r: r, size: r.Size(), silence: silence, cancel: cancel}, nil
}

var (
	errSlow = errors.New("the store was silent or slow for too long")
	errCut  = errors.New("the answer ended before the object did")
)

// slow says what a read was cancelled for, where that was its slowness.
func slow(reading context.Context, err error) error {
	if errors.Is(context.Cause(reading), errSlow) {
		return errSlow
	}
	return err
}

// download reads an object, and gives up when the store is silent or slow for too long.
type download struct {
	bucket  *bucket
	ctx     context.Context // the caller's
	reading context.Context
	key     string
	r       *blob.Reader
	silence *time.Timer
	cancel  context.CancelCauseFunc
	size    int64
	read    int64
	resumed int           // times
	spent   time.Duration // in waiting for the store
}

func (d *download) Read(p []byte) (int, error) {
	for {
		n, err := d.once(p)
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		if !d.resume() {
			return n, d.bucket.classify(d.ctx, slow(d.reading, err), d.key)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// once reads from the connection that there is.
func (d *download) once(p []byte) (int, error) {
	began := time.Now()
	d.silence.Reset(min(patience, enough(d.read)-d.spent))
	n, err := d.r.Read(p)
	d.silence.Stop()
	d.spent += time.Since(began)
	d.read += int64(n)
	if errors.Is(err, io.EOF) && d.read != d.size {
		err = errCut // an answer that does not say how long it is
	}
	return n, err
}

// resume asks for the rest of an object whose connection broke in the middle, as uploads are asked again
// by S3's library: on a line that breaks now and then, a check of much data would never come to its end.
// It reports whether there is an answer. It must be the same object still: its ETag is the condition, so
// only S3 is asked, and the reader of an object that was replaced meanwhile hears of the broken connection.
func (d *download) resume() bool {
	var met s3.GetObjectOutput
	if d.resumed == resumes || d.reading.Err() != nil || d.read == 0 || !d.r.As(&met) || met.ETag == nil {
		return false
	}
	d.resumed++
	d.silence.Reset(patience)
	defer d.silence.Stop()
	r, err := d.bucket.b.NewRangeReader(d.reading, d.key, d.read, -1, &blob.ReaderOptions{BeforeRead: func(as func(any) bool) error {
		var ask *s3.GetObjectInput
		if as(&ask) {
			ask.IfMatch = met.ETag
		}
		return nil
	}})
	if err != nil {
		return false
	}
	_ = d.r.Close() // it is broken
	d.r = r
	return true
}

func (d *download) Close() error {
	d.silence.Stop()
	defer d.cancel(nil)
	return d.r.Close()
}

func (s *bucket) Stat(ctx context.Context, key string) (Info, error) {
	if err := checkKey(key); err != nil {
		return Info{}, err
	}
	a, err := s.attributes(ctx, key)
	if err != nil {
		return Info{}, s.classify(ctx, err, key)
	}
	return Info{Key: key, Size: a.Size, ModTime: a.ModTime}, nil
}

func (s *bucket) attributes(ctx context.Context, key string) (*blob.Attributes, error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.b.Attributes(limited, key)
}

func (s *bucket) List(ctx context.Context, prefix string, each func(Info) error) error {
	objects := s.b.List(&blob.ListOptions{Prefix: prefix})
	for {
		o, err := next(ctx, objects)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.classifyWrite(ctx, err, prefix) // as with a write, what is not found is the bucket
		}
		if o.IsDir || o.Key == onceKey {
			continue
		}
		if err := each(Info{Key: o.Key, Size: o.Size, ModTime: o.ModTime}); err != nil {
			return err
		}
	}
}

func next(ctx context.Context, objects *blob.ListIterator) (*blob.ListObject, error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return objects.Next(limited)
}

func (s *bucket) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pointsDelete.before.Hit()
	if err := s.b.Delete(limited, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return s.classify(ctx, err, key)
	}
	pointsDelete.after.Hit()
	return nil
}

// classifyWrite is classify where only the bucket itself can be missing.
func (s *bucket) classifyWrite(ctx context.Context, err error, key string) error {
	if gcerrors.Code(err) == gcerrors.NotFound || err != nil && strings.Contains(err.Error(), "NoSuchBucket") {
		return failure.New(failure.StoreUnwritable, "there is no bucket %s", s.name).
			Do("create it, or correct the store's url in the configuration, then resume the run")
	}
	return s.classify(ctx, err, key)
}

// refusals are parts of the messages by which the clouds' libraries say that credentials are missing,
// unknown or not enough, where gocloud has no code for it.
var refusals = []string{
	"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "StatusCode: 403", "AuthenticationFailed",
	"get credentials", "refresh cached credentials", "could not find default credentials",
}

// locks are parts of what the clouds say when an object is kept from being changed for a time, whoever asks.
var locks = []string{"object lock", "objectlocked", "worm protected", "legal hold", "retention policy", "blobimmutable"}

// locked reports whether a change was refused because the store keeps the object. Of S3 only the server's
// own words count: the rest of an error's text has names in it.
func locked(err error) bool {
	text := err.Error()
	var said interface {
		ErrorCode() string
		ErrorMessage() string
	}
	if errors.As(err, &said) {
		text = said.ErrorCode() + ": " + said.ErrorMessage()
	}
	text = strings.ToLower(text)
	return slices.ContainsFunc(locks, func(part string) bool { return strings.Contains(text, part) })
}

// classify turns an error of the bucket into one of the catalogue.
func (s *bucket) classify(ctx context.Context, err error, key string) error {
	if err == nil {
		return nil
	}
	if _, ok := failure.As(err); ok {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	what := s.URL(key)
	refused := gcerrors.Code(err) == gcerrors.PermissionDenied
	if gcerrors.Code(err) == gcerrors.NotFound {
		return fmt.Errorf("%s: %w", what, ErrNotExist)
	}
	for _, part := range refusals {
		refused = refused || strings.Contains(err.Error(), part)
	}
	if locked(err) {
		return failure.New(failure.StoreLocked, "the store does not let %s be removed or replaced yet", what).Because(plain(err)).
			Do("wait until its retention or legal hold ends, or have who set it take it away, then resume the run; a bucket with object lock must also keep versions")
	}
	if refused {
		return failure.New(failure.StoreUnwritable, "the store refused %s", what).Because(plain(err)).
			Do("give the worker credentials in its environment, with the right to read, write, list and delete in the bucket, then resume the run")
	}
	return failure.New(failure.StoreUnreachable, "could not reach %s", what).Because(plain(err)).
		Do("see whether the store is up and reachable from the worker")
}

// plain is an error's text, cut short, without the address that was asked: some clouds sign addresses.
func plain(err error) error {
	const most = 300
	var asked *url.Error
	if errors.As(err, &asked) {
		err = asked.Err
	}
	text := err.Error()
	if len(text) > most {
		text = text[:most] + "..."
	}
	return errors.New(text)
}
