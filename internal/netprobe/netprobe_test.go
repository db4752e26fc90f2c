package netprobe

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// listen returns an address where something listens, and how to end that.
func listen(t *testing.T) (netip.AddrPort, func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return netip.MustParseAddrPort(l.Addr().String()), func() { require.NoError(t, l.Close()) }
}

func TestTry(t *testing.T) {
	open, _ := listen(t)
	closed, end := listen(t)
	end()
	require.Equal(t, []Outcome{Reached, Refused, Reached}, Try(t.Context(), []netip.AddrPort{open, closed, open}))
}

// TestANetworkThatRefusesAtTimesIsNeverReached: it may limit how often it says so.
func TestANetworkThatRefusesAtTimesIsNeverReached(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answers []Outcome // again and again
		want    Outcome
	}{
		"refused and silent":   {[]Outcome{Refused, Refused, Silent}, Silent},
		"silent and refused":   {[]Outcome{Silent, Refused}, Silent},
		"reached at first":     {append([]Outcome{Reached}, slices.Repeat([]Outcome{Refused}, steady)...), Refused},
		"reached now and then": {[]Outcome{Reached, Refused, Silent}, Unsteady},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			n := 0
			require.Equal(t, c.want, settle(ctx, func() Outcome {
				if n++; n > 3*steady {
					cancel()
				}
				return c.answers[(n-1)%len(c.answers)]
			}))
		})
	}
}

// TestOnlyWhatAProbeWritesIsRead: what a pod's status says is not trusted.
func TestOnlyWhatAProbeWritesIsRead(t *testing.T) {
	all := []Outcome{Reached, Refused, Silent, Unsteady}
	got, err := read(Write(all)+"\n", len(all))
	require.NoError(t, err)
	require.Equal(t, all, got)
	for _, text := range []string{"", "r", "rrrrr", "rrr\x1b", "rrrx"} {
		_, err := read(text, len(all))
		require.Error(t, err, text)
	}
}

func TestAddresses(t *testing.T) {
	got, err := Addresses([]string{"10.0.0.1:80", "[fd00::1]:80"})
	require.NoError(t, err)
	require.Len(t, got, 2)
	for _, words := range [][]string{nil, {"localhost:80"}, {"10.0.0.1"}, {"10.0.0.1:99999"}, make([]string, MaxAddresses+1)} {
		_, err := Addresses(words)
		require.Error(t, err)
	}
}

// TestNobodyElseTakesAPod: it has an owner, is never ready, and holds nothing.
func TestNobodyElseTakesAPod(t *testing.T) {
	o := Options{RunID: "r", Realm: "n", Image: "upkeep:test", Command: []string{"upkeep", "probe", "--"}}
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: o.name(), UID: "u"}}
	labels := map[string]string{"app": "web"}
	p := o.pod(owner, 0, Probe{Labels: labels, To: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:80")}})
	require.True(t, metav1.IsControlledBy(p, owner))
	require.True(t, Is(p))
	require.Equal(t, "web", p.Labels["app"])
	require.Len(t, labels, 1, "the source's own are left as they are")
	require.NotEmpty(t, p.Spec.ReadinessGates)
	require.False(t, *p.Spec.AutomountServiceAccountToken)
	require.Empty(t, p.Spec.Volumes)
	require.Equal(t, []string{"upkeep", "probe", "--", "10.0.0.1:80"}, p.Spec.Containers[0].Command)
	require.NotEqual(t, o.name(), Options{RunID: "r", Realm: "another"}.name())
}
