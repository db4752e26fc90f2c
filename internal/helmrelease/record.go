package helmrelease

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// maxRevisions is how many records of a release are looked at.
	maxRevisions = 256
	// maxRecord bounds a record that is unpacked, in bytes.
	maxRecord = 32 << 20
	// operationLabel names the operation of ours that made a record. Its value names the revision too:
	// Helm hands a record's labels on to the next one, which is not ours by that.
	operationLabel = "upkeep.run/operation"
	recordType     = "helm.sh/release.v1"
)

// OperationID is how an operation's key stands in labels: a hash, since a key may be long.
func OperationID(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// head is a record by what its labels say.
type head struct {
	number    int
	status    release.Status
	operation string // the OperationID, if it is ours
	Record
}

// record is one revision as Helm's storage keeps it, in a Secret. It is read, made and changed here and
// not by Helm's driver: with a context, a bound on what is unpacked, and preconditions.
type record struct {
	head
	release *release.Release
}

func (r *Release) selector() string {
	return labels.Set{"owner": "helm", "name": r.name}.String()
}

func secretName(name string, number int) string {
	return fmt.Sprintf("sh.helm.release.v1.%s.v%d", name, number)
}

func operationOf(set map[string]string, number int) string {
	id, of, found := bytes.Cut([]byte(set[operationLabel]), []byte("-"))
	if !found || string(of) != strconv.Itoa(number) {
		return ""
	}
	return string(id)
}

func operationValue(key string, number int) string {
	return fmt.Sprintf("%s-%d", OperationID(key), number)
}

// heads lists the records, the newest first.
func (r *Release) heads(ctx context.Context) ([]head, error) {
	var heads []head
	options := metav1.ListOptions{LabelSelector: r.selector(), Limit: 500}
	for {
		list, err := r.meta.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(r.namespace).List(ctx, options)
		if err != nil {
			return nil, kube.Classify(err, fmt.Sprintf("list the records of release %q", r.name))
		}
		for _, m := range list.Items {
			number, err := strconv.Atoi(m.Labels["version"])
			if err != nil || number < 1 || m.Name != secretName(r.name, number) {
				continue // not one that Helm would find by its name either
			}
			heads = append(heads, head{number, release.Status(m.Labels["status"]), operationOf(m.Labels, number), Record{string(m.UID), m.ResourceVersion}})
		}
		slices.SortFunc(heads, func(a, b head) int { return cmp.Compare(b.number, a.number) })
		heads = heads[:min(len(heads), maxRevisions)]
		if options.Continue = list.Continue; options.Continue == "" {
			return heads, nil
		}
	}
}

// read returns a record; nil when it is gone.
func (r *Release) read(ctx context.Context, number int) (*record, error) {
	secret, err := r.set.CoreV1().Secrets(r.namespace).Get(ctx, secretName(r.name, number), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, kube.Classify(err, fmt.Sprintf("read revision %d of release %q", number, r.name))
	}
	rel, err := unpack(secret.Data["release"])
	if err == nil && (rel.Name != r.name || rel.Version != number || rel.Namespace != r.namespace) {
		err = errors.New("it is another release's")
	}
	if err != nil {
		return nil, failure.New(failure.ReleaseBusy, "the record of revision %d of release %q cannot be used: %s", number, r.name, err).
			Do("look at the Secret %s in the namespace %s, and delete it if it is damaged", secret.Name, r.namespace)
	}
	rel.Labels = maps.Clone(secret.Labels)
	for _, system := range driver.GetSystemLabels() {
		delete(rel.Labels, system)
	}
	return &record{head{number, rel.Info.Status, operationOf(secret.Labels, number), Record{string(secret.UID), secret.ResourceVersion}}, rel}, nil
}

// write makes the record's Secret, or changes it if it is as it was read.
func (r *record) write(ctx context.Context, set kubernetes.Interface) error {
	data, err := pack(r.release)
	if err != nil {
		return err
	}
	all := maps.Clone(r.release.Labels)
	if all == nil {
		all = make(map[string]string)
	}
	maps.Copy(all, map[string]string{"owner": "helm", "name": r.release.Name, "status": r.release.Info.Status.String(), "version": strconv.Itoa(r.number)})
	stamp := "createdAt"
	if r.UID != "" {
		stamp = "modifiedAt"
	}
	all[stamp] = strconv.FormatInt(time.Now().Unix(), 10)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secretName(r.release.Name, r.number), Labels: all},
		Type:       recordType, Data: map[string][]byte{"release": data},
	}
	secrets := set.CoreV1().Secrets(r.release.Namespace)
	if r.UID == "" {
		secret, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
	} else {
		secret.UID, secret.ResourceVersion = types.UID(r.UID), r.ResourceVersion
		secret, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	}
	if err != nil {
		return err
	}
	r.status, r.operation = r.release.Info.Status, operationOf(all, r.number)
	r.Record = Record{string(secret.UID), secret.ResourceVersion}
	return nil
}

func pack(rel *release.Release) ([]byte, error) {
	raw, err := json.Marshal(rel)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(raw); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return base64.StdEncoding.AppendEncode(nil, packed.Bytes()), nil
}

func unpack(data []byte) (*release.Release, error) {
	raw, err := base64.StdEncoding.AppendDecode(nil, data)
	if err != nil {
		return nil, errors.New("it is not written as Helm does")
	}
	if bytes.HasPrefix(raw, []byte{0x1f, 0x8b}) { // Helm's oldest records are not packed
		r, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, errors.New("it is not written as Helm does")
		}
		if raw, err = io.ReadAll(io.LimitReader(r, maxRecord+1)); err != nil || len(raw) > maxRecord {
			return nil, fmt.Errorf("it is damaged, or has more than %d bytes", maxRecord)
		}
	}
	var rel release.Release
	if err := json.Unmarshal(raw, &rel); err != nil || rel.Info == nil || rel.Chart == nil || rel.Chart.Metadata == nil {
		return nil, errors.New("it is not written as Helm does")
	}
	rel.Config = whole(rel.Config).(map[string]any)
	return &rel, nil
}

// whole makes integers of the numbers that JSON has made floats of: a template would write 1e+06.
func whole(value any) any {
	switch v := value.(type) {
	case float64:
		if i := int64(v); float64(i) == v {
			return i
		}
	case map[string]any:
		for key, inner := range v {
			v[key] = whole(inner)
		}
	case []any:
		for i, inner := range v {
			v[i] = whole(inner)
		}
	}
	return value
}

func (r *record) manifestHash() string {
	sum := sha256.Sum256([]byte(r.release.Manifest))
	return hex.EncodeToString(sum[:])
}

func (r *record) revision() (Revision, error) {
	rel := r.release
	out := Revision{
		Number: r.number, Status: string(rel.Info.Status), Chart: rel.Chart.Metadata.Name, ChartVersion: rel.Chart.Metadata.Version,
		AppVersion: rel.Chart.Metadata.AppVersion, Description: clip(rel.Info.Description, 2000), At: rel.Info.LastDeployed.Time,
		ManifestSHA256: r.manifestHash(), Operation: r.operation, Record: r.Record,
	}
	objects, err := parse(rel.Manifest, rel.Namespace)
	if err != nil {
		return out, err
	}
	for _, o := range objects {
		out.Objects = append(out.Objects, o.Object)
	}
	out.Hooks, err = hooksOf(rel)
	return out, err
}

// clip bounds a text, and says that it did.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return string(bytes.ToValidUTF8([]byte(text[:most]), nil)) + " ..."
}
