package netprobe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Outcome is what came of trying to connect, as one character.
type Outcome byte

// The outcomes.
const (
	Reached  Outcome = 'r' // something accepted the connection
	Refused  Outcome = 'c' // something said no: that nothing listens, or a policy
	Silent   Outcome = 's' // nothing came back
	Unsteady Outcome = 'u' // now this, now that
	Untried  Outcome = 0   // no pod tried it
)

func (o Outcome) String() string {
	switch o {
	case Reached:
		return "reached"
	case Refused:
		return "refused"
	case Silent:
		return "no answer"
	case Unsteady:
		return "now this, now that"
	}
	return "not tried"
}

const (
	// MaxAddresses bounds what one pod tries.
	MaxAddresses  = 60
	connectWithin = time.Second
	tryEvery      = 250 * time.Millisecond
	// steadyFor and steadyTries are for how long, and how often, an answer has to be the same. Policies begin
	// to hold for a new pod only some time after it runs, on a busy node seconds after.
	steadyFor   = 2500 * time.Millisecond
	steadyTries = 3
	// tryFor is how long an answer is waited for that is as expected.
	tryFor = 30 * time.Second
)

// Address is what is connected to.
type Address struct {
	Address netip.AddrPort `json:"address"`
	// Open says that it is expected to be reached. What is not as expected is tried for longer.
	Open bool `json:"open,omitempty"`
}

// String writes an address as it stands on a command line.
func (a Address) String() string {
	if a.Open {
		return a.Address.String() + "/open"
	}
	return a.Address.String() + "/closed"
}

// Try connects to all addresses, again and again until each answers the same for a while, as expected or, in
// the end, not, and returns what that is, in their order. It sends nothing.
func Try(ctx context.Context, to []Address) []Outcome { return try(ctx, to, tryFor) }

func try(ctx context.Context, to []Address, within time.Duration) []Outcome {
	outcomes := make([]Outcome, len(to))
	var all sync.WaitGroup
	for i, address := range to {
		all.Go(func() {
			outcomes[i] = settle(ctx, address.Open, time.Now().Add(within), func() Outcome { return Connect(ctx, address.Address) })
		})
	}
	all.Wait()
	return outcomes
}

// settle tries one address until it is reached for a while, or is not. One that is not reached refuses if it does so
// every time: a network that refuses in another's name says so only so often, and is silent in between.
func settle(ctx context.Context, open bool, until time.Time, try func() Outcome) Outcome {
	last, same, since := Untried, 0, time.Now()
	tick := time.NewTicker(tryEvery)
	defer tick.Stop()
	for {
		now := try()
		switch {
		case last == Untried || (now == Reached) != (last == Reached):
			last, same, since = now, 0, time.Now()
		case now == Silent:
			last = Silent
		}
		same++
		steady := same >= steadyTries && time.Since(since) >= steadyFor
		if expected := (now == Reached) == open; steady && (expected || time.Now().After(until)) {
			return last
		}
		if time.Now().After(until.Add(2 * steadyFor)) {
			return Unsteady
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return Unsteady
		}
	}
}

// Connect tries once to connect to an address, for a second at most. Nothing is sent.
func Connect(ctx context.Context, to netip.AddrPort) Outcome {
	conn, err := (&net.Dialer{Timeout: connectWithin}).DialContext(ctx, "tcp", to.String())
	switch {
	case err == nil:
		_ = conn.Close() // nothing was sent
		return Reached
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return Refused
	}
	return Silent
}

// Write writes outcomes as one word.
func Write(outcomes []Outcome) string {
	var b strings.Builder
	for _, o := range outcomes {
		b.WriteByte(byte(o))
	}
	return b.String()
}

// read reads what Write wrote in a pod, of which nothing is believed but these characters.
func read(text string, n int) ([]Outcome, error) {
	text = strings.TrimSpace(text)
	if len(text) != n || strings.Trim(text, "rcsu") != "" {
		return nil, fmt.Errorf("it said %.40q and not one character for each of %d addresses", text, n)
	}
	return []Outcome(text), nil
}

// Addresses reads addresses as they stand on a command line.
func Addresses(words []string) ([]Address, error) {
	if len(words) == 0 || len(words) > MaxAddresses {
		return nil, fmt.Errorf("there are %d addresses, and must be 1 to %d", len(words), MaxAddresses)
	}
	all := make([]Address, len(words))
	for i, word := range words {
		text, expected, _ := strings.Cut(word, "/")
		address, err := netip.ParseAddrPort(text)
		if err != nil {
			return nil, err
		}
		if expected != "open" && expected != "closed" {
			return nil, fmt.Errorf("%.100q ends neither in /open nor in /closed", word)
		}
		all[i] = Address{Address: address, Open: expected == "open"}
	}
	return all, nil
}
