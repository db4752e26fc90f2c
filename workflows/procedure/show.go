package procedure

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/approval"
)

// Search attributes of a run.
var (
	attrTarget    = temporal.NewSearchAttributeKeyKeyword(run.AttrTarget)
	attrProcedure = temporal.NewSearchAttributeKeyKeyword(run.AttrProcedure)
	attrPhase     = temporal.NewSearchAttributeKeyKeyword(run.AttrPhase)
	attrOutcome   = temporal.NewSearchAttributeKeyKeyword(run.AttrOutcome)
	attrDryRun    = temporal.NewSearchAttributeKeyBool(run.AttrDryRun)
)

// maxMemo bounds the result and the plan that are kept in the run's memo, in bytes each. Larger ones are asked of the
// run itself.
const maxMemo = 48 << 10

// show publishes the document as it stands: in the memo, where it can be read without a worker; in
// the Web UI's details; and in the search attributes, where the server has them. Each time adds to the
// history, so it is called only when the run is about to wait, and at its end.
func (r *Run) show() {
	r.doc.Audit = r.audited()
	doc := r.doc
	if len(doc.Result) > maxMemo {
		doc.Result = []byte("{}")
	}
	if doc.Approval != nil && len(doc.Approval.Plan) > maxMemo {
		small := *doc.Approval
		small.Plan = nil
		doc.Approval = &small
	}
	// These can only fail for values that cannot be encoded, and all of them can.
	_ = workflow.UpsertMemo(r.ctx, map[string]any{run.MemoDocument: doc})
	workflow.SetCurrentDetails(r.ctx, markdown(r.doc))
	if r.target.Attributes {
		_ = workflow.UpsertTypedSearchAttributes(r.ctx, attrTarget.ValueSet(doc.Target), attrProcedure.ValueSet(doc.Procedure),
			attrPhase.ValueSet(phase(doc)), attrOutcome.ValueSet(string(doc.Outcome)), attrDryRun.ValueSet(doc.DryRun))
	}
}

// phase is the name of the step in hand.
func phase(doc run.Document) string {
	if doc.Outcome.Ended() || len(doc.Steps) == 0 {
		return string(doc.Outcome)
	}
	return doc.Steps[len(doc.Steps)-1].Name
}

// markdown is the document for the Web UI.
func markdown(doc run.Document) string {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s** of `%s`: **%s**\n\n%s\n\n", doc.Procedure, doc.Target, doc.Outcome, doc.Summary)
	switch {
	case doc.AsksApproval() && doc.Approval.Signed:
		fmt.Fprintf(&b, "**Waiting for %s**\n\nApprove it with `upkeep approve %s --reason WHY --sign-with KEYFILE`, reject it with `upkeep reject ...`; or sign this text, with your reason for WHY (or with `reject`), by `ssh-keygen -Y sign -n %s -f KEYFILE FILE`, and send the update `Approve` or `Reject` with `{\"plan\": \"%s\", \"reason\": \"WHY\", \"signature\": \"...\"}`.\n\n```\n%s```\n\nIts plan:\n\n```\n%s\n```\n\n",
			doc.WaitingFor, doc.RunID, approval.Namespace, doc.Approval.Hash, approval.Message(doc, run.Approved, "WHY"), doc.Approval.Plan)
	case doc.AsksApproval():
		fmt.Fprintf(&b, "**Waiting for %s**\n\nApprove it with `upkeep approve %s --reason WHY`, reject it with `upkeep reject %s --reason WHY`; or send the update `Approve` or `Reject` with `{\"plan\": \"%s\", \"by\": \"...\", \"reason\": \"...\"}`.\n\n```\n%s\n```\n\n",
			doc.WaitingFor, doc.RunID, doc.RunID, doc.Approval.Hash, doc.Approval.Plan)
	case doc.Outcome == run.Waiting:
		fmt.Fprintf(&b, "**Waiting for a person:** %s\n\nGo on with `upkeep resume %s`, give up with `upkeep abandon %s`.\n\n", doc.WaitingFor, doc.RunID, doc.RunID)
	case doc.WaitingFor != "":
		fmt.Fprintf(&b, "It goes on by itself; it %s.\n\n", doc.WaitingFor)
	}
	b.WriteString("| step | verdict | seconds |\n| --- | --- | --- |\n")
	for _, s := range doc.Steps {
		verdict, took := string(s.Verdict), fmt.Sprintf("%.1f", s.Seconds)
		if verdict == "" {
			verdict, took = "running", ""
		}
		name := strings.ReplaceAll(s.Name, "|", "\\|")
		if s.Detail != "" {
			name += "<br>" + strings.NewReplacer("|", "\\|", "\n", " ").Replace(s.Detail)
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, verdict, took)
	}
	if doc.Report != "" {
		fmt.Fprintf(&b, "\nReport: `%s`\n", doc.Report)
	}
	return b.String()
}
