package starter

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/schedule"
)

// scheduling bounds the work on all schedules.
const scheduling = 2 * time.Minute

func (c *cli) schedules() *cobra.Command {
	cmd := &cobra.Command{
		Use: "schedules", Short: "Make runs begin by themselves, as upkeep.yaml says",
		Args: args(0, "one of: apply, list"),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.applySchedules(), c.listSchedules())
	return cmd
}

func (c *cli) applySchedules() *cobra.Command {
	var o Application
	cmd := &cobra.Command{
		Use: "apply", Short: "Make Temporal have the schedules of upkeep.yaml", Args: args(0, "no argument"),
		Long: `Creates the schedules that are missing and updates those that differ. A schedule that somebody
paused in Temporal stays paused; what is not from upkeep.yaml is not touched. It may be done twice.

What upkeep.yaml has no more is named, and removed only with --remove.`,
		Example: "  upkeep schedules apply --dry-run\n  upkeep schedules apply --target shop\n  upkeep schedules apply --remove",
		RunE: func(cmd *cobra.Command, _ []string) error {
			known, err := config.Load(c.configPath)
			if err != nil {
				return err
			}
			return c.scheduled(cmd.Context(), func(ctx context.Context, s *Starter) (*Schedules, error) { return s.ApplySchedules(ctx, known, o) }, printApplied)
		},
	}
	cmd.Flags().StringVar(&o.Target, "target", "", "only the schedules of this target")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "say what would be done and change nothing")
	cmd.Flags().BoolVar(&o.Remove, "remove", false, "remove the schedules that upkeep.yaml has no more")
	return cmd
}

func (c *cli) listSchedules() *cobra.Command {
	target := ""
	cmd := &cobra.Command{
		Use: "list", Short: "Show the schedules: what begins next, how the last run ended, and whether upkeep.yaml agrees", Args: args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var known *config.Config
			if c.configPath != "" || config.Find() != "" {
				var err error
				if known, err = config.Load(c.configPath); err != nil {
					return err
				}
			}
			return c.scheduled(cmd.Context(), func(ctx context.Context, s *Starter) (*Schedules, error) { return s.ListSchedules(ctx, known, target) }, printListed)
		},
	}
	cmd.Flags().StringVar(&target, "target", "", "only the schedules of this target")
	return cmd
}

func (c *cli) scheduled(ctx context.Context, work func(context.Context, *Starter) (*Schedules, error), print func(io.Writer, *Schedules)) error {
	return c.connected(func(s *Starter) error {
		working, cancel := context.WithTimeout(ctx, scheduling)
		defer cancel()
		answer, err := work(working, s)
		switch {
		case err != nil:
			return err
		case c.output == "json":
			c.json(answer)
		default:
			print(c.out, answer)
		}
		return nil
	})
}

func printApplied(out io.Writer, answer *Schedules) {
	if len(answer.Schedules) == 0 {
		fmt.Fprintf(out, "no schedules: %s has none, and Temporal has none of Upkeep's\n", answer.Config)
	}
	words := map[ScheduleState]string{ScheduleCreated: "created", ScheduleUpdated: "updated", ScheduleUnchanged: "unchanged", ScheduleRemoved: "removed", ScheduleLeftOver: "left over"}
	if answer.DryRun {
		words[ScheduleCreated], words[ScheduleUpdated], words[ScheduleRemoved] = "would create", "would update", "would remove"
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, s := range answer.Schedules {
		var said []string
		switch s.State {
		case ScheduleCreated:
			said = append(said, fmt.Sprintf("%s, %s (%s)", s.Procedure, s.Cron, s.Zone))
		case ScheduleUpdated:
			said = append(said, changes(s.Changes))
		case ScheduleRemoved:
			said = append(said, "upkeep.yaml has it no more")
		case ScheduleLeftOver:
			said = append(said, "upkeep.yaml has it no more; remove it with: upkeep schedules apply --remove")
		}
		if s.State != ScheduleRemoved && s.State != ScheduleLeftOver {
			said = append(said, paused(s))
		}
		fmt.Fprintf(w, "%s\t%s of %s\t%s\n", words[s.State], s.Name, s.Target, strings.Join(said, "; "))
	}
	_ = w.Flush() // as in table
	warn(out, answer.Warnings)
}

func printListed(out io.Writer, answer *Schedules) {
	if len(answer.Schedules) == 0 {
		fmt.Fprintln(out, "no schedules; make those of upkeep.yaml with: upkeep schedules apply")
	}
	for i, s := range answer.Schedules {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "%s of %s: %s, %s (%s)\n", s.Name, s.Target, s.Procedure, s.Cron, s.Zone)
		if s.State != ScheduleMissing && s.State != ScheduleTaken {
			fmt.Fprintf(out, "  %s\n", paused(s))
			printRuns(out, s)
		}
		switch s.State {
		case ScheduleAgrees, ScheduleUnknown:
		case ScheduleDiffers:
			fmt.Fprintf(out, "  DIFFERS from upkeep.yaml: %s; mend it with: upkeep schedules apply\n", changes(s.Changes))
		case ScheduleMissing:
			fmt.Fprintln(out, "  NOT THERE: Temporal does not have it yet; make it with: upkeep schedules apply")
		case ScheduleTaken:
			fmt.Fprintf(out, "  NOT THERE: %s in Temporal is somebody else's; give yours another name in upkeep.yaml\n", s.ID)
		case ScheduleLeftOver:
			fmt.Fprintln(out, "  LEFT OVER: upkeep.yaml has it no more; remove it with: upkeep schedules apply --remove")
		}
	}
	if answer.Config == "" {
		fmt.Fprintln(out, "\nno upkeep.yaml was found here to hold them against; name one with --config")
	}
	warn(out, answer.Warnings)
}

// printRuns tells of the runs that a schedule has started, and of those that it has not.
func printRuns(out io.Writer, s Scheduled) {
	if l := s.Last; l != nil {
		how := string(l.Outcome)
		if how == "" {
			how = "nothing is known of it any more"
		}
		fmt.Fprintf(out, "  last: %s: %s\n        upkeep show %s\n", l.StartedAt.Local().Format(whenForm), how, l.RunID)
		if l.WaitingFor != "" {
			fmt.Fprintf(out, "        it waits: %s\n", short(l.WaitingFor, 300))
		}
	}
	if s.Skipped > 0 {
		fmt.Fprintf(out, "  skipped: %d, because the run before still went on\n", s.Skipped)
	}
	if s.Missed > 0 {
		fmt.Fprintf(out, "  missed: %d, because Temporal was away for longer than catchUp\n", s.Missed)
	}
}

// whenForm writes a moment for a person.
const whenForm = "Mon 2 Jan 2006 15:04 MST"

// paused says when a schedule begins next, or why it does not.
func paused(s Scheduled) string {
	byFile := strings.HasPrefix(s.Note, schedule.NotePrefix)
	switch {
	case s.Paused && byFile:
		return "PAUSED by upkeep.yaml"
	case s.Paused:
		return fmt.Sprintf("PAUSED in Temporal (%s), and stays so", short(s.Note, 200))
	case len(s.Next) == 0:
		return "next: never"
	}
	next := make([]string, 0, foretold)
	for _, t := range s.Next[:min(foretold, len(s.Next))] {
		next = append(next, t.Format(whenForm))
	}
	text := "next: " + strings.Join(next, ", ")
	if s.Kept {
		text += fmt.Sprintf("; upkeep.yaml pauses it, but somebody let it go on in Temporal (%s), and that stays so", short(s.Note, 200))
	}
	return text
}

func changes(all []schedule.Change) string {
	texts := make([]string, len(all))
	for i, ch := range all {
		texts[i] = fmt.Sprintf("%s: %s -> %s", ch.Field, short(orNone(ch.From), 80), short(orNone(ch.To), 80))
	}
	return strings.Join(texts, ", ")
}

func orNone(text string) string {
	if text == "" {
		return "(none)"
	}
	return text
}

func warn(out io.Writer, warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(out, "\nwarning: %s\n", w)
	}
}
