package rotation

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
)

var (
	inTurn = Entry{Name: "app", Secret: "shop-db", Keys: Keys{Username: "user", Password: "password"}, Owner: "shop", Roles: []string{"shop_a", "shop_b"}}
	alone  = Entry{Name: "app", Secret: "shop-db", Keys: Keys{Password: "password"}, Role: "shop"}
)

func TestNext(t *testing.T) {
	for from, to := range map[string]string{"shop": "shop_a", "shop_a": "shop_b", "shop_b": "shop_a"} {
		got, err := inTurn.Next(from)
		require.NoError(t, err)
		require.Equal(t, to, got)
	}
	got, err := alone.Next("shop")
	require.NoError(t, err)
	require.Equal(t, "shop", got)
	for _, e := range []Entry{inTurn, alone} {
		_, err = e.Next("somebody")
		require.True(t, failure.Is(err, failure.NotRotatable), "%v", err)
	}
}

func TestWhatMustNotBeRotated(t *testing.T) {
	for _, key := range []string{"SALT", "ENCRYPTION_KEY", "NEXTAUTH_SECRET", "nextauth-secret", "encryption.key", "JWT_SECRET", "AUTH_SECRET", "SECRET_KEY_BASE", "tls.key", "LANGFUSE_SALT", "SESSION_SECRET", "MASTER_KEY", "private-key"} {
		require.NotEmpty(t, KeyProblem(key), key)
		require.Equal(t, KeyProblem(key), Untouched(key), key)
	}
	for _, key := range []string{"password", "postgres-password", "DATABASE_URL", "username", "POSTGRES_PASSWORD"} {
		require.Empty(t, KeyProblem(key), key)
		require.NotEmpty(t, Untouched(key), key)
	}
}

func TestOnlyTheKeysConcerned(t *testing.T) {
	all := Keys{Username: "user", Password: "password", URL: "url"}
	for name, c := range map[string]struct {
		keys     Keys
		data     map[string]string
		role, pw string
		want     map[string]string
	}{
		"two keys": {inTurn.Keys, map[string]string{"user": "shop_a", "password": "old", "SALT": "x"}, "shop_a", "old", map[string]string{"user": "shop_b", "password": "NEW"}},
		"a url":    {Keys{URL: "url"}, map[string]string{"url": "postgresql://shop_a:o%40d@db:5432/shop?sslmode=require&options=-csearch_path%3Dapp"}, "shop_a", "o@d", map[string]string{"url": "postgresql://shop_b:NEW@db:5432/shop?sslmode=require&options=-csearch_path%3Dapp"}},
		"all": {all, map[string]string{"user": "shop_a", "password": "old", "url": "postgres://shop_a:old@db/shop"}, "shop_a", "old",
			map[string]string{"user": "shop_b", "password": "NEW", "url": "postgres://shop_b:NEW@db/shop"}},
		"a url without a password": {Keys{Password: "password", URL: "url"}, map[string]string{"password": "old", "url": "postgres://shop_a@db/shop"}, "shop_a", "old", map[string]string{"password": "NEW", "url": "postgres://shop_b@db/shop"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := Entry{Secret: "shop-db", Keys: c.keys}
			role, pw, err := e.read(bytesOf(c.data))
			require.NoError(t, err)
			require.Equal(t, []string{c.role, c.pw}, []string{role, pw})
			require.Equal(t, bytesOf(c.want), c.keys.write(bytesOf(c.data), "shop_b", "NEW"))
			require.Equal(t, c.data["url"], string(c.keys.write(bytesOf(c.data), role, pw)["url"]), "written back, it is what it was")
		})
	}
	for name, c := range map[string]struct {
		keys Keys
		data map[string]string
	}{
		"no key":                {inTurn.Keys, map[string]string{"user": "shop_a"}},
		"an empty one":          {inTurn.Keys, map[string]string{"user": "shop_a", "password": ""}},
		"no url":                {Keys{URL: "url"}, map[string]string{"url": "hunter2"}},
		"a url of another kind": {Keys{URL: "url"}, map[string]string{"url": "mysql://a:hunter2@db/shop"}},
		"a url without a role":  {Keys{URL: "url"}, map[string]string{"url": "postgres://db/hunter2"}},
		"no password at all":    {Keys{URL: "url"}, map[string]string{"url": "postgres://a@db/hunter2"}},
		"two passwords":         {Keys{Password: "password", URL: "url"}, map[string]string{"password": "hunter2", "url": "postgres://a:hunter3@db/shop"}},
		"two roles":             {all, map[string]string{"user": "b", "password": "hunter2", "url": "postgres://a:hunter2@db/shop"}},
	} {
		_, _, err := Entry{Secret: "shop-db", Keys: c.keys}.read(bytesOf(c.data))
		require.True(t, failure.Is(err, failure.NotRotatable), "%s: %v", name, err)
		require.NotContains(t, err.Error(), "hunter", name)
	}
}

func bytesOf(in map[string]string) map[string][]byte {
	out := make(map[string][]byte)
	for k, v := range in {
		out[k] = []byte(v)
	}
	return out
}

// TestVerifier holds it against the vector of RFC 7677: what a client proves with its stored and server keys.
func TestVerifier(t *testing.T) {
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	require.NoError(t, err)
	got, err := verifierWith("pencil", salt)
	require.NoError(t, err)
	require.Equal(t, "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=", got)
}

func TestAPasswordHasChanceEnough(t *testing.T) {
	a, b := newPassword(), newPassword()
	require.NotEqual(t, a, b)
	require.GreaterOrEqual(t, len(a), 26)
	require.Empty(t, strings.Trim(a, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"), "it needs no quoting anywhere")
}

func TestReads(t *testing.T) {
	key := func(secret, key string) corev1.PodSpec {
		return corev1.PodSpec{Containers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: key}}}}}}}
	}
	volume := func(items ...corev1.KeyToPath) corev1.PodSpec {
		return corev1.PodSpec{Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "shop-db", Items: items}}}}}
	}
	projected := corev1.PodSpec{Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "shop-db"}}}}}}}}}
	all := corev1.PodSpec{InitContainers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "shop-db"}}}}}}}
	for name, c := range map[string]struct {
		spec corev1.PodSpec
		want bool
	}{
		"the key": {key("shop-db", "password"), true}, "another key": {key("shop-db", "postgres-password"), false}, "another Secret": {key("other", "password"), false},
		"all keys": {all, true}, "a volume": {volume(), true}, "a volume of the key": {volume(corev1.KeyToPath{Key: "user"}), true},
		"a volume of another": {volume(corev1.KeyToPath{Key: "SALT"}), false}, "a projected volume": {projected, true}, "nothing": {corev1.PodSpec{}, false},
	} {
		require.Equal(t, c.want, reads(c.spec, inTurn), name)
	}
}

func TestWhoElseWritesASecret(t *testing.T) {
	made, yes := time.Now().Add(-time.Hour), true
	field := func(manager, fields string) metav1.ManagedFieldsEntry {
		at := metav1.NewTime(made.Add(30 * time.Minute))
		return metav1.ManagedFieldsEntry{Manager: manager, Time: &at, FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)}}
	}
	for name, c := range map[string]struct {
		meta metav1.ObjectMeta
		by   string
	}{
		"nobody":            {metav1.ObjectMeta{}, ""},
		"External Secrets":  {metav1.ObjectMeta{Labels: map[string]string{"reconcile.external-secrets.io/managed": "true"}}, "External Secrets"},
		"its owner":         {metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{APIVersion: "external-secrets.io/v1", Kind: "ExternalSecret", Name: "db", Controller: &yes}}}, "an operator"},
		"Argo CD":           {metav1.ObjectMeta{Annotations: map[string]string{"argocd.argoproj.io/tracking-id": "shop:/Secret:shop/shop-db"}}, "Argo CD"},
		"a writer":          {metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{field("vault-sync", `{"f:data":{"f:password":{}}}`)}}, "the field manager vault-sync"},
		"of another key":    {metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{field("vault-sync", `{"f:data":{"f:SALT":{}}}`)}}, ""},
		"a person":          {metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{field("kubectl-edit", `{"f:data":{"f:password":{}}}`)}}, ""},
		"Upkeep, last time": {metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{field("upkeep", `{"f:data":{"f:password":{}}}`)}}, ""},
	} {
		c.meta.Name, c.meta.Namespace, c.meta.CreationTimestamp = "shop-db", "shop", metav1.NewTime(made)
		found := ownersOf(&corev1.Secret{ObjectMeta: c.meta}, inTurn, time.Now())
		if c.by == "" {
			require.Empty(t, found, name)
			continue
		}
		require.Len(t, found, 1, name)
		require.Equal(t, c.by, found[0].By, name)
	}
}
