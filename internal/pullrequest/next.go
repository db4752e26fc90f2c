package pullrequest

import (
	"fmt"
	"slices"
	"time"
)

// Follower is what the workflow of a pull request keeps; everything else stands on GitHub.
type Follower struct {
	Proposal Proposal `json:"proposal"`
	// Superseded says why the proposal is needed no more; empty: it is.
	Superseded string `json:"superseded,omitempty"`
}

// Policy is what the repository's owners allow.
type Policy struct {
	Base   string   `json:"base"`             // the branch that pull requests go to
	Merge  []string `json:"merge,omitempty"`  // the types of updates that are merged without a person
	Method string   `json:"method,omitempty"` // merge, squash or rebase
	// RebaseOnConflict leaves a branch on an older base until it conflicts. Such a one is brought to
	// the newest base and tested again before Upkeep merges it.
	RebaseOnConflict bool `json:"rebaseOnConflict,omitempty"`
}

// Checks is what a commit's checks come to.
type Checks string

// The checks of a commit together: one that failed makes them failed, one that runs makes them pending, and
// a commit that nothing has looked at has none.
const (
	NoChecks Checks = "none"
	Pending  Checks = "pending"
	Passed   Checks = "passed"
	Broken   Checks = "failed"
)

// Seen is a pull request as it stands on GitHub, all looked at together.
type Seen struct {
	Number int  `json:"number,omitempty"` // 0: the branch has no pull request that is open
	Open   bool `json:"open,omitempty"`
	Merged bool `json:"merged,omitempty"`
	Draft  bool `json:"draft,omitempty"`
	// Head is the branch's commit, empty when there is no such branch. Pushed is the one that Upkeep
	// pushed last: it stands beside the branch in the repository, and both are moved in one transaction.
	Head   string `json:"head,omitempty"`
	Pushed string `json:"pushed,omitempty"`
	Parent string `json:"parent,omitempty"` // of Head: the base that it stands on
	// Changes is the hash of the proposal that Head brings, as its commit says.
	Changes  string `json:"changes,omitempty"`
	BaseRef  string `json:"baseRef,omitempty"`  // where the pull request goes to
	BaseHead string `json:"baseHead"`           // the newest commit of the policy's base
	Conflict bool   `json:"conflict,omitempty"` // GitHub says that it cannot be merged
	Blocked  string `json:"blocked,omitempty"`  // what keeps it from being merged besides its checks, such as a review that is required
	Checks   Checks `json:"checks,omitempty"`   // of Head
	Failed   string `json:"failed,omitempty"`   // the check that failed, by name
	// Mark is of the newest closed pull request of the branch, or of the open one.
	Mark Mark `json:"mark,omitzero"`
	// ClosedBy is who closed the newest one, if it was not merged.
	ClosedBy string    `json:"closedBy,omitempty"`
	ClosedAt time.Time `json:"closedAt,omitzero"`
	// Stop is the label by which a person told Upkeep to leave it alone.
	Stop bool `json:"stop,omitempty"`
}

// Act is what is to be done next about a pull request.
type Act string

// What may be done. Each looks again before it acts, and changes only what is still as it was seen.
const (
	Push   Act = "push"   // make the commit on the newest base, and push it with its mark beside it
	Open   Act = "open"   // the branch stands, and its pull request is to be opened
	Await  Act = "await"  // nothing, until something changes
	Leave  Act = "leave"  // nothing any more: it is a person's now
	Merge  Act = "merge"  // it may be merged
	Close  Act = "close"  // close it with a word why, and remove the branch
	Tidy   Act = "tidy"   // it is over: remove the branch, if it is as Upkeep left it
	Refuse Act = "refuse" // it is not proposed at all
)

// Choice is what is to be done next, and why.
type Choice struct {
	Act Act    `json:"act"`
	Why string `json:"why"` // for people
	// Expect is the branch's commit that this was decided on; the act is done on no other. Of Tidy and
	// Refuse it is the one that Upkeep pushed last: a branch that stands there is removed.
	Expect string `json:"expect,omitempty"`
	Base   string `json:"base,omitempty"` // the commit that is pushed on top of
}

// Next decides what is to be done about a pull request. A person's hand on it is respected before
// everything else.
func Next(f Follower, s Seen, p Policy) Choice {
	switch {
	case s.Merged:
		return Choice{Act: Tidy, Why: "it is merged", Expect: s.Pushed}
	case s.Number != 0 && !s.Open:
		return closed(f, s)
	case s.Number == 0 && s.ClosedBy != "" && refusedBefore(f.Proposal, s):
		return Choice{Act: Refuse, Why: fmt.Sprintf("%s closed it on %s", s.ClosedBy, s.ClosedAt.UTC().Format(time.DateOnly)), Expect: s.Pushed}
	case s.Head != s.Pushed:
		return touched(s)
	case s.Open && s.BaseRef != p.Base:
		return Choice{Act: Leave, Why: fmt.Sprintf("a person made it go to %s instead of %s", s.BaseRef, p.Base)}
	case s.Open && s.Stop:
		return Choice{Act: Leave, Why: "a person has set the label that tells Upkeep to leave it alone"}
	case f.Superseded != "" && s.Number == 0:
		return Choice{Act: Tidy, Why: f.Superseded, Expect: s.Pushed}
	case f.Superseded != "":
		return Choice{Act: Close, Why: f.Superseded, Expect: s.Head}
	case s.Head == "":
		return Choice{Act: Push, Why: "it is proposed", Base: s.BaseHead}
	case s.Changes != f.Proposal.Hash():
		return Choice{Act: Push, Why: "there are newer releases", Expect: s.Head, Base: s.BaseHead}
	case s.Number == 0:
		return Choice{Act: Open, Why: "its branch is pushed", Expect: s.Head}
	case s.Conflict || s.Parent != s.BaseHead && (!p.RebaseOnConflict || mergeable(f, s, p)):
		return Choice{Act: Push, Why: p.Base + " has moved", Expect: s.Head, Base: s.BaseHead}
	}
	return standing(f, s, p)
}

// standing decides about one that is up to date.
func standing(f Follower, s Seen, p Policy) Choice {
	switch {
	case s.Checks == Pending:
		return Choice{Act: Await, Why: "its checks run"}
	case s.Checks == Broken:
		return Choice{Act: Await, Why: "its check " + s.Failed + " failed: a person looks"}
	case !slices.Contains(p.Merge, f.Proposal.Type):
		return Choice{Act: Await, Why: "a person decides"}
	case s.Checks != Passed:
		return Choice{Act: Await, Why: "nothing has checked it, and what is not checked is not merged by Upkeep"}
	case s.Draft:
		return Choice{Act: Await, Why: "a person has made it a draft"}
	case s.Blocked != "":
		return Choice{Act: Await, Why: s.Blocked}
	}
	return Choice{Act: Merge, Why: "its checks have passed on the newest " + p.Base, Expect: s.Head, Base: s.BaseHead}
}

// mergeable reports whether nothing but an older base keeps it from being merged.
func mergeable(f Follower, s Seen, p Policy) bool {
	return standing(f, s, p).Act == Merge
}

func closed(f Follower, s Seen) Choice {
	if f.Superseded != "" {
		return Choice{Act: Tidy, Why: f.Superseded, Expect: s.Pushed}
	}
	return Choice{Act: Tidy, Why: s.ClosedBy + " closed it", Expect: s.Pushed}
}

// touched is the answer to a branch that is not as Upkeep left it.
func touched(s Seen) Choice {
	switch {
	case s.Head == "":
		return Choice{Act: Refuse, Why: "a person removed its branch"}
	case s.Pushed == "":
		return Choice{Act: Leave, Why: "there is a branch of its name that Upkeep has not made"}
	}
	return Choice{Act: Leave, Why: "a person has pushed to its branch"}
}

// refusedBefore reports whether a person has closed what would be proposed. What became graver since is
// proposed again.
func refusedBefore(p Proposal, s Seen) bool {
	return s.Mark.Means == p.Means() && s.Mark.Severity >= p.Severity
}
