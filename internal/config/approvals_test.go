package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/approval/approvaltest"
)

func TestApprovals(t *testing.T) {
	ann, bob := approvaltest.New(t, "ann").Key(), approvaltest.New(t, "bob").Key()
	one, rest, _ := strings.Cut(good, "  - name: other")
	parse := func(approvals string) (*approval.Policy, error) {
		c, err := Parse("upkeep.yaml", []byte(one+"    approvals: "+approvals+"\n  - name: other"+rest))
		if err != nil {
			return nil, err
		}
		require.Nil(t, c.Targets[1].Approvals, "of a target that says nothing")
		return c.Targets[0].Approvals, nil
	}
	a, b := "{name: ann, key: "+ann.Key+" ann@laptop}", "{name: bob, key: "+bob.Key+"}"
	for text, want := range map[string]*approval.Policy{
		"{quorum: 2}": {Quorum: 2},
		"{quorum: 1}": {Quorum: 1},
		"{quorum: 9, procedures: [ContainIncident, RolloutRelease]}": {Quorum: 9, Procedures: []string{"ContainIncident", "RolloutRelease"}},
		"{signed: true, keys: [" + a + "]}":                          {Quorum: 1, Signed: true, Keys: []approval.Key{ann}},
		"{quorum: 2, signed: true, keys: [" + a + ", " + b + "]}":    {Quorum: 2, Signed: true, Keys: []approval.Key{ann, bob}},
	} {
		got, err := parse(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, says := range map[string]string{
		"{}":                             `lacks the key "quorum" or the key "signed"`,
		"{procedures: [RecoverData]}":    `lacks the key "quorum" or the key "signed"`,
		"{quorum: 0}":                    "from 1 to 9",
		"{quorum: 10}":                   "from 1 to 9",
		"{quorum: two}":                  "whole number",
		"{qorum: 2}":                     `did you mean "quorum"?`,
		"{signed: maybe}":                "true or false",
		"{signed: true}":                 `lack the key "keys"`,
		"{quorum: 2, keys: [" + a + "]}": "is not signed",
		"{quorum: 2, signed: false, keys: [" + a + "]}":                          "is not signed",
		"{quorum: 2, signed: true, keys: [" + a + "]}":                           "wants 2 people to approve, and has the keys of 1",
		"{signed: true, keys: []}":                                               "must be a list of 1 to 50 keys",
		"{signed: true, keys: [" + a + ", {name: Ann, key: " + bob.Key + "}]}":   `two of the name "Ann"`,
		"{signed: true, keys: [" + a + ", {name: bob, key: " + ann.Key + " x}]}": `one key for "ann" and for "bob"`,
		"{signed: true, keys: [{name: ann}]}":                                    `lacks the key "key"`,
		"{signed: true, keys: [{name: 'a b', key: " + ann.Key + "}]}":            "must be of letters",
		"{signed: true, keys: [{name: ann, key: ssh-rsa AAAAB3NzaC1yc2E}]}":      "of the type ssh-rsa; only ssh-ed25519 is taken",
		"{signed: true, keys: [{name: ann, key: hunter2}]}":                      "must be the line of a .pub file",
		"{signed: true, keys: [{name: ann, key: ssh-ed25519 hunter2}]}":          "must be the line of a .pub file",
		"{quorum: 2, procedures: [ContainIncidents]}":                            `did you mean "ContainIncident"?`,
		"{quorum: 2, procedures: [RecoverData, RecoverData]}":                    "twice",
		"{quorum: 2, procedures: []}":                                            "must be a list",
		"[2]":                                                                    "must be a mapping",
	} {
		_, err := parse(text)
		require.ErrorContains(t, err, says, text)
		require.NotContains(t, err.Error(), "hunter2", text)
	}
}
