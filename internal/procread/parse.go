package procread

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// states are those of the kernel's TCP sockets, by their numbers.
var states = []string{"", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"}

// parseSocket reads a line of /proc/<pid>/net/tcp or tcp6.
func parseSocket(line string) (s Socket, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return s, false
	}
	local, okLocal := parseAddress(f[1])
	remote, okRemote := parseAddress(f[2])
	state, errState := strconv.ParseUint(f[3], 16, 8)
	sent, received, okQueues := strings.Cut(f[4], ":")
	tx, errTx := strconv.ParseUint(sent, 16, 32)
	rx, errRx := strconv.ParseUint(received, 16, 32)
	again, errAgain := strconv.ParseUint(f[6], 16, 32)
	uid, errUID := strconv.ParseUint(f[7], 10, 32)
	inode, errInode := strconv.ParseUint(f[9], 10, 64)
	for _, err := range []error{errState, errTx, errRx, errAgain, errUID, errInode} {
		if err != nil {
			return Socket{}, false
		}
	}
	if !okLocal || !okRemote || !okQueues || state == 0 || int(state) >= len(states) {
		return Socket{}, false
	}
	return Socket{
		Local: local, Remote: remote, State: states[state], Unsent: uint32(tx), Unread: uint32(rx), Again: uint32(again), UID: uint32(uid), Inode: inode,
	}, true
}

// parseAddress reads an address as the kernel writes it: words of four bytes, each in the order of the machine,
// which is taken to be little-endian, as all are that Kubernetes runs on but s390x.
func parseAddress(text string) (a netip.AddrPort, ok bool) {
	address, number, has := strings.Cut(text, ":")
	port, err := strconv.ParseUint(number, 16, 16)
	if !has || err != nil || len(number) != 4 {
		return a, false
	}
	b, err := hex.DecodeString(address)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return a, false
	}
	for word := range slices.Chunk(b, 4) {
		slices.Reverse(word)
	}
	ip, _ := netip.AddrFromSlice(b) // of four or sixteen bytes
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), true
}

// stat is what is needed of /proc/<pid>/stat.
type stat struct {
	name    string
	parent  int
	started uint64 // in ticks since the machine was started
}

// parseStat reads it. The name, which the process has chosen, stands in brackets and may have any in it.
func parseStat(text string) (s stat, ok bool) {
	from, to := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if from < 0 || to < from {
		return s, false
	}
	f := strings.Fields(text[to+1:])
	if len(f) < 20 {
		return s, false
	}
	parent, err := strconv.Atoi(f[1])
	started, failed := strconv.ParseUint(f[19], 10, 64)
	if err != nil || failed != nil || parent < 0 {
		return stat{}, false
	}
	return stat{printable([]byte(text[from+1:to]), maxName), parent, started}, true
}

// parseUID reads whose a process is from /proc/<pid>/status: its effective user.
func parseUID(text string) (uid uint32, ok bool) {
	for line := range strings.Lines(text) {
		rest, is := strings.CutPrefix(line, "Uid:")
		if !is {
			continue
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			return 0, false
		}
		n, err := strconv.ParseUint(f[1], 10, 32)
		return uint32(n), err == nil
	}
	return 0, false
}

// parseBoot reads when the machine was started from /proc/stat, in seconds since 1970.
func parseBoot(text string) (seconds uint64, ok bool) {
	for line := range strings.Lines(text) {
		if rest, is := strings.CutPrefix(line, "btime "); is {
			n, err := strconv.ParseUint(strings.TrimSpace(rest), 10, 40)
			return n, err == nil
		}
	}
	return 0, false
}

// parseReceived adds up the packets that came in on all links but the loopback, from /proc/<pid>/net/dev.
func parseReceived(text string) (packets uint64) {
	for line := range strings.Lines(text) {
		name, rest, is := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !is || len(f) < 2 || strings.TrimSpace(name) == "lo" {
			continue
		}
		if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
			packets += n
		}
	}
	return packets
}

// parseCgroup says which pod's a process is, by the control groups that it is in, and in which container. Their
// paths may begin with any number of "..", as they are told from where the reader itself is.
func parseCgroup(text string, pods []Pod) (pod int, container string) {
	for line := range strings.Lines(text) {
		_, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		_, path, _ = strings.Cut(path, ":")
		for part := range strings.SplitSeq(path, "/") {
			for i, p := range pods {
				if p.group(part) {
					return i, last(path, p)
				}
				if slices.ContainsFunc(p.Containers, func(id string) bool { return ofContainer(part, id) }) {
					return i, last(path, p)
				}
			}
		}
	}
	return -1, ""
}

// group reports whether a control group is the pod's, as the kubelet names it for itself or for systemd.
func (p Pod) group(part string) bool {
	return part == "pod"+p.UID || strings.HasPrefix(part, "kubepods") && strings.HasSuffix(part, "-pod"+strings.ReplaceAll(p.UID, "-", "_")+".slice")
}

func ofContainer(part, id string) bool {
	return part == id || strings.HasSuffix(part, "-"+id+".scope")
}

// last is the pod's container whose control group is on a path; "": none that is known, such as the sandbox.
func last(path string, p Pod) string {
	for part := range strings.SplitSeq(path, "/") {
		for _, id := range p.Containers {
			if ofContainer(part, id) {
				return id
			}
		}
	}
	return ""
}

// parseArgv reads a command line, with what looks like a secret left out, at most so many bytes of it.
func parseArgv(data []byte, most int) (argv []string) {
	data = trimNul(data)
	if len(data) == 0 {
		return nil
	}
	hide := false // the next word is a secret's value
	for word := range strings.SplitSeq(string(data), "\x00") {
		if most <= 0 {
			break
		}
		text := redact(word)
		if hide && !strings.HasPrefix(word, "-") {
			text = hidden
		}
		hide = strings.HasPrefix(word, "-") && secret.MatchString(word) && !strings.ContainsAny(word, "=:")
		text = printable([]byte(text), most)
		argv, most = append(argv, text), most-len(text)-1
	}
	return argv
}

func trimNul(data []byte) []byte {
	for len(data) > 0 && data[len(data)-1] == 0 {
		data = data[:len(data)-1]
	}
	return data
}

const hidden = "***"

var (
	// secret is part of the name of what should not be read by others.
	secret = regexp.MustCompile(`(?i)(pass|pwd|secret|token|key|credential|auth)`)
	// assigned is such a name with its value, as in --password=x or PGPASSWORD=x.
	assigned = regexp.MustCompile(`(?is)^([-\w.]*(?:pass|pwd|secret|token|key|credential|auth)[-\w.]*[=:])(.+)$`)
	// within is the same in a longer text, such as a script or a header.
	within = regexp.MustCompile(`(?i)([-\w.]*(?:pass|pwd|secret|token|key|credential|authorization)[-\w.]*\s*[=:]\s*(?:(?:bearer|basic)\s+)?)("[^"]*"|'[^']*'|[^\s"'&;]+)`)
	// userinfo is what stands for a password in a URL.
	userinfo = regexp.MustCompile(`(://[^/?#\s:@]*:)[^/?#\s@]*@`)
)

// redact leaves out of a word of a command line what looks like a secret: a reader's output passes through a log,
// which others may collect.
func redact(word string) string {
	word = userinfo.ReplaceAllString(word, "${1}"+hidden+"@")
	if m := assigned.FindStringSubmatch(word); m != nil && !strings.ContainsAny(word, " \t\n") {
		return m[1] + hidden
	}
	return within.ReplaceAllString(word, "${1}"+hidden)
}

// printable writes what a process has chosen so that nobody's terminal obeys it, at most so many bytes.
func printable(data []byte, most int) string {
	var b strings.Builder
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		text := string(data[:n])
		if r == utf8.RuneError && n <= 1 || !unicode.IsPrint(r) {
			text = ""
			for _, c := range data[:n] {
				text += fmt.Sprintf(`\x%02x`, c)
			}
		}
		if b.Len()+len(text) > most {
			break
		}
		b.WriteString(text)
		data = data[n:]
	}
	return b.String()
}
