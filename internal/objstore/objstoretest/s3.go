package objstoretest

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob" // s3://
)

// The account of the test's S3 server.
const (
	AccessKey = "upkeep-test"
	SecretKey = "not-so-secret-word"
)

// S3 is a real S3 server (dev/s3server), reached only through a proxy that can fail.
type S3 struct {
	*Proxy
	Folder string // holds a folder for each bucket, as the server keeps it
	Hidden string // holds what buckets with versions have hidden
	dial   func(context.Context) (net.Conn, error)
}

var s3server struct {
	sync.Once
	path string
	err  error
}

// buildS3 builds the server once for each test binary; the compiler's cache holds all but the linking.
func buildS3(t testing.TB) string {
	t.Helper()
	s3server.Do(func() {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/upkeep-run/upkeep").Output()
		if s3server.err = err; err != nil {
			return
		}
		dir, err := os.MkdirTemp("", "upkeep-s3server-")
		if s3server.err = err; err != nil {
			return
		}
		s3server.path = filepath.Join(dir, "s3server")
		build := exec.Command("go", "build", "-o", s3server.path, ".")
		build.Dir = filepath.Join(strings.TrimSpace(string(out)), "dev", "s3server")
		build.Stderr = os.Stderr
		s3server.err = build.Run()
	})
	require.NoError(t, s3server.err, "build the S3 server")
	return s3server.path
}

// RemoveS3 removes the server's program; call it at the end of TestMain.
func RemoveS3() {
	if s3server.path != "" {
		_ = os.RemoveAll(filepath.Dir(s3server.path)) // only tidying
	}
}

// StartS3 starts a server, and gives its account to the test's environment.
func StartS3(t *testing.T) *S3 {
	t.Helper()
	return start(t, true)
}

// StartS3WithoutVersions starts a server that keeps no versions: what a lock keeps there, nobody can remove
// or replace.
func StartS3WithoutVersions(t *testing.T) *S3 {
	t.Helper()
	return start(t, false)
}

func start(t *testing.T, versions bool) *S3 {
	t.Helper()
	for _, e := range S3Env() {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
	dir, err := os.MkdirTemp("", "upkeep-s3-") // a socket's path is short
	require.NoError(t, err)
	socket := filepath.Join(dir, "s3.sock")
	s := &S3{Folder: filepath.Join(dir, "buckets"), Hidden: filepath.Join(dir, "versions"), dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	require.NoError(t, os.Mkdir(s.Folder, 0o750))
	var log bytes.Buffer
	args := []string{s.Folder, socket}
	if versions {
		require.NoError(t, os.Mkdir(s.Hidden, 0o750))
		args = append(args, s.Hidden)
	}
	cmd := exec.Command(buildS3(t), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, S3Env()...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("the S3 server's log:\n%s", log.String())
		}
		require.NoError(t, os.RemoveAll(dir))
	})
	require.Eventually(t, func() bool {
		c, err := s.dial(t.Context())
		if err != nil {
			return false
		}
		return c.Close() == nil
	}, time.Minute, 10*time.Millisecond, "the S3 server does not listen")
	return s.Way(t)
}

// Way is another way to the same server, with faults of its own.
func (s *S3) Way(t testing.TB) *S3 {
	t.Helper()
	return &S3{Proxy: StartProxy(t, s.dial), Folder: s.Folder, Hidden: s.Hidden, dial: s.dial}
}

// S3Env is the account, as variables of the environment.
func S3Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + AccessKey, "AWS_SECRET_ACCESS_KEY=" + SecretKey,
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/nonexistent", "AWS_SHARED_CREDENTIALS_FILE=/nonexistent",
	}
}

// URL is the store's URL for a bucket, whether there is such a bucket or not.
func (s *S3) URL(bucket string) string {
	return "s3://" + bucket + "?region=us-east-1&use_path_style=true&endpoint=http://" + s.Address
}

// Bucket makes an empty bucket and returns the store's URL for it.
func (s *S3) Bucket(t testing.TB, name string) string {
	t.Helper()
	require.NoError(t, os.Mkdir(filepath.Join(s.Folder, name), 0o750))
	return s.URL(name)
}

// Versioned makes an empty bucket that keeps what is removed or replaced as hidden versions.
func (s *S3) Versioned(t testing.TB, name string) string {
	t.Helper()
	url := s.Bucket(t, name)
	_, err := s.Client(t, url).PutBucketVersioning(Context(t), &s3.PutBucketVersioningInput{
		Bucket: &name, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	})
	require.NoError(t, err)
	return url
}

// Locked makes an empty bucket with versions that lets none be removed for so many days; for none, only
// those that are locked one by one.
func (s *S3) Locked(t testing.TB, name string, mode types.ObjectLockRetentionMode, days int32) string {
	t.Helper()
	url, ctx := s.URL(name), Context(t)
	client, lock := s.Client(t, url), true
	_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: &lock})
	require.NoError(t, err)
	if days == 0 {
		return url
	}
	_, err = client.PutObjectLockConfiguration(ctx, &s3.PutObjectLockConfigurationInput{Bucket: &name, ObjectLockConfiguration: &types.ObjectLockConfiguration{
		ObjectLockEnabled: types.ObjectLockEnabledEnabled,
		Rule:              &types.ObjectLockRule{DefaultRetention: &types.DefaultRetention{Mode: mode, Days: &days}},
	}})
	require.NoError(t, err)
	return url
}

// Client is S3's own client for a store's URL.
func (s *S3) Client(t testing.TB, url string) *s3.Client {
	t.Helper()
	b, err := blob.OpenBucket(Context(t), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	var client *s3.Client
	require.True(t, b.As(&client))
	return client
}
