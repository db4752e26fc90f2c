package pullrequest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/dependency"
)

// Limits bound how many pull requests people get at once.
type Limits struct {
	Open    int `json:"open"`    // that are open at a time
	PerHour int `json:"perHour"` // that are opened within an hour
}

// DefaultLimits are those of the field.
var DefaultLimits = Limits{Open: 10, PerHour: 2}

// Standing is a pull request of Upkeep's that is open, or a branch of Upkeep's that has none.
type Standing struct {
	Branch string    `json:"branch"`
	Number int       `json:"number"` // 0: it has none
	Title  string    `json:"title"`
	Opened time.Time `json:"opened"`
	Mark   Mark      `json:"mark,omitzero"`
}

// Waiting is a proposal that is not made yet, and why.
type Waiting struct {
	Branch string `json:"branch"`
	Title  string `json:"title"`
	Why    string `json:"why"`
}

// Admit says which proposals may be made now, in their order. One that stands already is always: it is kept
// up to date. What ends a vulnerability waits for no limit, and counts for none.
func Admit(all []Proposal, standing []Standing, l Limits, now time.Time) (admitted []Proposal, waiting []Waiting) {
	open, lately := 0, 0
	stands := make(map[string]bool)
	for _, s := range standing {
		if s.Number == 0 {
			continue
		}
		stands[s.Branch] = true
		if kind(s.Branch) == dependency.Security {
			continue
		}
		open++
		if now.Sub(s.Opened) < time.Hour {
			lately++
		}
	}
	for _, p := range all {
		why := ""
		switch {
		case stands[p.Branch] || p.Type == dependency.Security:
		case open >= l.Open:
			why = fmt.Sprintf("%d are open, and %d may be", open, l.Open)
		case lately >= l.PerHour:
			why = fmt.Sprintf("%d were opened within the hour, and %d may be", lately, l.PerHour)
		default:
			open, lately = open+1, lately+1
		}
		if why != "" {
			waiting = append(waiting, Waiting{Branch: p.Branch, Title: p.Title, Why: why})
			continue
		}
		admitted = append(admitted, p)
	}
	return admitted, waiting
}

// kind is the type of update that a branch is for.
func kind(branch string) string {
	k, _, _ := strings.Cut(strings.TrimPrefix(branch, prefix), "/")
	return k
}

// Obsolete lists those that stand and are proposed no more, of the types that were looked for. With all
// types looked for, none is left over.
func Obsolete(standing []Standing, all []Proposal, types []string) (obsolete []Standing) {
	wanted := make(map[string]bool)
	for _, p := range all {
		wanted[p.Branch] = true
	}
	for _, s := range standing {
		if !wanted[s.Branch] && (len(types) == 0 || slices.Contains(types, kind(s.Branch))) {
			obsolete = append(obsolete, s)
		}
	}
	return obsolete
}
