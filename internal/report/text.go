package report

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/upkeep-run/upkeep/api/run"
)

// Text writes how a run stands for a terminal.
func Text(doc run.Document) string {
	v := lay(doc, time.Time{})
	var b strings.Builder
	head := string(doc.Outcome)
	if v.Verdict != "" && doc.Outcome.Ended() {
		head = line(string(v.Verdict)) + "  " + head
	}
	fmt.Fprintf(&b, "%s  %s", head, line(doc.Procedure))
	if doc.Target != "" {
		fmt.Fprintf(&b, " of %s", line(doc.Target))
	}
	if doc.DryRun {
		b.WriteString(" (dry run: nothing is changed)")
	}
	fmt.Fprintf(&b, "\n%s\n", line(doc.Summary))
	switch {
	case doc.AsksApproval():
		sign := ""
		if doc.Approval.Signed {
			sign = " --sign-with KEYFILE"
		}
		fmt.Fprintf(&b, "\nIt waits for %s\n  approve:  upkeep approve %s --plan %.12s --reason WHY%s\n  reject:   upkeep reject %s --reason WHY%s\n  the plan: %s\n  until:    %s\n",
			line(doc.WaitingFor), line(doc.RunID), doc.Approval.Hash, sign, line(doc.RunID), sign, line(PlanText(&doc)), doc.Approval.ExpiresAt.Local().Format(time.RFC1123))
		if doc.Approval.Quorum > 1 {
			fmt.Fprintf(&b, "  so far:   %s\n", line(doc.Approval.Stand()))
		}
	case doc.Outcome == run.Waiting:
		fmt.Fprintf(&b, "\nIt waits for a person: %s\n  go on:    upkeep resume %s\n  give up:  upkeep abandon %s\n", line(doc.WaitingFor), line(doc.RunID), line(doc.RunID))
	case doc.WaitingFor != "":
		fmt.Fprintf(&b, "\nIt %s, and goes on by itself.\n", line(doc.WaitingFor))
	}
	if len(doc.Steps) > 0 {
		b.WriteString("\nSteps\n")
		for _, s := range doc.Steps {
			row(&b, s.Verdict, s.Name, Seconds(s.Seconds), s.Detail)
		}
	}
	if len(v.Checks) > 0 {
		b.WriteString("\nChecks\n")
		for _, c := range v.Checks {
			row(&b, c.Verdict, c.Name, "", c.Detail)
		}
	}
	if len(v.Facts) > 0 {
		b.WriteString("\nResult\n")
		for _, f := range v.Facts {
			fmt.Fprintf(&b, "  %-18s %s\n", line(f.Name), line(f.Value))
		}
	}
	if len(doc.Left) > 0 {
		b.WriteString("\nLeft over, for a person to clear away\n")
		for _, l := range doc.Left {
			fmt.Fprintf(&b, "  %s\n", line(l))
		}
	}
	if v.Scope != "" {
		fmt.Fprintf(&b, "\nScope: %s\n", line(v.Scope))
	}
	fmt.Fprintf(&b, "\nRun:    %s\n", line(doc.RunID))
	if doc.Report != "" {
		fmt.Fprintf(&b, "Report: %s\n", line(doc.Report))
	}
	return b.String()
}

// nameWidth is the width in characters of a step's or check's name before what follows it.
const nameWidth = 40

// PlanText is the plan that a run waits with, or where it is.
func PlanText(doc *run.Document) string {
	if doc.Approval.HasPlan() {
		return string(doc.Approval.Plan)
	}
	return "it is too large to be shown without a worker, and none answers; it is stored as " + doc.Approval.Stored
}

func row(b *strings.Builder, v run.Verdict, name, took, detail string) {
	if v == "" {
		v, took = "...", "" // it runs
	}
	name = line(name)
	if pad := nameWidth - utf8.RuneCountInString(name); pad > 0 && took+detail != "" {
		name += strings.Repeat(" ", pad)
	}
	text := fmt.Sprintf("  %-10s  %s", line(string(v)), name)
	if took != "" {
		text += fmt.Sprintf("  %8s", took)
	}
	if detail != "" {
		text += "  " + line(detail)
	}
	fmt.Fprintln(b, strings.TrimRight(text, " "))
}

// line keeps a text in one line and from steering the terminal.
func line(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) && r != ' ' {
			return ' '
		}
		return r
	}, s)
}
