package quarantine

import (
	"encoding/json"
	"time"
)

const (
	// Note is the annotation on a pod in quarantine that says what was taken from it. It stays as a tombstone
	// when that is given back.
	Note = "upkeep.run/quarantine-before"
	// maxNote bounds a note, in bytes.
	maxNote = 64 << 10
	// maxCases bounds the cases that a policy's note tells of.
	maxCases = 50
)

// Order says for which case, and since when, something is held. Runs of one case are told apart by their time.
type Order struct {
	Case   string    `json:"case"`
	Target string    `json:"target"`
	At     time.Time `json:"at"`
}

// note is what is written on a pod.
type note struct {
	Order
	Labels map[string]string `json:"labels,omitempty"` // that were taken away
	Over   bool              `json:"over,omitempty"`   // they were given back
}

// readNote reads a pod's note. One that cannot be read is none: whoever runs in the pod may have written it.
func readNote(annotations map[string]string) (n note, ok bool) {
	text := annotations[Note]
	if text == "" || len(text) > maxNote || json.Unmarshal([]byte(text), &n) != nil || n.Case == "" || n.At.IsZero() {
		return note{}, false
	}
	return n, true
}

// exception is what is written on a policy from which pods in quarantine are excepted: for which cases, and
// what its selector was.
type exception struct {
	Cases  []held          `json:"cases"`
	Before json.RawMessage `json:"before,omitempty"`
}

type held struct {
	Order
	Over bool `json:"over,omitempty"`
}

func readException(annotations map[string]string) (e exception) {
	if text := annotations[Note]; len(text) <= maxNote && json.Unmarshal([]byte(text), &e) != nil {
		return exception{}
	}
	return e
}

// with returns the note with a case held or given back. It forgets the oldest that are over.
func (e exception) with(o Order, over bool) exception {
	out := exception{Before: e.Before}
	for _, h := range e.Cases {
		if h.Case != o.Case {
			out.Cases = append(out.Cases, h)
		}
	}
	out.Cases = append(out.Cases, held{o, over})
	for i := 0; i < len(out.Cases) && len(out.Cases) > maxCases; {
		if out.Cases[i].Over {
			out.Cases = append(out.Cases[:i], out.Cases[i+1:]...)
		} else {
			i++
		}
	}
	return out
}

// of is how a case stands in the note.
func (e exception) of(caseID string) (h held, ok bool) {
	for _, h := range e.Cases {
		if h.Case == caseID {
			return h, true
		}
	}
	return held{}, false
}

// needed reports whether a case still holds the policy.
func (e exception) needed() bool {
	for _, h := range e.Cases {
		if !h.Over {
			return true
		}
	}
	return false
}
