package starter

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// maxAnchors bounds a file of anchors, in bytes.
const maxAnchors = 1 << 20

func (c *cli) audit() *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Check the audit trail", Args: args(0, "verify"),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.verifyAudit())
	return cmd
}

func (c *cli) verifyAudit() *cobra.Command {
	var anchors string
	var keys []string
	offline := false
	cmd := &cobra.Command{
		Use: "verify", Short: "Check that nothing of the audit trail was altered, removed, reordered or cut off",
		Long: `Checks the trail of every run and the signed checkpoints over all of them, in the store that the
configuration names, and holds them against the runs' histories in Temporal where those are still
there. Nothing in a store can show that its newest part was cut off: keep the anchor that this prints
somewhere else, and give it the next time.

Exit codes: 0 all is as it was written, 1 something is not, 3 nothing is wrong, and for something
there was nothing to hold it against.`,
		Example: "  upkeep audit verify\n  upkeep audit verify --anchors kept.json --key 3b6a27bc...",
		Args:    args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			known, err := readAnchors(anchors)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), storeAnswersWithin)
			defer cancel()
			return c.connected(func(s *Starter) error {
				ended := s.auditHead
				if offline {
					ended = nil
				}
				r, err := c.verifyStore(ctx, known, keys, ended)
				if err != nil {
					return err
				}
				c.tellAudit(r)
				switch {
				case len(r.Findings) > 0:
					return Exit{ExitFailed}
				case len(r.NotProven) > 0:
					return Exit{ExitPartially}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&anchors, "anchors", "", "a file with anchors that were printed before: JSON objects, one a line")
	cmd.Flags().StringArrayVar(&keys, "key", nil, "a public key whose checkpoints are trusted; may be given again")
	cmd.Flags().BoolVar(&offline, "offline", false, "ask Temporal nothing")
	return cmd
}

func (c *cli) verifyStore(ctx context.Context, known []audit.Anchor, keys []string, ended func(context.Context, string) (*audit.Head, error)) (*audit.Report, error) {
	configured, err := config.Load(c.configPath)
	if err != nil {
		return nil, err
	}
	store, err := objstore.Open(ctx, configured.Store)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }() // it was only read
	return audit.Verify(ctx, store, known, keys, ended)
}

// auditHead is how a run's trail ended by its own history; nil where that is gone, or the run goes on.
func (s *Starter) auditHead(ctx context.Context, id string) (*audit.Head, error) {
	doc, _, err := s.fromTemporal(ctx, id)
	switch {
	case failure.Is(err, failure.UnknownRun):
		return nil, nil
	case err != nil:
		return nil, err
	case !doc.Outcome.Ended() || doc.Audit == nil:
		return nil, nil
	}
	return &audit.Head{Entries: doc.Audit.Entries, Head: doc.Audit.Head}, nil
}

// readAnchors reads what was kept: the lines that begin an object.
func readAnchors(path string) ([]audit.Anchor, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, usage{fmt.Errorf("--anchors: %w", err)}
	}
	if info.Size() > maxAnchors {
		return nil, usage{fmt.Errorf("--anchors: %s has more than %d bytes", path, maxAnchors)}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usage{fmt.Errorf("--anchors: %w", err)}
	}
	var all []audit.Anchor
	for n, line := range strings.Split(string(data), "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var a audit.Anchor
		if err := json.Unmarshal([]byte(line), &a); err != nil || a.Seq < 1 || a.Hash == "" {
			return nil, usage{fmt.Errorf(`--anchors: line %d of %s is no anchor such as {"seq":7,"hash":"..."}`, n+1, path)}
		}
		all = append(all, a)
	}
	return all, nil
}

func (c *cli) tellAudit(r *audit.Report) {
	if c.output == "json" {
		c.json(r)
		return
	}
	for _, f := range r.Findings {
		where := ""
		if f.Checkpoint > 0 {
			where += fmt.Sprintf("checkpoint %d: ", f.Checkpoint)
		}
		if f.Run != "" {
			where += fmt.Sprintf("run %s: ", f.Run)
		}
		fmt.Fprintln(c.out, short("FAIL "+where+f.What, maxLine))
	}
	if len(r.Findings) == 0 {
		fmt.Fprintf(c.out, "PASS %d runs and %d checkpoints are as they were written\n", r.Runs, r.Checkpoints)
	}
	for _, against := range r.Against {
		fmt.Fprintln(c.out, "held against:", against)
	}
	for _, open := range r.NotProven {
		fmt.Fprintln(c.out, "NOT_PROVEN", open)
	}
	for _, key := range r.Keys {
		fmt.Fprintln(c.out, "signed by the key:", key)
	}
	if r.Anchor.Seq > 0 {
		anchor, _ := json.Marshal(r.Anchor) // plain data always encodes
		fmt.Fprintf(c.out, "anchor: %s\n", anchor)
	}
}
