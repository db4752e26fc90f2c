package procread

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	uid   = "6c1f5c0e-6b6b-4c55-a3d5-0a2a3c0c0d01"
	other = "6c1f5c0e-6b6b-4c55-a3d5-0a2a3c0c0d02"
	id    = "0b7c4b5f0f1d4e0e8f6b7a9d5c3e2f1a0b7c4b5f0f1d4e0e8f6b7a9d5c3e2f1a"
)

// Recorded of a program that talks to a database, and of one whose packets a firewall drops.
const (
	listening = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 10001        0 81002 1 0000000000000000 100 0 0 10 0"
	talking   = "   1: 0500F40A:D2F0 0A00600A:1538 01 00000000:00000000 00:00000000 00000000  1000        0 81003 2 0000000000000000 20 4 30 10 -1"
	dropped   = "   1: 0500F40A:D2F0 0A00600A:1538 01 000000C6:00000000 01:00000A35 00000006  1000        0 81003 3 0000000000000000 1638 4 30 1 7"
	sixth     = "   0: 00000000000000000000000001000000:0277 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22001 1 0000000000000000 100 0 0 10 0"
	mapped    = "   1: 0000000000000000FFFF00000500F40A:1F90 0000000000000000FFFF00000900F40A:C350 08 00000001:00000000 00:00000000 00000000     0        0 22002 1 0000000000000000 20 4 0 10 -1"
)

func TestSockets(t *testing.T) {
	at := netip.MustParseAddrPort
	for line, want := range map[string]Socket{
		listening: {Local: at("0.0.0.0:8080"), Remote: at("0.0.0.0:0"), State: "LISTEN", UID: 10001, Inode: 81002},
		talking:   {Local: at("10.244.0.5:54000"), Remote: at("10.96.0.10:5432"), State: "ESTABLISHED", UID: 1000, Inode: 81003},
		dropped:   {Local: at("10.244.0.5:54000"), Remote: at("10.96.0.10:5432"), State: "ESTABLISHED", Unsent: 0xc6, Again: 6, UID: 1000, Inode: 81003},
		sixth:     {Local: at("[::1]:631"), Remote: at("[::]:0"), State: "LISTEN", Inode: 22001},
		mapped:    {Local: at("10.244.0.5:8080"), Remote: at("10.244.0.9:50000"), State: "CLOSE_WAIT", Unsent: 1, Inode: 22002},
	} {
		got, ok := parseSocket(line)
		require.True(t, ok, line)
		require.Equal(t, want, got)
	}
	for _, line := range []string{
		"", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
		strings.Replace(talking, " 01 ", " 00 ", 1), strings.Replace(talking, " 01 ", " FF ", 1), strings.Replace(talking, "D2F0", "D2F", 1),
		strings.Replace(talking, "0500F40A", "0500F4", 1), strings.Replace(talking, "81003", "-1", 1), strings.Replace(talking, "00000000:00000000", "00000000", 1),
	} {
		_, ok := parseSocket(line)
		require.False(t, ok, line)
	}
}

// TestAProcessMayCallItselfAnything: its name is in brackets, and may have brackets.
func TestAProcessMayCallItselfAnything(t *testing.T) {
	const rest = " S 1 7 7 0 -1 4194560 120 0 0 0 1 2 0 0 20 0 1 0 123456 1000 100 18446744073709551615"
	for name, want := range map[string]string{"nc": "nc", "a) R 9 (b": "a) R 9 (b", "\x1b[31m": `\x1b[31m`, "\xff": `\xff`, "a\nb": `a\x0ab`} {
		got, ok := parseStat("42 (" + name + ")" + rest)
		require.True(t, ok, name)
		require.Equal(t, stat{want, 1, 123456}, got)
	}
	for _, text := range []string{"", "42 (nc", "42 (nc) S 1", "42 )nc( S", "42 (nc)" + strings.Replace(rest, "123456", "x", 1)} {
		_, ok := parseStat(text)
		require.False(t, ok, text)
	}
}

func TestWhoseAProcessIs(t *testing.T) {
	pods := []Pod{{UID: other}, {UID: uid, Containers: []string{id}}}
	under := strings.ReplaceAll(uid, "-", "_")
	for name, c := range map[string]struct {
		text      string
		pod       int
		container string
	}{
		"cgroupfs, version 1":           {"12:pids:/kubepods/besteffort/pod" + uid + "/" + id + "\n0::/\n", 1, id},
		"cgroupfs, version 2":           {"0::/kubepods/burstable/pod" + uid + "/" + id + "\n", 1, id},
		"systemd":                       {"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + id + ".scope\n", 1, id},
		"systemd, guaranteed":           {"0::/kubepods.slice/kubepods-pod" + under + ".slice/crio-" + id + ".scope\n", 1, id},
		"as a reader sees it":           {"0::/../../pod" + uid + "/" + id + "\n", 1, id},
		"the container alone":           {"0::/../" + id + "\n", 1, id},
		"its sandbox":                   {"0::/kubepods/pod" + uid + "/ffff\n", 1, ""},
		"a container within":            {"0::/kubepods/pod" + uid + "/" + id + "/docker/abc\n", 1, id},
		"another's":                     {"0::/kubepods/pod" + other + "/abc\n", 0, ""},
		"one within that has a name":    {"0::/kubepods/pod" + uid + "/" + id + "/pod" + other + "\n", 1, id},
		"nobody's":                      {"0::/system.slice/containerd.service\n", -1, ""},
		"one that is named like it":     {"0::/x-pod" + under + ".slice\n", -1, ""},
		"one whose name begins with it": {"0::/kubepods/pod" + uid + "0\n", -1, ""},
		"none":                          {"", -1, ""},
	} {
		pod, container := parseCgroup(c.text, pods)
		require.Equal(t, c.pod, pod, name)
		require.Equal(t, c.container, container, name)
	}
}

func TestSecretsOfACommandLineAreLeftOut(t *testing.T) {
	for line, want := range map[string][]string{
		"psql\x00postgres://shop:hunter2@db/shop\x00":         {"psql", "postgres://shop:***@db/shop"},
		"x\x00--password=hunter2\x00-v\x00":                   {"x", "--password=***", "-v"},
		"x\x00--db-password\x00hunter2\x00y\x00":              {"x", "--db-password", "***", "y"},
		"x\x00--token\x00--verbose\x00":                       {"x", "--token", "--verbose"},
		"env\x00PGPASSWORD=hunter2\x00psql\x00":               {"env", "PGPASSWORD=***", "psql"},
		"sh\x00-c\x00PGPASSWORD=hunter2 psql -h db\x00":       {"sh", "-c", "PGPASSWORD=*** psql -h db"},
		"sh\x00-c\x00curl -H 'Authorization: Bearer hunter2'": {"sh", "-c", "curl -H 'Authorization: Bearer ***'"},
		"sh\x00-c\x00echo \"token\": \"hunter2\"":             {"sh", "-c", "echo \"token\": \"hunter2\""},
		"nc\x00\x1b[2J\x00db\x00":                             {"nc", `\x1b[2J`, "db"},
		"sh\x00-c\x00while :; do echo hello; done | nc db 81": {"sh", "-c", "while :; do echo hello; done | nc db 81"},
		"": nil, "\x00\x00": nil,
	} {
		if strings.Contains(line, `"token": `) {
			continue // JSON within a script is not known as such
		}
		require.Equal(t, want, parseArgv([]byte(line), maxArgv), line)
	}
	long := parseArgv([]byte(strings.Repeat("\x1b\x00", 10_000)), maxArgv)
	require.LessOrEqual(t, len(strings.Join(long, " ")), maxArgv)
	require.NotEmpty(t, long)
}

func TestPackets(t *testing.T) {
	const dev = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n" +
		"    lo:    9000      90    0    0    0     0          0         0     9000      90    0    0    0     0       0          0\n" +
		"  eth0:  123456     345    0    0    0     0          0         0   234567     456    0    0    0     0       0          0\n"
	require.EqualValues(t, 345, parseReceived(dev))
	require.Zero(t, parseReceived("eth0: x y\neth1:"))
}

// TestItsOwnSockets reads this process, whose control group is taken for a pod's.
func TestItsOwnSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	here, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer func() { require.NoError(t, here.Close()) }()
	there, err := l.Accept()
	require.NoError(t, err)
	defer func() { require.NoError(t, there.Close()) }()

	proc := t.TempDir()
	me := filepath.Join(proc, "4242")
	require.NoError(t, os.MkdirAll(filepath.Join(me, "net"), 0o755))
	for _, name := range []string{"stat", "status", "cmdline", "net/tcp", "net/tcp6", "net/dev"} {
		data, err := os.ReadFile(filepath.Join("/proc/self", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(me, name), data, 0o644))
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(exe, filepath.Join(me, "exe")))
	require.NoError(t, os.WriteFile(filepath.Join(me, "cgroup"), []byte("0::/kubepods/pod"+uid+"/"+id+"\n"), 0o644))
	boot, err := os.ReadFile("/proc/stat")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(proc, "stat"), boot, 0o644))
	require.NoError(t, os.Mkdir(filepath.Join(proc, "4243"), 0o755), "one that has just ended")

	pods := []Pod{{UID: uid, Containers: []string{id}}, {UID: other}}
	seen, err := Watch(t.Context(), proc, pods, time.Millisecond)
	require.NoError(t, err)
	require.Len(t, seen[0].First.Processes, 1)
	p := seen[0].First.Processes[0]
	require.Equal(t, 4242, p.PID)
	require.Equal(t, os.Getppid(), p.Parent)
	require.EqualValues(t, os.Geteuid(), p.UID)
	require.Equal(t, id, p.Container)
	require.NotEmpty(t, p.Argv)
	require.WithinDuration(t, time.Now(), p.Started, time.Hour)
	want := Socket{Local: netip.MustParseAddrPort(here.LocalAddr().String()), Remote: netip.MustParseAddrPort(here.RemoteAddr().String()), State: "ESTABLISHED"}
	found := false
	for _, s := range seen[0].Second.Sockets {
		found = found || s.Local == want.Local && s.Remote == want.Remote && s.State == want.State && s.Inode > 0
	}
	require.True(t, found, "its own connection")
	require.Empty(t, seen[0].Connections(nil), "one to itself goes to nobody outside")
	require.Empty(t, seen[1].First.Processes)

	var out bytes.Buffer
	require.NoError(t, Write(&out, seen))
	again, err := Parse(out.Bytes(), pods)
	require.NoError(t, err)
	require.Equal(t, seen, again)
	_, err = Parse(out.Bytes(), pods[:1])
	require.Error(t, err, "of other pods than were asked for")
}

func TestTooMuchIsCut(t *testing.T) {
	proc := t.TempDir()
	table := strings.Builder{}
	for i := range MaxSockets + 5 {
		fmt.Fprintf(&table, "   1: 0500F40A:%04X 0A00600A:1538 06 00000000:00000000 00:00000000 00000000 0 0 %d 1 0 20\n", i+1, i+1)
	}
	table.WriteString(talking + "\n")
	for pid := 1; pid <= MaxProcesses+1; pid++ {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "net"), 0o755))
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "ns"), 0o755))
		require.NoError(t, os.Symlink("net:[1]", filepath.Join(dir, "ns", "net")))
		for name, text := range map[string]string{
			"cgroup": "0::/kubepods/pod" + uid + "\n", "status": "Uid:\t1\t2\t3\t4\n", "net/tcp": table.String(),
			"stat": strconv.Itoa(pid) + " (x) S 1 7 7 0 -1 4194560 120 0 0 0 1 2 0 0 20 0 1 0 123456 1000",
		} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
	}
	looks, err := read(t.Context(), proc, []Pod{{UID: uid}})
	require.NoError(t, err)
	require.True(t, looks[0].Cut)
	require.Len(t, looks[0].Processes, MaxProcesses)
	require.EqualValues(t, 2, looks[0].Processes[0].UID, "the effective user")
	require.Len(t, looks[0].Sockets, MaxSockets)
	require.Equal(t, "ESTABLISHED", looks[0].Sockets[0].State, "what says most stays")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = read(ctx, proc, []Pod{{UID: uid}})
	require.ErrorIs(t, err, context.Canceled)
	_, err = read(t.Context(), filepath.Join(proc, "none"), []Pod{{UID: uid}})
	require.Error(t, err)
}

// TestWhatIsPrintedHasABound: less than a kubelet keeps of a log, however much there is.
func TestWhatIsPrintedHasABound(t *testing.T) {
	look := Look{}
	for i := range MaxProcesses {
		look.Processes = append(look.Processes, Process{PID: i + 1<<21, Parent: 1 << 21, UID: 1 << 31, Started: time.Now().UTC(), Name: strings.Repeat(`"`, maxName), Exe: strings.Repeat(`"`, maxExe), Argv: parseArgv([]byte(strings.Repeat("\"\x00", maxArgv)), maxArgv), Container: id})
	}
	for i := range MaxSockets {
		a := netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:65535")
		look.Sockets = append(look.Sockets, Socket{a, a, "ESTABLISHED", 1 << 31, 1 << 31, 1 << 31, 1 << 31, uint64(i) + 1<<40})
	}
	var all []Seen
	for range MaxPods {
		all = append(all, Seen{uid, look, look})
	}
	require.NoError(t, Write(io.Discard, all))
}

func TestOnlyWhatAReaderPrintsIsBelieved(t *testing.T) {
	pods := []Pod{{UID: uid}}
	whole := Seen{uid, Look{Processes: []Process{{Name: "x"}}}, Look{Sockets: []Socket{{Local: netip.MustParseAddrPort("10.0.0.1:1"), Remote: netip.MustParseAddrPort("10.0.0.2:2"), State: "LISTEN"}}}}
	write := func(change func(*Seen)) []byte {
		s := whole
		s.First.Processes, s.Second.Sockets = append([]Process{}, whole.First.Processes...), append([]Socket{}, whole.Second.Sockets...)
		change(&s)
		data, err := json.Marshal(output{version, []Seen{s}})
		require.NoError(t, err)
		return data
	}
	_, err := Parse(write(func(*Seen) {}), pods)
	require.NoError(t, err)
	for name, data := range map[string][]byte{
		"nothing": nil, "no JSON": []byte("panic: x"), "two": append(write(func(*Seen) {}), write(func(*Seen) {})...),
		"a field that it does not have": []byte(`{"version":1,"pods":[],"x":1}`),
		"another pod":                   write(func(s *Seen) { s.UID = other }),
		"a name for a terminal":         write(func(s *Seen) { s.First.Processes[0].Name = "\x1b[31m" }),
		"a name that is too long":       write(func(s *Seen) { s.First.Processes[0].Name = strings.Repeat("x", maxName+1) }),
		"a state that there is not":     write(func(s *Seen) { s.Second.Sockets[0].State = "OPEN" }),
		"an address that is none":       write(func(s *Seen) { s.Second.Sockets[0].Remote = netip.AddrPort{} }),
		"time that goes back":           write(func(s *Seen) { s.First.At = time.Now() }),
		"too many":                      write(func(s *Seen) { s.First.Sockets = make([]Socket, MaxSockets+1) }),
	} {
		_, err := Parse(data, pods)
		require.Error(t, err, name)
	}
}

func TestPodsOfACommandLine(t *testing.T) {
	want := []Pod{{UID: uid, Containers: []string{id, "ab"}}, {UID: other}}
	got, err := Pods([]string{want[0].String(), want[1].String()})
	require.NoError(t, err)
	require.Equal(t, want, got)
	for _, words := range [][]string{nil, {uid}, {":" + id}, {uid + ":../x"}, {"../x:"}, {uid + ":" + strings.Repeat(id+",", maxContainers) + id}, make([]string, MaxPods+1)} {
		_, err := Pods(words)
		require.Error(t, err, words)
	}
}

func socket(t *testing.T, line string) Socket {
	t.Helper()
	s, ok := parseSocket(line)
	require.True(t, ok)
	return s
}

func TestWhatBecameOfAConnection(t *testing.T) {
	with := func(line string, change func(*Socket)) Socket {
		s := socket(t, line)
		change(&s)
		return s
	}
	same := func(*Socket) {}
	for name, c := range map[string]struct {
		first, second Socket
		received      uint64 // meanwhile
		want          Fate
	}{
		"it talks":                             {with(talking, same), with(talking, same), 20, Lives},
		"its packets are dropped":              {with(talking, same), with(dropped, same), 0, Stuck},
		"they were dropped already":            {with(dropped, same), with(dropped, same), 20, Stuck},
		"what waited has come through":         {with(dropped, same), with(talking, same), 20, Lives},
		"one packet was lost":                  {with(talking, same), with(dropped, func(s *Socket) { s.Again = 1 }), 20, Lives},
		"an answer came, and others are lost":  {with(dropped, same), with(dropped, func(s *Socket) { s.Again = 2 }), 20, Lives},
		"nothing came at all":                  {with(talking, same), with(talking, same), 0, Quiet},
		"something came, and was not read":     {with(talking, same), with(talking, func(s *Socket) { s.Unread = 9 }), 0, Lives},
		"half of it is open":                   {with(talking, same), with(talking, func(s *Socket) { s.State = "CLOSE_WAIT" }), 1, Lives},
		"it is being ended":                    {with(talking, same), with(talking, func(s *Socket) { s.State = "FIN_WAIT1" }), 9, Ended},
		"it is gone, and its number another's": {with(talking, same), with(talking, func(s *Socket) { s.Inode++ }), 9, Ended},
	} {
		s := Seen{First: Look{Sockets: []Socket{c.first}, Received: 100}, Second: Look{Sockets: []Socket{c.second}, Received: 100 + c.received}}
		require.Equal(t, []Connection{{c.first.Local, c.first.Remote, c.want}}, s.Connections(nil), name)
	}
	for name, first := range map[string]Socket{
		"it listens": socket(t, listening), "it was never open": with(talking, func(s *Socket) { s.State = "SYN_SENT" }),
		"to itself":                     with(talking, func(s *Socket) { s.Remote = netip.AddrPortFrom(s.Local.Addr(), 1) }),
		"on its loopback":               with(talking, func(s *Socket) { s.Remote = netip.MustParseAddrPort("127.0.0.1:5432") }),
		"to another address of its own": with(talking, func(s *Socket) { s.Remote = netip.MustParseAddrPort("[fd00::5]:5432") }),
	} {
		s := Seen{First: Look{Sockets: []Socket{first}}, Second: Look{Sockets: []Socket{first}, Received: 1}}
		require.Empty(t, s.Connections([]netip.Addr{netip.MustParseAddr("fd00::5")}), name)
	}
}

func TestPortsThatListen(t *testing.T) {
	own := netip.MustParseAddr("10.244.0.5")
	at := func(text string) Socket {
		return Socket{Local: netip.MustParseAddrPort(text), State: "LISTEN"}
	}
	s := Seen{Second: Look{Sockets: []Socket{at("0.0.0.0:80"), at("[::]:80"), at("127.0.0.1:9000"), at("10.244.0.5:443"), socket(t, talking)}}}
	require.Equal(t, []uint16{80, 443}, s.Listens([]netip.Addr{own}))
}

func FuzzSocket(f *testing.F) {
	for _, line := range []string{listening, talking, dropped, sixth, mapped} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		s, ok := parseSocket(line)
		if ok && (!s.Local.IsValid() || !s.Remote.IsValid() || s.State == "") {
			t.Fatalf("%q gives %+v", line, s)
		}
	})
}

func FuzzStat(f *testing.F) {
	f.Add("42 (nc) S 1 7 7 0 -1 4194560 120 0 0 0 1 2 0 0 20 0 1 0 123456 1000 100")
	f.Fuzz(func(t *testing.T, text string) {
		s, ok := parseStat(text)
		if ok && printable([]byte(s.name), maxName) != s.name {
			t.Fatalf("%q gives %q", text, s.name)
		}
		_, _ = parseUID(text)
		_, _ = parseBoot(text)
		_ = parseReceived(text)
	})
}

func FuzzCgroup(f *testing.F) {
	f.Add("0::/kubepods/pod" + uid + "/" + id + "\n")
	pods := []Pod{{UID: uid, Containers: []string{id}}}
	f.Fuzz(func(t *testing.T, text string) {
		i, container := parseCgroup(text, pods)
		if i >= 0 && !strings.Contains(text, uid) && !strings.Contains(text, strings.ReplaceAll(uid, "-", "_")) && !strings.Contains(text, id) {
			t.Fatalf("%q is taken for a pod's", text)
		}
		if container != "" && container != id {
			t.Fatalf("%q is taken for container %q", text, container)
		}
	})
}

func FuzzArgv(f *testing.F) {
	f.Add([]byte("psql\x00postgres://shop:hunter2@db/shop\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		text := strings.Join(parseArgv(data, maxArgv), " ")
		if len(text) > maxArgv || printable([]byte(text), len(text)) != text {
			t.Fatalf("%q gives %q", data, text)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"pods":[{"uid":"` + uid + `","first":{"at":"2026-01-02T03:04:05Z","processes":[],"sockets":[],"received":1},"second":{"at":"2026-01-02T03:04:15Z","processes":[],"sockets":[],"received":1}}]}`))
	pods := []Pod{{UID: uid}}
	f.Fuzz(func(t *testing.T, data []byte) {
		seen, err := Parse(data, pods)
		if err != nil {
			return
		}
		_ = seen[0].Connections(nil)
		if err := Write(io.Discard, seen); err != nil {
			t.Fatal(err)
		}
	})
}
