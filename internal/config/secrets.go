package config

import (
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/rotation"
)

// maxSecrets bounds the secrets of a target.
const maxSecrets = 20

// secrets reads which passwords RotateSecret rotates, and how.
func (p *parser) secrets(n *yaml.Node) (all []rotation.Entry) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > maxSecrets {
		p.fail(n, "secrets must be a list of 1 to %d secrets", maxSecrets)
		return nil
	}
	for _, item := range n.Content {
		e := p.entry(item)
		for _, o := range all {
			switch {
			case o.Name == e.Name && e.Name != "":
				p.fail(item, "there are two secrets named %q", e.Name)
			case o.Privileged() == e.Privileged() && e.Privileged() != "":
				p.fail(item, "two secrets are of the role %q; give one all the keys, or each a role of its own", e.Privileged())
			case slices.ContainsFunc(e.Roles, func(r string) bool { return r == o.Privileged() || slices.Contains(o.Roles, r) }), slices.Contains(o.Roles, e.Privileged()):
				p.fail(item, "a role of the secret %q is one of the secret %q too", e.Name, o.Name)
			}
		}
		all = append(all, e)
	}
	return all
}

func (p *parser) entry(n *yaml.Node) rotation.Entry {
	const what = "a secret"
	var e rotation.Entry
	alone := false
	p.fields(n, what, map[string]func(*yaml.Node){
		"name":   p.text(&e.Name, what+"'s name", checkEntryName),
		"secret": p.text(&e.Secret, what+"'s secret", kube.NameProblem),
		"keys": func(n *yaml.Node) {
			p.fields(n, what+"'s keys", map[string]func(*yaml.Node){
				"username": p.text(&e.Keys.Username, "keys.username", checkRotatedKey),
				"password": p.text(&e.Keys.Password, "keys.password", checkRotatedKey),
				"url":      p.text(&e.Keys.URL, "keys.url", checkRotatedKey),
			})
		},
		"owner":          p.text(&e.Owner, what+"'s owner", checkIdentifier),
		"roles":          p.texts(&e.Roles, what+"'s roles", 2, checkIdentifier),
		"role":           p.text(&e.Role, what+"'s role", checkIdentifier),
		"withoutOverlap": p.flag(&alone, "a secret's withoutOverlap"),
		"consumers":      func(n *yaml.Node) { e.Consumers = p.consumers(n) },
	}, "name", "secret", "keys")
	if n.Kind != yaml.MappingNode {
		return e
	}
	two := has(n, "owner") || has(n, "roles")
	switch keys := e.Keys.All(); {
	case !has(n, "keys"):
	case e.Keys.Password == "" && e.Keys.URL == "":
		p.fail(n, `a secret's keys lack the key "password" or the key "url"`)
	case len(slices.Compact(slices.Sorted(slices.Values(keys)))) < len(keys):
		p.fail(n, "a secret's keys name one key twice")
	case two && e.Keys.Username == "" && e.Keys.URL == "":
		p.fail(n, `a secret with two roles lacks the key "username" or the key "url" among its keys: the programs must be told which role logs in`)
	}
	switch {
	case two && has(n, "role"):
		p.fail(n, "a secret has two roles that log in in turn (owner, roles), and one that keeps its name (role); give one or the other")
	case two && (e.Owner == "" || len(e.Roles) != 2 || slices.Contains(e.Roles, e.Owner)):
		p.fail(n, "a secret with an overlap needs an owner, which has the privileges, and two other roles, which log in for it in turn")
	case two && alone:
		p.fail(n, "a secret with two roles has an overlap; take withoutOverlap away")
	case !two && e.Role == "":
		p.fail(n, `a secret lacks the keys "owner" and "roles" (or "role", for one that must keep its name)`)
	case !two && !alone:
		p.fail(n, "a secret of one role has no overlap: from the change on, new logins with the old password fail until the programs are restarted; if that is what you want, write withoutOverlap: true")
	}
	return e
}

// consumers reads which workloads are restarted.
func (p *parser) consumers(n *yaml.Node) (all []rotation.Ref) {
	const what = "a secret's consumers"
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > maxClients {
		p.fail(n, "%s must be a list of 1 to %d workloads, as in [{kind: Deployment, name: web}]", what, maxClients)
		return nil
	}
	for _, item := range n.Content {
		var c rotation.Ref
		p.fields(item, what, map[string]func(*yaml.Node){
			"kind": p.text(&c.Kind, what+".kind", oneOf([]string{health.DaemonSet, health.Deployment, health.StatefulSet})),
			"name": p.text(&c.Name, what+".name", kube.NameProblem),
		}, "kind", "name")
		if slices.Contains(all, c) {
			p.fail(item, "%s name %s twice", what, c)
		}
		all = append(all, c)
	}
	return all
}

func checkEntryName(v string) string {
	if len(v) > rotation.MaxName || kube.ReleaseProblem(v) != "" {
		return "must be of small letters, digits and -, and begin with a letter or digit (at most 40)"
	}
	return ""
}

// checkRotatedKey checks a key of a Secret, which must be one whose value can be replaced.
func checkRotatedKey(v string) string {
	if problem := checkSecretKey(v); problem != "" {
		return problem
	}
	if why := rotation.KeyProblem(v); why != "" {
		return "cannot be rotated safely: " + why
	}
	return ""
}
