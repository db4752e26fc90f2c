// Package approval is by whom, and how, the plans of a target are decided on: how many different people must
// approve one, and whether they sign what they decide. It is pure, for workflows judge by it: the same decision
// on the same question is taken, or refused, each time it is looked at.
package approval

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/sshsig"
)

const (
	// Namespace is what a decision is signed for: ssh-keygen -Y sign -n upkeep-approval.
	Namespace = "upkeep-approval"
	// MaxQuorum bounds how many people must approve.
	MaxQuorum = 9
	// MaxKeys bounds the keys of a target.
	MaxKeys = 50
)

// Policy is how plans of a target are decided on. It is kept in the histories of runs.
type Policy struct {
	Quorum int   `json:"quorum"`           // how many different people must approve
	Signed bool  `json:"signed,omitempty"` // decisions count only with a signature of one of the keys
	Keys   []Key `json:"keys,omitempty"`
	// Procedures are those whose plans it is for; none: all.
	Procedures []string `json:"procedures,omitempty"`
}

// Key is a person's.
type Key struct {
	Name string `json:"name"`
	Key  string `json:"key"` // public, as sshsig.KeyLine writes it
}

// usual is how a plan is decided on where the configuration says nothing.
var usual = Policy{Quorum: 1}

// For is the policy for a procedure; nil has none of its own.
func (p *Policy) For(procedure string) Policy {
	if p == nil || len(p.Procedures) > 0 && !slices.Contains(p.Procedures, procedure) {
		return usual
	}
	return *p
}

// verbs are what a person does who decides, as in the command.
var verbs = map[string]string{run.Approved: "approve", run.Rejected: "reject"}

// Message is what a person signs who decides on the plan that a run waits with. It is for this one question: it
// names the run, the plan, and when it was asked. What a person may have written is quoted, in ASCII, so that
// no text can be taken for another and none steers the terminal that shows it.
func Message(doc run.Document, decision, reason string) []byte {
	a := doc.Approval
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	var b strings.Builder
	b.WriteString(Namespace + " 1\n")
	for _, field := range [][2]string{
		{"decision", verbs[decision]}, {"run", strconv.QuoteToASCII(doc.RunID)}, {"procedure", doc.Procedure}, {"target", strconv.QuoteToASCII(doc.Target)},
		{"plan", a.Hash}, {"asked", at(a.AskedAt)}, {"expires", at(a.ExpiresAt)}, {"reason", strconv.QuoteToASCII(reason)},
	} {
		b.WriteString(field[0] + ": " + field[1] + "\n")
	}
	return []byte(b.String())
}

// Judge is a decision on the plan that a run waits with, as the run takes it; an error says why it does not. That
// the run waits, and with this plan, is for the caller to see.
func (p Policy) Judge(doc run.Document, decision string, d run.PlanDecision, at time.Time) (run.Decided, error) {
	decided := run.Decided{Decision: decision, By: d.By, Reason: d.Reason, At: at, Plan: d.Plan}
	switch {
	case p.Signed:
		if err := p.sign(&decided, doc, d); err != nil {
			return run.Decided{}, err
		}
	case d.Signature != "":
		return run.Decided{}, failure.New(failure.BadSignature, "the decisions on its plan are not signed: the configuration that it began with has no keys for them").
			Do("decide without a signature, or set approvals of the target to signed and start the run again")
	}
	for _, o := range doc.Approval.Decisions {
		if decision == run.Approved && o.Decision == run.Approved && same(o, decided) {
			return run.Decided{}, failure.New(failure.NotWaiting, "%s has approved the plan %.12s already, and counts once (%s)", o.By, d.Plan, doc.Approval.Stand()).Do("have somebody else approve it")
		}
	}
	return decided, nil
}

// sign finds who has signed a decision, and fills it in.
func (p Policy) sign(decided *run.Decided, doc run.Document, d run.PlanDecision) error {
	refuse := func(format string, args ...any) error {
		return failure.New(failure.BadSignature, "the decision on the plan %.12s is not taken: %s", doc.Approval.Hash, fmt.Sprintf(format, args...)).
			Do("sign with one of the keys of the target's approvals what this prints: upkeep %s %s --reason WHY --print; or let it be signed: --sign-with KEYFILE", verbs[decided.Decision], doc.RunID)
	}
	if d.Signature == "" {
		return refuse("it needs a signature")
	}
	s, err := sshsig.Parse(d.Signature)
	if err != nil {
		return refuse("its signature cannot be read: %v", err)
	}
	i := slices.IndexFunc(p.Keys, func(k Key) bool { return k.Key == sshsig.KeyLine(s.Key) })
	switch message := Message(doc, decided.Decision, d.Reason); {
	case i < 0:
		return refuse("the key %s is none of those that count", sshsig.Fingerprint(s.Key))
	case s.Namespace != Namespace:
		return refuse("its signature is for %.40q and not for %q", s.Namespace, Namespace)
	case !s.Verify(Namespace, message):
		return refuse("the signature by the key of %s is of something else: of another plan, run, asking or reason, or of the opposite", p.Keys[i].Name)
	case d.By != "" && !strings.EqualFold(strings.TrimSpace(d.By), p.Keys[i].Name):
		return refuse("it is said to be by %.100q, and signed with the key of %s", d.By, p.Keys[i].Name)
	default:
		decided.By, decided.Key, decided.Message, decided.Signature = p.Keys[i].Name, sshsig.Fingerprint(s.Key), string(message), s.Armor()
	}
	return nil
}

// Noted is a signed decision as it was noted somewhere.
type Noted struct {
	Decision, Run, Plan, Reason string
	Key, Message, Signature     string
}

// Check says why the decision is not the one that was signed; nil: it is. Whose the key is it does not say.
func (n Noted) Check() error {
	s, err := sshsig.Parse(n.Signature)
	switch {
	case err != nil:
		return fmt.Errorf("its signature cannot be read: %w", err)
	case sshsig.Fingerprint(s.Key) != n.Key:
		return fmt.Errorf("its signature is by the key %s, and not by %.100q", sshsig.Fingerprint(s.Key), n.Key)
	case s.Namespace != Namespace || !s.Verify(Namespace, []byte(n.Message)):
		return errors.New("its signature is of another text")
	}
	// What Message writes: so many lines, each of one field.
	lines := strings.Split(strings.TrimSuffix(n.Message, "\n"), "\n")
	said := make(map[string]string)
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		said[name] = value
	}
	if lines[0] != Namespace+" 1" || len(said) != len(lines)-1 {
		return errors.New("what was signed is no decision")
	}
	for name, value := range map[string]string{
		"decision": verbs[n.Decision], "run": strconv.QuoteToASCII(n.Run), "plan": n.Plan, "reason": strconv.QuoteToASCII(n.Reason),
	} {
		if said[name] != value {
			return fmt.Errorf("it was signed with the %s %.200s, and noted with %.200s", name, said[name], value)
		}
	}
	return nil
}

// same reports whether two decisions are of one person: of one key, or else of one name, however it is spelt.
func same(a, b run.Decided) bool {
	if a.Key != "" || b.Key != "" {
		return a.Key == b.Key
	}
	return strings.EqualFold(strings.Join(strings.Fields(a.By), " "), strings.Join(strings.Fields(b.By), " "))
}
