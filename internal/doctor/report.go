package doctor

import (
	"fmt"
	"io"
	"os"
	"os/user"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/version"
)

// Report is all that was found, and where it was looked from.
type Report struct {
	Verdict  run.Verdict `json:"verdict"`
	Machine  string      `json:"machine"`
	User     string      `json:"user"` // of the OS
	Version  string      `json:"version"`
	Findings []Finding   `json:"findings"`
}

// NewReport sums findings up.
func NewReport(findings []Finding) *Report {
	r := &Report{Verdict: Verdict(findings), Machine: "unknown", User: "unknown", Version: version.String(), Findings: findings}
	if host, err := os.Hostname(); err == nil {
		r.Machine = host
	}
	if u, err := user.Current(); err == nil {
		r.User = u.Username
	}
	return r
}

// Text writes the report for people: the findings by their subject, and at the end what to do.
func (r *Report) Text(out io.Writer) {
	subject := ""
	for _, f := range r.Findings {
		if f.Subject != subject {
			subject = f.Subject
			fmt.Fprintf(out, "%s\n", subject)
		}
		fmt.Fprintf(out, "  %-10s  %s: %s\n", f.Verdict, f.Name, f.said())
	}
	r.todo(out)
	fmt.Fprintf(out, "\n%s: %s\n", r.Verdict, r.counts())
	fmt.Fprintf(out, "Looked from machine %s as OS user %s. What a worker elsewhere, or with another environment, would find may differ: run it where the worker runs.\n", r.Machine, r.User)
}

// todo numbers the remedies; one that is the same for several findings is written once.
func (r *Report) todo(out io.Writer) {
	written := make(map[string]bool)
	for _, f := range r.Findings {
		if f.Remedy == "" || written[f.Remedy] {
			continue
		}
		if len(written) == 0 {
			fmt.Fprintf(out, "\nTo do:\n")
		}
		written[f.Remedy] = true
		fmt.Fprintf(out, "%3d. %s, %s: %s\n", len(written), f.Subject, f.Name, f.Remedy)
	}
}

// said is what was found, with the code that a run would fail with.
func (f Finding) said() string {
	text := f.Detail
	if f.Code != "" {
		text = string(f.Code) + ": " + text
	}
	if f.Verdict == run.NotProven && f.Optional {
		text += " (not required)"
	}
	return text
}

func (r *Report) counts() string {
	counted := make(map[run.Verdict]int)
	optional := 0
	for _, f := range r.Findings {
		if f.Verdict == run.NotProven && f.Optional {
			optional++
		} else {
			counted[f.Verdict]++
		}
	}
	text := fmt.Sprintf("of %d checks %d are PASS, %d FAIL, %d NOT_PROVEN", len(r.Findings), counted[run.Pass], counted[run.Fail], counted[run.NotProven])
	if optional > 0 {
		text += fmt.Sprintf(", and %d that are not required are NOT_PROVEN", optional)
	}
	return text
}
