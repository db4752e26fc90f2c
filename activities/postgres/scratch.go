package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/restore"
)

// reapGrace is how long a private server's folder stays without an owner: a worker that was
// restarted goes on with it.
const reapGrace = 5 * time.Minute

// Scratch holds a worker's private scratch servers: one per run that restores, in a folder of its
// own. A server dies with the worker; its folder is found again by the worker's next process.
type Scratch struct {
	// Root is the folder of all of them.
	Root string
	// Queue is the task queue that only this worker serves.
	Queue string

	mu      sync.Mutex
	servers map[string]*pgserver.Server
}

// note says whose a scratch folder is.
type note struct {
	RunID string `json:"runId"`
}

func (s *Scratch) notePath(name string) string { return filepath.Join(s.Root, name+".json") }

// ensure returns the copy's server, running.
func (s *Scratch) ensure(ctx context.Context, in Copy, m *format.Manifest) (*pgserver.Server, error) {
	name := in.Place.Scratch
	if name == "" || name != filepath.Base(name) {
		return nil, fmt.Errorf("the scratch server's name %q is not one", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if server, ok := s.servers[name]; ok {
		select {
		case <-server.Done(): // it was killed; its folder is as good as after a crash
			_ = server.Stop(ctx)
			delete(s.servers, name)
		default:
			return server, nil
		}
	}
	binaries, err := pgserver.Find(ctx, m.Server.VersionNum/10000)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.Root, 0o711); err != nil {
		return nil, failure.New(failure.ScratchUnavailable, "the folder for scratch servers %s cannot be made", s.Root).Because(err).
			Do("give the worker a folder that it may write with --data, then resume the run")
	}
	if _, err := os.Stat(filepath.Join(s.Root, name)); errors.Is(err, os.ErrNotExist) {
		if err := pgserver.RequireFree(s.Root, restore.NeededBytes(m)); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(note{RunID: in.RunID})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.notePath(name), data, 0o600); err != nil {
		return nil, failure.New(failure.ScratchUnavailable, "the folder for scratch servers %s cannot be written", s.Root).Because(err).
			Do("see to the worker's disk, then resume the run")
	}
	server, err := pgserver.Start(ctx, pgserver.Options{Dir: filepath.Join(s.Root, name), Binaries: binaries, Superuser: restore.ScratchSuperuser(m)})
	if err != nil {
		return nil, err
	}
	if s.servers == nil {
		s.servers = make(map[string]*pgserver.Server)
	}
	s.servers[name] = server
	return server, nil
}

// remove ends the copy's server and removes its folder; done twice, it finds it done.
func (s *Scratch) remove(ctx context.Context, in Copy) error {
	name := in.Place.Scratch
	if name == "" || name != filepath.Base(name) {
		return fmt.Errorf("the scratch server's name %q is not one", name)
	}
	return s.removeNamed(ctx, name)
}

func (s *Scratch) removeNamed(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if server, ok := s.servers[name]; ok {
		if err := server.Remove(ctx); err != nil {
			return err
		}
		delete(s.servers, name)
	} else if err := pgserver.RemoveFolder(ctx, filepath.Join(s.Root, name)); err != nil {
		return err
	}
	if err := os.Remove(s.notePath(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Reap removes the servers of runs that have ended, and folders of no run that nobody has come back
// for. Ended reports whether the run of a workflow id is over; what it cannot tell stays, as does what
// a run has that waits, maybe for days.
func (s *Scratch) Reap(ctx context.Context, ended func(ctx context.Context, runID string) (bool, error)) error {
	notes, err := filepath.Glob(filepath.Join(s.Root, "*.json"))
	if err != nil {
		return err
	}
	var all error
	var needed []string
	for _, path := range notes {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		data, err := os.ReadFile(path)
		var n note
		if err != nil || json.Unmarshal(data, &n) != nil {
			continue // half written by a process that died: the grace below is for it
		}
		over, err := ended(ctx, n.RunID)
		if err == nil && over {
			err = s.removeNamed(ctx, name)
		} else {
			needed = append(needed, name)
		}
		all = errors.Join(all, err)
	}
	s.mu.Lock() // a folder that is looked at cannot be adopted at the same time
	removed, err := pgserver.Reap(ctx, s.Root, reapGrace, needed...)
	s.mu.Unlock()
	for _, name := range removed {
		if err := os.Remove(s.notePath(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return errors.Join(all, err)
}

// Stop ends every server and keeps the folders, for the worker's next process.
func (s *Scratch) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all error
	for name, server := range s.servers {
		all = errors.Join(all, server.Stop(ctx))
		delete(s.servers, name)
	}
	return all
}
