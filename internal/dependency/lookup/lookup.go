// Package lookup puts the datasources together, with the registries, mirrors and logins of the operator: who
// runs Upkeep, and never a file of the repository that is looked at.
package lookup

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/githubtags"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/goproxy"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/helmrepo"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/npm"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/oci"
)

// Operator is the configuration of who runs Upkeep. Nothing in it comes from a repository.
type Operator struct {
	Go     goproxy.Config
	NPM    npm.Config
	GitHub githubtags.Config
	OCI    oci.Config
	// Hosts may be in a private network, and are asked over plain http where a URL says so. Those of the
	// registries above are among them anyway.
	Hosts []string
}

// Client returns a client that trusts the operator's hosts.
func (o Operator) Client(options httpcache.Options) *httpcache.Client {
	options.Trusted = append(append(append(append(append([]string{}, options.Trusted...), o.Hosts...), o.Go.Hosts()...), o.NPM.Hosts()...), o.GitHub.Hosts()...)
	return httpcache.New(options)
}

// Sources are all datasources, by their names.
func (o Operator) Sources(client *httpcache.Client) map[string]dependency.Datasource {
	modules, goItself := goproxy.New(client, o.Go)
	images := oci.New(client, o.OCI)
	sources := make(map[string]dependency.Datasource)
	for _, s := range []dependency.Datasource{modules, goItself, npm.New(client, o.NPM), images, helmrepo.New(client), githubtags.New(client, o.GitHub)} {
		sources[s.Name()] = s
	}
	return sources
}

// FromEnvironment reads what a person has set up at their own terminal: GOPROXY and its kin, npm's
// configuration, GITHUB_TOKEN. No program is run for it.
func FromEnvironment(lookupEnv func(string) (string, bool)) (Operator, error) {
	env := func(names ...string) string {
		for _, name := range names {
			if v, ok := lookupEnv(name); ok && v != "" {
				return v
			}
		}
		return ""
	}
	var o Operator
	goEnv, err := goEnvironment(env)
	if err != nil {
		return o, err
	}
	goSetting := func(name string) string { return cmp.Or(env(name), goEnv[name]) }
	o.Go = goproxy.Config{Proxy: goSetting("GOPROXY"), Private: cmp.Or(goSetting("GONOPROXY"), goSetting("GOPRIVATE"))}
	if o.NPM, err = npmConfiguration(env); err != nil {
		return o, err
	}
	o.GitHub = githubtags.Config{Token: env("GITHUB_TOKEN", "GH_TOKEN")}
	return o, nil
}

const maxSettings = 1 << 20 // bytes of one file

// settings reads a file of settings; one that is not there has none.
func settings(path string) ([]byte, error) {
	file, err := os.Open(path) //nolint:gosec // the operator's own
	if errors.Is(err, fs.ErrNotExist) || path == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the settings: %w", err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxSettings))
	if err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	return data, nil
}

// goEnvironment are the settings that `go env -w` has written.
func goEnvironment(env func(...string) string) (map[string]string, error) {
	path := env("GOENV")
	if path == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return nil, nil //nolint:nilerr // without a home there are none
		}
		path = filepath.Join(dir, "go", "env")
	}
	if path == "off" {
		return nil, nil
	}
	data, err := settings(path)
	values := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), "="); found && !strings.HasPrefix(key, "#") {
			values[key] = value
		}
	}
	return values, err
}

// npmConfiguration reads npm's own: the user's file, and above it the environment. The file of a project is
// not read, whatever folder this runs in.
func npmConfiguration(env func(...string) string) (npm.Config, error) {
	var c npm.Config
	for _, path := range []string{
		env("NPM_CONFIG_GLOBALCONFIG", "npm_config_globalconfig"),
		cmp.Or(env("NPM_CONFIG_USERCONFIG", "npm_config_userconfig"), homeFile(env, ".npmrc")),
	} {
		data, err := settings(path)
		if err != nil {
			return c, err
		}
		parseNPM(data, env, &c)
	}
	if r := env("npm_config_registry", "NPM_CONFIG_REGISTRY"); r != "" {
		c.Registry = r
	}
	return c, nil
}

func homeFile(env func(...string) string, name string) string {
	if home := env("HOME"); home != "" {
		return filepath.Join(home, name)
	}
	return ""
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// parseNPM reads a file as npm does, as far as registries and their logins go.
func parseNPM(data []byte, env func(...string) string, c *npm.Config) {
	users, passwords := make(map[string]string), make(map[string]string)
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		key, value, found := strings.Cut(lines.Text(), "=")
		key, value = strings.TrimSpace(key), strings.Trim(strings.TrimSpace(value), `"'`)
		if !found || strings.HasPrefix(key, "#") || strings.HasPrefix(key, ";") {
			continue
		}
		value = variable.ReplaceAllStringFunc(value, func(v string) string { return env(v[2 : len(v)-1]) })
		at := strings.TrimPrefix(key, "//")
		switch {
		case key == "registry":
			c.Registry = value
		case strings.HasPrefix(key, "@") && strings.HasSuffix(key, ":registry"):
			if c.Scopes == nil {
				c.Scopes = make(map[string]string)
			}
			c.Scopes[strings.TrimSuffix(key, ":registry")] = value
		case at == key:
		case strings.HasSuffix(at, ":_authToken"):
			authorize(c, strings.TrimSuffix(at, ":_authToken"), "Bearer "+value)
		case strings.HasSuffix(at, ":_auth"):
			authorize(c, strings.TrimSuffix(at, ":_auth"), "Basic "+value)
		case strings.HasSuffix(at, ":username"):
			users[strings.TrimSuffix(at, ":username")] = value
		case strings.HasSuffix(at, ":_password"):
			passwords[strings.TrimSuffix(at, ":_password")] = value
		}
	}
	for at, user := range users {
		if password, err := base64.StdEncoding.DecodeString(passwords[at]); err == nil && len(password) > 0 {
			authorize(c, at, "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+string(password))))
		}
	}
}

func authorize(c *npm.Config, at, header string) {
	if c.Authorization == nil {
		c.Authorization = make(map[string]string)
	}
	c.Authorization[strings.TrimSuffix(at, "/")] = header
}
