package starter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/advisory"
	"github.com/upkeep-run/upkeep/internal/dependency/choose"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup"
	"github.com/upkeep-run/upkeep/internal/dependency/manager"
	"github.com/upkeep-run/upkeep/internal/dependency/scan"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/github"
)

const (
	keepAnswers = 30 * 24 * time.Hour // in the cache, unused
	updatesTime = 30 * time.Minute    // for all look-ups together
)

// updatesOptions are the flags of `upkeep updates`.
type updatesOptions struct {
	types, managers []string
	age             []string
	advisories      string
	repository      string // of the configuration, whose advisories are looked at
	config          string // its path, where the flag names it
	hosts           []string
	cache           string
}

func (c *cli) updates() *cobra.Command {
	var o updatesOptions
	cmd := &cobra.Command{
		Use: "updates PATH", Short: "Show which updates there are for the dependencies of a checkout",
		Long: `Shows which updates there are for the dependencies of a checkout: Go modules, npm packages, images,
charts, GitHub Actions. Neither Temporal nor GitHub's API is needed, nothing is changed, and nothing
of the checkout is executed.

A release has to be 3 days old for a patch, 7 for a minor and 14 for a major update; one without a
date counts as too young. Deprecated, retracted and yanked releases are not proposed. "security" is
the lowest release that mends a known vulnerability, whatever its age. Vulnerabilities are those that
api.osv.dev knows, and where GITHUB_TOKEN is set those of GitHub's own database; --repository owner/name
takes them from where the worker does, by upkeep.yaml: a folder, or OSV and the repository's own GitHub.

Registries are those of your own configuration: GOPROXY, GOPRIVATE, ~/.npmrc, ~/.docker/config.json,
GITHUB_TOKEN. An .npmrc or GOFLAGS of the checkout is not obeyed. What they answer is kept for 15
minutes, and after that asked for again only if it has changed, in ~/.cache/upkeep/lookups.

Exit codes: 0 everything was looked up, 1 nothing could be, 2 bad usage, 3 something could not be.`,
		Example: `  upkeep updates .
  upkeep updates ~/src/shop --type security,patch
  upkeep updates . --age patch=0,minor=3 -o json
  upkeep updates . --advisories ~/osv
  upkeep updates ~/src/shop --type security --repository shop/web --config /etc/upkeep/upkeep.yaml`,
		Args:              args(1, "the folder of a checkout"),
		PersistentPreRunE: func(*cobra.Command, []string) error { return c.checkOutput() },
		RunE: func(cmd *cobra.Command, given []string) error {
			o.config = c.configPath
			report, err := o.look(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			if c.output == "json" {
				c.json(report.Telling())
				for _, p := range report.Problems {
					fmt.Fprintln(c.err, "upkeep:", p.Error())
				}
			} else {
				writeUpdates(c.out, report)
			}
			return updatesExit(report)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.types, "type", nil, "only these types: security, digest, patch, minor, major")
	f.StringSliceVar(&o.managers, "manager", nil, "only these managers, such as gomod or npm")
	f.StringSliceVar(&o.age, "age", nil, "days that a release has to be old, for all types (0) or by type (patch=3,minor=7,major=14)")
	f.StringVar(&o.advisories, "advisories", "", "where known vulnerabilities come from: osv (api.osv.dev), github, off, or a folder of OSV files (default: osv, and github where GITHUB_TOKEN is set)")
	f.StringVar(&o.repository, "repository", "", "take them from where upkeep.yaml has them for this repository of a target, as owner/name")
	f.StringSliceVar(&o.hosts, "trust-host", nil, "registries of yours that files of the checkout name, in a private network or over http")
	f.StringVar(&o.cache, "cache", "", "the folder for answers of registries (default: $XDG_CACHE_HOME/upkeep/lookups); off keeps none")
	return cmd
}

// look looks everything up.
func (o updatesOptions) look(ctx context.Context, path string) (scan.Report, error) {
	var none scan.Report
	policy, managers, err := o.policy()
	if err != nil {
		return none, usage{err}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return none, usage{fmt.Errorf("%s is no folder that can be read", path)}
	}
	defer func() { _ = root.Close() }()
	operator, err := lookup.FromEnvironment(os.LookupEnv)
	if err != nil {
		return none, err
	}
	operator.Hosts, operator.OCI.Logins = o.hosts, authn.DefaultKeychain
	store, err := o.store()
	if err != nil {
		return none, err
	}
	options := httpcache.Options{}
	if store != nil {
		options.Store = store
		defer func() { _ = store.Close() }()
	}
	client := operator.Client(options)
	advisories, err := o.source(path, client, operator.GitHub.Token)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, updatesTime)
	defer cancel()
	found, problems := manager.FindBy(ctx, root.FS(), managers)
	report := scan.Scan(ctx, found, problems, scan.Options{Sources: operator.Sources(client), Advisories: advisories, Policy: policy})
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("the look-up did not end: %w", err)
	}
	if store != nil {
		_ = store.Tidy(time.Now(), keepAnswers) // what is left is tidied another time
	}
	return report, nil
}

func (o updatesOptions) policy() (choose.Policy, []dependency.Manager, error) {
	p := choose.Policy{Types: o.types, Age: make(map[string]time.Duration), Now: time.Now()}
	for _, kind := range o.types {
		if !slices.Contains(dependency.Types, kind) {
			return p, nil, fmt.Errorf("--type %q is unknown: use %s", kind, strings.Join(dependency.Types, ", "))
		}
	}
	for kind, age := range choose.DefaultAge {
		p.Age[kind] = age
	}
	for _, text := range o.age {
		kind, number, by := strings.Cut(text, "=")
		if !by {
			kind, number = "", text
		}
		days, err := strconv.Atoi(number)
		if _, known := choose.DefaultAge[kind]; err != nil || days < 0 || days > 3650 || by && !known {
			return p, nil, fmt.Errorf("--age %q is not understood: use a number of days, or such as patch=3,minor=7,major=14", text)
		}
		for k := range p.Age {
			if k == kind || !by {
				p.Age[k] = time.Duration(days) * 24 * time.Hour
			}
		}
	}
	if len(o.managers) == 0 {
		return p, manager.All(), nil
	}
	var managers []dependency.Manager
	for _, name := range o.managers {
		m, ok := manager.Named(name)
		if !ok {
			var names []string
			for _, m := range manager.All() {
				names = append(names, m.Name())
			}
			return p, nil, fmt.Errorf("--manager %q is unknown: use %s", name, strings.Join(names, ", "))
		}
		managers = append(managers, m)
	}
	return p, managers, nil
}

func (o updatesOptions) store() (*httpcache.Folder, error) {
	folder := o.cache
	switch folder {
	case "off":
		return nil, nil
	case "":
		var err error
		if folder, err = httpcache.UserFolder(); err != nil {
			return nil, nil //nolint:nilerr // without a home there is no cache
		}
	}
	store, err := httpcache.OpenFolder(folder)
	if err != nil {
		return nil, failure.New(failure.BadInput, "the folder for answers of registries cannot be used").Because(err).Do("name another one with --cache, or off")
	}
	return store, nil
}

// source is where advisories come from; the token is that of who runs the command.
func (o updatesOptions) source(path string, client *httpcache.Client, token string) (advisory.Source, error) {
	if o.repository != "" {
		return o.configured(path, client)
	}
	osv := advisory.API{Client: client}
	switch o.advisories {
	case "off":
		return nil, nil
	case "osv":
		return osv, nil
	case "", "github":
		if token == "" && o.advisories == "" {
			return osv, nil
		}
		if token == "" {
			return nil, usage{errors.New("--advisories github needs a token in GITHUB_TOKEN; one without any right will do")}
		}
		c, err := github.Open(github.Options{Repository: advisoryDatabase, Token: func(context.Context) (string, error) { return token, nil }})
		if err != nil {
			return nil, err
		}
		theirs := advisory.GitHub{List: c.Advisories}
		if o.advisories == "github" {
			return theirs, nil
		}
		return advisory.Both{First: osv, Second: theirs}, nil
	}
	info, err := os.Stat(o.advisories)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil, usage{fmt.Errorf("--advisories %q is no folder: use osv, github, off, or a folder of OSV files", o.advisories)}
	}
	if err != nil {
		return nil, fmt.Errorf("look at the advisories: %w", err)
	}
	return advisory.Directory{FS: os.DirFS(o.advisories), Name: o.advisories}, nil
}

// advisoryDatabase names a repository where none is meant: GitHub's advisories are of none.
const advisoryDatabase = "github/advisory-database"

// configured is where the worker takes the advisories of a repository from. A configuration that lies in the checkout
// is obeyed only if it is named: it says to whom a token is sent.
func (o updatesOptions) configured(path string, client *httpcache.Client) (advisory.Source, error) {
	if o.advisories != "" {
		return nil, usage{errors.New("--repository and --advisories exclude each other")}
	}
	if found := config.Find(); o.config == "" && found != "" && inside(path, found) {
		return nil, usage{fmt.Errorf("the configuration %s is part of the checkout: name another one with --config, or this one if it is yours", found)}
	}
	known, err := config.Load(o.config)
	if err != nil {
		return nil, err
	}
	for _, t := range known.Targets {
		for _, r := range t.Repositories {
			if !strings.EqualFold(r.GitHub, o.repository) {
				continue
			}
			c, err := github.Open(r.Options())
			if err != nil {
				return nil, err
			}
			return r.Source(client, c), nil
		}
	}
	return nil, usage{fmt.Errorf("%s has no repository %q", known.Path, o.repository)}
}

// inside reports whether a file is below a folder, or that cannot be told.
func inside(folder, file string) bool {
	for _, p := range []*string{&folder, &file} {
		whole, err := filepath.Abs(*p)
		if err == nil {
			whole, err = filepath.EvalSymlinks(whole)
		}
		if err != nil {
			return true
		}
		*p = whole
	}
	within, err := filepath.Rel(folder, file)
	return err != nil || filepath.IsLocal(within)
}

// updatesExit is partial success if anything is not known, and failure if nothing is.
func updatesExit(r scan.Report) error {
	switch {
	case r.Looked > 0 && r.Failed == r.Looked, r.Looked == 0 && len(r.Problems) > 0:
		return Exit{ExitFailed}
	case r.Failed > 0 || len(r.Problems) > 0:
		return Exit{ExitPartially}
	}
	return nil
}

// writeUpdates is the table for people: what is proposed, then what is held back and why, then what is not
// known and why.
func writeUpdates(out io.Writer, r scan.Report) {
	telling := r.Telling()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if n := r.Updates(); n == 0 {
		fmt.Fprintf(out, "No updates for %d dependencies.\n", r.Looked)
	} else {
		fmt.Fprintln(w, "FILE\tNAME\tCURRENT\tTYPE\tTO\tRELEASED\tMENDS")
	}
	held, failed := 0, 0
	for _, e := range telling {
		held += len(e.Held)
		if e.Problem != "" {
			failed++
		}
		for _, u := range e.Updates {
			to := dependency.Printable(u.Version)
			if u.Package != "" {
				to = dependency.Printable(u.Package) + " " + to
			}
			if u.Type == dependency.Digest && u.Digest != "" {
				to += " " + clipDigest(u.Digest)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", dependency.Printable(e.File), e.Name, e.Current, u.Type, to, date(u.Released), strings.Join(u.Advisories, " "))
		}
	}
	_ = w.Flush() // stdout may be closed; there is nobody left to tell
	if held > 0 {
		fmt.Fprintln(out, "\nHeld back:")
		for _, e := range telling {
			for _, h := range e.Held {
				fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", dependency.Printable(e.File), e.Name, h.Type, dependency.Printable(h.Version), why(h))
			}
		}
		_ = w.Flush()
	}
	if failed+len(r.Problems) > 0 {
		fmt.Fprintln(out, "\nNot known:")
		for _, e := range telling {
			if e.Problem != "" {
				fmt.Fprintf(w, "  %s\t%s\t%s\n", dependency.Printable(e.File), e.Name, e.Problem)
			}
		}
		for _, p := range r.Problems {
			fmt.Fprintf(w, "  %s\n", p.Error())
		}
		_ = w.Flush()
	}
}

func why(h choose.Held) string {
	if h.Until.IsZero() {
		return h.Why
	}
	return h.Why + ", from " + date(h.Until) + " on"
}

func date(t time.Time) string {
	if t.IsZero() {
		return "?"
	}
	return t.UTC().Format(time.DateOnly)
}

func clipDigest(d string) string {
	if len(d) > 19 {
		return d[:19]
	}
	return d
}
