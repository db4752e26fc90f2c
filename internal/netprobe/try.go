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
	// steady is how many times in a row an answer has to be the same: policies begin to hold for a new pod
	// only some time after it runs.
	steady = 10
	// tryFor bounds how long steadiness is waited for.
	tryFor = 20 * time.Second
)

// Try connects to all addresses, again and again until each answers the same all the time, and returns what
// that is, in their order. It sends nothing.
func Try(ctx context.Context, to []netip.AddrPort) []Outcome {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	outcomes := make([]Outcome, len(to))
	var all sync.WaitGroup
	for i, address := range to {
		all.Go(func() { outcomes[i] = settle(ctx, func() Outcome { return connect(ctx, address) }) })
	}
	all.Wait()
	return outcomes
}

// settle tries until it is reached all the time, or never. One that is not reached refuses if it does so every time:
// a network that refuses in another's name says so only so often, and is silent in between.
func settle(ctx context.Context, try func() Outcome) Outcome {
	last, same := Untried, 0
	tick := time.NewTicker(tryEvery)
	defer tick.Stop()
	for same < steady {
		now := try()
		switch {
		case ctx.Err() != nil:
			return Unsteady
		case last == Untried || (now == Reached) != (last == Reached):
			last, same = now, 0
		case now == Silent:
			last = Silent
		}
		same++
		select {
		case <-tick.C:
		case <-ctx.Done():
			return Unsteady
		}
	}
	return last
}

func connect(ctx context.Context, to netip.AddrPort) Outcome {
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

// Addresses reads addresses with their ports, as they stand on a command line.
func Addresses(words []string) ([]netip.AddrPort, error) {
	if len(words) == 0 || len(words) > MaxAddresses {
		return nil, fmt.Errorf("there are %d addresses, and must be 1 to %d", len(words), MaxAddresses)
	}
	all := make([]netip.AddrPort, len(words))
	for i, word := range words {
		var err error
		if all[i], err = netip.ParseAddrPort(word); err != nil {
			return nil, err
		}
	}
	return all, nil
}
