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

	"github.com/upkeep-run/upkeep/internal/calendar"
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
	Holder   string             `json:"holder"` // the run's id; it has one lease at most
	Claims   []Claim            `json:"claims"`
	Priority int                `json:"priority,omitempty"` // the higher goes first; it takes nothing from who has it
	Purpose  string             `json:"purpose,omitempty"`  // for people
	Openings []calendar.Opening `json:"openings,omitempty"` // when it may be granted, in order; at any time when there are none
	Asked    time.Time          `json:"asked"`
	Granted  time.Time          `json:"granted,omitzero"`
}

// Excludes reports whether one of the claims is exclusive.
func (l Lease) Excludes() bool {
	return slices.ContainsFunc(l.Claims, func(c Claim) bool { return c.Mode == Exclusive })
}

// Validate says what is wrong with a lease that somebody asks for. Its bounds are what a book of
// maxLeases can be carried with.
func (l Lease) Validate() error {
	switch {
	case l.Holder == "" || len(l.Holder) > 1000:
		return errors.New("a lease needs a holder, of at most 1000 bytes")
	case len(l.Claims) == 0 || len(l.Claims) > 4:
		return errors.New("a lease has one to four claims")
	case len(l.Purpose) > 100:
		return errors.New("a lease's purpose has at most 100 bytes")
	case len(l.Openings) > 8:
		return errors.New("a lease has at most 8 openings")
	}
	for _, c := range l.Claims {
		if c.Resource == "" || len(c.Resource) > 40 || c.Mode != Shared && c.Mode != Exclusive {
			return fmt.Errorf("a claim names a resource, of at most 40 bytes, and is %s or %s", Shared, Exclusive)
		}
	}
	return nil
}

// open reports whether the calendar lets the lease be granted. Until it does, the lease keeps nobody
// waiting.
func (l Lease) open(now time.Time) bool {
	return len(l.Openings) == 0 || slices.ContainsFunc(l.Openings, func(o calendar.Opening) bool { return !now.Before(o.From) && now.Before(o.To) })
}

// opens is when the calendar lets the lease be granted next; zero when it says nothing of it.
func (l Lease) opens(now time.Time) time.Time {
	for _, o := range l.Openings {
		if o.From.After(now) {
			return o.From
		}
	}
	return time.Time{}
}

func (l Lease) conflicts(other Lease) bool {
	return slices.ContainsFunc(l.Claims, func(c Claim) bool { return slices.ContainsFunc(other.Claims, c.conflicts) })
}

// ErrOtherClaims says that a holder asks for other claims than it has or waits for.
var ErrOtherClaims = errors.New("the holder has or waits for a lease with other claims")

// ErrFull says that no more leases can wait.
var ErrFull = errors.New("too many leases wait already")

// maxLeases is how many leases a book holds.
const maxLeases = 1000

// Book is the leases of one target. The zero value is an empty book.
type Book struct {
	Held    []Lease `json:"held,omitempty"`    // in the order in which they were granted
	Waiting []Lease `json:"waiting,omitempty"` // in the order in which they will be granted
}

// Ask asks for a lease and tells whether it is granted now; otherwise it waits in the book. Asked
// again, the answer is how things stand, and newer openings count.
func (b *Book) Ask(l Lease, now time.Time) (granted bool, err error) {
	if have, held := b.find(l.Holder); have != nil {
		if !slices.Equal(have.Claims, l.Claims) {
			return false, ErrOtherClaims
		}
		have.Openings = l.Openings
		return held, nil
	}
	if len(b.Held)+len(b.Waiting) >= maxLeases {
		return false, ErrFull
	}
	l.Asked, l.Granted = now, time.Time{}
	at := len(b.Waiting)
	for at > 0 && b.Waiting[at-1].Priority < l.Priority {
		at--
	}
	inTheWay := func(other Lease) bool { return other.open(now) && other.conflicts(l) }
	if !l.open(now) || slices.ContainsFunc(b.Held, l.conflicts) || slices.ContainsFunc(b.Waiting[:at], inTheWay) {
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
	return b.Grant(now)
}

// Grant gives leases to those waiting whom the calendar lets, and who are in conflict neither with a
// holder nor with anybody let who waits before them: who needs nothing that others need passes by, and
// nobody waits for ever.
func (b *Book) Grant(now time.Time) (granted []Lease) {
	inUse := newUse(b.Held)
	b.Waiting = slices.DeleteFunc(b.Waiting, func(l Lease) bool {
		if !l.open(now) {
			return false
		}
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

// NextOpening is when the calendar lets one of those waiting go next; zero when it lets nobody.
func (b *Book) NextOpening(now time.Time) time.Time {
	var next time.Time
	for _, l := range b.Waiting {
		if at := l.opens(now); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// InTheWay says who keeps somebody waiting, at most so many of them.
func (b *Book) InTheWay(now time.Time, most int) (holders []string) {
	waiting := make(use)
	for _, l := range b.Waiting {
		if l.open(now) {
			waiting.add(l)
		}
	}
	for _, l := range b.Held {
		if len(holders) < most && waiting.conflicts(l) {
			holders = append(holders, l.Holder)
		}
	}
	return holders
}

// before says who stands in the way of a lease that waits, those with a lease first.
func (b *Book) before(l Lease, now time.Time) []Lease {
	var before []Lease
	for _, h := range b.Held {
		if h.conflicts(l) {
			before = append(before, h)
		}
	}
	for _, w := range b.Waiting {
		if w.Holder == l.Holder {
			break
		}
		if w.open(now) && w.conflicts(l) {
			before = append(before, w)
		}
	}
	return before
}

// Why answers a person who asks why the holder waits; empty where it does not.
func (b *Book) Why(holder string, now time.Time) string {
	l, held := b.find(holder)
	switch {
	case l == nil || held:
		return ""
	case !l.open(now):
		at := l.opens(now)
		if at.IsZero() {
			return "waits for the target's calendar, which has no opening in sight"
		}
		return "waits for the target's calendar, which opens at " + at.UTC().Format(time.RFC3339)
	}
	const most = 3
	var who []string
	before := b.before(*l, now)
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

// find returns the holder's lease in the book, or nil, and whether it is granted.
func (b *Book) find(holder string) (l *Lease, held bool) {
	is := func(l Lease) bool { return l.Holder == holder }
	if i := slices.IndexFunc(b.Held, is); i >= 0 {
		return &b.Held[i], true
	}
	if i := slices.IndexFunc(b.Waiting, is); i >= 0 {
		return &b.Waiting[i], false
	}
	return nil, false
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
