package githubtest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Advisory is one of GitHub's database.
type Advisory struct {
	GHSA, CVE, Summary, Severity string
	Type                         string // reviewed, if empty
	Ecosystem, Package, Range    string
	Withdrawn                    bool
}

var advisoryHandlers = []handler{
	{"security-advisories/list-global-advisories", "GET", "/advisories", (*Server).listAdvisories},
}

// Advise puts an advisory into the database.
func (s *Server) Advise(a Advisory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advisories = append(s.advisories, a)
}

// listAdvisories has pages of two, and their cursors.
func (s *Server) listAdvisories(c *call) reply {
	q := c.URL.Query()
	affects := strings.Split(q.Get("affects"), ",")
	var found []any
	for _, a := range s.advisories {
		if a.Ecosystem != q.Get("ecosystem") || !slices.Contains(affects, a.Package) || cmpOr(a.Type, "reviewed") != cmpOr(q.Get("type"), "reviewed") {
			continue
		}
		m := map[string]any{
			"ghsa_id": a.GHSA, "cve_id": nil, "summary": a.Summary, "severity": cmpOr(a.Severity, "unknown"), "type": cmpOr(a.Type, "reviewed"),
			"withdrawn_at": nil, "vulnerabilities": []any{map[string]any{
				"package": map[string]any{"ecosystem": a.Ecosystem, "name": a.Package}, "vulnerable_version_range": a.Range, "first_patched_version": nil, "vulnerable_functions": []any{},
			}},
		}
		if a.CVE != "" {
			m["cve_id"] = a.CVE
		}
		if a.Withdrawn {
			m["withdrawn_at"] = stamp(c.now)
		}
		found = append(found, m)
	}
	const size = 2
	from, _ := strconv.Atoi(q.Get("after"))
	from = min(from, len(found))
	to := min(from+size, len(found))
	r := reply{status: http.StatusOK, body: append([]any{}, found[from:to]...)}
	if to < len(found) {
		q.Set("after", strconv.Itoa(to))
		u := url.URL{Scheme: "http", Host: c.Host, Path: "/api/v3" + c.URL.Path, RawQuery: q.Encode()}
		r.link = fmt.Sprintf(`<%s>; rel="next"`, u.String())
	}
	return r
}
