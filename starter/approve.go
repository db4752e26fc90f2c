package starter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/sshsig"
)

// planDigits are those by which a plan is meant; fewer than are printed could be another's.
var planDigits = regexp.MustCompile(`^[0-9a-f]{12,64}$`)

// planDecision is a decision on a plan that a person gives on the command line.
type planDecision struct {
	run.PlanDecision
	id        string
	approve   bool
	print     bool   // what is to be signed, and decide nothing
	signWith  string // a file with a key
	signature string // a file with a signature
}

// approve is the command that approves a run's plan, or rejects it.
func (c *cli) approve(approve bool) *cobra.Command {
	v := planDecision{approve: approve}
	wait := false
	cmd := &cobra.Command{
		Use: "reject ID", Short: "Reject the plan that a run waits with; the run undoes what it did", Args: args(1, "a run's id"),
	}
	verb := "reject"
	if approve {
		cmd.Use, cmd.Short, verb = "approve ID", "Approve the plan that a run waits with", "approve"
	}
	cmd.Long = cmd.Short + `. The plan is shown, and decided on by its hash: if it has changed
since, nothing is decided. One person is enough to reject; how many must approve, and whether they sign,
says the configuration (approvals) that the run began with. Who says so is taken as claimed, unless it is signed.

To sign, give an ssh-ed25519 key with --sign-with: the private key's file, or the .pub file of one that an SSH agent
holds (SSH_AUTH_SOCK), as it must where the key is encrypted. To sign elsewhere, print what is to be signed, and
give the signature with the same reason:

  upkeep ` + verb + ` ID --reason WHY --print > decision
  ssh-keygen -Y sign -n ` + approval.Namespace + ` -f KEYFILE decision
  upkeep ` + verb + ` ID --reason WHY --signature decision.sig

A signature is for one question: of this run, this plan, this moment, with this reason.`
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		v.id = a[0]
		if err := v.check(); err != nil {
			return err
		}
		if v.print && wait {
			return usage{errors.New("--print decides nothing that --wait could wait for")}
		}
		c.about.RunID = v.id
		return c.connected(func(s *Starter) error {
			does, err := c.decideOnPlan(cmd.Context(), s, v)
			if err != nil || v.print {
				return err
			}
			return c.told(cmd.Context(), s, v.id, does, wait)
		})
	}
	waitFlag(cmd, &wait)
	f := cmd.Flags()
	f.StringVar(&v.Plan, "plan", "", "the plan that is meant, by its hash or the first 12 digits of it (default: the one that it waits with at that moment)")
	f.StringVar(&v.By, "by", "", "who says so (default: the OS user, or whose key signs); taken as claimed")
	f.StringVar(&v.Reason, "reason", "", "why")
	f.StringVar(&v.signWith, "sign-with", "", "sign with the ssh-ed25519 key of this file; a .pub file for one that an SSH agent holds")
	f.BoolVar(&v.print, "print", false, "print what is to be signed, and decide nothing")
	f.StringVar(&v.signature, "signature", "", "a file with a signature that ssh-keygen has made of what --print prints; - reads stdin")
	return cmd
}

func (v *planDecision) check() error {
	if v.Reason == "" {
		return usage{errors.New("--reason must say why")}
	}
	if v.Plan != "" && !planDigits.MatchString(v.Plan) {
		return usage{errors.New("--plan must be the plan's hash, or its first 12 hex digits or more, as upkeep show prints them")}
	}
	if v.print && v.signWith != "" || v.print && v.signature != "" || v.signWith != "" && v.signature != "" {
		return usage{errors.New("give one of --sign-with, --print and --signature")}
	}
	return nil
}

// decision is what is decided.
func (v *planDecision) decision() string {
	if v.approve {
		return run.Approved
	}
	return run.Rejected
}

// decideOnPlan gives a run a decision, signed where the run wants that, and says what comes of it.
func (c *cli) decideOnPlan(ctx context.Context, s *Starter, v planDecision) (string, error) {
	asking, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	doc, err := s.Show(asking, v.id)
	switch {
	case err != nil:
		return "", err
	case doc.Outcome.Ended():
		return "", ended(doc)
	case !doc.AsksApproval():
		return "", failure.New(failure.NotWaiting, "run %s does not wait for an approval: it is %s", v.id, doc.Outcome).Do("see how it stands with: upkeep show %s", v.id)
	}
	fmt.Fprintf(c.err, "the plan %.12s: %s\n", doc.Approval.Hash, short(doc.Approval.Words, maxLine))
	if strings.HasPrefix(doc.Approval.Hash, v.Plan) { // all of it where none is meant; another is refused by the run
		v.Plan = doc.Approval.Hash
	}
	if err := c.sign(ctx, doc, &v); err != nil || v.print {
		return "", err
	}
	if v.By == "" && v.Signature == "" {
		v.By = osUser()
	}
	deciding, cancel := context.WithTimeout(ctx, answersWithin) // signing may have taken a person's time
	defer cancel()
	if err := s.DecideOnPlan(deciding, v.id, v.approve, v.PlanDecision); err != nil {
		return "", err
	}
	if !v.approve {
		return "gives up and undoes what it did", nil
	}
	if now, err := s.Show(deciding, v.id); err == nil && now.AsksApproval() && len(now.Approval.Decisions) > 0 {
		return "has the approval: " + now.Approval.Stand(), nil
	}
	return "applies its plan", nil
}

// sign has a decision signed where that is wanted, and refuses to where it is not: a signature that nobody asked
// for would look as if it counted.
func (c *cli) sign(ctx context.Context, doc *run.Document, v *planDecision) error {
	signs := v.print || v.signWith != "" || v.signature != ""
	how := "sign it with --sign-with KEYFILE, or elsewhere: see --print"
	switch {
	case doc.Approval.Signed && !signs:
		return failure.New(failure.BadSignature, "run %s takes only signed decisions", v.id).Do("%s", how)
	case !signs:
		return nil
	case !doc.Approval.Signed:
		return failure.New(failure.BadSignature, "run %s takes no signatures: the configuration that it began with has no keys for them", v.id).
			Do("decide without one, or set approvals of the target to signed and start the run again")
	case v.Plan != doc.Approval.Hash:
		return failure.New(failure.NotWaiting, "run %s waits with the plan %s, and not with %s", v.id, doc.Approval.Hash, v.Plan).Do("look at it again: upkeep show %s", v.id)
	}
	if !doc.Approval.HasPlan() {
		return failure.New(failure.BadSignature, "the plan of run %s is too large to be shown without a worker, and none answers, so nothing is signed", v.id).
			Do("see that a worker of the capability workflows runs, then try again")
	}
	// What a person signs is the hash, and what a person has seen is the plan.
	if sum := sha256.Sum256(doc.Approval.Plan); hex.EncodeToString(sum[:]) != doc.Approval.Hash {
		return failure.New(failure.BadSignature, "run %s shows a plan that its hash is not of, so nothing is signed", v.id).Do("find out who has changed it, and cancel the run: upkeep cancel %s", v.id)
	}
	message := approval.Message(*doc, v.decision(), v.Reason)
	var err error
	switch {
	case v.print && c.output == "json":
		c.json(map[string]string{"runId": v.id, "namespace": approval.Namespace, "message": string(message)})
	case v.print:
		_, err = c.out.Write(message)
	case v.signWith != "":
		v.Signature, err = signWith(ctx, v.signWith, message)
	default:
		var data []byte
		if data, err = readBounded(v.signature, sshsig.MaxText); err != nil {
			return usage{fmt.Errorf("--signature: %w", err)}
		}
		v.Signature = string(data)
	}
	return err
}
