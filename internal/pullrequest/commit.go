package pullrequest

import (
	"fmt"
	"regexp"
	"strings"
)

const trailer = "Upkeep-Changes"

// CommitMessage is the message of the one commit that a proposal makes. Its trailer names what it changes, so
// that what was pushed can be told from what is proposed by now.
func CommitMessage(p Proposal) string {
	var b strings.Builder
	b.WriteString(p.Title + "\n\n")
	for i, c := range p.Changes {
		if i == maxLines {
			fmt.Fprintf(&b, "and %d more\n", len(p.Changes)-maxLines)
			break
		}
		fmt.Fprintf(&b, "%s: %s %s -> %s\n", line(c.Dependency.File), line(c.Dependency.Name), line(c.Dependency.Current), line(c.Update.Version))
	}
	return b.String() + "\n" + trailer + ": " + p.Hash() + "\n"
}

// line makes a text from outside fit for a title, and a line of a commit's message: it points to no issue.
func line(text string) string {
	return bounded(strings.ReplaceAll(strings.Map(func(r rune) rune {
		if hidden(r) {
			return -1
		}
		return r
	}, text), "#", "#"+string(wordJoiner)), 200)
}

var changes = regexp.MustCompile(`(?m)^` + trailer + `: ([0-9a-f]{64})$`)

// ReadTrailer is the hash of the proposal that a commit makes, by its message; empty when it names none.
func ReadTrailer(message string) string {
	all := changes.FindAllStringSubmatch(message, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}
