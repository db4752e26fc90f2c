// Package config reads upkeep.yaml. It is strict: a key that nobody knows or a value that cannot be
// right is refused with its file and line, and the nearest right key. It holds references to
// secrets, never a secret.
package config

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/upkeep-run/upkeep/internal/calendar"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/retention"
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
	SHA256  string // of the file
	Path    string
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

// Database is a PostgreSQL database.
type Database struct {
	URL         string
	Password    Secret
	In          kube.Endpoint // where it is in the target's cluster; the zero one: at the URL's host
	Scratch     Scratch
	Connections int
}

// Runners of scratch servers.
const (
	RunnerLocal  = "local"  // a private server on the worker
	RunnerServer = "server" // the server of scratch.server
	RunnerPod    = "pod"    // a pod beside the database's, of the same image
)

// Runners are all of them.
var Runners = []string{RunnerLocal, RunnerServer, RunnerPod}

// Scratch says where drills restore.
type Scratch struct {
	Runner    string
	URL       string // of the runner server
	Password  Secret
	Image     string // of the runner pod; that of the database's pod when empty
	RunAsUser int64  // of the runner pod, where the database's pod does not say; the image's own when 0
}

// Secret is a reference to a secret: by an environment variable, a file, or a Secret in the target's
// namespace; none of them: none is needed (trust, peer, .pgpass). It is kept in the histories of runs; what
// it leads to is not.
type Secret struct {
	Env    string    `json:"env,omitempty"`
	File   string    `json:"file,omitempty"`
	Secret SecretKey `json:"secret,omitzero"`
}

// SecretKey is a key of a Secret in a cluster.
type SecretKey struct {
	Name string `json:"name"`
	Key  string `json:"key"`
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

// Resolver returns a function that reads the secret when it is needed, or nil when there is none.
func (s Secret) Resolver() func(context.Context) (string, error) {
	if s == (Secret{}) {
		return nil
	}
	return func(context.Context) (string, error) { return s.Read() }
}

// Read reads the secret. Errors name the reference, never the secret.
func (s Secret) Read() (string, error) {
	missing := func(format string, args ...any) *failure.Error {
		return failure.New(failure.MissingSecret, format, args...)
	}
	if s.Env != "" {
		v, ok := os.LookupEnv(s.Env)
		if !ok || v == "" {
			return "", missing("the environment variable %s, which should hold a secret, is not set on the worker", s.Env).
				Do("set it for the worker and start the worker again, then resume the run")
		}
		return v, nil
	}
	data, err := readFile(s.File, maxSecret)
	if err != nil {
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return "", missing("the file %s, which should hold a secret, cannot be read on the worker", s.File).Because(err).
			Do("put it into the file, readable for the worker, then resume the run")
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if secret == "" {
		return "", missing("the file %s, which should hold a secret, is empty", s.File).Do("put it into the file, then resume the run")
	}
	return secret, nil
}

// parser walks the YAML and gathers what is wrong.
type parser struct {
	path  string
	wrong []string
}

func (p *parser) fail(n *yaml.Node, format string, args ...any) {
	p.wrong = append(p.wrong, fmt.Sprintf("%s:%d: %s", p.path, n.Line, fmt.Sprintf(format, args...)))
}

// fields calls the function of each key that is there, and refuses what is not among them.
func (p *parser) fields(n *yaml.Node, what string, known map[string]func(*yaml.Node), required ...string) {
	if n.Kind != yaml.MappingNode {
		p.fail(n, "%s must be a mapping of keys to values", what)
		return
	}
	names := make([]string, 0, len(known))
	for k := range known {
		names = append(names, k)
	}
	slices.Sort(names)
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := known[key.Value]
		switch {
		case !ok:
			hint := "use one of: " + strings.Join(names, ", ")
			if near := strictjson.Nearest(key.Value, names); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			p.fail(key, "%s has the unknown key %.100q; %s", what, key.Value, hint)
		case seen[key.Value]:
			p.fail(key, "%s has the key %q twice", what, key.Value)
		default:
			read(value)
		}
		seen[key.Value] = true
	}
	for _, r := range required {
		if !seen[r] {
			p.fail(n, "%s lacks the key %q", what, r)
		}
	}
}

func (p *parser) text(into *string, what string, check func(string) string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
			p.fail(n, "%s must be a text", what)
			return
		}
		if problem := check(n.Value); problem != "" {
			p.fail(n, "%s %s", what, problem)
			return
		}
		*into = n.Value
	}
}

func (p *parser) number(into *int, what string, low, high int) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var v int
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || n.Decode(&v) != nil || v < low || v > high {
			p.fail(n, "%s must be a whole number from %d to %d", what, low, high)
			return
		}
		*into = v
	}
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
		"version": p.version,
		"store":   p.text(&c.Store, "store", checkStore),
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
	}, "name", "database")
	p.inCluster(n, &t)
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

// texts reads a list of one text or more, each once.
func (p *parser) texts(into *[]string, what string, most int, check func(string) string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > most {
			p.fail(n, "%s must be a list of 1 to %d texts", what, most)
			return
		}
		for _, item := range n.Content {
			var v string
			wrong := len(p.wrong)
			if item.Tag == "!!int" || item.Tag == "!!float" { // a fingerprint may happen to look like one
				item.Tag = "!!str"
			}
			p.text(&v, what, check)(item)
			if slices.Contains(*into, v) && len(p.wrong) == wrong {
				p.fail(item, "%s has %.100q twice", what, v)
			}
			*into = append(*into, v)
		}
	}
}

func (p *parser) database(n *yaml.Node) Database {
	d := Database{Connections: DefaultConnections}
	var name, role string
	var user int
	p.fields(n, "database", map[string]func(*yaml.Node){
		"url":          p.text(&d.URL, "database.url", checkDatabaseURL),
		"service":      p.text(&d.In.Service, "database.service", kube.NameProblem),
		"pod":          p.text(&d.In.Pod, "database.pod", kube.NameProblem),
		"port":         p.number(&d.In.Port, "database.port", 1, 65535),
		"name":         p.text(&name, "database.name", checkIdentifier),
		"role":         p.text(&role, "database.role", checkIdentifier),
		"passwordFrom": func(n *yaml.Node) { d.Password = p.secretAnywhere(n, "database.passwordFrom") },
		"connections":  p.number(&d.Connections, "database.connections", 1, maxConnections),
		"scratch": func(n *yaml.Node) {
			p.fields(n, "scratch", map[string]func(*yaml.Node){
				"runner":       p.text(&d.Scratch.Runner, "scratch.runner", oneOf(Runners)),
				"server":       p.text(&d.Scratch.URL, "scratch.server", checkDatabaseURL),
				"passwordFrom": func(n *yaml.Node) { d.Scratch.Password = p.secretAnywhere(n, "scratch.passwordFrom") },
				"image":        p.text(&d.Scratch.Image, "scratch.image", checkImage),
				"runAsUser":    p.number(&user, "scratch.runAsUser", 1, 1<<31-1),
			})
		},
	})
	d.Scratch.RunAsUser = int64(user)
	switch named := d.In.Service != "" || d.In.Pod != ""; {
	case n.Kind != yaml.MappingNode:
	case d.URL == "" && !named:
		p.fail(n, `database lacks the key "url" (or, for one in a cluster, "service" or "pod")`)
	case d.URL != "" && (named || d.In.Port != 0 || name != "" || role != ""):
		p.fail(n, "database has a url and keys of a database in a cluster (service, pod, port, name, role); give one or the other")
	case d.In.Service != "" && d.In.Pod != "":
		p.fail(n, "database has a service and a pod; give one of them")
	case named && (name == "" || role == ""):
		p.fail(n, `database in a cluster lacks the key "name" or the key "role"`)
	case named:
		d.In.Port = cmp.Or(d.In.Port, 5432)
		d.URL = (&url.URL{Scheme: "postgres", User: url.User(role), Host: net.JoinHostPort(cmp.Or(d.In.Service, d.In.Pod), fmt.Sprint(d.In.Port)),
			Path: "/" + name, RawPath: "/" + strings.ReplaceAll(url.PathEscape(name), "/", "%2F")}).String()
	}
	switch {
	case d.Scratch.Runner == "" && d.Scratch.URL != "":
		d.Scratch.Runner = RunnerServer
	case d.Scratch.Runner == "" && d.In != (kube.Endpoint{}):
		d.Scratch.Runner = RunnerPod // the worker of a cluster has no server programs, and not the extensions
	case d.Scratch.Runner == "":
		d.Scratch.Runner = RunnerLocal
	case d.Scratch.Runner == RunnerServer && d.Scratch.URL == "":
		p.fail(n, `scratch with the runner server lacks the key "server"`)
	case d.Scratch.Runner != RunnerServer && (d.Scratch.URL != "" || d.Scratch.Password != (Secret{})):
		p.fail(n, "scratch has a server or a password, which go with the runner server only")
	}
	if d.Scratch.Runner != RunnerPod && (d.Scratch.Image != "" || user != 0) {
		p.fail(n, "scratch has an image or a user, which go with the runner pod only")
	}
	return d
}

// secret reads a reference to a secret that the worker has itself.
func (p *parser) secret(n *yaml.Node, what string) Secret {
	s := p.secretAnywhere(n, what)
	if s.Secret != (SecretKey{}) {
		p.fail(n, "%s cannot be a Secret of the cluster; it must have either the key env or the key file", what)
	}
	return s
}

// secretAnywhere reads a reference to a secret, also to one in the target's cluster.
func (p *parser) secretAnywhere(n *yaml.Node, what string) Secret {
	var s Secret
	p.fields(n, what, map[string]func(*yaml.Node){
		"env":  p.text(&s.Env, what+".env", checkEnv),
		"file": p.text(&s.File, what+".file", checkAbsolute),
		"secret": func(n *yaml.Node) {
			p.fields(n, what+".secret", map[string]func(*yaml.Node){
				"name": p.text(&s.Secret.Name, what+".secret.name", kube.NameProblem),
				"key":  p.text(&s.Secret.Key, what+".secret.key", checkSecretKey),
			}, "name", "key")
		},
	})
	if n.Kind == yaml.MappingNode && len(n.Content) != 2 {
		p.fail(n, "%s must have one of the keys env, file and secret", what)
	}
	return s
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

func checkDatabaseURL(v string) string {
	u, err := url.Parse(v)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return "must be a url such as postgres://role@host:5432/database"
	}
	if _, has := u.User.Password(); has || u.Query().Has("password") || u.Query().Has("sslpassword") {
		return "must not hold a password; name it with passwordFrom: {env: ...} or {file: ...}"
	}
	for key := range u.Query() {
		if !slices.Contains(urlParameters, key) {
			hint := "use only: " + strings.Join(urlParameters, ", ")
			if near := strictjson.Nearest(key, urlParameters); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			return fmt.Sprintf("has the parameter %.40q, which Upkeep's driver and pg_dump do not both know; %s (settings go into options=-csearch_path%%3Dapp)", key, hint)
		}
	}
	return ""
}

// urlParameters are the parameters of a database's URL that both pgx and libpq know.
var urlParameters = []string{
	"application_name", "channel_binding", "connect_timeout", "host", "krbsrvname", "options", "passfile", "port", "service",
	"sslcert", "sslkey", "sslmode", "sslrootcert", "target_session_attrs", "user",
}

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,199}$`)

func checkEnv(v string) string {
	if !variable.MatchString(v) { // it may be the secret itself, put in the wrong place
		return "must be the name of an environment variable: letters, digits and _"
	}
	return ""
}

// checkImage checks the name of an image; what it leads to, the cluster knows.
func checkImage(v string) string {
	if v == "" || len(v) > 512 || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "must be the name of an image"
	}
	return ""
}

func checkSecretKey(v string) string {
	if len(validation.IsConfigMapKey(v)) > 0 {
		return "must be a key of a Secret: letters, digits, -, _ and ."
	}
	return ""
}

// checkIdentifier checks a name of PostgreSQL's.
func checkIdentifier(v string) string {
	if v == "" || len(v) > 63 || strings.ContainsRune(v, 0) {
		return "must be a name of 1 to 63 bytes"
	}
	return ""
}

func checkAbsolute(v string) string {
	if !filepath.IsAbs(v) {
		return "must be an absolute path"
	}
	return ""
}
