package objstore

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	// onceKey is an object that is created once in the life of a bucket and never removed: whoever
	// creates it again must be told that it is there. It is no object of a caller's.
	onceKey  = "_created-once"
	onceText = "By this object Upkeep sees that the store overwrites nothing in a create. It is created once and stays.\n"
	// conflicts is how often a create that met another one is tried again.
	conflicts = 3
	// maxVersions bounds how many hidden versions of one key are looked through.
	maxVersions = 1000
)

// proven are the URLs of the stores that this process has seen refuse to create an object twice.
var proven sync.Map

// exclusive makes sure that the store knows conditional writes before the first create relies on them.
// A manifest, a checkpoint and the notes that order two runs are each written by the first of their
// writers; a store in which the last one wins would lose backups without a word. It costs a process one
// small request.
func (s *bucket) exclusive(ctx context.Context) error {
	if _, ok := proven.Load(s.url); ok {
		return nil
	}
	s.proving.Lock() // those that begin together ask once
	defer s.proving.Unlock()
	if _, ok := proven.Load(s.url); ok {
		return nil
	}
	for range 2 { // where it is not there yet, the second create is the proof
		err := s.createOnce(ctx, onceKey, []byte(onceText))
		switch {
		case isThere(err):
			proven.Store(s.url, true)
			return nil
		case err == nil:
		case s.refusedTheCondition(ctx, err):
			return s.unconditional("refuses").Because(plain(err))
		default:
			return s.classifyWrite(ctx, err, onceKey)
		}
	}
	return s.unconditional("ignores")
}

func (s *bucket) unconditional(does string) *failure.Error {
	return failure.New(failure.BadConfig, "the store %s %s the condition that nothing is overwritten (If-None-Match: *), so two runs could overwrite each other's objects", s.name, does).
		Do("use a store that knows conditional writes, as Amazon S3, GCS, Azure, MinIO, Versity's gateway and folders do; if a proxy is between, let it pass the header If-None-Match on")
}

// refusedTheCondition reports whether a create failed by its condition alone: the same bytes are taken
// without it. It is only asked of the object that may be written twice.
func (s *bucket) refusedTheCondition(ctx context.Context, err error) bool {
	if code := status(err); code != http.StatusBadRequest && code != http.StatusNotImplemented {
		return false
	}
	return s.upload(ctx, onceKey, []byte(onceText), &blob.WriterOptions{}) == nil
}

// status is the HTTP status of an answer that was an error; 0 where there was none.
func status(err error) int {
	var answer interface{ HTTPStatusCode() int }
	if errors.As(err, &answer) {
		return answer.HTTPStatusCode()
	}
	return 0
}

// createOnce is a create that met others tried again. Its errors are not classified.
func (s *bucket) createOnce(ctx context.Context, key string, data []byte) error {
	err := s.upload(ctx, key, data, &blob.WriterOptions{IfNotExist: true})
	for try := 1; try < conflicts && conflicting(err); try++ {
		err = s.upload(ctx, key, data, &blob.WriterOptions{IfNotExist: true})
	}
	return err
}

// isThere reports whether a create failed because there is an object. Some servers say first that it is
// locked.
func isThere(err error) bool {
	return err != nil && locked(err) || gcerrors.Code(err) == gcerrors.AlreadyExists || gcerrors.Code(err) == gcerrors.FailedPrecondition
}

// createOverMark creates an object after the store has said that there is one. In a bucket with versions
// some servers, Versity's gateway 1.8 among them, take the mark that an object was removed for the object
// itself. There the condition is that the mark is still the one over the version that was seen, so of two
// writers one wins all the same, unless it writes that very version again.
func (s *bucket) createOverMark(ctx context.Context, key string, data []byte, met error) error {
	if s.client == nil {
		return met
	}
	switch _, err := s.attributes(ctx, key); {
	case err == nil:
		return met
	case gcerrors.Code(err) != gcerrors.NotFound:
		return err
	}
	again := s.createOnce(ctx, key, data) // it may have been removed between the two
	if !isThere(again) {
		return again
	}
	hidden, err := s.hidden(ctx, key)
	if err != nil {
		return err
	}
	if hidden == nil { // somebody was faster
		return again
	}
	limited, cancel := context.WithTimeout(ctx, enough(int64(len(data))))
	defer cancel()
	kind, full := contentType, s.prefix+key
	_, err = s.client.PutObject(limited, &s3.PutObjectInput{Bucket: &s.bucket, Key: &full, ContentType: &kind, IfMatch: hidden, Body: bytes.NewReader(data)})
	if status(err) == http.StatusPreconditionFailed || conflicting(err) {
		return again
	}
	return err
}

// hidden is the ETag of the newest version of an object that was removed; nil where the newest is no
// mark of a removal, or nothing is under it.
func (s *bucket) hidden(ctx context.Context, key string) (*string, error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	full, most := s.prefix+key, int32(maxVersions)
	found, err := s.client.ListObjectVersions(limited, &s3.ListObjectVersionsInput{Bucket: &s.bucket, Prefix: &full, MaxKeys: &most})
	if err != nil {
		return nil, err
	}
	removed := false
	for _, m := range found.DeleteMarkers {
		removed = removed || m.Key != nil && *m.Key == full && m.IsLatest != nil && *m.IsLatest
	}
	for _, v := range found.Versions { // the newest of a key first
		if removed && v.Key != nil && *v.Key == full {
			return v.ETag, nil
		}
	}
	return nil, nil
}
