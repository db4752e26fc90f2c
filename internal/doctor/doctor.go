// Package doctor looks at everything that a configuration names, as the worker would, and says what is
// missing and how to get it. It changes nothing but one object of its own in the store, which it
// removes again, so it is safe to run at any time. (In a bucket that was never written to, the store's own
// object stays by which it is known to overwrite nothing.)
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/proof"
)

const (
	// targetsAtOnce is how many targets are looked at at once.
	targetsAtOnce = 4
	// maxDetail bounds what a finding says, in bytes.
	maxDetail = 2 << 10
)

// Variables only for tests, which have less time.
var (
	// patience is how long one check may take.
	patience = 10 * time.Second
	// grace is how long a check that is late has to take back what it did and to say so itself. What
	// waits for a dead disk never does.
	grace = removeWithin + time.Second
)

// Finding is what one check found.
type Finding struct {
	Subject string `json:"subject"` // "store", "target shop: database"
	run.Check
	Code   failure.Code `json:"code,omitempty"`   // of a FAIL, where the catalogue has one
	Remedy string       `json:"remedy,omitempty"` // what to do when it is not PASS
}

// Verdict sums findings up as a run's checks are.
func Verdict(findings []Finding) run.Verdict {
	checks := make([]run.Check, len(findings))
	for i, f := range findings {
		checks[i] = f.Check
	}
	return proof.Verdict(checks)
}

// Doubt is the error of a check that could not prove what it is for, though nothing is known to be wrong.
type Doubt struct {
	Found, Remedy string
	Optional      bool // the work can be done all the same
}

func (d *Doubt) Error() string { return d.Found }

// List gathers the findings about one subject.
type List struct {
	Subject  string
	Findings []Finding
}

// Look makes one check, which says what it found, and reports whether it is PASS. A check that has no
// answer in time is NOT_PROVEN.
func (l *List) Look(ctx context.Context, name string, check func(context.Context) (string, error)) bool {
	return l.within(ctx, patience, name, check, &Doubt{
		Found: fmt.Sprintf("it could not be seen within %s", patience), Remedy: "look again when the machine and the server have less to do",
	})
}

// Reach is Look for what must answer at all: silence is FAIL.
func (l *List) Reach(ctx context.Context, name string, check func(context.Context) (string, error)) bool {
	return l.within(ctx, patience, name, check, nil)
}

// Skip says that checks were not made, and why.
func (l *List) Skip(why string, names ...string) {
	for _, name := range names {
		l.add(name, "", &Doubt{Found: "not looked at: " + why})
	}
}

// within makes a check that has a limit. What has no answer by then is answered with late, or with the
// check's own error where late is nil.
func (l *List) within(ctx context.Context, limit time.Duration, name string, check func(context.Context) (string, error), late error) bool {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type answer struct {
		found string
		err   error
	}
	answers := make(chan answer, 1) // with room, so that a check that comes too late ends
	go func() {
		found, err := check(limited)
		answers <- answer{found, err}
	}()
	var a answer
	select {
	case a = <-answers:
	case <-limited.Done():
		select {
		case a = <-answers:
		case <-time.After(grace):
			a.err = fmt.Errorf("no answer within %s", limit)
		}
	}
	switch {
	case a.err == nil:
	case ctx.Err() != nil:
		a.err = &Doubt{Found: "not looked at to the end: it was broken off"}
	case limited.Err() != nil && late != nil:
		a.err = late
	}
	l.add(name, a.found, a.err)
	return a.err == nil
}

// add turns a check's answer into a finding.
func (l *List) add(name, found string, err error) {
	f := Finding{Subject: l.Subject, Check: run.Check{Name: name, Verdict: run.Pass, Detail: found}}
	var doubt *Doubt
	failed, known := failure.As(err)
	switch {
	case err == nil:
	case errors.As(err, &doubt):
		f.Verdict, f.Detail, f.Optional, f.Remedy = run.NotProven, doubt.Found, doubt.Optional, doubt.Remedy
	case known:
		said := *failed
		said.Remedy = ""
		f.Verdict, f.Detail, f.Code, f.Remedy = run.Fail, said.Error(), failed.Code, withoutRun(failed.Remedy)
	default:
		f.Verdict, f.Detail, f.Remedy = run.Fail, err.Error(), "see that it is there and can be reached from this machine"
	}
	if len(f.Detail) > maxDetail {
		f.Detail = strings.ToValidUTF8(f.Detail[:maxDetail], "") + "..."
	}
	l.Findings = append(l.Findings, f)
}

// withoutRun takes the run out of a remedy: here is none that waits.
func withoutRun(remedy string) string {
	for _, end := range []string{", then resume the run", "; then resume the run", " and start a new run"} {
		remedy = strings.ReplaceAll(remedy, end, "")
	}
	return remedy
}

// Configuration reads the configuration; path "" looks for it. It is nil when it cannot be read.
func Configuration(ctx context.Context, path string) (*config.Config, []Finding) {
	l := &List{Subject: "configuration"}
	var c *config.Config
	ok := l.Look(ctx, "file", func(context.Context) (string, error) {
		read, err := config.Load(path)
		if err != nil {
			return "", err
		}
		c = read
		names := make([]string, len(c.Targets))
		for i, t := range c.Targets {
			names[i] = t.Name
		}
		return fmt.Sprintf("%s, SHA-256 %s, targets: %s", c.Path, c.SHA256, strings.Join(names, ", ")), nil
	})
	if !ok {
		return nil, l.Findings
	}
	return c, l.Findings
}

// Options say what to look at.
type Options struct {
	Config  *config.Config
	Targets []config.Target // those of the configuration that are looked at
	DataDir string          // the worker's folder, which holds the private scratch servers
}

// Examine looks at the store and the targets. A check that fails keeps no other from being made that
// does not need it.
func Examine(ctx context.Context, o Options) []Finding {
	var patients []*patient
	var group errgroup.Group
	var mu sync.Mutex
	group.SetLimit(targetsAtOnce)
	for _, t := range o.Targets {
		if !t.HasDatabase() {
			continue
		}
		p := newPatient(o, t)
		patients = append(patients, p)
		group.Go(func() error {
			p.examine(ctx)
			return nil
		})
	}
	var repositories, probers [][]Finding
	for _, t := range o.Targets {
		if t.Kubernetes.Network.Prober.Standing != "" {
			i := len(probers)
			probers = append(probers, nil)
			group.Go(func() error {
				found := examineProber(ctx, t)
				mu.Lock()
				defer mu.Unlock()
				probers[i] = found
				return nil
			})
		}
		for _, r := range t.Repositories {
			i := len(repositories)
			repositories = append(repositories, nil)
			group.Go(func() error {
				found := examineRepository(ctx, t.Name, r)
				mu.Lock()
				defer mu.Unlock()
				repositories[i] = found
				return nil
			})
		}
	}
	_ = group.Wait() // nothing in it returns an error
	findings := examineStore(ctx, o, patients)
	for _, p := range patients {
		findings = append(findings, p.database.Findings...)
		findings = append(findings, p.scratch.Findings...)
	}
	findings = append(findings, slices.Concat(probers...)...)
	if len(repositories) > 0 {
		findings = append(findings, examinePrograms(ctx)...)
	}
	findings = append(findings, slices.Concat(repositories...)...)
	if o.Config.Webhooks != nil {
		findings = append(findings, examineWebhooks(ctx, o.Config.Webhooks)...)
	}
	return findings
}

// secret looks at a reference to a secret; none is needed where there is no reference.
func secret(ctx context.Context, l *List, k *config.Kubernetes, s config.Secret) bool {
	if s == (config.Secret{}) {
		return true
	}
	return l.Look(ctx, checkPassword, func(ctx context.Context) (string, error) {
		if _, err := k.Read(ctx, s); err != nil {
			return "", err
		}
		switch {
		case s.Env != "":
			return fmt.Sprintf("the environment variable %s is set", s.Env), nil
		case s.Secret != (config.SecretKey{}):
			return fmt.Sprintf("the Secret %s in namespace %s has the key %s", s.Secret.Name, k.Namespace, s.Secret.Key), nil
		}
		return fmt.Sprintf("the file %s can be read and is not empty", s.File), nil
	})
}

// size writes a number of bytes for people.
func size(bytes int64) string {
	switch {
	case bytes >= 10<<30:
		return fmt.Sprintf("%d GiB", bytes>>30)
	case bytes >= 10<<20:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d KiB", bytes>>10)
}
