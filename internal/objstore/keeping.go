package objstore

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"gocloud.dev/gcerrors"
)

// Keeping is what a store does with an object that is removed or replaced. The zero Keeping lets it go
// at once, and its space with it.
type Keeping struct {
	// Unknown is why the store's settings could not be seen; then it may keep versions.
	Unknown string
	// Versions says that it stays as a hidden version.
	Versions bool
	// Expires is after how many days the store itself removes a hidden version; 0 where no rule is known
	// by which it does.
	Expires int
	// Lock is how long no version can be removed, as people say it; empty where none is locked by default.
	Lock string

	prefix string
}

// ruleDays is after how many days the rule that is proposed removes hidden versions: Upkeep needs none, and
// a person has a week in which to undo what a hand has done.
const ruleDays = 7

// Rule is the rule, as S3's lifecycle configurations have it, by which a bucket lets hidden versions go,
// the marks of removals, and what uploads left that were never finished.
func (k Keeping) Rule() string {
	prefix, _ := json.Marshal(k.prefix) // of a text that never fails
	return fmt.Sprintf(`{"ID": "upkeep", "Status": "Enabled", "Filter": {"Prefix": %s}, "NoncurrentVersionExpiration": {"NoncurrentDays": %d}, `+
		`"Expiration": {"ExpiredObjectDeleteMarker": true}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}}`, prefix, ruleDays)
}

// Frees reports whether what is removed is known to give its space back at once.
func (k Keeping) Frees() bool { return !k.Versions && k.Unknown == "" }

// Keeper is a Store that may keep what is removed from it.
type Keeper interface {
	// Keeping says what it keeps. That it may not be asked, or does not know the question, is no error.
	Keeping(ctx context.Context) (Keeping, error)
}

// KeepingOf is what a store keeps; nothing, where it is no Keeper.
func KeepingOf(ctx context.Context, s Store) (Keeping, error) {
	if k, ok := s.(Keeper); ok {
		return k.Keeping(ctx)
	}
	return Keeping{}, nil
}

// Keeping asks S3. The other clouds' settings are not looked at.
func (s *bucket) Keeping(ctx context.Context) (Keeping, error) {
	if s.client == nil {
		return Keeping{Unknown: "Upkeep does not know how to ask this kind of store"}, nil
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	versioning, err := s.client.GetBucketVersioning(limited, &s3.GetBucketVersioningInput{Bucket: &s.bucket})
	if err != nil {
		return s.unseen(ctx, "GetBucketVersioning", err)
	}
	// Where versions are suspended by now, what was written before is hidden all the same.
	k := Keeping{Versions: versioning.Status != "", prefix: s.prefix}
	if !k.Versions {
		return k, nil
	}
	lock, err := s.client.GetObjectLockConfiguration(limited, &s3.GetObjectLockConfigurationInput{Bucket: &s.bucket})
	switch {
	case err == nil:
		k.Lock = lockOf(lock.ObjectLockConfiguration)
	case !answered(err):
		return Keeping{}, s.classifyWrite(ctx, err, "")
	}
	rules, err := s.client.GetBucketLifecycleConfiguration(limited, &s3.GetBucketLifecycleConfigurationInput{Bucket: &s.bucket})
	switch {
	case err == nil:
		k.Expires = expires(rules.Rules, s.prefix)
	case !answered(err):
		return Keeping{}, s.classifyWrite(ctx, err, "")
	}
	return k, nil
}

// unseen says why a setting is not known, where the server has said so; else it fails.
func (s *bucket) unseen(ctx context.Context, question string, err error) (Keeping, error) {
	if !answered(err) {
		return Keeping{}, s.classifyWrite(ctx, err, "")
	}
	if code := status(err); code == http.StatusForbidden || code == http.StatusUnauthorized {
		return Keeping{prefix: s.prefix, Unknown: "the worker's credentials lack the right to " + question}, nil
	}
	return Keeping{prefix: s.prefix, Unknown: "the server does not answer " + question}, nil
}

// answered reports whether a server has understood a question and does not answer it: by no right, because
// it knows no such thing, or because nothing is set. That there is no bucket is no such answer.
func answered(err error) bool {
	if strings.Contains(err.Error(), "NoSuchBucket") || gcerrors.Code(err) == gcerrors.Canceled {
		return false
	}
	code := status(err)
	return code >= 400 && code < 500 && code != http.StatusTooManyRequests && code != http.StatusRequestTimeout || code == http.StatusNotImplemented
}

// lockOf writes a bucket's lock for people.
func lockOf(c *types.ObjectLockConfiguration) string {
	if c == nil || c.ObjectLockEnabled != types.ObjectLockEnabledEnabled || c.Rule == nil || c.Rule.DefaultRetention == nil {
		return ""
	}
	r := c.Rule.DefaultRetention
	switch {
	case r.Days != nil:
		return fmt.Sprintf("%d days (%s)", *r.Days, strings.ToLower(string(r.Mode)))
	case r.Years != nil:
		return fmt.Sprintf("%d years (%s)", *r.Years, strings.ToLower(string(r.Mode)))
	}
	return ""
}

// expires is the shortest time after which a rule removes the hidden versions of everything under a prefix.
func expires(rules []types.LifecycleRule, prefix string) int {
	days := 0
	for _, r := range rules {
		e := r.NoncurrentVersionExpiration
		if r.Status != types.ExpirationStatusEnabled || e == nil || e.NoncurrentDays == nil || !covers(r, prefix) {
			continue
		}
		if d := int(*e.NoncurrentDays); days == 0 || d < days {
			days = d
		}
	}
	return days
}

// covers reports whether a rule is for everything under a prefix.
func covers(r types.LifecycleRule, prefix string) bool {
	of := r.Prefix // of rules that were made long ago
	if r.Filter != nil {
		if r.Filter.Tag != nil || r.Filter.And != nil || r.Filter.ObjectSizeGreaterThan != nil || r.Filter.ObjectSizeLessThan != nil {
			return false
		}
		of = r.Filter.Prefix
	}
	return of == nil || strings.HasPrefix(prefix, *of)
}
