package starter

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/report"
)

const (
	// lookEvery is how often a run is looked at while it is followed.
	lookEvery = 400 * time.Millisecond
	// sparse is how often progress is said where the output is no terminal.
	sparse = 10 * time.Second
	// maxLine bounds a line in characters.
	maxLine = 1000
)

// quietLog keeps the SDK's own lines out of what a person reads.
var quietLog = slog.New(slog.DiscardHandler)

// follow shows a run until it ends and returns its outcome as an exit code.
func (c *cli) follow(ctx context.Context, s *Starter, id string) error {
	doc, err := Follow(ctx, s, id, c.err)
	if ctx.Err() != nil {
		fmt.Fprintf(c.err, "\ndetached; the run goes on. Come back to it with: upkeep show %s --wait; end it with: upkeep cancel %s\n", id, id)
		if c.output == "json" {
			if now, err := s.Show(context.WithoutCancel(ctx), id); err == nil {
				doc = now
			}
			if doc != nil {
				c.json(doc)
			}
		}
		return Exit{ExitDetached}
	}
	if err != nil {
		return err
	}
	if c.output == "json" {
		c.json(doc)
	} else {
		c.print(doc, nil)
	}
	if code := ExitCode(doc); code != ExitSucceeded {
		return Exit{code}
	}
	return nil
}

// Follow watches a run until it ends or the context does, writing its progress to out, and returns
// its newest document.
func Follow(ctx context.Context, s *Starter, id string, out io.Writer) (*run.Document, error) {
	return followUntil(ctx, s, id, out, run.Outcome.Ended)
}

// FollowUnattended is Follow where nobody is there who could mend something: it ends when the run
// waits for a person too.
func FollowUnattended(ctx context.Context, s *Starter, id string, out io.Writer) (*run.Document, error) {
	return followUntil(ctx, s, id, out, func(o run.Outcome) bool { return o.Ended() || o == run.Waiting })
}

func followUntil(ctx context.Context, s *Starter, id string, out io.Writer, enough func(run.Outcome) bool) (*run.Document, error) {
	l := &live{out: out, width: width(out), began: time.Now()}
	fmt.Fprintf(out, "run %s\n", id)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var newest *run.Document
	failures := 0
	for {
		doc, p, err := s.Look(ctx, id)
		switch {
		case err == nil:
			failures = 0
			newest = doc
			l.show(doc, p)
			if enough(doc.Outcome) {
				l.clear()
				fmt.Fprintln(out)
				return doc, nil
			}
		case failure.Is(err, failure.UnknownRun):
			l.clear()
			return newest, err
		case ctx.Err() == nil:
			if failures++; failures == 5 {
				l.line("Temporal does not answer; still trying: %v", err)
			}
		}
		select {
		case <-ctx.Done():
			l.clear()
			return newest, ctx.Err()
		case <-tick.C:
		}
	}
}

// width is how many characters a line of the terminal holds; 0 where there is no terminal.
func width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if size.Col == 0 {
		return 80 // a terminal that does not know
	}
	return int(size.Col)
}

// live says what has changed since the last look.
type live struct {
	out     io.Writer
	width   int // of the terminal; 0: none, so that no line is rewritten
	began   time.Time
	said    int    // steps whose end was said
	begun   int    // steps whose beginning was said, where there is no terminal
	waiting string // what was said last of waiting
	saidAt  time.Time
	phase   string
	phaseAt time.Time // when the phase was seen first,
	phase0  int64     // and how far it was then
	drawn   bool      // a line that is rewritten stands on the terminal
}

func (l *live) line(format string, args ...any) {
	l.clear()
	fmt.Fprintf(l.out, "%8s  %s\n", clock(time.Since(l.began)), short(fmt.Sprintf(format, args...), maxLine))
	l.saidAt = time.Now()
}

func (l *live) clear() {
	if l.drawn {
		fmt.Fprint(l.out, "\r\033[K")
		l.drawn = false
	}
}

func (l *live) show(doc *run.Document, p *progress.Progress) {
	for ; l.said < len(doc.Steps) && doc.Steps[l.said].Verdict != ""; l.said++ {
		s := doc.Steps[l.said]
		text := fmt.Sprintf("%s: %s in %.1f s", s.Name, s.Verdict, s.Seconds)
		if s.Detail != "" {
			text += " (" + s.Detail + ")"
		}
		l.line("%s", text)
	}
	if doc.WaitingFor != l.waiting {
		switch l.waiting = doc.WaitingFor; {
		case l.waiting == "":
		case doc.Outcome == run.Running:
			l.line("%s; it goes on by itself", l.waiting)
		case doc.AsksApproval():
			l.line("WAITING for %s", l.waiting)
			l.line("its plan: %s", report.PlanText(doc))
			sign := ""
			if doc.Approval.Signed {
				sign = " --sign-with KEYFILE"
			}
			l.line("upkeep approve %s --plan %.12s --reason WHY%s, or upkeep reject %s --reason WHY%s", doc.RunID, doc.Approval.Hash, sign, doc.RunID, sign)
		default:
			l.line("WAITING for a person: %s", l.waiting)
			l.line("when it is mended: upkeep resume %s; to give up: upkeep abandon %s", doc.RunID, doc.RunID)
		}
	}
	if doc.Outcome != run.Running {
		return
	}
	text := doc.Summary
	if p != nil {
		text += ": " + l.measure(*p)
	}
	if l.width > 0 {
		l.clear()
		fmt.Fprintf(l.out, "%8s  %s", clock(time.Since(l.began)), short(text, max(l.width-11, 20)))
		l.drawn = true
		return
	}
	begins := l.begun < len(doc.Steps) && doc.Steps[len(doc.Steps)-1].Verdict == ""
	l.begun = len(doc.Steps)
	if begins || time.Since(l.saidAt) >= sparse {
		l.line("%s", text)
	}
}

// measure writes how far a step is, and how long the rest may take.
func (l *live) measure(p progress.Progress) string {
	if p.Phase != l.phase {
		l.phase, l.phaseAt, l.phase0 = p.Phase, time.Now(), p.Done
	}
	text := p.Phase
	if p.Total > 0 {
		text += fmt.Sprintf(" %d%%", min(100, p.Done*100/p.Total))
	}
	amount := func(n int64) string {
		if p.Unit == "bytes" {
			return report.Bytes(n)
		}
		return fmt.Sprintf("%d %s", n, p.Unit)
	}
	if p.Done > 0 {
		text += ", " + amount(p.Done)
		if p.Total > 0 {
			text += " of " + amount(p.Total)
		}
	}
	if spent := time.Since(l.phaseAt).Seconds(); p.Done > l.phase0 && spent > 3 {
		rate := float64(p.Done-l.phase0) / spent
		text += ", " + amount(int64(rate)) + "/s"
		if p.Total > p.Done {
			text += ", about " + clock(time.Duration(float64(p.Total-p.Done)/rate*float64(time.Second))) + " to go"
		}
	}
	if p.Note != "" {
		text += " (" + p.Note + ")"
	}
	return text
}

func clock(d time.Duration) string {
	s := int(d.Seconds())
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// short bounds a text and keeps a name from a database from steering the terminal.
func short(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// Print writes a run's document for a person.
func Print(out io.Writer, doc *run.Document) { fmt.Fprint(out, report.Text(*doc)) }

// print shows a run's document to a person.
func (c *cli) print(doc *run.Document, p *progress.Progress) {
	Print(c.out, doc)
	if p != nil {
		fmt.Fprintf(c.out, "Now:    %s\n", short((&live{}).measure(*p), 200))
	}
}

func (c *cli) table(runs []Listed) {
	if len(runs) == 0 {
		fmt.Fprintln(c.out, "no runs; start one with: upkeep run DrillRecovery --target NAME --wait")
		return
	}
	w := tabwriter.NewWriter(c.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "RUN\tPROCEDURE\tTARGET\tOUTCOME\tSTARTED\tSECONDS\tSUMMARY")
	for _, r := range runs {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.0f\t%s\n", short(r.RunID, 80), r.Procedure, r.Target, r.Outcome, r.StartedAt.Local().Format("2006-01-02 15:04"), r.Seconds, short(r.Summary, 80))
	}
	_ = w.Flush()
}
