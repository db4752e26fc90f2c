package pullrequest

import (
	"fmt"
	"strings"
)

// DashboardTitle is the title of the issue in which a repository's owners see how its dependencies stand.
const DashboardTitle = "Dependencies, as Upkeep sees them"

// Dashboard is how a repository's dependencies stand.
type Dashboard struct {
	Open    []Line `json:"open"`    // pull requests, with what each waits for
	Limited []Line `json:"limited"` // proposals that wait for a limit, or for a run of their type
	Young   []Line `json:"young"`   // releases that are not old enough
	Held    []Line `json:"held"`    // releases that are not proposed for another reason
	Refused []Line `json:"refused"` // proposals that a person does not want, or has taken over
	Unread  []Line `json:"unread"`  // files and packages that could not be read or looked up
	// Rollouts are the runs that roll merged updates out, where the target has a release.
	Rollouts []Line `json:"rollouts,omitempty"`
}

// Line is one line of the dashboard.
type Line struct {
	Number int    `json:"number,omitempty"` // of a pull request
	What   string `json:"what"`
	Why    string `json:"why"`
}

// maxLines bounds each part.
const maxLines = 100

// Render makes the body, with a mark by which a change of it is seen. It tells no time, so that it is
// written again only when something has changed.
func (d Dashboard) Render() string {
	var b strings.Builder
	b.WriteString("Upkeep keeps this issue up to date; what is written here by hand is lost. It looks again at the next scheduled scan, or with `upkeep run UpdateDependencies`.\n")
	for _, part := range []struct {
		title string
		lines []Line
	}{
		{"Open", d.Open}, {"Waiting", d.Limited}, {"Too young", d.Young}, {"Not proposed", d.Held},
		{"Refused, or a person's", d.Refused}, {"Not read, or not looked up", d.Unread}, {"Merged, and rolled out", d.Rollouts},
	} {
		if len(part.lines) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s (%d)\n", part.title, len(part.lines))
		for i, l := range part.lines {
			if i == maxLines {
				fmt.Fprintf(&b, "- and %d more\n", len(part.lines)-maxLines)
				break
			}
			b.WriteString("- ")
			if l.Number != 0 {
				fmt.Fprintf(&b, "#%d ", l.Number)
			}
			b.WriteString(Plain(l.What))
			if l.Why != "" {
				b.WriteString(": " + Plain(l.Why))
			}
			b.WriteString("\n")
		}
	}
	text := b.String()
	if len(d.Open)+len(d.Limited)+len(d.Young)+len(d.Held)+len(d.Refused)+len(d.Unread) == 0 {
		text += "\nEverything is up to date.\n"
	}
	return text + "\n" + mark(Mark{Version: 1, Text: hash(text)}) + "\n"
}
