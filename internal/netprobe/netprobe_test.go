package netprobe

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/ownpod"
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
	require.Equal(t, []Outcome{Reached, Refused, Reached}, Try(t.Context(), []Address{{open, true}, {closed, false}, {open, true}}))
	require.Equal(t, []Outcome{Reached, Refused}, try(t.Context(), []Address{{open, false}, {closed, true}}, 0), "what is not as expected is said too")
}

// TestWhatBecomesAsExpected: policies may hold for a new pod only after a moment.
func TestWhatBecomesAsExpected(t *testing.T) {
	address, end := listen(t)
	seen := make(chan Outcome)
	go func() { seen <- Try(t.Context(), []Address{{address, false}})[0] }()
	require.Eventually(t, func() bool { return Connect(t.Context(), address) == Reached }, time.Second, time.Millisecond)
	end()
	require.Equal(t, Refused, <-seen)
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
		"reached at first":     {append([]Outcome{Reached}, slices.Repeat([]Outcome{Refused}, 1000)...), Refused},
		"reached now and then": {[]Outcome{Reached, Refused, Silent}, Unsteady},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := -1
			require.Equal(t, c.want, settle(t.Context(), false, time.Now(), func() Outcome {
				n++
				return c.answers[n%len(c.answers)]
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
	got, err := Addresses([]string{"10.0.0.1:80/open", "[fd00::1]:80/closed"})
	require.NoError(t, err)
	require.Equal(t, []Address{{netip.MustParseAddrPort("10.0.0.1:80"), true}, {netip.MustParseAddrPort("[fd00::1]:80"), false}}, got)
	for _, words := range [][]string{nil, {"localhost:80/open"}, {"10.0.0.1/open"}, {"10.0.0.1:99999/open"}, {"10.0.0.1:80"}, make([]string, MaxAddresses+1)} {
		_, err := Addresses(words)
		require.Error(t, err)
	}
}

// TestNobodyElseTakesAPod: it has an owner, is never ready, and holds nothing.
func TestNobodyElseTakesAPod(t *testing.T) {
	o := Options{RunID: "r", Realm: "n", Image: "upkeep:test", Command: []string{"upkeep", "probe", "--"}}
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: o.group().Name(), UID: "u"}}
	labels := map[string]string{"app": "web"}
	p := o.group().Own(owner, 0, o.pod(Probe{Labels: labels, To: []Address{{netip.MustParseAddrPort("10.0.0.1:80"), true}}}))
	require.True(t, metav1.IsControlledBy(p, owner))
	require.True(t, ownpod.Is(p))
	require.Equal(t, "web", p.Labels["app"])
	require.Len(t, labels, 1, "the source's own are left as they are")
	require.NotEmpty(t, p.Spec.ReadinessGates)
	require.False(t, *p.Spec.AutomountServiceAccountToken)
	require.Empty(t, p.Spec.Volumes)
	require.Equal(t, []string{"upkeep", "probe", "--", "10.0.0.1:80/open"}, p.Spec.Containers[0].Command)
	require.NotEqual(t, o.group().Name(), Options{RunID: "r", Realm: "another"}.group().Name())
}
