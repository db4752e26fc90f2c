package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/dev/internal/measure"
)

// run is one measured run.
type run struct {
	seconds, cpu float64
	rss          int64 // bytes, the most
}

// update is one proposed update, as both write it.
type update struct{ manager, name, kind, version string }

// repository is one that is looked up.
type repository struct {
	name, path  string
	environment []string // that sends both to the recorder; nil: the real registries
	npm         string   // the recorder's

	upkeepCold, upkeepWarm, renovateCold, renovateWarm []run

	dependencies int
	ours, theirs map[update]bool
	held         map[update]string // of ours, and why
	unknown      map[string]string // name -> why we do not know
	warned       map[string]string // name -> what Renovate warns of
}

// round measures both, cold and warm, in turns.
func (r *repository) round(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp(o.data, "round-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for _, step := range []struct {
		name    string
		into    *[]run
		measure func(context.Context, options, string) (run, error)
	}{
		{"Upkeep, cold", &r.upkeepCold, r.upkeep}, {"Renovate, cold", &r.renovateCold, r.renovate},
		{"Upkeep, warm", &r.upkeepWarm, r.upkeep}, {"Renovate, warm", &r.renovateWarm, r.renovate},
	} {
		m, err := step.measure(ctx, o, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		*step.into = append(*step.into, m)
		measure.Say("    %-16s %7.2f s, %6.1f s of CPU, %5d MiB", step.name, m.seconds, m.cpu, m.rss>>20)
	}
	return nil
}

// record lets both ask once for everything, unmeasured.
func (r *repository) record(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp(o.data, "round-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if _, err := r.upkeep(ctx, o, dir); err != nil {
		return err
	}
	_, err = r.renovate(ctx, o, dir)
	return err
}

// childFlag makes this program the small parent of what is measured. A process begins with the largest memory
// that its parent ever had, and the recorder's is large.
const childFlag = "-as-parent"

// used is what such a parent tells.
type used struct {
	Seconds, CPU float64
	RSS          int64
	Code         int
}

// measured runs a command and takes its time and memory. Exit codes that it may end with are no error.
func measured(c *exec.Cmd, may ...int) (run, error) {
	self, err := os.Executable()
	if err != nil {
		return run{}, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return run{}, err
	}
	defer func() { _ = read.Close() }()
	c.Args = append([]string{self, childFlag, c.Path}, c.Args[1:]...)
	c.Path, c.ExtraFiles = self, []*os.File{write}
	err = c.Run()
	_ = write.Close()
	if err != nil {
		return run{}, err
	}
	var u used
	if err := json.NewDecoder(read).Decode(&u); err != nil {
		return run{}, err
	}
	if u.Code != 0 && !slices.Contains(may, u.Code) {
		return run{}, fmt.Errorf("it ended with code %d", u.Code)
	}
	return run{u.Seconds, u.CPU, u.RSS}, nil
}

// asParent runs a command and tells what it used.
func asParent(args []string) error {
	c := exec.Command(args[0], args[1:]...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	began := time.Now()
	err := c.Run()
	took := time.Since(began)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	usage, ok := c.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return errors.New("there is no account of what it used")
	}
	return json.NewEncoder(os.NewFile(3, "used")).Encode(used{
		took.Seconds(), (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds(), usage.Maxrss << 10, c.ProcessState.ExitCode(),
	})
}

// upkeep looks up without an age, as Renovate does by default.
func (r *repository) upkeep(ctx context.Context, o options, dir string) (run, error) {
	var out, problems bytes.Buffer
	c := exec.CommandContext(ctx, o.upkeep, "updates", r.path, "--advisories", "off", "--age", "0", "--cache", filepath.Join(dir, "upkeep"), "--manager", "gomod,npm", "-o", "json")
	c.Stdout, c.Stderr, c.Env = &out, &problems, append(os.Environ(), r.environment...)
	m, err := measured(c, 3)
	if err != nil {
		return m, fmt.Errorf("%w: %s", err, problems.String())
	}
	var entries []struct {
		Manager, Name, Problem string
		Updates                []struct{ Type, Version string }
		Held                   []struct{ Type, Version, Why string }
	}
	if err := json.Unmarshal(out.Bytes(), &entries); err != nil {
		return m, err
	}
	r.ours, r.held, r.unknown = make(map[update]bool), make(map[update]string), make(map[string]string)
	for _, e := range entries {
		for _, u := range e.Updates {
			r.ours[update{e.Manager, e.Name, u.Type, u.Version}] = true
		}
		for _, h := range e.Held {
			r.held[update{e.Manager, e.Name, h.Type, h.Version}] = h.Why
		}
		if e.Problem != "" {
			r.unknown[e.Name] = e.Problem
		}
	}
	return m, nil
}

// renovate does its look-up and nothing else.
func (r *repository) renovate(ctx context.Context, o options, dir string) (run, error) {
	cache := filepath.Join(dir, "renovate")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return run{}, err
	}
	log, err := os.Create(filepath.Join(dir, "renovate.log"))
	if err != nil {
		return run{}, err
	}
	defer func() { _ = log.Close() }()
	c := exec.CommandContext(ctx, "node", o.program(), "--platform=local", "--dry-run=lookup", "--enabled-managers=gomod,npm", "--onboarding=false", "--require-config=optional")
	c.Dir, c.Stdout, c.Stderr = r.path, log, log
	config := map[string]any{"separateMinorPatch": true}
	if r.npm != "" {
		config["npmrc"] = "registry=" + r.npm
	}
	encoded, err := json.Marshal(config)
	if err != nil {
		return run{}, err
	}
	c.Env = append(append(os.Environ(), r.environment...), "LOG_LEVEL=debug", "LOG_FORMAT=json", "RENOVATE_BASE_DIR="+cache, "RENOVATE_CACHE_DIR="+filepath.Join(cache, "cache"), "RENOVATE_CONFIG="+string(encoded))
	m, err := measured(c, 1) // it complains of Debian's Node, and counts that as an error; its log says what it found
	if err != nil {
		return m, err
	}
	return m, r.readRenovate(log.Name())
}

// readRenovate finds in its log what it would update.
func (r *repository) readRenovate(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	r.theirs, r.warned, r.dependencies = make(map[update]bool), make(map[string]string), 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 256<<20)
	found := false
	for lines.Scan() {
		var l struct {
			Msg    string
			Config map[string][]struct {
				Deps []struct {
					DepName  string
					Updates  []struct{ UpdateType, NewVersion string }
					Warnings []struct{ Message string }
				}
			}
		}
		if !bytes.Contains(lines.Bytes(), []byte(`"packageFiles with updates"`)) || json.Unmarshal(lines.Bytes(), &l) != nil {
			continue
		}
		found = true
		for manager, files := range l.Config {
			for _, file := range files {
				for _, d := range file.Deps {
					r.dependencies++
					for _, u := range d.Updates {
						r.theirs[update{manager, d.DepName, u.UpdateType, u.NewVersion}] = true
					}
					for _, w := range d.Warnings {
						r.warned[d.DepName] = w.Message
					}
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if !found {
		return errors.New("renovate's log does not say what it found")
	}
	return nil
}

// difference is an update that only one of both has.
type difference struct {
	update
	missing bool // by us
	why     string
}

// differences lists them with their reasons, as far as what both say gives one.
func (r *repository) differences() []difference {
	var all []difference
	for u := range r.theirs {
		if !r.ours[u] {
			all = append(all, difference{u, true, r.whyNotOurs(u)})
		}
	}
	for u := range r.ours {
		if !r.theirs[u] {
			all = append(all, difference{u, false, r.whyNotTheirs(u)})
		}
	}
	slices.SortFunc(all, func(a, b difference) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.kind, b.kind), strings.Compare(a.version, b.version))
	})
	return all
}

func (r *repository) whyNotOurs(u update) string {
	if why := r.held[u]; why != "" {
		return "Upkeep holds it back: " + why
	}
	if why := r.unknown[u.name]; why != "" {
		return "Upkeep could not look it up: " + why
	}
	for o := range r.ours {
		if o.name == u.name && o.kind == u.kind {
			if strings.HasSuffix(u.version, "+incompatible") {
				return "Upkeep proposes " + o.version + " instead: a tag of the time before modules is no step from a version with a go.mod"
			}
			return "Upkeep proposes " + o.version + " instead"
		}
	}
	return "**not explained**"
}

func (r *repository) whyNotTheirs(u update) string {
	if why := r.warned[u.name]; why != "" {
		return "Renovate warns: " + why
	}
	for t := range r.theirs {
		if t.name == u.name && t.kind == u.kind {
			if r.held[t] != "" {
				return "Renovate proposes " + t.version + " instead, which is withdrawn"
			}
			if u.manager == "gomod" && u.kind == "major" {
				return "Renovate proposes " + t.version + " instead: it ends its search at the first major that is not there"
			}
			return "Renovate proposes " + t.version + " instead"
		}
	}
	return "**not explained**"
}
