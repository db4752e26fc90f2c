package access

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

const (
	// MaxReview bounds the file of a review, in bytes.
	MaxReview = 64 << 20
	// maxBaseline bounds the file of a baseline, in bytes.
	maxBaseline = 64 << 10
	// maxText bounds who accepted a baseline and why, in a baseline.
	maxText = 1000
)

var (
	pointBefore = fault.NewPoint("access/baseline/before")
	pointAfter  = fault.NewPoint("access/baseline/after")
)

// Baseline says that a person has accepted a review. Those of a target are numbered, and each names the one
// before by its bytes.
type Baseline struct {
	Version int       `json:"version"`
	Seq     int64     `json:"seq"` // from 1
	Target  string    `json:"target"`
	At      time.Time `json:"at"`
	Run     string    `json:"run"`    // in which it was accepted
	Plan    string    `json:"plan"`   // SHA-256 of the plan that was approved, hex
	By      string    `json:"by"`     // who approved it, as claimed unless there are signers
	Reason  string    `json:"reason"` // why
	Review  string    `json:"review"` // SHA-256 of the review's file, hex
	Prev    string    `json:"prev"`   // SHA-256 of the baseline's file before; empty for the first
	Key     string    `json:"key"`    // the public key that signs, hex
	// Signers are the fingerprints of the keys by which those who approved it signed their approval.
	Signers []string `json:"signers,omitempty"`
	// Signature is ed25519 over the JSON of the baseline without it, hex.
	Signature string `json:"signature"`

	file string // SHA-256 of its own
}

// Who says who has approved a baseline, and by what they are known.
func Who(by string, signers []string) string {
	if len(signers) > 0 {
		return Show(by) + ", by signature"
	}
	return Show(by) + ", as claimed"
}

// Hash names the baseline by its file.
func (b *Baseline) Hash() string {
	if b == nil {
		return ""
	}
	return b.file
}

// signedAs keeps a baseline's signature from being one of something else.
const signedAs = "upkeep access baseline 1\n"

func (b Baseline) unsigned() []byte {
	b.Signature = ""
	return append([]byte(signedAs), canonical(b)...)
}

func (b Baseline) signed() bool {
	key, err := hex.DecodeString(b.Key)
	signature, failed := hex.DecodeString(b.Signature)
	return err == nil && failed == nil && len(key) == ed25519.PublicKeySize && ed25519.Verify(key, b.unsigned(), signature)
}

// KeyOf is the public half of a key, as a baseline names it.
func KeyOf(key ed25519.PrivateKey) string {
	return hex.EncodeToString(key.Public().(ed25519.PublicKey))
}

// begin is where a person begins who cannot use a baseline.
const begin = "see who has changed the store, and bring the file back from a copy; or move the folder %s away: the next run shows everything, and proposes a new baseline"

func bad(target, format string, args ...any) error {
	return failure.New(failure.BadBaseline, "the baseline of target %s cannot be used: %s", target, fmt.Sprintf(format, args...)).Do(begin, folder(target))
}

func folder(target string) string {
	return strings.TrimSuffix(format.BaselinesPrefix(target), "baselines/")
}

// Encode is the file of a review.
func (r *Review) Encode() []byte {
	var b bytes.Buffer
	_ = json.NewEncoder(&b).Encode(r) // plain data always encodes; canonical, and a line's end, in one piece
	return b.Bytes()
}

// Decode reads the file of a review that has this hash.
func Decode(data []byte, hash string) (*Review, error) {
	if HashOf(data) != hash {
		return nil, errors.New("it is not what was written: its SHA-256 is another")
	}
	if v := versionOf(data); v != Version {
		return nil, fmt.Errorf("it has the version %d, and this Upkeep knows %d", v, Version)
	}
	r := new(Review)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, errors.New("it cannot be read")
	}
	return r, nil
}

// versionOf is the version that a file says it has; 0: none.
func versionOf(data []byte) int {
	var v struct {
		Version int `json:"version"`
	}
	_ = json.Unmarshal(data, &v) // what is no JSON says none
	return v.Version
}

// Chain reads the baselines of a target in their order, and checks that each is as it was signed, and that
// none is missing but at the end; where a newer one was noted, that is missing too.
func Chain(ctx context.Context, store objstore.Store, target string) ([]*Baseline, error) {
	var keys []string
	if err := store.List(ctx, format.BaselinesPrefix(target), func(i objstore.Info) error {
		keys = append(keys, i.Key)
		return nil
	}); err != nil {
		return nil, err
	}
	var all []*Baseline
	last := ""
	for i, key := range keys {
		seq := int64(i + 1)
		if key != format.BaselineKey(target, seq) {
			return nil, bad(target, "%s is missing, and there is %s", format.BaselineKey(target, seq), Show(key))
		}
		data, err := store.Read(ctx, key, maxBaseline)
		if errors.Is(err, objstore.ErrNotExist) || failure.Is(err, failure.UnsafeArchive) {
			return nil, bad(target, "%s is gone, or far too large", key)
		}
		if err != nil {
			return nil, err
		}
		if v := versionOf(data); v > Version { // whose fields are not known here, so that it cannot be written again alike
			return nil, failure.New(failure.FormatTooNew, "%s has the version %d, and this Upkeep knows %d", key, v, Version).Do("use the Upkeep that wrote it, or a newer one")
		}
		b := new(Baseline)
		if json.Unmarshal(data, b) != nil || b.Version != Version || !bytes.Equal(canonical(b), data) {
			return nil, bad(target, "%s is not as it was written", key)
		}
		switch {
		case !b.signed():
			return nil, bad(target, "the signature of %s does not fit: it was altered", key)
		case b.Target != target || b.Seq != seq:
			return nil, bad(target, "%s is of target %s and has the number %d: it was moved", key, Show(b.Target), b.Seq)
		case b.Prev != last:
			return nil, bad(target, "%s does not follow the one before", key)
		}
		b.file = HashOf(data)
		last = b.file
		all = append(all, b)
	}
	hint, err := store.Read(ctx, format.BaselineHint(target), 64)
	if err != nil && !errors.Is(err, objstore.ErrNotExist) && !failure.Is(err, failure.UnsafeArchive) {
		return nil, err
	}
	if at, _ := strconv.ParseInt(strings.TrimSpace(string(hint)), 10, 64); at > int64(len(all)) {
		return nil, bad(target, "there were %d and there are %d: the newest were removed", at, len(all))
	}
	return all, nil
}

// Newest is the baseline that counts, with its review; nil where there is none. It must be signed by one of
// the keys that are trusted.
func Newest(ctx context.Context, store objstore.Store, target string, trusted []string) (*Baseline, *Review, error) {
	all, err := Chain(ctx, store, target)
	if err != nil || len(all) == 0 {
		return nil, nil, err
	}
	b := all[len(all)-1]
	if !slices.Contains(trusted, b.Key) {
		return nil, nil, failure.New(failure.BadBaseline, "the baseline %d of target %s is signed by the key %s, which is not trusted here", b.Seq, target, b.Key).
			Do("if that is the key of another worker of yours, add it to kubernetes.baselineKeys in upkeep.yaml and start a new run; if not, "+begin, folder(target))
	}
	data, err := store.Read(ctx, format.ReviewKey(target, b.Review), MaxReview)
	if errors.Is(err, objstore.ErrNotExist) || failure.Is(err, failure.UnsafeArchive) {
		return nil, nil, bad(target, "the review that it accepts, %s, is gone, or far too large", format.ReviewKey(target, b.Review))
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := Decode(data, b.Review)
	if err != nil {
		return nil, nil, bad(target, "the review that it accepts, %s: %v", format.ReviewKey(target, b.Review), err)
	}
	return b, r, nil
}

// Accept makes a review the baseline of a target. Prev is the baseline that it replaces: where there is
// another by now, what was approved is void. Done twice for a run and plan, it finds it done.
func Accept(ctx context.Context, store objstore.Store, key ed25519.PrivateKey, b Baseline, review []byte) (*Baseline, error) {
	if HashOf(review) != b.Review {
		return nil, failure.New(failure.PlanVoid, "the review of run %.200q is not what was approved", b.Run).Do("see who has changed the store, then start a new run")
	}
	all, err := Chain(ctx, store, b.Target)
	if err != nil {
		return nil, err
	}
	if n := len(all); n > 0 {
		if last := all[n-1]; last.Run == b.Run && last.Plan == b.Plan {
			return last, hint(ctx, store, last)
		}
		if all[n-1].file != b.Prev {
			return nil, moved(b)
		}
	} else if b.Prev != "" {
		return nil, moved(b)
	}
	if err := store.Create(ctx, format.ReviewKey(b.Target, b.Review), review); err != nil && !errors.Is(err, objstore.ErrExist) {
		return nil, err
	}
	b.Version, b.Seq, b.At, b.Key = Version, int64(len(all)+1), b.At.UTC(), KeyOf(key)
	b.By, b.Reason = limit(b.By), limit(b.Reason)
	b.Signature = hex.EncodeToString(ed25519.Sign(key, b.unsigned()))
	file := canonical(b)
	b.file = HashOf(file)
	pointBefore.Hit()
	err = store.Create(ctx, format.BaselineKey(b.Target, b.Seq), file)
	if errors.Is(err, objstore.ErrExist) {
		return nil, failure.New(failure.Fenced, "another attempt accepts a baseline of target %s at this moment", b.Target)
	}
	if err != nil {
		return nil, err
	}
	pointAfter.Hit()
	return &b, hint(ctx, store, &b)
}

// hint notes how many there are.
func hint(ctx context.Context, store objstore.Store, b *Baseline) error {
	return store.Replace(ctx, format.BaselineHint(b.Target), fmt.Appendf(nil, "%d\n", b.Seq))
}

func moved(b Baseline) error {
	return failure.New(failure.PlanVoid, "target %s has another baseline by now than the one that this would replace", b.Target).Do("start a new run, and look at what it shows")
}

func limit(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	return text
}
