// Package audit keeps the trail of what runs meant to do and did: one chain of hashes for each run,
// whose head is in the run's own document, and one chain of signed checkpoints over the heads of all
// runs. Whoever alters, removes, reorders or cuts off any of it is found out by Verify, as far as there
// is something that it can be held against.
package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Kinds of entries.
const (
	Intent   = "intent"   // a step is about to begin
	Done     = "done"     // it has ended
	Decision = "decision" // a person has decided something
)

// Entry is one thing that a run noted, and the hash of all up to it.
type Entry struct {
	Seq      int       `json:"seq"` // from 1
	At       time.Time `json:"at"`
	Run      string    `json:"run"`
	Kind     string    `json:"kind"`
	What     string    `json:"what"`               // the step's name, or the decision
	Activity string    `json:"activity,omitempty"` // that does the step
	Args     string    `json:"args,omitempty"`     // SHA-256 of the activity's argument as JSON, hex
	Result   string    `json:"result,omitempty"`   // SHA-256 of what the activity returned as JSON, hex
	Verdict  string    `json:"verdict,omitempty"`
	Code     string    `json:"code,omitempty"` // of the error that it ended with
	By       string    `json:"by,omitempty"`   // who decided, as claimed unless it is signed
	Reason   string    `json:"reason,omitempty"`
	Signed   *Signed   `json:"signed,omitempty"` // by whom decided
	Prev     string    `json:"prev"`             // hash of the entry before; empty for the first
	Hash     string    `json:"hash"`             // of this entry without its hash
}

// Signed is a signature of a decision, which stands by itself: ssh-keygen -Y verify checks it.
type Signed struct {
	Key       string `json:"key"`     // its fingerprint
	Message   string `json:"message"` // what was signed
	Signature string `json:"signature"`
}

func (e Entry) hash() string {
	e.Hash = ""
	data, _ := json.Marshal(e) // plain data always encodes
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Chain is what a run has noted so far. The zero value is an empty chain.
type Chain struct {
	Entries []Entry
}

// Add links an entry to the chain; its number and hashes are the chain's to fill in.
func (c *Chain) Add(e Entry) {
	e.Seq, e.Prev, e.At = len(c.Entries)+1, c.Head(), e.At.UTC()
	e.Hash = e.hash()
	c.Entries = append(c.Entries, e)
}

// Head is the hash of the newest entry; empty when there is none.
func (c *Chain) Head() string {
	if len(c.Entries) == 0 {
		return ""
	}
	return c.Entries[len(c.Entries)-1].Hash
}

// HashOf is the hash by which an entry names an argument or a result.
func HashOf(arg any) string {
	data, err := json.Marshal(arg)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// maxLine bounds one entry, in bytes.
const maxLine = 64 << 10

// Encode writes a chain, a line for each entry.
func (c *Chain) Encode() ([]byte, error) {
	var out bytes.Buffer
	for _, e := range c.Entries {
		data, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("encode an entry of the audit trail: %w", err)
		}
		out.Write(append(data, '\n'))
	}
	return out.Bytes(), nil
}

// ErrBroken says that a chain is not what was written.
var ErrBroken = errors.New("the audit trail is broken")

// Decode reads a chain of a run and checks every link of it.
func Decode(data []byte, run string) (*Chain, error) {
	c := new(Chain)
	broken := func(n int, format string, args ...any) error {
		return fmt.Errorf("%w: entry %d of run %.200q %s", ErrBroken, n, run, fmt.Sprintf(format, args...))
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for n := 1; lines.Scan(); n++ {
		var e Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, broken(n, "cannot be read")
		}
		again, _ := json.Marshal(e) // plain data always encodes
		switch {
		case !bytes.Equal(again, lines.Bytes()):
			return nil, broken(n, "is not as it was written")
		case e.Run != run:
			return nil, broken(n, "is of another run")
		case e.Seq != n:
			return nil, broken(n, "has the number %d", e.Seq)
		case e.Prev != c.Head():
			return nil, broken(n, "does not follow the one before")
		case e.Hash != e.hash():
			return nil, broken(n, "was altered")
		}
		c.Entries = append(c.Entries, e)
	}
	if err := lines.Err(); err != nil {
		return nil, broken(len(c.Entries)+1, "cannot be read (%v)", err)
	}
	if again, err := c.Encode(); err != nil || !bytes.Equal(again, data) {
		return nil, broken(len(c.Entries), "or one before it ends otherwise than it was written")
	}
	return c, nil
}
