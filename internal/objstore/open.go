package objstore

import (
	"context"
	"io"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// Schemes lists the kinds of stores that Open knows.
var Schemes = []string{"file", "s3", "gs", "azblob"}

// Open opens the store of a URL: file:///absolute/folder, or a bucket as gocloud.dev writes it
// (s3://, gs://, azblob://, with ?prefix=a/b/ for a part of it). Credentials for buckets come from
// the environment, never from the URL.
func Open(ctx context.Context, raw string) (Store, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return nil, badURL("the store's url cannot be read")
	}
	if u.User != nil {
		return nil, badURL("the store's url holds credentials")
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" {
			return nil, badURL("the store's url is not an absolute folder")
		}
		return openFolder(filepath.Clean(u.Path))
	case "s3", "gs", "azblob":
		return openBucket(ctx, u)
	}
	return nil, badURL("the store's url has the unknown scheme " + u.Scheme)
}

func badURL(what string) error {
	return failure.New(failure.BadConfig, "%s", what).
		Do("write it as file:///absolute/folder, s3://bucket, gs://bucket or azblob://container; credentials belong into the environment")
}

// checkKey refuses keys that are not plain relative paths.
func checkKey(key string) error {
	bad := key == "" || len(key) > 900 || strings.ContainsAny(key, "\\\x00")
	for _, part := range strings.Split(key, "/") {
		bad = bad || part == "" || part == "." || part == ".." || len(part) > 250 || strings.HasPrefix(part, temporaryPrefix)
	}
	for _, r := range key {
		bad = bad || r < 0x20 || r == 0x7f
	}
	if bad {
		return failure.New(failure.UnsafeArchive, "the name %.100q cannot be the name of an object", key).
			Do("this is a fault of the backup or of who wrote it; do not trust it")
	}
	return nil
}

// readAll reads an object of at most limit bytes. The reader's own errors are classified.
func readAll(r io.Reader, key string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, failure.New(failure.UnsafeArchive, "%s has more than %d bytes", key, limit).
			Do("it is not what Upkeep writes; do not trust it")
	}
	return data, nil
}
