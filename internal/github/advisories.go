package github

import (
	"context"
	"net/http"
	"strings"

	"github.com/google/go-github/v60/github"

	"github.com/upkeep-run/upkeep/internal/dependency/advisory"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// maxAdvisoryPages bounds the answers to one question about advisories, of a hundred each.
const maxAdvisoryPages = 50

// Advisories are those of GitHub's database that affect packages of an ecosystem, reviewed ones and those of
// releases that are an attack. A server that has no such database has none.
func (c *Client) Advisories(ctx context.Context, ecosystem string, packages []string) (all []advisory.Entry, err error) {
	affects := strings.Join(packages, ",")
	for _, kind := range []string{"reviewed", "malware"} {
		o := github.ListGlobalSecurityAdvisoriesOptions{Type: &kind, Ecosystem: &ecosystem, Affects: &affects, ListCursorOptions: github.ListCursorOptions{PerPage: 100}}
		for page := 0; ; page++ {
			if page == maxAdvisoryPages {
				return nil, failure.New(failure.BadAnswer, "GitHub has no end of advisories")
			}
			part, answer, err := c.api.SecurityAdvisories.ListGlobalSecurityAdvisories(ctx, &o)
			if status(err) == http.StatusNotFound {
				return nil, nil
			}
			if err != nil {
				return nil, classify(err, "the advisories on "+ecosystem+" packages")
			}
			for _, a := range part {
				all = append(all, entry(a, kind == "malware"))
			}
			if o.After = answer.After; o.After == "" {
				break
			}
		}
	}
	return all, nil
}

func entry(a *github.GlobalSecurityAdvisory, malicious bool) advisory.Entry {
	e := advisory.Entry{
		ID: a.GetGHSAID(), CVE: a.GetCVEID(), Summary: a.GetSummary(), Severity: a.GetSeverity(), Malicious: malicious, Withdrawn: !a.GetWithdrawnAt().IsZero(),
	}
	for _, v := range a.Vulnerabilities {
		e.Affected = append(e.Affected, advisory.Affected{Ecosystem: v.GetPackage().GetEcosystem(), Name: v.GetPackage().GetName(), Range: v.GetVulnerableVersionRange()})
	}
	return e
}
