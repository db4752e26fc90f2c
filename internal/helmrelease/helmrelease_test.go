package helmrelease

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/upkeep-run/upkeep/internal/failure"
)

func TestNamesAreChecked(t *testing.T) {
	for _, of := range [][2]string{{"", "web"}, {"Shop", "web"}, {"shop", ""}, {"shop", "Web"}, {"shop", "a/b"}, {"shop", strings.Repeat("a", 54)}, {"../kube", "web"}} {
		_, err := Open(&rest.Config{Host: "http://127.0.0.1:1"}, of[0], of[1])
		require.True(t, failure.Is(err, failure.BadInput), "%q: %v", of, err)
	}
	_, err := Open(&rest.Config{Host: "http://127.0.0.1:1"}, "shop", "web")
	require.NoError(t, err)
}

func TestAPlansClientOnlyReads(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked = append(asked, r.Method) }))
	defer server.Close()
	client := http.Client{Transport: gated{http.DefaultTransport, onlyReads, &answers{}, new(sync.Mutex)}}
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"} {
		request, err := http.NewRequest(method, server.URL, strings.NewReader("x"))
		require.NoError(t, err)
		if reply, err := client.Do(request); err == nil {
			_ = reply.Body.Close()
		} else {
			require.True(t, failure.Is(err, failure.Internal))
		}
	}
	require.Equal(t, []string{"GET", "HEAD"}, asked)
}

func TestOnlyReadingIsTriedAgain(t *testing.T) {
	asked := make(map[string]int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked[r.Method]++; asked[r.Method] < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	client := http.Client{Transport: again{http.DefaultTransport}}
	for method, want := range map[string]int{"GET": http.StatusOK, "PUT": http.StatusServiceUnavailable, "DELETE": http.StatusServiceUnavailable} {
		request, err := http.NewRequest(method, server.URL, nil)
		require.NoError(t, err)
		reply, err := client.Do(request)
		require.NoError(t, err)
		require.NoError(t, reply.Body.Close())
		require.Equal(t, want, reply.StatusCode, method)
	}
	require.Equal(t, map[string]int{"GET": 3, "PUT": 1, "DELETE": 1}, asked)
}

func TestAFenceLetsNothingThroughLate(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	f := &fence{holder: "one", cancel: cancel, until: time.Now().Add(time.Hour)}
	read, change := httptest.NewRequest("GET", "/", nil), httptest.NewRequest("PATCH", "/", nil)
	require.NoError(t, f.gate(change))
	f.until = time.Now().Add(-time.Nanosecond)
	require.NoError(t, f.gate(read))
	require.True(t, failure.Is(f.gate(change), failure.Fenced))
	require.True(t, failure.Is(context.Cause(ctx), failure.Fenced))
	f.until = time.Now().Add(time.Hour)
	require.True(t, failure.Is(f.gate(change), failure.Fenced), "lost is lost")
	suspended := &fence{holder: "one", cancel: cancel, until: time.Now().Add(-time.Second).Round(0)}
	require.True(t, failure.Is(suspended.gate(change), failure.Fenced), "the monotonic clock stood still")
}

func TestAJournalOutlivesItsWriter(t *testing.T) {
	f := &fence{holder: "one"}
	var j journal
	j.Operation, j.Applied = "shop/7", true
	j.hook("pre-upgrade", "Job migrate").UID = "u"
	j.hook("pre-upgrade", "Job migrate").End = "succeeded"
	require.Empty(t, j.hook("post-upgrade", "Job migrate").UID, "another event is another run")
	l := f.renewed(&coordinationv1.Lease{}, j)
	require.Equal(t, "one", holderOf(l))
	require.Equal(t, j, readJournal(l))
	l.Annotations[journalAnnotation] = "{torn"
	require.Equal(t, journal{}, readJournal(l))
	require.Equal(t, journal{}, readJournal(&coordinationv1.Lease{}))
}

func TestAnOperationsLabelIsNotInherited(t *testing.T) {
	value := operationValue("shop/upgrade/1", 7)
	require.LessOrEqual(t, len(value), 63)
	set := map[string]string{operationLabel: value}
	require.Equal(t, OperationID("shop/upgrade/1"), operationOf(set, 7))
	require.Empty(t, operationOf(set, 8), "Helm hands labels on to the next revision")
	for _, odd := range []string{"", "-", "-7", "x", "7"} {
		require.Empty(t, operationOf(map[string]string{operationLabel: odd}, 7), odd)
	}
}

func sample() *release.Release {
	return &release.Release{
		Name: "web", Namespace: "shop", Version: 3, Info: &release.Info{Status: release.StatusDeployed}, Chart: &chart.Chart{Metadata: &chart.Metadata{Name: "web", Version: "1.2.3"}},
		Config: map[string]any{"big": 1000000.0, "part": 0.5, "list": []any{2.0, map[string]any{"n": 3.0}}}, Manifest: "a: b",
	}
}

func TestARecordIsPackedAsHelmDoes(t *testing.T) {
	packed, err := pack(sample())
	require.NoError(t, err)
	rel, err := unpack(packed)
	require.NoError(t, err)
	require.Equal(t, map[string]any{"big": int64(1000000), "part": 0.5, "list": []any{int64(2), map[string]any{"n": int64(3)}}}, rel.Config, "a template would write 1e+06")
	for name, data := range map[string][]byte{"nothing": nil, "no base64": []byte("***"), "no gzip": []byte("H4sI"), "no release": []byte("e30="), "no JSON": []byte("AAAA")} {
		_, err := unpack(data)
		require.Error(t, err, name)
	}
}

func TestARecordThatUnpacksToTooMuchIsRefused(t *testing.T) {
	rel := sample()
	rel.Manifest = strings.Repeat(" ", maxRecord)
	packed, err := pack(rel)
	require.NoError(t, err)
	_, err = unpack(packed)
	require.ErrorContains(t, err, "more than")
}

func TestHooksRunInHelmsOrder(t *testing.T) {
	hooks := []Hook{
		{Object: Object{Kind: "ServiceAccount", Name: "z"}, Events: []string{"pre-upgrade"}, Weight: -5},
		{Object: Object{Kind: "Job", Name: "b"}, Events: []string{"pre-upgrade", "post-upgrade"}},
		{Object: Object{Kind: "Job", Name: "a"}, Events: []string{"pre-upgrade"}},
		{Object: Object{Kind: "Job", Name: "first"}, Events: []string{"pre-upgrade"}, Weight: -10},
		{Object: Object{Kind: "Pod", Name: "check"}, Events: []string{"test"}, Weight: -20},
		{Object: Object{Kind: "Role", Name: "a"}, Events: []string{"pre-upgrade"}},
	}
	var names []string
	for _, h := range ordered(hooks, "pre-upgrade") {
		names = append(names, h.Kind+" "+h.Name)
	}
	require.Equal(t, []string{"Job first", "ServiceAccount z", "Job a", "Role a", "Job b"}, names)
	require.Len(t, ordered(hooks, "post-upgrade"), 1)
	require.Empty(t, ordered(hooks, "pre-rollback"))
}

func live(kind, annotation string, status map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	group := map[string]string{"Job": "batch"}[kind]
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind})
	u.SetAnnotations(map[string]string{hookAnnotation: annotation})
	return u
}

func TestHooksAreJudged(t *testing.T) {
	condition := func(kind, status string) map[string]any {
		return map[string]any{"conditions": []any{map[string]any{"type": "Suspended", "status": "False"}, map[string]any{"type": kind, "status": status}}}
	}
	going := live("Job", "me", condition("Complete", "True"))
	going.SetDeletionTimestamp(&metav1.Time{Time: time.Unix(1, 0)})
	for _, c := range []struct {
		live  *unstructured.Unstructured
		state hookState
		mine  bool
	}{
		{nil, hookAbsent, false},
		{going, hookGoing, true},
		{live("Job", "me", nil), hookActive, true},
		{live("Job", "me", map[string]any{"active": int64(1), "failed": int64(2)}), hookActive, true},
		{live("Job", "me", condition("Complete", "True")), hookSucceeded, true},
		{live("Job", "me", condition("Complete", "False")), hookActive, true},
		{live("Job", "me", condition("Failed", "True")), hookFailed, true},
		{live("Job", "you", condition("Failed", "True")), hookFailed, false},
		{live("Job", "you", condition("FailureTarget", "True")), hookActive, false}, // its pods still end
		{live("Pod", "me", map[string]any{"phase": "Pending"}), hookActive, true},
		{live("Pod", "me", map[string]any{"phase": "Succeeded"}), hookSucceeded, true},
		{live("Pod", "you", map[string]any{"phase": "Failed"}), hookFailed, false},
		{live("Pod", "you", map[string]any{"phase": "Unknown"}), hookActive, false},
		{live("ConfigMap", "me", nil), hookSucceeded, true},
	} {
		state, mine := judge(c.live, "me")
		require.Equal(t, c.state, state, "%v", c.live)
		require.Equal(t, c.mine, mine, "%v", c.live)
	}
}

func parsed(t *testing.T, manifest string) rendering {
	t.Helper()
	objects, err := parse(manifest, "shop")
	require.NoError(t, err)
	return rendering{objects: objects}
}

const manifest = `
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: shop}
data: {password: aHVudGVyMi1odW50ZXIy, user: YW5u}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {url: "postgres://ann:hunter2-hunter2@db/shop", color: red}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: old}
`

func TestADifferenceShowsNoSecret(t *testing.T) {
	from := parsed(t, manifest)
	to := parsed(t, strings.NewReplacer(
		"aHVudGVyMi1odW50ZXIy", "Y29ycmVjdC1ob3JzZQ==", "hunter2-hunter2", "correct-horse", "color: red", "color: blue", "name: old", "name: new",
	).Replace(manifest))
	d := difference(from, to)
	require.Equal(t, []int{1, 2, 1, 0}, []int{d.Added, d.Changed, d.Removed, d.Cut})
	raw, err := json.Marshal(d)
	require.NoError(t, err)
	for _, secret := range []string{"hunter2", "correct-horse", "aHVudGVy", "Y29ycmVj", "YW5u"} {
		require.NotContains(t, string(raw), secret)
	}
	texts := make(map[string]string)
	for _, o := range d.Objects {
		texts[o.Kind+" "+o.Name] = o.Text
	}
	require.Contains(t, texts["Secret login"], "-  password: (before)\n+  password: (changed)\n")
	require.Contains(t, texts["Secret login"], "   user: (hidden)\n")
	require.Contains(t, texts["ConfigMap settings"], "-  color: red\n")
	require.Contains(t, texts["ConfigMap settings"], "+  color: blue\n")
	require.Contains(t, texts["ConfigMap settings"], "postgres://ann:(hidden)@db/shop")
	require.Contains(t, texts["ConfigMap new"], "+  name: new\n")
	require.Empty(t, difference(from, from).Objects)
}

func TestADifferenceIsBounded(t *testing.T) {
	var many, large strings.Builder
	for i := range maxDiffs + 7 {
		fmt.Fprintf(&many, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%d}\n", i)
	}
	d := difference(rendering{}, parsed(t, many.String()))
	require.Len(t, d.Objects, maxDiffs)
	require.Equal(t, 7, d.Cut)
	require.Equal(t, maxDiffs+7, d.Added)
	for i := range 40 {
		fmt.Fprintf(&large, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%d}\ndata:\n", i)
		for j := range 1000 {
			fmt.Fprintf(&large, "  k%d: %s\n", j, strings.Repeat("x", 100))
		}
	}
	raw, err := json.Marshal(difference(rendering{}, parsed(t, large.String())))
	require.NoError(t, err)
	require.Less(t, len(raw), 2*maxDiffBytes)
}

func TestRenderingsAreCompared(t *testing.T) {
	a := parsed(t, manifest)
	secret := parsed(t, strings.Replace(manifest, "aHVudGVyMi1odW50ZXIy", "Y29ycmVjdC1ob3JzZQ==", 1))
	keys := parsed(t, strings.Replace(manifest, "user: YW5u", "login: YW5u", 1))
	color := parsed(t, strings.Replace(manifest, "color: red", "color: blue", 1))
	less := parsed(t, strings.Split(manifest, "---")[0])
	for name, c := range map[string]struct {
		b               rendering
		moving, secrets []string
	}{
		"the same":              {parsed(t, manifest), nil, nil},
		"a Secret's value":      {secret, nil, []string{"Secret login"}},
		"a Secret's keys":       {keys, []string{"Secret login"}, nil},
		"another value":         {color, []string{"ConfigMap settings"}, nil},
		"objects come and go":   {less, []string{"ConfigMap old", "ConfigMap settings"}, nil},
		"an object that is two": {rendering{objects: append(parsed(t, manifest).objects, a.objects[2])}, []string{"ConfigMap old"}, nil},
	} {
		moving, secrets := unlike(a, c.b)
		require.Equal(t, c.moving, moving, name)
		require.Equal(t, c.secrets, secrets, name)
		require.Equal(t, len(c.moving) == 0, a.hash() == c.b.hash(), name)
	}
}

func TestParsingRefusesWhatIsNoObject(t *testing.T) {
	for _, odd := range []string{"kind: ConfigMap\n", "apiVersion: v1\nkind: ConfigMap\n", "a: [\n", "apiVersion: v1\nkind: List\nitems: [{kind: Pod}]\n"} {
		_, err := parse(odd, "shop")
		require.True(t, failure.Is(err, failure.BadChart), "%q: %v", odd, err)
	}
	r := parsed(t, "apiVersion: v1\nkind: ConfigMapList\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: other}}\n---\n# nothing\n")
	require.Equal(t, []Object{{Version: "v1", Kind: "ConfigMap", Name: "a"}, {Version: "v1", Kind: "ConfigMap", Namespace: "other", Name: "b"}}, []Object{r.objects[0].Object, r.objects[1].Object})
}

func TestObstaclesAreFound(t *testing.T) {
	claim := "spec: {storageClassName: fast, accessModes: [ReadWriteOnce], resources: {requests: {storage: %s}}}"
	store := "spec: {serviceName: db, selector: {matchLabels: {app: db}}, podManagementPolicy: OrderedReady, volumeClaimTemplates: [{metadata: {name: data}, spec: {volumeMode: Filesystem, resources: {requests: {storage: %s}}}}]}"
	for name, c := range map[string]struct {
		kind, from, to  string
		blocked, oneWay string
	}{
		"nothing":                 {"StatefulSet", fmt.Sprintf(store, "1Gi"), fmt.Sprintf(store, "1024Mi"), "", ""},
		"volumes of a set":        {"StatefulSet", fmt.Sprintf(store, "1Gi"), fmt.Sprintf(store, "2Gi"), "the size of its volumes cannot be changed from 1Gi to 2Gi", ""},
		"one volume less":         {"StatefulSet", fmt.Sprintf(store, "1Gi"), "spec: {serviceName: db}", "volumeClaimTemplates cannot be added or removed", ""},
		"defaults":                {"StatefulSet", fmt.Sprintf(store, "1Gi"), "spec: {selector: {matchLabels: {app: db}}, volumeClaimTemplates: [{metadata: {name: data}, spec: {resources: {requests: {storage: 1Gi}}}}]}", "", ""},
		"the service of a set":    {"StatefulSet", fmt.Sprintf(store, "1Gi"), strings.Replace(fmt.Sprintf(store, "1Gi"), "serviceName: db", "serviceName: sql", 1), "spec.serviceName cannot be changed", ""},
		"a claim that grows":      {"PersistentVolumeClaim", fmt.Sprintf(claim, "1Gi"), fmt.Sprintf(claim, "2Gi"), "", "grows from 1Gi to 2Gi"},
		"a claim that shrinks":    {"PersistentVolumeClaim", fmt.Sprintf(claim, "2Gi"), fmt.Sprintf(claim, "1Gi"), "cannot be made smaller", ""},
		"a claim's class":         {"PersistentVolumeClaim", fmt.Sprintf(claim, "1Gi"), strings.Replace(fmt.Sprintf(claim, "1Gi"), "fast", "slow", 1), "spec.storageClassName cannot be changed", ""},
		"a selector":              {"Deployment", "spec: {selector: {matchLabels: {app: a}}}", "spec: {selector: {matchLabels: {app: b}}}", "spec.selector cannot be changed", ""},
		"a Job":                   {"Job", "spec: {template: {spec: {containers: [{image: a, imagePullPolicy: Always}]}}}", "spec: {template: {spec: {containers: [{image: b}]}}}", "spec.template cannot be changed", ""},
		"the same Job":            {"Job", "spec: {template: {spec: {containers: [{image: a, imagePullPolicy: Always}]}}}", "spec: {template: {spec: {containers: [{image: a}]}}}", "", ""},
		"an immutable ConfigMap":  {"ConfigMap", "{immutable: true, data: {a: b}}", "{immutable: true, data: {a: c}}", "data cannot be changed", ""},
		"an ordinary ConfigMap":   {"ConfigMap", "data: {a: b}", "data: {a: c}", "", ""},
		"a kind that we know not": {"Gadget", "spec: {a: b}", "spec: {a: c}", "", ""},
	} {
		var from, to map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(c.from), &from))
		require.NoError(t, yaml.Unmarshal([]byte(c.to), &to))
		blocked, oneWay := obstacles(Object{Kind: c.kind, Name: "it"}, from, to)
		for what, of := range map[string][]string{c.blocked: blocked, c.oneWay: oneWay} {
			if what != "" {
				require.Len(t, of, 1, name)
				require.Contains(t, of[0], what, name)
			}
		}
		require.Equal(t, c.blocked == "", len(blocked) == 0, "%s: %v", name, blocked)
		require.Equal(t, c.oneWay == "", len(oneWay) == 0, "%s: %v", name, oneWay)
	}
}

func TestWhatIsTriedAgain(t *testing.T) {
	group := schema.GroupResource{Resource: "configmaps"}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"invalid":    {apierrors.NewInvalid(schema.GroupKind{Kind: "ConfigMap"}, "a", nil), true},
		"bad":        {apierrors.NewBadRequest("no"), true},
		"forbidden":  {apierrors.NewForbidden(group, "a", nil), false}, // a person gives the right
		"conflict":   {apierrors.NewConflict(group, "a", nil), false},
		"throttled":  {apierrors.NewTooManyRequests("slowly", 1), false},
		"overloaded": {apierrors.NewInternalError(io.EOF), false},
		"stopped":    {context.Canceled, false},
		"Helm's own": {fmt.Errorf("no Deployment with the name %q found", "web"), false}, // it says nothing by itself
	} {
		require.Equal(t, c.want, refused(fmt.Errorf("wrapped: %w", c.err)), name)
	}
}

func TestHelmsErrorsAreReadFromTheServersAnswers(t *testing.T) {
	for status, want := range map[int]failure.Code{200: "", 404: "", 422: "", 401: failure.ClusterForbids, 403: failure.ClusterForbids, 409: failure.ClusterUnreachable, 429: failure.ClusterUnreachable, 503: failure.ClusterUnreachable} {
		c := &client{answers: &answers{}}
		c.answers.note(&http.Response{StatusCode: status}, nil)
		err := c.classify(fmt.Errorf("a && b"), "apply")
		if want == "" {
			require.NoError(t, err, "%d", status)
		} else {
			require.True(t, failure.Is(err, want), "%d: %v", status, err)
		}
		c.answers.reset()
		require.NoError(t, c.classify(fmt.Errorf("a && b"), "apply"))
		c.answers.note(nil, io.EOF)
		require.True(t, failure.Is(c.classify(fmt.Errorf("a && b"), "apply"), failure.ClusterUnreachable))
	}
}

func TestDiscoveryIsTold(t *testing.T) {
	for path, want := range map[string]bool{
		"/api": true, "/api/v1": true, "/apis": true, "/apis/metrics.k8s.io/v1beta1": true, "/version": true, "/openapi/v3/apis/apps/v1": true,
		"/api/v1/namespaces": false, "/api/v1/namespaces/shop/pods": false, "/apis/apps/v1/deployments": false,
	} {
		require.Equal(t, want, discovers(path), path)
	}
}

func TestTextIsCutAndCleaned(t *testing.T) {
	require.Equal(t, "postgres://(hidden)@db/x and https://host/a:b@c", hideLogins("postgres://u:p4ss@db/x and https://host/a:b@c"))
	require.Equal(t, "end", tail("begin\nlong line\nend\n", 8))
	require.Equal(t, "all", tail(" all \n", 8))
	require.Equal(t, "ab ...", clip("abc", 2))
	require.Equal(t, "a ...", clip("aé", 2))
}

// files of a chart, small enough to be read at a glance.
var files = map[string]string{
	"Chart.yaml": "apiVersion: v2\nname: tiny\nversion: 1.0.0\n", "values.yaml": "a: 1\n", "templates/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n",
}

func folder(t *testing.T) string {
	t.Helper()
	at := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(at, "templates"), 0o755))
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(at, name), []byte(text), 0o600))
	}
	return at
}

func archive(t *testing.T) []byte {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	w := tar.NewWriter(z)
	for name, text := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "tiny/" + name, Mode: 0o600, Size: int64(len(text))}))
		_, err := w.Write([]byte(text))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return packed.Bytes()
}

// registry is a registry of one chart, and a repository of it.
func registryOf(t *testing.T, packed []byte) *httptest.Server {
	t.Helper()
	digest := func(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
	meta := []byte(`{"name":"tiny","version":"1.0.0","apiVersion":"v2"}`)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":%q,"size":%d},
		"layers":[{"mediaType":"application/vnd.cncf.helm.chart.content.v1.tar+gzip","digest":%q,"size":%d}]}`, digest(meta), len(meta), digest(packed), len(packed))
	blobs := map[string][]byte{digest(meta): meta, digest(packed): packed, digest(manifest): manifest, "1.0.0": manifest}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		switch {
		case r.URL.Path == "/charts/index.yaml":
			_, _ = fmt.Fprintf(w, "apiVersion: v1\nentries:\n  tiny:\n  - {name: tiny, version: 1.0.0, digest: %x, urls: [files/tiny.tgz]}\n  - {name: tiny, version: 0.9.0, digest: %064d, urls: [files/tiny.tgz]}\n", sha256.Sum256(packed), 0)
		case r.URL.Path == "/charts/files/tiny.tgz":
			_, _ = w.Write(packed)
		case blobs[name] == nil:
			w.WriteHeader(http.StatusNotFound)
		default:
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			}
			w.Header().Set("Docker-Content-Digest", digest(blobs[name]))
			w.Header().Set("Content-Length", fmt.Sprint(len(blobs[name])))
			_, _ = w.Write(blobs[name])
		}
	}))
}

func TestAChartIsTheSameFromEverywhere(t *testing.T) {
	at, packed := folder(t), archive(t)
	file := filepath.Join(t.TempDir(), "tiny.tgz")
	require.NoError(t, os.WriteFile(file, packed, 0o600))
	server := registryOf(t, packed)
	defer server.Close()
	var digests []string
	for _, c := range []Chart{
		{Path: at}, {Path: file}, {OCI: "oci://" + server.Listener.Addr().String() + "/charts/tiny", Version: "1.0.0"},
		{Repository: server.URL + "/charts", Name: "tiny", Version: "1.0.0"}, {Repository: server.URL + "/charts/", Name: "tiny", Version: "1.0.0"},
	} {
		files, err := c.load(t.Context())
		require.NoError(t, err, c.String())
		made, err := files.chart()
		require.NoError(t, err)
		require.Equal(t, "tiny", made.Name())
		digests = append(digests, files.digest())
	}
	for _, d := range digests {
		require.Equal(t, digests[0], d)
	}
	require.NoError(t, os.WriteFile(filepath.Join(at, "values.yaml"), []byte("a: 2\n"), 0o600))
	changed, err := Chart{Path: at}.load(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, digests[0], changed.digest())
}

func TestChartsThatAreRefused(t *testing.T) {
	packed := archive(t)
	server := registryOf(t, packed)
	defer server.Close()
	linked := folder(t)
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(linked, "templates", "p.yaml")))
	large := folder(t)
	require.NoError(t, os.WriteFile(filepath.Join(large, "large"), make([]byte, maxChart+1), 0o600))
	for name, c := range map[string]struct {
		chart Chart
		says  string
	}{
		"not absolute":           {Chart{Path: "charts/tiny"}, "not absolute"},
		"not there":              {Chart{Path: "/nowhere"}, "no such file"},
		"a link":                 {Chart{Path: linked}, "no regular file"},
		"too large":              {Chart{Path: large}, "more than"},
		"no version":             {Chart{OCI: "oci://" + server.Listener.Addr().String() + "/charts/tiny"}, "a version"},
		"no such version":        {Chart{OCI: "oci://" + server.Listener.Addr().String() + "/charts/tiny", Version: "3.0.0"}, "not found"},
		"no TLS":                 {Chart{Repository: "http://charts.test", Name: "tiny", Version: "1.0.0"}, "without TLS"},
		"not in the repository":  {Chart{Repository: server.URL + "/charts", Name: "tiny", Version: "3.0.0"}, "does not have it"},
		"another than was named": {Chart{Repository: server.URL + "/charts", Name: "tiny", Version: "0.9.0"}, "not the one"},
		"no repository":          {Chart{Repository: server.URL, Name: "tiny", Version: "1.0.0"}, "404"},
	} {
		_, err := c.chart.load(t.Context())
		require.True(t, failure.Is(err, failure.BadChart), "%s: %v", name, err)
		require.ErrorContains(t, err, c.says, name)
	}
	for _, c := range []Chart{{}, {Path: "/a", OCI: "oci://b/c"}} {
		_, err := c.load(t.Context())
		require.True(t, failure.Is(err, failure.BadInput), "%v", err)
	}
}

func TestARollbackThatWasCutOffGoesOnByItsRecord(t *testing.T) {
	r, err := Open(&rest.Config{Host: "https://127.0.0.1:1"}, "shop", "web")
	require.NoError(t, err)
	p, err := r.PlanOn(Revision{Number: 4, Status: "pending-rollback", Description: "Rollback to 2", Chart: "web"})
	require.NoError(t, err)
	require.Equal(t, KindRollback, p.Kind)
	require.Equal(t, []int{3, 3, 2}, []int{p.Base.Number, p.From, p.To.Number})
	for _, not := range []Revision{
		{Number: 4, Status: "pending-upgrade", Description: "Rollback to 2"},
		{Number: 4, Status: "pending-rollback", Description: "somebody's"},
		{Number: 4, Status: "pending-rollback", Description: "Rollback to -1"},
	} {
		_, err := r.PlanOn(not)
		require.True(t, failure.Is(err, failure.PlanVoid), "%+v", not)
	}
}
