// Package lease keeps the book of who may work on what: leases on a target's resources, shared or
// exclusive, granted by priority and age. A lease only orders work; safety comes from the fence at
// the effect. The book is plain data and asks nobody for the time, so that a workflow can carry it.
package lease

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Mode says whom a claim keeps out.
type Mode string

// The modes: shared claims of a resource go together, an exclusive one goes with no other.
const (
	Shared    Mode = "shared"
	Exclusive Mode = "exclusive"
)

// Claim is a resource of the target and how it is needed.
type Claim struct {
	Resource string `json:"resource"`
	Mode     Mode   `json:"mode"`
}

func (c Claim) conflicts(other Claim) bool {
	return c.Resource == other.Resource && (c.Mode == Exclusive || other.Mode == Exclusive)
}

// Lease is what a holder has or waits for: all of its claims or none, so that no two wait for each
// other.
type Lease struct {
	Holder   string    `json:"holder"` // the run's id; it has one lease at most
	Claims   []Claim   `json:"claims"`
	Priority int       `json:"priority,omitempty"` // the higher goes first; it takes nothing from who has it
	Purpose  string    `json:"purpose,omitempty"`  // for people
	Asked    time.Time `json:"asked"`
	Granted  time.Time `json:"granted,omitzero"`
}

func (l Lease) conflicts(other Lease) bool {
	return slices.ContainsFunc(l.Claims, func(c Claim) bool { return slices.ContainsFunc(other.Claims, c.conflicts) })
}

// ErrOtherClaims says that a holder asks for other claims than it has or waits for.
var ErrOtherClaims = errors.New("the holder has or waits for a lease with other claims")

// Book is the leases of one target. The zero value is an empty book.
type Book struct {
	Held    []Lease `json:"held,omitempty"`    // in the order in which they were granted
	Waiting []Lease `json:"waiting,omitempty"` // in the order in which they will be granted
}

// Ask asks for a lease and tells whether it is granted now; otherwise it waits in the book. Asked
// again, the answer is how things stand.
func (b *Book) Ask(l Lease, now time.Time) (granted bool, err error) {
	if have, held, ok := b.find(l.Holder); ok {
		if !slices.Equal(have.Claims, l.Claims) {
			return false, ErrOtherClaims
		}
		return held, nil
	}
	l.Asked, l.Granted = now, time.Time{}
	at := len(b.Waiting)
	for at > 0 && b.Waiting[at-1].Priority < l.Priority {
		at--
	}
	if slices.ContainsFunc(b.Held, l.conflicts) || slices.ContainsFunc(b.Waiting[:at], l.conflicts) {
		b.Waiting = slices.Insert(b.Waiting, at, l)
		return false, nil
	}
	l.Granted = now
	b.Held = append(b.Held, l)
	return true, nil
}

// Release ends what the holders have or wait for, and tells who gets a lease by that. Done twice, it
// finds it done.
func (b *Book) Release(now time.Time, holders ...string) []Lease {
	gone := func(l Lease) bool { return slices.Contains(holders, l.Holder) }
	b.Held, b.Waiting = slices.DeleteFunc(b.Held, gone), slices.DeleteFunc(b.Waiting, gone)
	return b.grant(now)
}

// grant gives leases to those waiting who are in conflict neither with a holder nor with anybody who
// waits before them: who needs nothing that others need passes by, and nobody waits for ever.
func (b *Book) grant(now time.Time) (granted []Lease) {
	inUse := newUse(b.Held)
	b.Waiting = slices.DeleteFunc(b.Waiting, func(l Lease) bool {
		free := !inUse.conflicts(l)
		inUse.add(l)
		if free {
			l.Granted = now
			granted = append(granted, l)
		}
		return free
	})
	b.Held = append(b.Held, granted...)
	return granted
}

// before says who stands in the holder's way, those with a lease first; nobody where it waits for
// none.
func (b *Book) before(holder string) []Lease {
	l, held, ok := b.find(holder)
	if !ok || held {
		return nil
	}
	var before []Lease
	for _, h := range b.Held {
		if h.conflicts(l) {
			before = append(before, h)
		}
	}
	for _, w := range b.Waiting {
		if w.Holder == holder {
			break
		}
		if w.conflicts(l) {
			before = append(before, w)
		}
	}
	return before
}

// Why answers a person who asks why the holder waits; empty where it does not.
func (b *Book) Why(holder string) string {
	before := b.before(holder)
	if len(before) == 0 {
		return ""
	}
	const most = 3
	var who []string
	for i, l := range before {
		if i == most {
			who = append(who, fmt.Sprintf("%d more", len(before)-most))
			break
		}
		text := l.Holder
		if l.Purpose != "" {
			text += " (" + l.Purpose + ")"
		}
		if l.Granted.IsZero() {
			who = append(who, text+", which waits since "+l.Asked.UTC().Format(time.RFC3339))
		} else {
			who = append(who, text+", at work since "+l.Granted.UTC().Format(time.RFC3339))
		}
	}
	return "waits for " + strings.Join(who, "; ")
}

func (b *Book) find(holder string) (l Lease, held, ok bool) {
	is := func(l Lease) bool { return l.Holder == holder }
	if i := slices.IndexFunc(b.Held, is); i >= 0 {
		return b.Held[i], true, true
	}
	if i := slices.IndexFunc(b.Waiting, is); i >= 0 {
		return b.Waiting[i], false, true
	}
	return Lease{}, false, false
}

// use is which resources are claimed, and the strictest claim of each: what many leases come to, for
// asking often.
type use map[string]Mode

func newUse(leases []Lease) use {
	u := make(use)
	for _, l := range leases {
		u.add(l)
	}
	return u
}

func (u use) add(l Lease) {
	for _, c := range l.Claims {
		if u[c.Resource] != Exclusive {
			u[c.Resource] = c.Mode
		}
	}
}

func (u use) conflicts(l Lease) bool {
	return slices.ContainsFunc(l.Claims, func(c Claim) bool {
		mode, claimed := u[c.Resource]
		return claimed && c.conflicts(Claim{c.Resource, mode})
	})
}
