package prober

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/internal/netprobe"
)

// listening is a pod that runs and declares ports.
func listening(name, ip string, ports ...int32) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name + "-uid")},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "main", ContainerID: "containerd://" + name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
		}},
	}
	for _, port := range ports {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{ContainerPort: port})
	}
	return p
}

// known makes a prober of pods that may be changed between rounds.
func known(pods ...*corev1.Pod) *Prober {
	return New(Options{Pods: func() ([]*corev1.Pod, error) { return pods, nil }, Self: "prober-0", Connect: netprobe.Connect})
}

// one is the only port of an answer.
func one(t *testing.T, p *Prober) Port {
	t.Helper()
	a := whole(t, p)
	require.Len(t, a.Ports, 1)
	return a.Ports[0]
}

// whole is an answer as one gets it who asks.
func whole(t *testing.T, p *Prober) Answer {
	t.Helper()
	server := httptest.NewServer(p)
	defer server.Close()
	a, err := Ask(t.Context(), to(server))
	require.NoError(t, err)
	return a
}

func to(s *httptest.Server) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", s.Listener.Addr().String())
	}
}

// moves waits until the prober's time is another: it is told apart by milliseconds.
func moves(p *Prober) {
	for at := p.now(); p.now() == at; {
		runtime.Gosched()
	}
}

func TestAProberKnowsWhenAPortAnsweredLast(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := netip.MustParseAddrPort(listener.Addr().String())
	pod := listening("web", "127.0.0.1", int32(address.Port()))
	p := known(pod)
	require.Empty(t, whole(t, p).Ports, "what was not tried is not said")

	p.round(t.Context())
	first := one(t, p)
	require.Equal(t, Port{Pod: "web-uid", To: address, Tried: first.Tried, Outcome: "r", Answered: first.Tried}, first)

	require.NoError(t, listener.Close())
	moves(p)
	p.round(t.Context())
	p.round(t.Context())
	then := one(t, p)
	require.Equal(t, Port{Pod: "web-uid", To: address, Tried: then.Tried, Outcome: "c", Silent: 2, Answered: first.Answered}, then)
	require.Greater(t, then.Tried, first.Tried)

	listener, err = net.Listen("tcp", address.String())
	require.NoError(t, err)
	p.round(t.Context())
	again := one(t, p)
	require.True(t, again.Reached())
	require.Zero(t, again.Silent)
	require.NoError(t, listener.Close())

	pod.Status.ContainerStatuses[0].ContainerID = "containerd://another"
	moves(p)
	p.round(t.Context())
	require.Zero(t, one(t, p).Answered, "of a container that has begun anew nothing is known")

	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
	p.round(t.Context())
	require.Empty(t, whole(t, p).Ports, "one that does not run cannot listen")
}

func TestItSendsNothing(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	read := make(chan int, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			read <- -1
			return
		}
		n, _ := conn.Read(make([]byte, 1))
		_ = conn.Close()
		read <- n
	}()
	p := known(listening("web", "127.0.0.1", int32(netip.MustParseAddrPort(listener.Addr().String()).Port())))
	p.round(t.Context())
	require.Zero(t, <-read, "it closes at once")
}

func TestWhatIsTried(t *testing.T) {
	with := func(change func(*corev1.Pod)) *corev1.Pod {
		p := listening("web", "10.0.0.1", 80)
		change(p)
		return p
	}
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		want int
	}{
		"a port":              {with(func(*corev1.Pod) {}), 1},
		"twice the same":      {listening("web", "10.0.0.1", 80, 80), 1},
		"UDP":                 {with(func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].Protocol = corev1.ProtocolUDP }), 0},
		"no port":             {listening("web", "10.0.0.1", 0, 70000), 0},
		"no address yet":      {listening("web", "", 80), 0},
		"ended":               {with(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), 0},
		"its node's network":  {with(func(p *corev1.Pod) { p.Spec.HostNetwork = true }), 0},
		"a pod of Upkeep's":   {with(func(p *corev1.Pod) { p.Labels = map[string]string{"upkeep.run/probe": "x"} }), 0},
		"itself":              {with(func(p *corev1.Pod) { p.Name = "prober-0" }), 0},
		"a container waits":   {with(func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State = corev1.ContainerState{} }), 0},
		"nothing known of it": {with(func(p *corev1.Pod) { p.Status.ContainerStatuses = nil }), 0},
	} {
		require.Len(t, ports([]*corev1.Pod{c.pod}, "prober-0"), c.want, name)
		slimmed, err := slim(c.pod)
		require.NoError(t, err)
		require.Equal(t, ports([]*corev1.Pod{c.pod}, "prober-0"), ports([]*corev1.Pod{slimmed.(*corev1.Pod)}, "prober-0"), "%s: all that is looked at is kept", name)
	}
}

func TestBoundsAreKept(t *testing.T) {
	var pods []*corev1.Pod
	for i := range MaxPorts + 3 {
		pods = append(pods, listening(fmt.Sprintf("p%d", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), 80))
	}
	var lock sync.Mutex
	now, most := 0, 0
	p := New(Options{Pods: func() ([]*corev1.Pod, error) { return pods, nil }, Connect: func(context.Context, netip.AddrPort) netprobe.Outcome {
		lock.Lock()
		now++
		most = max(most, now)
		lock.Unlock()
		runtime.Gosched() // others come in, if they may
		lock.Lock()
		now--
		lock.Unlock()
		return netprobe.Silent
	}})
	p.round(t.Context())
	a := whole(t, p)
	require.Len(t, a.Ports, MaxPorts)
	require.Equal(t, 3, a.Over)
	require.LessOrEqual(t, most, atOnce)

	pods = pods[:1]
	p.round(t.Context())
	a = whole(t, p)
	require.Len(t, a.Ports, 1, "pods that are gone are forgotten")
	require.Zero(t, a.Over)
}

func TestPodsThatAreNotKnownAreNoneThatAreGone(t *testing.T) {
	var failed error
	p := known(listening("web", "10.0.0.1", 80))
	pods := p.Pods
	p.Pods = func() ([]*corev1.Pod, error) {
		all, _ := pods()
		return all, failed
	}
	p.Connect = func(context.Context, netip.AddrPort) netprobe.Outcome { return netprobe.Reached }
	p.round(t.Context())
	failed = errors.New("not listed yet")
	p.round(t.Context())
	server := httptest.NewServer(p)
	defer server.Close()
	_, err := Ask(t.Context(), to(server))
	require.ErrorContains(t, err, "503")
	require.ErrorContains(t, err, "not listed yet")
	failed = nil
	p.round(t.Context())
	require.True(t, one(t, p).Reached())
}

// TestItWatchesPods on an API server that has one pod, and then another.
func TestItWatchesPods(t *testing.T) {
	second := make(chan struct{})
	var lock sync.Mutex
	asked := map[string]bool{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lock.Lock()
		asked[r.Method+" "+r.URL.Path] = true
		lock.Unlock()
		w.Header().Set("Content-Type", "application/json")
		meta := metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		switch q := r.URL.Query(); {
		case q.Get("sendInitialEvents") != "": // as a server answers that does not know it
			w.WriteHeader(http.StatusUnprocessableEntity)
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonInvalid, Code: 422})
		case q.Get("watch") != "":
			w.(http.Flusher).Flush()
			select {
			case <-second:
			case <-r.Context().Done():
				return
			}
			pod := listening("db", "10.0.0.2", 5432)
			pod.TypeMeta, pod.ResourceVersion = meta, "2"
			_ = json.NewEncoder(w).Encode(map[string]any{"type": "ADDED", "object": pod})
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			_ = json.NewEncoder(w).Encode(corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.Pod{*listening("web", "10.0.0.1", 80)}})
		}
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pods, err := Watch(ctx, client, "shop")
	require.NoError(t, err)
	has := func(n int) func() bool {
		return func() bool {
			all, err := pods()
			return err == nil && len(all) == n
		}
	}
	require.Eventually(t, has(1), 30*time.Second, 5*time.Millisecond)
	close(second)
	require.Eventually(t, has(2), 30*time.Second, 5*time.Millisecond)
	cancel()
	require.Equal(t, map[string]bool{"GET /api/v1/namespaces/shop/pods": true}, asked, "it may do nothing else")
}

func TestWhyThePodsAreNotKnownIsSaid(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "it may not", http.StatusForbidden)
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	pods, err := Watch(t.Context(), client, "shop")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := pods()
		return err != nil && strings.Contains(err.Error(), "could not be listed yet") && strings.Contains(err.Error(), "it may not")
	}, 30*time.Second, 5*time.Millisecond)
}

const right = `{"at": 9000, "ports": [{"pod": "u", "to": "10.0.0.1:80", "tried": 8000, "outcome": "s", "silent": 2, "answered": 3000}], "over": 1}`

func TestAnAnswerIsHeldToWhatCanBe(t *testing.T) {
	a, err := decode([]byte(right))
	require.NoError(t, err)
	require.Equal(t, Answer{At: 9000, Over: 1, Ports: []Port{{Pod: "u", To: netip.MustParseAddrPort("10.0.0.1:80"), Tried: 8000, Outcome: "s", Silent: 2, Answered: 3000}}}, a)
	for name, change := range map[string][2]string{
		"no time":                     {`"at": 9000`, `"at": 0`},
		"no JSON":                     {`{"at"`, `at`},
		"something after it":          {`"over": 1}`, `"over": 1}{}`},
		"an unknown key":              {`"over": 1`, `"above": 1`},
		"fewer than none":             {`"over": 1`, `"over": -1`},
		"no pod":                      {`"u"`, `""`},
		"a name that is too long":     {`"u"`, `"` + strings.Repeat("u", maxUID+1) + `"`},
		"no address":                  {`10.0.0.1:80`, `web:80`},
		"no port":                     {`10.0.0.1:80`, `10.0.0.1:0`},
		"tried never":                 {`"tried": 8000`, `"tried": 0`},
		"tried later":                 {`"tried": 8000`, `"tried": 9001`},
		"answered after it was tried": {`"answered": 3000`, `"answered": 8001`},
		"answered before it began":    {`"answered": 3000`, `"answered": -1`},
		"an outcome that is none":     {`"s"`, `"x"`},
		"reached, and not":            {`"s"`, `"r"`},
		"silent, and never":           {`"silent": 2`, `"silent": 0`},
		"answered as it was silent":   {`"answered": 3000`, `"answered": 8000`},
		"a number that is too large":  {`"tried": 8000`, `"tried": 1e30`},
		"the same port twice":         {`}], `, `}, {"pod": "u", "to": "10.0.0.1:80", "tried": 1, "outcome": "c", "silent": 1}], `},
		"too many ports":              {`"ports": [`, `"ports": [` + strings.Repeat("{},", MaxPorts)},
		"too long":                    {`"over": 1}`, `"over": 1}` + strings.Repeat(" ", maxAnswer)},
	} {
		text := strings.Replace(right, change[0], change[1], 1)
		require.NotEqual(t, right, text, name)
		_, err := decode([]byte(text))
		require.Error(t, err, name)
		require.Less(t, len(err.Error()), 1000, name)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(right))
	f.Add([]byte(`{"at":1,"ports":[]}`))
	f.Add([]byte(`{"at":1,"ports":[{"pod":"u","to":"[fe80::1%eth0]:80","tried":1,"outcome":"r","answered":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := decode(data)
		if err != nil {
			return
		}
		for _, p := range a.Ports {
			require.True(t, p.can(a.At))
		}
		text, err := json.Marshal(a)
		require.NoError(t, err)
		again, err := decode(text)
		require.NoError(t, err, "%s", text)
		text2, err := json.Marshal(again)
		require.NoError(t, err)
		require.True(t, bytes.Equal(text, text2))
	})
}

func TestNothingOfAHostileAnswerIsFollowed(t *testing.T) {
	elsewhere := false
	for name, h := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			elsewhere = elsewhere || r.URL.Path != "/"
			http.Redirect(w, r, "/other", http.StatusFound)
		},
		"no end":        func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte(" "), 2*maxAnswer)) },
		"a long head":   func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 4*maxHeader)) },
		"nothing":       func(http.ResponseWriter, *http.Request) {},
		"no such thing": http.NotFound,
		"half an answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(right[:50]))
		},
	} {
		server := httptest.NewServer(h)
		_, err := Ask(t.Context(), to(server))
		require.Error(t, err, name)
		require.Less(t, len(err.Error()), 1000, name)
		server.Close()
	}
	require.False(t, elsewhere)
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	posted, err := http.Post(server.URL, "", nil)
	require.NoError(t, err)
	require.NoError(t, posted.Body.Close())
	recorded := httptest.NewRecorder()
	known().ServeHTTP(recorded, httptest.NewRequest(http.MethodPost, "/", nil))
	require.Equal(t, http.StatusMethodNotAllowed, recorded.Code)
	_, err = Ask(t.Context(), func(context.Context) (net.Conn, error) { return nil, errors.New("no way there") })
	require.ErrorContains(t, err, "no way there")
}

func TestOnlyAProberOfOnesOwnIsBelieved(t *testing.T) {
	const image = "upkeep:1"
	yes := true
	good := func() *corev1.Pod {
		p := listening("watch-0", "10.0.0.9")
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "watch", Controller: &yes}}
		p.Spec.ServiceAccountName, p.Spec.Containers[0].Image = "watch", image
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		return p
	}
	found, err := Find([]corev1.Pod{*listening("web", "10.0.0.1"), *good()}, "shop", "watch", image)
	require.NoError(t, err)
	require.Equal(t, "watch-0", found.Name)
	for name, change := range map[string]func(*corev1.Pod){
		"another name":           func(p *corev1.Pod) { p.Name = "watch-1" },
		"another namespace":      func(p *corev1.Pod) { p.Namespace = "other" },
		"of nobody":              func(p *corev1.Pod) { p.OwnerReferences = nil },
		"of another":             func(p *corev1.Pod) { p.OwnerReferences[0].Name = "web" },
		"of another kind":        func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "ReplicaSet" },
		"of another group":       func(p *corev1.Pod) { p.OwnerReferences[0].APIVersion = "evil.example/v1" },
		"owned, not controlled":  func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil },
		"another account":        func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" },
		"another image":          func(p *corev1.Pod) { p.Spec.Containers[0].Image = "upkeep:2" },
		"a container besides":    func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{}) },
		"one before it":          func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{}} },
		"one that was attached":  func(p *corev1.Pod) { p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{}} },
		"its node's network":     func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"it does not run":        func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending },
		"it is not ready":        func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse },
		"it is about to be gone": func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} },
	} {
		p := good()
		change(p)
		_, err := Find([]corev1.Pod{*p}, "shop", "watch", image)
		require.ErrorContains(t, err, "watch-0", name)
	}
}
