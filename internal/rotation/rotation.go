// Package rotation replaces the password by which programs of a cluster log in to PostgreSQL, without a
// moment in which neither the old nor the new one is good.
//
// A role of PostgreSQL has one password. So where nobody may notice, two roles log in in turn for a third
// that has the privileges: the second gets a new password while the first still works. Where a role must
// keep its name there is no overlap, and the configuration has to say so.
//
// The new password is made here and kept in a Secret beside the one that the programs read, the pending
// Secret, with what that one had before. Nothing else ever holds it: no history, log, argument or error.
//
// What was done is written where it was done, with the moment of the order that did it: on the pending
// Secret, on the programs' Secret in the patch that changes it, and on the role in the transaction that
// changes it. Whoever comes with an earlier order finds a later one there, and changes nothing.
package rotation

import (
	"crypto/rand"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// Entry is a password that the configuration says how to rotate. It is kept in the histories of runs.
type Entry struct {
	Name   string `json:"name"`
	Secret string `json:"secret"` // the programs', in the target's namespace
	Keys   Keys   `json:"keys"`
	// Owner has the privileges, and Roles log in for it in turn.
	Owner string   `json:"owner,omitempty"`
	Roles []string `json:"roles,omitempty"`
	// Role logs in for itself and keeps its name: there is no overlap.
	Role string `json:"role,omitempty"`
	// Consumers are the workloads that are restarted, in their order; none: found by what they refer to.
	Consumers []Ref `json:"consumers,omitempty"`
}

// Keys are those of the Secret that name the role and its password; the empty ones there are not.
type Keys struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	URL      string `json:"url,omitempty"` // postgres://role:password@host/database
}

// Ref names a workload in the target's namespace.
type Ref struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

func (r Ref) String() string { return r.Kind + " " + r.Name }

// All lists the keys that there are.
func (k Keys) All() []string {
	return slices.DeleteFunc([]string{k.Username, k.Password, k.URL}, func(key string) bool { return key == "" })
}

// Overlap reports whether two roles log in in turn.
func (e Entry) Overlap() bool { return e.Role == "" }

// Privileged is the role that has the privileges; what was done is noted on it.
func (e Entry) Privileged() string {
	if e.Overlap() {
		return e.Owner
	}
	return e.Role
}

// Next is the role that logs in after the current one.
func (e Entry) Next(current string) (string, error) {
	switch {
	case !e.Overlap() && current == e.Role:
		return e.Role, nil
	case !e.Overlap():
	case current == e.Owner || current == e.Roles[1]:
		return e.Roles[0], nil
	case current == e.Roles[0]:
		return e.Roles[1], nil
	}
	return "", failure.New(failure.NotRotatable, "Secret %s names role %.63q, which is none of those of secret %s in upkeep.yaml", e.Secret, current, e.Name).
		Do("correct the roles in upkeep.yaml, or what the Secret holds, and start a new run")
}

// unsafe are keys whose value cannot be replaced without losing something, by a part of their name.
var unsafe = []struct{ part, why string }{
	{"SALT", "a salt: hashes that were made with it, such as those of API keys, could never be verified again"},
	{"ENCRYPT", "it encrypts stored data: what was encrypted with the old value could never be read again"},
	{"CIPHER", "it encrypts stored data: what was encrypted with the old value could never be read again"},
	{"MASTER_KEY", "it encrypts stored data: what was encrypted with the old value could never be read again"},
	{"SECRET_KEY_BASE", "it signs and encrypts what programs have given out: sessions end, and what is stored encrypted is lost"},
	{"NEXTAUTH", "it signs and encrypts sessions and tokens: everybody is logged out, and links that were sent are void"},
	{"AUTH_SECRET", "it signs and encrypts sessions and tokens: everybody is logged out, and links that were sent are void"},
	{"SESSION", "it signs sessions: everybody is logged out"},
	{"JWT", "it signs tokens: those that were given out are void"},
	{"SIGNING", "it signs what programs have given out, which could never be verified again"},
	{"PRIVATE_KEY", "it is half of a pair: whoever trusts the other half has to be told first"},
	{"TLS", "it is half of a pair: a certificate goes with it"},
}

// KeyProblem says why a Secret's key, known by its name, must not be rotated by anybody, or "".
func KeyProblem(key string) string {
	name := strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(key))
	for _, u := range unsafe {
		if strings.Contains(name, u.part) {
			return u.why
		}
	}
	return ""
}

// Untouched says why a key that no entry names is not rotated.
func Untouched(key string) string {
	if why := KeyProblem(key); why != "" {
		return why
	}
	return "it is not known to be a password of PostgreSQL (secrets of the target in upkeep.yaml)"
}

// newPassword has 130 bits of chance, in letters and digits that need no quoting anywhere.
func newPassword() string { return rand.Text() }

// read finds the role and its password in the data of the programs' Secret.
func (e Entry) read(data map[string][]byte) (role, password string, err error) {
	k, secret := e.Keys, e.Secret
	wrong := func(format string, args ...any) error {
		return failure.New(failure.NotRotatable, "Secret %s %s", secret, fmt.Sprintf(format, args...)).Do("correct the keys of the secret in upkeep.yaml, or what the Secret holds, and start a new run")
	}
	for _, key := range k.All() {
		if len(data[key]) == 0 {
			return "", "", wrong("has no key %s, or nothing under it", key)
		}
	}
	role, password = string(data[k.Username]), string(data[k.Password])
	if k.Username == "" {
		role = e.Role // which the programs know otherwise
	}
	if k.URL == "" {
		return role, password, nil
	}
	text := string(data[k.URL])
	u, parse := url.Parse(text)
	_, _, splits := userinfo(text)
	if parse != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.User.Username() == "" || !splits {
		return "", "", wrong("holds no url such as postgres://role:password@host/database under %s", k.URL) // the parser's text may quote it
	}
	in, has := u.User.Password()
	switch {
	case !has && k.Password == "":
		return "", "", wrong("holds a url without a password under %s", k.URL)
	case k.Username != "" && role != u.User.Username():
		return "", "", wrong("names one role under %s and another under %s", k.Username, k.URL)
	case k.Password != "" && has && password != in:
		return "", "", wrong("holds one password under %s and another under %s", k.Password, k.URL)
	case has:
		password = in
	}
	return u.User.Username(), password, nil
}

// write makes the values of the keys for a role and its password, and of no other.
func (k Keys) write(data map[string][]byte, role, password string) map[string][]byte {
	out := make(map[string][]byte)
	if k.Username != "" {
		out[k.Username] = []byte(role)
	}
	if k.Password != "" {
		out[k.Password] = []byte(password)
	}
	if k.URL != "" { // no other byte of it is touched
		text := string(data[k.URL])
		begin, end, _ := userinfo(text)
		user := url.User(role)
		if strings.Contains(text[begin:end], ":") {
			user = url.UserPassword(role, password)
		}
		out[k.URL] = []byte(text[:begin] + user.String() + text[end:])
	}
	return out
}

// userinfo finds the role and password in a url, as bytes from begin to end.
func userinfo(text string) (begin, end int, ok bool) {
	begin = strings.Index(text, "://") + len("://")
	if begin < len("://") {
		return 0, 0, false
	}
	rest := text[begin:]
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	at := strings.LastIndex(rest, "@")
	return begin, begin + max(at, 0), at >= 0
}

// plain reports whether a password has only characters that SCRAM takes as they are.
func plain(password string) bool {
	return !strings.ContainsFunc(password, func(r rune) bool { return r < ' ' || r > '~' })
}
