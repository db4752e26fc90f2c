// Package schedule says when runs begin by themselves: what upkeep.yaml asks for, what has to be done
// so that it is so, and which schedules get in each other's way. It is pure.
package schedule

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// IDPrefix begins the ids of Upkeep's schedules, and of the runs that they start.
const IDPrefix = "upkeep-"

// Schedule is when a procedure is started for a target, and by which rules.
type Schedule struct {
	Target    string
	Name      string
	Procedure string
	Cron      Cron
	Zone      string          // of the cron line, as in the IANA database
	Input     json.RawMessage // of the runs, without the target
	Overlap   Overlap
	CatchUp   time.Duration // how late a start is made up for that Temporal was not there for
	Jitter    time.Duration // a start is so much later at most, at random
	Paused    bool
}

// Overlap says what becomes of a start while the run before still goes on.
type Overlap string

// The ways to treat an overlap.
const (
	Skip      Overlap = "skip"      // it is left out
	BufferOne Overlap = "bufferOne" // one waits for the end of the run
	AllowAll  Overlap = "allowAll"  // the runs go on beside each other
)

// Overlaps are all of them.
var Overlaps = []string{string(Skip), string(BufferOne), string(AllowAll)}

// Mark says whose a schedule is; the zero value: not Upkeep's.
type Mark struct {
	Target string `json:"target"`
	Name   string `json:"name"`
}

// ID is the id of the schedule in Temporal.
func (m Mark) ID() string { return IDPrefix + m.Target + "-" + m.Name }

func (m Mark) String() string { return m.Name + " of " + m.Target }

// Mark says whose the schedule is.
func (s Schedule) Mark() Mark { return Mark{s.Target, s.Name} }

// Field is one of the things that make up a schedule, as text: so two schedules can be compared, and
// the difference be said.
type Field struct{ Name, Value string }

// Change is a field that differs.
type Change struct {
	Field string `json:"field"`
	From  string `json:"from"`
	To    string `json:"to"`
}

// Wanted is a schedule as the configuration has it.
type Wanted struct {
	Mark   Mark
	Fields []Field
	Paused bool
	Note   string // begins with NotePrefix
}

// Found is a schedule as Temporal has it.
type Found struct {
	Mark   Mark
	Fields []Field
	Paused bool
	Note   string
}

// NotePrefix begins the notes that Upkeep writes. Temporal replaces the note when somebody pauses a
// schedule or lets it go on: so a note that begins otherwise is a person's, and so is the pause.
const NotePrefix = "from upkeep.yaml"

// Action is what has to be done with a schedule.
type Action string

// The actions.
const (
	Nothing Action = "nothing"
	Create  Action = "create"
	Update  Action = "update"
	Refuse  Action = "refuse" // somebody else has a schedule of that id
)

// Decision is what has to be done with a schedule, and why.
type Decision struct {
	Action  Action
	Changes []Change // of an update
	Paused  bool     // so it shall be afterwards,
	Note    string   // with this note
	Kept    bool     // because a person paused it, or let it go on, and not because of the file
}

// Decide says what has to be done so that Temporal has a schedule as it is wanted; found is nil when
// there is none of its id.
func Decide(want Wanted, found *Found) Decision {
	d := Decision{Action: Create, Paused: want.Paused, Note: want.Note}
	switch {
	case found == nil:
		return d
	case found.Mark != want.Mark:
		return Decision{Action: Refuse}
	}
	if byPerson := !strings.HasPrefix(found.Note, NotePrefix); byPerson && (found.Paused || want.Paused) {
		d.Paused, d.Note, d.Kept = found.Paused, found.Note, true
	}
	if d.Changes = differences(found.Fields, want.Fields); d.Paused != found.Paused {
		d.Changes = append(d.Changes, Change{"paused", yes(found.Paused), yes(d.Paused)})
	}
	if d.Action = Update; len(d.Changes) == 0 {
		// The file's hash in a note may be another: that alone is no reason to touch anything.
		d.Action, d.Note = Nothing, found.Note
	}
	return d
}

func yes(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// differences are the fields that differ, in the order in which they are wanted.
func differences(from, to []Field) (changes []Change) {
	for _, f := range to {
		old := ""
		if i := slices.IndexFunc(from, func(o Field) bool { return o.Name == f.Name }); i >= 0 {
			old = from[i].Value
		}
		if old != f.Value {
			changes = append(changes, Change{f.Name, old, f.Value})
		}
	}
	return changes
}

// Duration writes a duration as people do: 6h, not 6h0m0s.
func Duration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
