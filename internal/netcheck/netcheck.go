// Package netcheck says how the network of a target's namespace should be, by its policies and by what the
// configuration expects, which connections to try to see whether it is so, and what the answers prove.
//
// A connection that does not come through proves nothing by itself: something has to listen there. So each
// destination needs a control, and without one the answer is NOT_PROVEN.
package netcheck

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/netprobe"
	"github.com/upkeep-run/upkeep/internal/reach"
)

// Expectation is what the configuration says of connections.
type Expectation struct {
	Name    string   `json:"name"`
	From    Selector `json:"from"`
	To      Selector `json:"to"`
	Port    int      `json:"port"`
	Allowed bool     `json:"allowed"`
}

// Selector is an end of connections: pods by their labels, all those behind a Service, or an address outside
// of the cluster.
type Selector struct {
	Pods      map[string]string `json:"pods,omitempty"`
	Namespace string            `json:"namespace,omitempty"` // of the pods; the target's when empty
	Service   string            `json:"service,omitempty"`
	Address   string            `json:"address,omitempty"`
}

// Prober says how the pods that probe run.
type Prober struct {
	Image string `json:"image"` // of Upkeep
	// Standing is the StatefulSet, and ServiceAccount, of a prober that is there all the time; "": there is none.
	Standing string `json:"standing,omitempty"`
}

// Network is what the configuration says of a target's network.
type Network struct {
	Prober Prober        `json:"prober,omitzero"`
	Expect []Expectation `json:"expect,omitempty"`
}

// Others are the namespaces beside the target's that the expectations name.
func (n Network) Others() (all []string) {
	for _, e := range n.Expect {
		for _, of := range []string{e.From.Namespace, e.To.Namespace} {
			if of != "" && !slices.Contains(all, of) {
				all = append(all, of)
			}
		}
	}
	return all
}

// Plan is what is expected, and what will be tried. It is kept in a run's history.
type Plan struct {
	Policies int      `json:"policies"`
	Pods     int      `json:"pods"`
	Foreign  []string `json:"foreign,omitempty"` // policies that cannot be read here
	Matrix   []Row    `json:"matrix"`
	Checks   []Check  `json:"checks"`
	Sources  []Source `json:"sources,omitempty"` // whose pods would probe
	LeftOut  []string `json:"leftOut,omitempty"` // what is not in the plan, and why
}

// Row is who comes through to a port of a workload, by the policies.
type Row struct {
	To      string   `json:"to"`
	Port    string   `json:"port"`
	Allowed []string `json:"allowed,omitempty"`
	Unknown []string `json:"unknown,omitempty"`
	Denied  []string `json:"denied,omitempty"`
}

// Source is whom a pod of Upkeep's own stands for.
type Source struct {
	Name   string             `json:"name"`
	Labels map[string]string  `json:"labels,omitempty"`
	To     []netprobe.Address `json:"to"`
}

// Check is one connection.
type Check struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
	Port string `json:"port"`
	// Model is what the policies say, and Because why.
	Model   string   `json:"model"`
	Because []string `json:"because,omitempty"`
	// Want is what is expected: allowed or denied; unknown where neither the configuration nor a policy says.
	Want string `json:"want"`
	// Configured says that the configuration expects it, and not the policies alone.
	Configured bool `json:"configured,omitempty"`
	// Source is the place of who tries it in the plan's, and Address what is tried; -1 where nobody can.
	Source  int            `json:"source"`
	Address netip.AddrPort `json:"address,omitzero"`
	// Untried says why nobody can.
	Untried string `json:"untried,omitempty"`
	// Control says how it is known beforehand that something listens there.
	Control string `json:"control,omitempty"`
	// OnlyControl says that it is tried only to know that something listens.
	OnlyControl bool `json:"onlyControl,omitempty"`
}

// Finding is what came of a check.
type Finding struct {
	Check
	Seen    string      `json:"seen"` // reached, blocked or unknown
	Why     string      `json:"why,omitempty"`
	Verdict run.Verdict `json:"verdict"`
}

func (f Finding) String() string {
	text := fmt.Sprintf("%s to %s on %s: expected %s, by the policies %s, seen %s", f.From, f.To, f.Port, f.Want, f.Model, f.Seen)
	if f.Why != "" {
		text += " (" + f.Why + ")"
	}
	return text
}

// What was seen.
const (
	seenReached = "reached"
	seenBlocked = "blocked"
	seenUnknown = "unknown"
)

// Judge says what the answers of the sources' pods prove.
func Judge(p Plan, found []netprobe.Found) []Finding {
	outcome := func(c Check) (netprobe.Outcome, string) {
		if c.Source < 0 {
			return netprobe.Untried, c.Untried
		}
		if c.Source >= len(found) {
			return netprobe.Untried, "nothing was tried"
		}
		for i, to := range p.Sources[c.Source].To {
			if to.Address == c.Address {
				return found[c.Source].Of(i), found[c.Source].Why
			}
		}
		return netprobe.Untried, "nothing was tried"
	}
	listens := map[netip.AddrPort]string{} // by what it is known that something does
	for _, c := range p.Checks {
		if c.Control != "" {
			listens[c.Address] = c.Control
		}
	}
	for _, c := range p.Checks {
		if o, _ := outcome(c); o == netprobe.Reached {
			listens[c.Address] = c.From + " reaches it"
		}
	}
	findings := []Finding{}
	for _, c := range p.Checks {
		if c.OnlyControl {
			continue
		}
		o, why := outcome(c)
		f := Finding{Check: c, Seen: seenUnknown, Why: why}
		switch control := listens[c.Address]; {
		case o == netprobe.Reached:
			f.Seen, f.Why = seenReached, ""
		case o == netprobe.Untried:
		case o == netprobe.Unsteady:
			f.Why = "it comes through at times"
		case control == "":
			f.Why = o.String() + ", and it is not known that anything listens there"
		default:
			f.Seen, f.Why = seenBlocked, o.String()+"; "+control
		}
		f.Verdict = verdict(f)
		findings = append(findings, f)
	}
	return findings
}

// verdict: what was seen decides; where nothing was, the policies can only say that it is not as expected.
func verdict(f Finding) run.Verdict {
	if f.Want == reach.Unknown.String() {
		return run.NotProven
	}
	allowed := f.Want == reach.Allowed.String()
	switch f.Seen {
	case seenReached:
		return pass(allowed)
	case seenBlocked:
		return pass(!allowed)
	}
	if f.Model != f.Want && f.Model != reach.Unknown.String() {
		return run.Fail
	}
	return run.NotProven
}

func pass(yes bool) run.Verdict {
	if yes {
		return run.Pass
	}
	return run.Fail
}
