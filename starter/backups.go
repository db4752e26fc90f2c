package starter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/upkeep-run/upkeep/api/prunebackups"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/verifybackup"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/report"
)

const (
	// storeAnswersWithin bounds what the commands about backups ask of the store.
	storeAnswersWithin = 5 * time.Minute
	// removalEndsWithin is how long a hold waits for a removal of the same backup that is in hand.
	removalEndsWithin = 10 * time.Second
	// maxReason bounds the texts of a hold, in bytes.
	maxReason = 1000
)

// BackupListed is a backup in a list.
type BackupListed struct {
	ID       string        `json:"id"`
	At       time.Time     `json:"at"` // the moment that it shows
	Database string        `json:"database"`
	Tables   int           `json:"tables"`
	Rows     int64         `json:"rows"`
	Bytes    int64         `json:"bytes"`              // stored, of all chunks that it needs; backups share chunks
	Verdict  run.Verdict   `json:"verdict"`            // of the newest comparison of a restored copy; NOT_PROVEN without one
	ProvenAt time.Time     `json:"provenAt,omitzero"`  // when that was
	ProvenBy string        `json:"provenBy,omitempty"` // the run
	Damaged  []string      `json:"damaged,omitempty"`  // what is known to be wrong
	LeftOut  []string      `json:"leftOut,omitempty"`
	Key      string        `json:"key,omitempty"`     // fingerprint of the repository key that it is encrypted with
	Sealed   string        `json:"sealed,omitempty"`  // why what it holds is not known here
	Foreign  bool          `json:"foreign,omitempty"` // in clear, or with a key that is not trusted, though the target is encrypted
	Hold     *catalog.Hold `json:"hold,omitempty"`
}

// Backups reads a target's backups from the store.
type Backups struct {
	Store  objstore.Store
	Target string
	Keys   *keyring.Ring // opens encrypted backups; nil: of those less is known
}

// List lists the backups, the newest first.
func (b Backups) List(ctx context.Context) ([]BackupListed, error) {
	entries, err := catalog.List(ctx, b.Store, b.Target, b.Keys, nil)
	if err != nil {
		return nil, err
	}
	all := make([]BackupListed, len(entries))
	for i, e := range entries {
		all[i] = listedBackup(e)
	}
	// Ids of backups that began in one second are in no order.
	slices.SortFunc(all, func(a, b BackupListed) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.ID, a.ID)) })
	return all, nil
}

// Show describes one backup, by its id or as the latest.
func (b Backups) Show(ctx context.Context, id string) (BackupListed, *format.Manifest, error) {
	e, m, err := catalog.Look(ctx, b.Store, b.Target, id, b.Keys)
	return listedBackup(e), m, err
}

func listedBackup(e catalog.Entry) BackupListed {
	l := BackupListed{
		ID: e.ID, At: e.At, Database: e.Database, Tables: e.Totals.Tables, Rows: e.Totals.Rows, Bytes: e.Totals.BytesTotal,
		Verdict: run.NotProven, LeftOut: e.LeftOut, Hold: e.Hold, Key: e.Key, Foreign: e.Foreign,
	}
	if e.Sealed != nil {
		l.Sealed = e.Sealed.Error()
	}
	if e.Proof != nil {
		l.Verdict, l.ProvenAt, l.ProvenBy = e.Proof.Verdict, e.Proof.At, e.Proof.RunID
	}
	if e.Broken != nil {
		l.Damaged = append(l.Damaged, e.Broken.Error())
	}
	if e.Mark != nil {
		l.Damaged = append(l.Damaged, e.Mark.What...)
	}
	switch {
	case len(l.Damaged) > 0:
		l.Verdict = run.Fail
	case l.Foreign:
		l.Verdict = run.NotProven
	}
	return l
}

// Hold forbids the removal of a backup. When it returns nil the backup is there and stays: the note of a
// removal is looked for after the hold is noted, as a removal looks for the hold after its own note.
func (b Backups) Hold(ctx context.Context, h catalog.Hold) error {
	e, _, err := catalog.Look(ctx, b.Store, b.Target, h.Backup, nil)
	if err != nil {
		return err
	}
	h.Backup = e.ID // where the latest was meant
	if err := catalog.SetHold(ctx, b.Store, b.Target, h); err != nil {
		return err
	}
	for until := time.Now().Add(removalEndsWithin); ; {
		_, err := b.Store.Stat(ctx, format.ManifestKey(b.Target, h.Backup))
		if errors.Is(err, objstore.ErrNotExist) {
			return errors.Join(failure.New(failure.UnknownBackup, "backup %s was removed a moment before it was held", h.Backup).
				Do("see what there is: upkeep backups list --target %s", b.Target), catalog.ReleaseHold(ctx, b.Store, b.Target, h.Backup))
		}
		if err != nil {
			return err
		}
		r, err := catalog.ReadRemoval(ctx, b.Store, b.Target, h.Backup)
		if err != nil || r == nil {
			return err
		}
		if time.Now().After(until) {
			return failure.New(failure.StillFailing, "run %.200q has begun to remove backup %s, and it cannot be said who was first; the hold is noted", r.RunID, h.Backup).
				Do("let that run end, or start another with: upkeep backups prune --target %s; then hold the backup again", b.Target)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Release allows the removal of a backup again.
func (b Backups) Release(ctx context.Context, id string) error {
	var h *catalog.Hold
	if format.ValidID(id) {
		var err error
		if h, err = catalog.ReadHold(ctx, b.Store, b.Target, id); err != nil {
			return err
		}
	}
	if h == nil {
		return failure.New(failure.NotHeld, "backup %.120q of target %s is not held", id, b.Target).Do("see what is: upkeep backups list --target %s", b.Target)
	}
	return catalog.ReleaseHold(ctx, b.Store, b.Target, id)
}

// inStore works with the backups of a target in the store of the configuration.
func (c *cli) inStore(ctx context.Context, target string, work func(context.Context, Backups) error) error {
	return c.onTarget(ctx, target, func(ctx context.Context, t *config.Target, store objstore.Store) error {
		return work(ctx, Backups{Store: store, Target: t.Name, Keys: t.Encryption.Ring(store, t.Name)})
	})
}

// onTarget works with a target, and with the store, of the configuration.
func (c *cli) onTarget(ctx context.Context, target string, work func(context.Context, *config.Target, objstore.Store) error) error {
	known, err := config.Load(c.configPath)
	if err != nil {
		return err
	}
	t, err := known.Target(target)
	if err != nil {
		return err
	}
	c.about.Target = t.Name
	ctx, cancel := context.WithTimeout(ctx, storeAnswersWithin)
	defer cancel()
	store, err := objstore.Open(ctx, known.Store)
	if err != nil {
		return err
	}
	return errors.Join(work(ctx, t, store), store.Close())
}

func (c *cli) backups() *cobra.Command {
	cmd := &cobra.Command{
		Use: "backups", Short: "List, show, verify, hold and prune a target's backups",
		Long: `Looks after a target's backups. list, show, hold and release work on the store that the configuration
names, without Temporal; with a store in a folder, use them where that folder is. verify and prune
start runs.`,
		Args: args(0, "one of: list, show, verify, hold, release, prune"),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var target string
	cmd.PersistentFlags().StringVar(&target, "target", "", "the target in upkeep.yaml; may be left out when there is only one")
	cmd.AddCommand(c.listBackups(&target), c.showBackup(&target), c.verifyBackup(&target), c.holdBackup(&target), c.releaseBackup(&target), c.pruneBackups(&target))
	return cmd
}

func (c *cli) listBackups(target *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the backups, the newest first, and what is known of each", Args: args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.inStore(cmd.Context(), *target, func(ctx context.Context, b Backups) error {
				all, err := b.List(ctx)
				switch {
				case err != nil:
					return err
				case c.output == "json":
					c.json(all)
				default:
					c.backupTable(b.Target, all)
				}
				return nil
			})
		},
	}
}

func (c *cli) backupTable(target string, all []BackupListed) {
	if len(all) == 0 {
		fmt.Fprintf(c.out, "no backups; take one with: upkeep run BackupDatabase --target %s --wait\n", target)
		return
	}
	w := tabwriter.NewWriter(c.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "BACKUP\tSHOWS\tROWS\tSTORED\tPROVEN\tHELD\tREMARKS")
	for _, b := range all {
		proven := string(b.Verdict)
		if !b.ProvenAt.IsZero() {
			proven += " " + b.ProvenAt.Local().Format(time.DateOnly)
		}
		held := ""
		if b.Hold != nil {
			held = short(b.Hold.By+": "+b.Hold.Reason, 40)
		}
		remarks := append([]string(nil), b.Damaged...)
		if len(b.LeftOut) > 0 {
			remarks = append(remarks, fmt.Sprintf("%d things left out", len(b.LeftOut)))
		}
		rows := report.Count(b.Rows)
		switch {
		case b.Sealed != "":
			rows = "sealed"
			remarks = append(remarks, b.Sealed)
		case b.Foreign:
			remarks = append(remarks, "in clear, so it may be anybody's")
		case b.Key != "":
			remarks = append(remarks, "encrypted")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", b.ID, b.At.Local().Format("2006-01-02 15:04:05"), rows, report.Bytes(b.Bytes), proven, held, short(strings.Join(remarks, "; "), 100))
	}
	_ = w.Flush() // stdout may be closed; there is nobody left to tell
}

func (c *cli) showBackup(target *string) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one backup: what is in it, and what is known of it", Args: args(1, "a backup's id, or latest"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.inStore(cmd.Context(), *target, func(ctx context.Context, b Backups) error {
				l, m, err := b.Show(ctx, a[0])
				switch {
				case err != nil:
					return err
				case c.output == "json":
					c.json(l)
				default:
					c.printBackup(b.Store, l, m)
				}
				return nil
			})
		},
	}
}

func (c *cli) printBackup(store objstore.Store, l BackupListed, m *format.Manifest) {
	fmt.Fprintf(c.out, "backup %s: %s\n", l.ID, l.Verdict)
	if !l.ProvenAt.IsZero() {
		fmt.Fprintf(c.out, "a restored copy was compared on %s by run %s\n", l.ProvenAt.Local().Format(time.RFC1123), l.ProvenBy)
	} else {
		fmt.Fprintln(c.out, "no restored copy was compared with it yet: upkeep backups verify", l.ID)
	}
	for _, d := range l.Damaged {
		fmt.Fprintln(c.out, "damaged:", d)
	}
	if l.Hold != nil {
		fmt.Fprintf(c.out, "held by %s since %s: %s\n", l.Hold.By, l.Hold.At.Local().Format(time.RFC1123), l.Hold.Reason)
	}
	if l.Key != "" {
		fmt.Fprintln(c.out, "encrypted with repository key", l.Key)
	}
	if l.Sealed != "" {
		fmt.Fprintln(c.out, "what is in it is not known here:", l.Sealed)
	}
	if m == nil {
		return
	}
	fmt.Fprintf(c.out, "%s\n%s rows of %s tables, %s stored (chunks are shared with other backups)\n", m.Scope, report.Count(l.Rows), report.Count(int64(l.Tables)), report.Bytes(l.Bytes))
	for _, o := range l.LeftOut {
		fmt.Fprintln(c.out, "left out:", o)
	}
	fmt.Fprintf(c.out, "bring it back beside: upkeep run RestoreDatabase --target %s --set backup=%s --wait\nwithout Upkeep: %s\n",
		m.Target, m.Backup, store.URL(format.BackupKey(m.Target, m.Backup, "RESTORE.md")))
}

func (c *cli) verifyBackup(target *string) *cobra.Command {
	var grade string
	wait := false
	cmd := &cobra.Command{
		Use: "verify ID", Short: "Start a run that verifies a backup", Args: args(1, "a backup's id, or latest"),
		RunE: func(cmd *cobra.Command, a []string) error {
			set := map[string]string{"backup": a[0]}
			if grade != "" {
				set["grade"] = grade
			}
			return c.start(cmd.Context(), Order{Procedure: verifybackup.WorkflowType, Target: *target, Set: set}, wait)
		},
	}
	waitFlag(cmd, &wait)
	cmd.Flags().StringVar(&grade, "grade", "", "how deep to look: stored, decoded or restored (the default, and the only one that proves)")
	return cmd
}

func (c *cli) pruneBackups(target *string) *cobra.Command {
	wait, dryRun := false, false
	cmd := &cobra.Command{
		Use: "prune", Short: "Start a run that removes what the retention does not keep", Args: args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.start(cmd.Context(), Order{Procedure: prunebackups.WorkflowType, Target: *target, DryRun: dryRun}, wait)
		},
	}
	waitFlag(cmd, &wait)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be removed and change nothing")
	return cmd
}

func (c *cli) holdBackup(target *string) *cobra.Command {
	var h catalog.Hold
	cmd := &cobra.Command{
		Use: "hold ID", Short: "Forbid the removal of a backup until it is released", Args: args(1, "a backup's id, or latest"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if h.Reason == "" || len(h.Reason) > maxReason || len(h.By) > maxReason {
				return usage{fmt.Errorf("--reason must say why, and --by who, in at most %d bytes", maxReason)}
			}
			if h.By == "" {
				h.By = osUser()
			}
			h.Backup, h.At = a[0], time.Now().UTC()
			return c.inStore(cmd.Context(), *target, func(ctx context.Context, b Backups) error {
				if err := b.Hold(ctx, h); err != nil {
					return err
				}
				c.held(b, h.Backup, "is held")
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&h.Reason, "reason", "", "why")
	cmd.Flags().StringVar(&h.By, "by", "", "who says so (default: the OS user); taken as claimed")
	return cmd
}

func (c *cli) releaseBackup(target *string) *cobra.Command {
	return &cobra.Command{
		Use: "release ID", Short: "Allow the removal of a held backup again", Args: args(1, "a backup's id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.inStore(cmd.Context(), *target, func(ctx context.Context, b Backups) error {
				if err := b.Release(ctx, a[0]); err != nil {
					return err
				}
				c.held(b, a[0], "is held no more")
				return nil
			})
		},
	}
}

// held says what became of a hold.
func (c *cli) held(b Backups, id, what string) {
	if c.output == "json" {
		c.json(map[string]string{"target": b.Target, "backup": id, "state": what})
		return
	}
	fmt.Fprintf(c.out, "backup %s of target %s %s\n", id, b.Target, what)
}
