package config

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

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

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,199}$`)

func checkEnv(v string) string {
	if !variable.MatchString(v) { // it may be the secret itself, put in the wrong place
		return "must be the name of an environment variable: letters, digits and _"
	}
	return ""
}

func checkSecretKey(v string) string {
	if len(validation.IsConfigMapKey(v)) > 0 {
		return "must be a key of a Secret: letters, digits, -, _ and ."
	}
	return ""
}
