package access

import "fmt"

// How much of a review goes into a run's document, which is kept with every change of it. All of it is in
// the review's file.
const (
	mostRisks   = 12
	mostPaths   = 8
	mostChanges = 20
	mostRemarks = 8
	mostWords   = 500 // of one of them, in bytes
)

// Summary is the gravest of a review.
type Summary struct {
	SHA256   string   `json:"sha256"` // of the review's file
	URL      string   `json:"url"`
	Subjects int      `json:"subjects"`
	Grants   int      `json:"grants"`
	Roles    int      `json:"roles"`
	Critical int      `json:"critical"`
	High     int      `json:"high"`
	Lower    int      `json:"lower"`
	Paths    int      `json:"paths"`
	System   int      `json:"system"` // risks of the control plane, which are not counted above
	Unread   []string `json:"unread,omitempty"`
	Command  string   `json:"command,omitempty"` // that grants what is missing
	Lines    []Line   `json:"lines"`
}

// Line is one thing that was found.
type Line struct {
	Kind string `json:"kind"` // "critical risk", "path", ...
	What string `json:"what"`
}

// Summary is the gravest of the review, whose file has this hash.
func (r *Review) Summary(hash string) Summary {
	s := Summary{SHA256: hash, Subjects: len(r.Subjects), Roles: len(r.Roles), Paths: len(r.Paths), Lines: []Line{}}
	for _, h := range r.Subjects {
		s.Grants += len(h.Grants)
	}
	for _, x := range r.Risks {
		switch {
		case x.System:
			s.System++
			continue
		case x.Severity == Critical:
			s.Critical++
		case x.Severity == High:
			s.High++
		default:
			s.Lower++
		}
		if s.Critical+s.High+s.Lower <= mostRisks {
			s.line(x.Severity+" risk", x.String()+"; "+x.Source)
		}
	}
	for _, p := range r.Paths[:min(len(r.Paths), mostPaths)] {
		s.line("path", p.String())
	}
	for _, m := range r.Dangling[:min(len(r.Dangling), mostRemarks)] {
		s.line("dangling binding", m.What)
	}
	for _, m := range r.Accounts[:min(len(r.Accounts), mostRemarks)] {
		s.line(map[string]string{"unused": "unused account", "token": "needless token"}[m.Kind], m.What)
	}
	for _, u := range r.Unread {
		s.Unread = append(s.Unread, u.String())
		s.Command = u.Command
	}
	return s
}

func (s *Summary) line(kind, what string) { s.Lines = append(s.Lines, Line{kind, cut(what)}) }

func (u Unread) String() string {
	if u.Only != "" {
		return u.Resource + " of other namespaces than " + Show(u.Only)
	}
	return u.Resource
}

// DriftSummary is the gravest of a drift.
type DriftSummary struct {
	Added   int      `json:"added"` // changes by which somebody may do more
	Other   int      `json:"other"`
	Changes []string `json:"changes,omitempty"`
	More    []bool   `json:"more,omitempty"` // which of them are such
	Blind   []string `json:"blind,omitempty"`
}

// Summary is the gravest of the drift.
func (d Drift) Summary() (s DriftSummary) {
	s.Blind = d.Blind
	for i, c := range d.Changes {
		if c.More {
			s.Added++
		} else {
			s.Other++
		}
		if i < mostChanges {
			s.Changes, s.More = append(s.Changes, cut(c.String())), append(s.More, c.More)
		}
	}
	return s
}

// cut bounds a text; what is in it is ASCII.
func cut(text string) string {
	if len(text) > mostWords {
		return fmt.Sprintf("%s... (%d characters more)", text[:mostWords], len(text)-mostWords)
	}
	return text
}
