// Package config reads upkeep.yaml. It is strict: a key that nobody knows or a value that cannot be
// right is refused with its file and line, and the nearest right key. It holds references to
// secrets, never a secret.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/calendar"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/retention"
	"github.com/upkeep-run/upkeep/internal/rotation"
	"github.com/upkeep-run/upkeep/internal/schedule"
	"github.com/upkeep-run/upkeep/internal/strictjson"
)

const (
	// Version is the configuration's version that this Upkeep reads.
	Version = 1
	// DefaultConnections is how many sessions read or write rows at once.
	DefaultConnections = 2
	maxConnections     = 32
	maxRecipients      = 32
	maxFile            = 1 << 20  // bytes
	maxSecret          = 64 << 10 // bytes
)

// Config is a whole configuration.
type Config struct {
	Store   string
	Targets []Target
	// Webhooks say how GitHub's are taken; nil: they are not.
	Webhooks *Webhooks
	SHA256   string // of the file
	Path     string
}

// Target is a stack to maintain.
type Target struct {
	Name     string
	Database Database
	Calendar calendar.Calendar // when what others would notice may begin; at any time when left out
	// Retention says which backups PruneBackups keeps; when left out it refuses to run.
	Retention retention.Policy
	// Schedules are what begins by itself, once they are applied to Temporal.
	Schedules []schedule.Schedule
	// Encryption says by whom the backups can be read; by everybody who has them when it is left out.
	Encryption Encryption
	// Kubernetes says where the target lives in a cluster; nowhere when it is left out.
	Kubernetes Kubernetes
	// Rollout says how its Helm release is upgraded; nil: RolloutRelease refuses to run.
	Rollout *Rollout
	// Repositories are those whose dependencies are kept up to date.
	Repositories []Repository
	// Secrets are the passwords that RotateSecret rotates.
	Secrets []rotation.Entry
	// Approvals says how its plans are decided on; nil: by one person, as claimed.
	Approvals *approval.Policy
}

// HasDatabase says whether there is a database to look after: a target may have repositories alone.
func (t Target) HasDatabase() bool { return t.Database.URL != "" }

// Databases are the targets that have one.
func (c *Config) Databases() []Target {
	return slices.DeleteFunc(slices.Clone(c.Targets), func(t Target) bool { return !t.HasDatabase() })
}

// Encryption is how a target's backups are encrypted. It is kept in the histories of runs.
type Encryption struct {
	Recipients []string `json:"recipients"`        // of age; none: backups are not encrypted
	Identity   Secret   `json:"identity,omitzero"` // of one of the recipients; none on a machine that reads no backup
	Keys       []string `json:"keys,omitempty"`    // fingerprints of the repository keys that are trusted, the first one for new backups
}

// Ring returns the repository keys of a target; nil where backups are not encrypted.
func (e *Encryption) Ring(store objstore.Store, target string) *keyring.Ring {
	if e == nil || len(e.Recipients) == 0 {
		return nil
	}
	return keyring.New(store, target, keyring.Config{Recipients: e.Recipients, Identity: e.Identity.Resolver(), Keys: e.Keys})
}

// Places are where a configuration is looked for when none is named.
func Places() []string {
	places := []string{"upkeep.yaml", "/etc/upkeep/upkeep.yaml"}
	if p := os.Getenv("UPKEEP_CONFIG"); p != "" {
		places = []string{p}
	}
	return places
}

// Find returns the first of Places where there is a configuration, or "".
func Find() string {
	for _, p := range Places() {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

// WorkerData is the worker's folder when none is named: one that another OS user can reach, since the
// private scratch servers in it have one of their own.
func WorkerData() string {
	if os.Geteuid() == 0 {
		return "/var/lib/upkeep-worker"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "upkeep-worker")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "upkeep-worker")
	}
	return filepath.Join(home, ".local", "state", "upkeep-worker")
}

// Load reads a configuration; path "" looks in Places.
func Load(path string) (*Config, error) {
	if path == "" {
		if path = Find(); path == "" {
			return nil, failure.New(failure.BadConfig, "there is no configuration (looked for %s)", strings.Join(Places(), ", ")).
				Do("write an upkeep.yaml, or name one with --config")
		}
	}
	data, err := readFile(path, maxFile)
	if err != nil {
		return nil, failure.New(failure.BadConfig, "the configuration cannot be read").Because(err).Do("name a readable file with --config")
	}
	c, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	if c.Path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("find the configuration: %w", err)
	}
	return c, nil
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return data, err
}

// Parse reads a configuration's text. All its mistakes are in one error, each with file and line.
func Parse(path string, data []byte) (*Config, error) {
	p := &parser{path: path}
	var root yaml.Node
	d := yaml.NewDecoder(strings.NewReader(string(data)))
	if err := d.Decode(&root); err != nil {
		return nil, failure.New(failure.BadConfig, "%s", unreadable(path, err)).Do("correct the file; it must be YAML, and begin with version: %d", Version)
	}
	var second yaml.Node
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, failure.New(failure.BadConfig, "%s: there is a second document", path).Do("keep one document in the file")
	}
	c := p.config(root.Content[0])
	if len(p.wrong) > 0 {
		return nil, failure.New(failure.BadConfig, "%s", strings.Join(p.wrong, "\n")).Do("correct the file")
	}
	sum := sha256.Sum256(data)
	c.SHA256, c.Path = hex.EncodeToString(sum[:]), path
	return c, nil
}

// unreadable says where a text stops being YAML.
func unreadable(path string, err error) string {
	if errors.Is(err, io.EOF) {
		return path + ": the file is empty"
	}
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		return path + ":" + rest
	}
	return path + ": " + text
}

// Target returns a target by its name; "" is the only one there is.
func (c *Config) Target(name string) (*Target, error) {
	names := make([]string, len(c.Targets))
	for i := range c.Targets {
		names[i] = c.Targets[i].Name
	}
	if name == "" {
		if len(c.Targets) == 1 {
			return &c.Targets[0], nil
		}
		return nil, failure.New(failure.UnknownTarget, "no target is named and the configuration has %d", len(names)).Do("name one of: %s", strings.Join(names, ", "))
	}
	if i := slices.Index(names, name); i >= 0 {
		return &c.Targets[i], nil
	}
	f := failure.New(failure.UnknownTarget, "there is no target %.100q in the worker's configuration", name)
	if near := strictjson.Nearest(name, names); near != "" {
		return nil, f.Do("did you mean %q? There are: %s", near, strings.Join(names, ", "))
	}
	return nil, f.Do("use one of: %s", strings.Join(names, ", "))
}

func (p *parser) version(n *yaml.Node) {
	var v int
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag != "!!int":
		p.fail(n, "version must be the number %d", Version)
	case n.Decode(&v) != nil || v != Version:
		p.fail(n, "version %.20s is unknown to this Upkeep; it reads version %d", n.Value, Version)
	}
}

func (p *parser) config(n *yaml.Node) *Config {
	c := &Config{}
	p.fields(n, "the configuration", map[string]func(*yaml.Node){
		"version":  p.version,
		"store":    p.text(&c.Store, "store", checkStore),
		"webhooks": func(n *yaml.Node) { c.Webhooks = p.webhooks(n) },
		"targets": func(n *yaml.Node) {
			if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
				p.fail(n, "targets must be a list with at least one target")
				return
			}
			for _, t := range n.Content {
				target := p.target(t)
				if slices.ContainsFunc(c.Targets, func(o Target) bool { return o.Name == target.Name && o.Name != "" }) {
					p.fail(t, "there are two targets named %q", target.Name)
				}
				p.apart(t, c.Targets, target)
				c.Targets = append(c.Targets, target)
			}
			p.stagings(n, c.Targets)
		},
	}, "version", "store", "targets")
	return c
}

func (p *parser) target(n *yaml.Node) Target {
	var t Target
	var schedules *yaml.Node
	p.fields(n, "a target", map[string]func(*yaml.Node){
		"name":      p.text(&t.Name, "a target's name", CheckName),
		"database":  func(n *yaml.Node) { t.Database = p.database(n) },
		"calendar":  func(n *yaml.Node) { t.Calendar = p.calendar(n) },
		"retention": func(n *yaml.Node) { t.Retention = p.retention(n) },
		"schedules": func(n *yaml.Node) { schedules = n },

		"encryption": func(n *yaml.Node) { t.Encryption = p.encryption(n) },
		"kubernetes": func(n *yaml.Node) { t.Kubernetes = p.kubernetes(n) },
		"rollout":    func(n *yaml.Node) { t.Rollout = p.rollout(n) },

		"repositories": func(n *yaml.Node) { t.Repositories = p.repositories(n) },

		"secrets": func(n *yaml.Node) { t.Secrets = p.secrets(n) },

		"approvals": func(n *yaml.Node) { t.Approvals = p.approvals(n) },
	}, "name")
	if n.Kind == yaml.MappingNode && !has(n, "database") && !has(n, "kubernetes") && !has(n, "repositories") {
		p.fail(n, "a target lacks the key %q (or, if it has none to look after, %q or %q)", "database", "kubernetes", "repositories")
	}
	p.inCluster(n, &t)
	if starts := slices.IndexFunc(t.Repositories, func(r Repository) bool { return r.Rollout == RolloutStart }); starts >= 0 && t.Rollout == nil {
		p.fail(n, `repository %s has "rollout: start", and the target lacks the key "rollout" that says which chart is rolled out, in which version`, t.Repositories[starts].GitHub)
	}
	if len(t.Secrets) > 0 && !has(n, "database") {
		p.fail(n, `a target with secrets lacks the key "database": their roles are there`)
	}
	if t.Retention.Set() {
		t.Retention.Zone = t.Calendar.Zone
	}
	t.Schedules = p.schedules(schedules, t) // after the name and the zone, which are theirs too
	return t
}

// retention reads which backups are kept.
func (p *parser) retention(n *yaml.Node) retention.Policy {
	var r retention.Policy
	wrong := len(p.wrong)
	p.fields(n, "retention", map[string]func(*yaml.Node){
		"last":    p.number(&r.Last, "retention.last", 0, retention.MaxKept),
		"daily":   p.number(&r.Daily, "retention.daily", 0, retention.MaxKept),
		"weekly":  p.number(&r.Weekly, "retention.weekly", 0, retention.MaxKept),
		"monthly": p.number(&r.Monthly, "retention.monthly", 0, retention.MaxKept),

		"replacedDays": p.number(&r.ReplacedDays, "retention.replacedDays", 0, retention.MaxKept),
	})
	if !r.Set() && len(p.wrong) == wrong {
		p.fail(n, "retention keeps nothing; give last, daily, weekly or monthly a number above 0, or leave retention out to keep all backups")
	}
	return r
}

// encryption reads by whom backups can be read.
func (p *parser) encryption(n *yaml.Node) Encryption {
	var e Encryption
	p.fields(n, "encryption", map[string]func(*yaml.Node){
		"recipients": p.texts(&e.Recipients, "encryption.recipients", maxRecipients, func(v string) string {
			if _, err := keyring.ParseRecipients([]string{v}); err != nil {
				return "must be public keys of age, such as age1... that age-keygen prints"
			}
			return ""
		}),
		"identityFrom": func(n *yaml.Node) { e.Identity = p.secret(n, "encryption.identityFrom") },
		"keys": p.texts(&e.Keys, "encryption.keys", maxRecipients, func(v string) string {
			if !format.ValidFingerprint(v) {
				return "must be fingerprints of repository keys, of 32 digits: see upkeep keys list"
			}
			return ""
		}),
	}, "recipients")
	return e
}

func checkStore(v string) string {
	u, err := url.Parse(v)
	switch {
	case err != nil || !slices.Contains(objstore.Schemes, u.Scheme):
		return "must be a url such as file:///var/lib/upkeep or s3://bucket"
	case u.User != nil:
		return "must not hold credentials; they belong into the worker's environment"
	case u.Scheme == "file" && (u.Host != "" || !filepath.IsAbs(u.Path)):
		return "must name an absolute folder: file:///var/lib/upkeep"
	}
	return ""
}

// CheckName says what is wrong with a target's name, or "".
func CheckName(v string) string {
	if problem := checkWord(v); problem != "" {
		return problem
	}
	if v == format.RunsFolder || v == format.AuditFolder {
		return "must be another: the store keeps its runs or its audit trail under that name"
	}
	return ""
}

func checkWord(v string) string {
	if len(v) > 63 || !format.ValidID(v) || v != strings.ToLower(v) {
		return "must be of small letters, digits, - and _, and begin with a letter or digit (at most 63)"
	}
	return ""
}

func checkAbsolute(v string) string {
	if !filepath.IsAbs(v) {
		return "must be an absolute path"
	}
	return ""
}
