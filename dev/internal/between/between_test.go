package between

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// server is as much of an API server as says its version, and counts how often it did.
func server(t *testing.T) (kubeconfig string, asked func() int) {
	t.Helper()
	calls := make(chan struct{}, 100)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/version" {
			http.NotFound(w, r)
			return
		}
		calls <- struct{}{}
		_, _ = w.Write([]byte(`{"major": "1", "minor": "34"}`))
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: s.URL, InsecureSkipTLSVerify: true}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	return save(t, file), func() int { return len(calls) }
}

func client(t *testing.T, kubeconfig string) *discovery.DiscoveryClient {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	require.NoError(t, err)
	config.Timeout = 30 * time.Second
	c, err := discovery.NewDiscoveryClientForConfig(rest.CopyConfig(config))
	require.NoError(t, err)
	return c
}

func TestALineThatIsCutHoldsBackAndGoesOn(t *testing.T) {
	kubeconfig, asked := server(t)
	line := NewLine(t, kubeconfig)
	c := client(t, line.Kubeconfig)
	_, err := c.ServerVersion()
	require.NoError(t, err)
	held := line.Cut()
	answered := make(chan error, 1)
	go func() {
		_, err := c.ServerVersion()
		answered <- err
	}()
	<-held
	require.Equal(t, 1, asked())
	require.Empty(t, answered, "nobody is told")
	line.Mend()
	require.NoError(t, <-answered)
	require.Equal(t, 2, asked())
}

func TestEachTroubleIsWhatItSays(t *testing.T) {
	kubeconfig, asked := server(t)
	kind := None
	x := NewTrouble(t, kubeconfig, func(int, *http.Request) Kind { return kind })
	c := client(t, x.Kubeconfig)
	ask := func(k Kind) error {
		kind = k
		_, err := c.RESTClient().Get().AbsPath("/version").MaxRetries(0).DoRaw(t.Context())
		return err
	}
	require.NoError(t, ask(None))
	require.True(t, apierrors.IsTooManyRequests(ask(Busy)))
	seconds, delays := apierrors.SuggestsClientDelay(ask(Busy))
	require.True(t, delays)
	require.Equal(t, 1, seconds)
	require.True(t, apierrors.IsServiceUnavailable(ask(Down)))
	require.True(t, apierrors.IsInternalError(ask(Broken)))
	require.True(t, apierrors.IsConflict(ask(Conflict)))
	require.Equal(t, 1, asked())
	var status apierrors.APIStatus
	require.False(t, errors.As(ask(Never), &status))
	require.Equal(t, 1, asked(), "it never came")
	require.False(t, errors.As(ask(Lost), &status))
	require.Equal(t, 2, asked(), "it was done")
	require.Equal(t, 2, x.Given()[Busy])
}
