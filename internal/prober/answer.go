package prober

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/netprobe"
)

const (
	// MaxPorts bounds the ports that are tried.
	MaxPorts = 2000
	// maxAnswer bounds an answer, in bytes: so many ports take some 350 KiB.
	maxAnswer = 1 << 20
	maxUID    = 64
)

// Answer is all that a prober knows. Its times are milliseconds since it began, from 1: setting a clock changes
// nothing of what came before what.
type Answer struct {
	At    int64  `json:"at"`
	Ports []Port `json:"ports"`
	Over  int    `json:"over,omitempty"` // ports that it leaves out
}

// Port is a port of a pod, as long as the container that declares it goes on.
type Port struct {
	Pod      types.UID      `json:"pod"`
	To       netip.AddrPort `json:"to"`
	Tried    int64          `json:"tried"`              // when the newest try began
	Outcome  string         `json:"outcome"`            // of the newest try, as netprobe writes it
	Silent   int            `json:"silent,omitempty"`   // tries in a row, the newest among them, that nothing accepted
	Answered int64          `json:"answered,omitempty"` // when the newest try began that something accepted; 0: none
}

// Reached says that the newest try was accepted.
func (p Port) Reached() bool { return p.Outcome == reached }

var reached, refused, silent = netprobe.Write([]netprobe.Outcome{netprobe.Reached}), netprobe.Write([]netprobe.Outcome{netprobe.Refused}), netprobe.Write([]netprobe.Outcome{netprobe.Silent})

// decode reads an answer, of which nothing is believed that cannot be.
func decode(data []byte) (a Answer, err error) {
	if len(data) > maxAnswer {
		return Answer{}, fmt.Errorf("it answers with more than %d bytes", maxAnswer)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return Answer{}, fmt.Errorf("its answer cannot be read: %.200q", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Answer{}, errors.New("something follows its answer")
	}
	if a.At < 1 || a.Over < 0 || len(a.Ports) > MaxPorts {
		return Answer{}, fmt.Errorf("it answers what cannot be: it is %d ms old, tries %d ports and leaves out %d", a.At, len(a.Ports), a.Over)
	}
	type of struct {
		pod types.UID
		to  netip.AddrPort
	}
	seen := make(map[of]bool, len(a.Ports))
	for _, p := range a.Ports {
		if seen[of{p.Pod, p.To}] || !p.can(a.At) {
			return Answer{}, fmt.Errorf("it answers what cannot be, of pod %.64q and %s", p.Pod, p.To)
		}
		seen[of{p.Pod, p.To}] = true
	}
	return a, nil
}

// can reports whether a port can be as it is said.
func (p Port) can(at int64) bool {
	if p.Pod == "" || len(p.Pod) > maxUID || !p.To.IsValid() || p.To.Port() == 0 || p.Tried < 1 || p.Tried > at || p.Answered < 0 || p.Answered > p.Tried {
		return false
	}
	if p.Reached() {
		return p.Answered == p.Tried && p.Silent == 0
	}
	return (p.Outcome == refused || p.Outcome == silent) && p.Answered < p.Tried && p.Silent > 0
}
