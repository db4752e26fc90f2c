// Package canary runs every procedure to every kind of end on a database whose rows, keys, large
// objects and passwords are canaries, and then looks for them wherever they do not belong: histories,
// Temporal's own files, logs, what the command line printed, reports, notes, the arguments and
// environments of all processes, and what is left in temporary folders.
package canary

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hay is what is searched: a name for people, and all bytes that were found there.
type hay struct {
	name string
	data []byte
}

// forms are the ways in which a canary may be written.
func forms(canary string) [][]byte {
	all := [][]byte{[]byte(canary), []byte(strings.ToUpper(canary)), []byte(hex.EncodeToString([]byte(canary))), []byte(strings.ToUpper(hex.EncodeToString([]byte(canary))))}
	for shift := range 3 { // in base64 the letters depend on what stands before
		text := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + canary))
		all = append(all, []byte(text[(shift*8+5)/6:len(text)-1])) // the ends are mixed with the neighbours
	}
	return all
}

// found lists where canaries are.
func found(hays []hay, canaries map[string]string) []string {
	var hits []string
	for _, name := range sorted(canaries) {
		for _, form := range forms(canaries[name]) {
			for _, h := range hays {
				if at := bytes.Index(h.data, form); at >= 0 {
					hits = append(hits, fmt.Sprintf("%s in %s: %q", name, h.name, h.data[max(0, at-80):min(len(h.data), at+len(form)+40)]))
				}
			}
		}
	}
	return hits
}

func sorted(m map[string]string) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// files reads every file below a folder.
func files(t *testing.T, root string, skip func(path string) bool) []hay {
	t.Helper()
	var hays []hay
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() || skip(path) {
			return err
		}
		data, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil
		}
		hays = append(hays, hay{path, data})
		return err
	})
	require.NoError(t, err)
	return hays
}

// watcher looks at the arguments and environments of every process, and at the logs of private scratch
// servers, again and again, and keeps what it has seen.
type watcher struct {
	logs  string // pattern of the logs
	stop  chan struct{}
	done  sync.WaitGroup
	known map[string]bool // processes whose environment was read
	mu    sync.Mutex
	seen  map[string]map[string]bool // texts by what they are
}

func watch(t *testing.T, logs string) *watcher {
	t.Helper()
	w := &watcher{logs: logs, stop: make(chan struct{}), known: make(map[string]bool), seen: make(map[string]map[string]bool)}
	w.done.Add(1)
	go func() {
		defer w.done.Done()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			w.look()
			select {
			case <-tick.C:
			case <-w.stop:
				return
			}
		}
	}()
	return w
}

func (w *watcher) look() {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		name, err := os.ReadFile(filepath.Join(p, "comm"))
		if err != nil || p == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		program := strings.TrimSpace(string(name))
		for _, what := range []string{"cmdline", "environ"} {
			// A server's process changes what it shows as arguments; an environment stays.
			if what == "environ" && w.known[p+program] {
				continue
			}
			if text, err := os.ReadFile(filepath.Join(p, what)); err == nil && len(text) > 0 {
				w.keep(what+" of "+program, text)
				w.known[p+program] = w.known[p+program] || what == "environ"
			}
		}
	}
	logs, _ := filepath.Glob(w.logs)
	for _, l := range logs {
		if text, err := os.ReadFile(l); err == nil {
			w.keep("log of a scratch server", text)
		}
	}
}

func (w *watcher) keep(what string, text []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[what] == nil {
		w.seen[what] = make(map[string]bool)
	}
	w.seen[what][string(text)] = true
}

// has reports whether anything of that name was seen.
func (w *watcher) has(what string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.seen[what]) > 0
}

// end stops looking and returns all that was seen.
func (w *watcher) end() []hay {
	close(w.stop)
	w.done.Wait()
	var hays []hay
	for what, texts := range w.seen {
		for text := range texts {
			hays = append(hays, hay{what, []byte(text)})
		}
	}
	return hays
}

func TestSearchFindsEveryForm(t *testing.T) {
	const canary = "c4naryInTheMine"
	for name, text := range map[string]string{
		"plain": "a " + canary + " b", "upper": strings.ToUpper(canary), "hex": `\\x` + hex.EncodeToString([]byte("a"+canary+"b")),
		"base64": base64.StdEncoding.EncodeToString([]byte(canary)), "base64 after one": base64.StdEncoding.EncodeToString([]byte("a" + canary + "b")),
		"base64 after two": base64.StdEncoding.EncodeToString([]byte("ab" + canary)), "base64url": base64.RawURLEncoding.EncodeToString([]byte("abcd" + canary + "b")),
	} {
		require.NotEmpty(t, found([]hay{{name, []byte(text)}}, map[string]string{"it": canary}), name)
	}
	require.Empty(t, found([]hay{{"other", []byte("c4naryInTheMin")}}, map[string]string{"it": canary}))
}
