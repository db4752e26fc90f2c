package config

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/sshsig"
)

// maxProcedures bounds the procedures that a policy names.
const maxProcedures = 50

// approvals reads how the target's plans are decided on.
func (p *parser) approvals(n *yaml.Node) *approval.Policy {
	a := &approval.Policy{Quorum: 1}
	wrong := len(p.wrong)
	p.fields(n, "approvals", map[string]func(*yaml.Node){
		"quorum":     p.number(&a.Quorum, "approvals.quorum", 1, approval.MaxQuorum),
		"signed":     p.flag(&a.Signed, "approvals.signed"),
		"keys":       func(n *yaml.Node) { a.Keys = p.approvers(n) },
		"procedures": p.texts(&a.Procedures, "approvals.procedures", maxProcedures, checkProcedure),
	})
	if len(p.wrong) > wrong {
		return nil
	}
	switch {
	case !has(n, "quorum") && !has(n, "signed"):
		p.fail(n, `approvals lacks the key "quorum" or the key "signed", so it would change nothing`)
	case a.Signed && len(a.Keys) == 0:
		p.fail(n, `approvals that are signed lack the key "keys": whose signatures count`)
	case !a.Signed && len(a.Keys) > 0:
		p.fail(n, "approvals has keys and is not signed, so they would count for nothing; write signed: true, or leave keys out")
	case a.Signed && a.Quorum > len(a.Keys):
		p.fail(n, "approvals wants %d people to approve, and has the keys of %d, so nothing could be approved", a.Quorum, len(a.Keys))
	}
	return a
}

// approvers reads the keys of those who decide.
func (p *parser) approvers(n *yaml.Node) (all []approval.Key) {
	const what = "approvals.keys"
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > approval.MaxKeys {
		p.fail(n, "%s must be a list of 1 to %d keys, as in [{name: ann, key: ssh-ed25519 AAAA...}]", what, approval.MaxKeys)
		return nil
	}
	for _, item := range n.Content {
		var k approval.Key
		p.fields(item, what, map[string]func(*yaml.Node){
			"name": p.text(&k.Name, what+".name", checkApprover),
			"key": func(n *yaml.Node) {
				var line string
				p.text(&line, what+".key", checkApproverKey)(n)
				if key, err := sshsig.ParseKey(line); err == nil {
					k.Key = sshsig.KeyLine(key)
				}
			},
		}, "name", "key")
		if slices.ContainsFunc(all, func(o approval.Key) bool { return k.Name != "" && strings.EqualFold(o.Name, k.Name) }) {
			p.fail(item, "%s has two of the name %q; give each person one key", what, k.Name)
		}
		if i := slices.IndexFunc(all, func(o approval.Key) bool { return k.Key != "" && o.Key == k.Key }); i >= 0 {
			p.fail(item, "%s has one key for %q and for %q, who could not be told apart", what, all[i].Name, k.Name)
		}
		all = append(all, k)
	}
	return all
}

var approver = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}$`)

func checkApprover(v string) string {
	if !approver.MatchString(v) {
		return "must be of letters, digits and . _ @ + -, and begin with a letter or digit (at most 100)"
	}
	return ""
}

// checkApproverKey says what is wrong with a key without repeating it: it may be a private one.
func checkApproverKey(v string) string {
	if _, err := sshsig.ParseKey(v); err != nil {
		return "must be the line of a .pub file with an ssh-ed25519 key: " + err.Error()
	}
	return ""
}
