// Package procread lists the processes and TCP sockets of pods from a node's /proc, and says which connections
// went on between two looks. It changes nothing, and whoever runs in the pods has chosen much of what it reads: all
// of it is bounded, and nothing of it is printed that a terminal would obey.
//
// What it takes: the node's process ids. Of /proc/<pid> everybody may read stat, status, cmdline, cgroup and net;
// only the links exe and ns/net of others' processes are for whoever has CAP_SYS_PTRACE, and Kubernetes gives that
// to programs of user 0 alone, as it sets no ambient capabilities. Without it, or where a security module of the
// kernel says no, exe is empty, and sockets are read for each process.
package procread

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxPods bounds the pods that are read at once, MaxProcesses and MaxSockets what is listed of each, and
	// MaxOutput all of it in bytes: less than what a kubelet keeps of a log.
	MaxPods      = 12
	MaxProcesses = 100
	MaxSockets   = 400
	MaxOutput    = 8 << 20
	// Apart is how far the two looks are apart: what is sent and not acknowledged is sent again several times in
	// this time.
	Apart = 10 * time.Second

	maxContainers = 20
	maxName       = 64
	maxExe        = 256
	maxArgv       = 512
	// maxFile bounds what is read of a file, and maxTable of one with a line for each socket.
	maxFile  = 64 << 10
	maxTable = 4 << 20
	// maxAll bounds the processes of a node.
	maxAll = 100_000
	// ticks is how many the kernel counts in a second for programs, on all machines.
	ticks   = 100
	version = 1
)

// Pod is whose processes are looked for.
type Pod struct {
	UID        string
	Containers []string // their ids, without the runtime's name
}

// Process is one of a pod's.
type Process struct {
	PID     int       `json:"pid"`
	Parent  int       `json:"ppid"`
	UID     uint32    `json:"uid"`
	Started time.Time `json:"started,omitzero"`
	Name    string    `json:"name"`
	// Exe is what it runs, "... (deleted)" when that is no file any more; "": it may not be read.
	Exe       string   `json:"exe,omitempty"`
	Argv      []string `json:"argv,omitempty"` // secrets left out
	Container string   `json:"container,omitempty"`
}

// Socket is a TCP socket in a pod's network.
type Socket struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
	State  string         `json:"state"`
	Unsent uint32         `json:"unsent,omitempty"` // bytes that were not acknowledged
	Unread uint32         `json:"unread,omitempty"` // bytes that the program has not read
	Again  uint32         `json:"again,omitempty"`  // how often what was not acknowledged was sent again
	UID    uint32         `json:"uid"`
	Inode  uint64         `json:"inode"`
}

// Look is what was seen of a pod at one time.
type Look struct {
	At        time.Time `json:"at"`
	Processes []Process `json:"processes"`
	Sockets   []Socket  `json:"sockets"`
	Received  uint64    `json:"received"`      // packets that have come in, ever
	Cut       bool      `json:"cut,omitempty"` // there was more than is listed
}

// Seen is what was seen of a pod in two looks.
type Seen struct {
	UID    string `json:"uid"`
	First  Look   `json:"first"`
	Second Look   `json:"second"`
}

// output is what a reader prints.
type output struct {
	Version int    `json:"version"`
	Pods    []Seen `json:"pods"`
}

// Watch looks twice, so far apart, and returns what it has seen of each pod, in their order.
func Watch(ctx context.Context, proc string, pods []Pod, apart time.Duration) ([]Seen, error) {
	first, err := read(ctx, proc, pods)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(apart):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	second, err := read(ctx, proc, pods)
	if err != nil {
		return nil, err
	}
	all := make([]Seen, len(pods))
	for i, p := range pods {
		all[i] = Seen{p.UID, first[i], second[i]}
	}
	return all, nil
}

// read looks once.
func read(ctx context.Context, proc string, pods []Pod) ([]Look, error) {
	boot, _ := parseBoot(text(filepath.Join(proc, "stat"), maxFile)) // unknown, no process has a time
	names, err := numbers(proc)
	if err != nil {
		return nil, err
	}
	looks := make([]Look, len(pods))
	networks := make(map[string]bool)
	for i := range looks {
		looks[i] = Look{At: time.Now().UTC(), Processes: []Process{}, Sockets: []Socket{}}
	}
	for _, pid := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		dir := filepath.Join(proc, strconv.Itoa(pid))
		i, container := parseCgroup(text(filepath.Join(dir, "cgroup"), maxFile), pods)
		if i < 0 {
			continue
		}
		if len(looks[i].Processes) == MaxProcesses {
			looks[i].Cut = true
		} else if p, ok := process(dir, pid, boot); ok {
			p.Container = container
			looks[i].Processes = append(looks[i].Processes, p)
		}
		network, err := os.Readlink(filepath.Join(dir, "ns", "net"))
		if err != nil {
			network = dir
		}
		if key := pods[i].UID + network; !networks[key] {
			networks[key] = true
			looks[i].network(dir)
		}
	}
	for i := range looks {
		looks[i].sort()
	}
	return looks, nil
}

// numbers are the ids of the processes that there are.
func numbers(proc string) (all []int, err error) {
	dir, err := os.Open(proc)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // it was read
	names, err := dir.Readdirnames(maxAll)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid > 0 {
			all = append(all, pid)
		}
	}
	slices.Sort(all)
	return all, nil
}

// text is the beginning of a file; "": it is gone, or may not be read.
func text(name string, most int64) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // it was read
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	return string(data)
}

// process reads what is known of one; it may end meanwhile.
func process(dir string, pid int, boot uint64) (p Process, ok bool) {
	s, ok := parseStat(text(filepath.Join(dir, "stat"), maxFile))
	if !ok {
		return p, false
	}
	uid, ok := parseUID(text(filepath.Join(dir, "status"), maxFile))
	if !ok {
		return p, false
	}
	p = Process{PID: pid, Parent: s.parent, UID: uid, Name: s.name}
	if since := s.started / ticks; boot > 0 && boot+since < 1<<37 {
		p.Started = time.Unix(int64(boot+since), 0).UTC()
	}
	if exe, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
		p.Exe = printable([]byte(exe), maxExe)
	}
	p.Argv = parseArgv([]byte(text(filepath.Join(dir, "cmdline"), maxFile)), maxArgv)
	return p, true
}

// network adds the sockets and packets of a process' network.
func (l *Look) network(dir string) {
	for _, name := range []string{"tcp", "tcp6"} {
		table := text(filepath.Join(dir, "net", name), maxTable)
		l.Cut = l.Cut || len(table) == maxTable
		lines := bufio.NewScanner(strings.NewReader(table))
		for lines.Scan() {
			if s, ok := parseSocket(lines.Text()); ok {
				l.Sockets = append(l.Sockets, s)
			}
		}
		l.Cut = l.Cut || lines.Err() != nil
	}
	l.Received += parseReceived(text(filepath.Join(dir, "net", "dev"), maxFile))
}

// sort puts first what says most, and leaves out what is too much.
func (l *Look) sort() {
	slices.SortFunc(l.Sockets, func(a, b Socket) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Remote.Compare(b.Remote), a.Local.Compare(b.Local), cmp.Compare(a.Inode, b.Inode))
	})
	l.Sockets = slices.Compact(l.Sockets)
	if len(l.Sockets) > MaxSockets {
		l.Sockets, l.Cut = l.Sockets[:MaxSockets], true
	}
}

func rank(s Socket) int {
	switch {
	case s.open():
		return 0
	case s.State == "LISTEN":
		return 1
	}
	return 2
}

// Write writes what was seen as one line of JSON.
func Write(w io.Writer, seen []Seen) error {
	data, err := json.Marshal(output{version, seen})
	if err != nil {
		return fmt.Errorf("encode what was seen: %w", err)
	}
	if len(data) >= MaxOutput {
		return fmt.Errorf("what was seen has %d bytes, and at most %d are printed", len(data), MaxOutput)
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

var known = regexp.MustCompile(`^[A-Z0-9_]{1,16}$`)

// Parse reads what Write has written for these pods. Nothing of it is believed that Write would not write.
func Parse(data []byte, pods []Pod) ([]Seen, error) {
	var out output
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if len(data) > MaxOutput {
		return nil, errors.New("it is too long")
	}
	if err := d.Decode(&out); err != nil {
		return nil, errors.New("it is not what a reader prints")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || out.Version != version || len(out.Pods) != len(pods) {
		return nil, errors.New("it is not what a reader prints of these pods")
	}
	for i := range out.Pods {
		s := &out.Pods[i]
		if s.UID != pods[i].UID || !s.First.sound() || !s.Second.sound() || s.Second.At.Before(s.First.At) {
			return nil, errors.New("it is not what a reader prints of these pods")
		}
	}
	return out.Pods, nil
}

func (l Look) sound() bool {
	if len(l.Processes) > MaxProcesses || len(l.Sockets) > MaxSockets {
		return false
	}
	plain := func(s string, most int) bool { return printable([]byte(s), most) == s }
	for _, p := range l.Processes {
		if !plain(p.Name, maxName) || !plain(p.Exe, maxExe) || !plain(p.Container, 2*maxName) || !plain(strings.Join(p.Argv, " "), 2*maxArgv) || len(p.Argv) > maxArgv {
			return false
		}
	}
	for _, s := range l.Sockets {
		if !known.MatchString(s.State) || !slices.Contains(states, s.State) || !s.Local.IsValid() || !s.Remote.IsValid() {
			return false
		}
	}
	return true
}

var hexName = regexp.MustCompile(`^[0-9a-f-]{1,128}$`)

// String writes a pod as it stands on a command line.
func (p Pod) String() string { return p.UID + ":" + strings.Join(p.Containers, ",") }

// Pods reads pods as they stand on a command line.
func Pods(words []string) ([]Pod, error) {
	if len(words) == 0 || len(words) > MaxPods {
		return nil, fmt.Errorf("there are %d pods, and must be 1 to %d", len(words), MaxPods)
	}
	all := make([]Pod, len(words))
	for i, word := range words {
		uid, ids, has := strings.Cut(word, ":")
		p := Pod{UID: uid}
		if ids != "" {
			p.Containers = strings.Split(ids, ",")
		}
		for _, id := range append([]string{uid}, p.Containers...) {
			if !hexName.MatchString(id) || !has || len(p.Containers) > maxContainers {
				return nil, fmt.Errorf("%.100q is no pod as in UID:CONTAINER,CONTAINER", word)
			}
		}
		all[i] = p
	}
	return all, nil
}
