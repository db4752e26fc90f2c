package starter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

const (
	// maxAnchors bounds a file of anchors, in bytes.
	maxAnchors = 1 << 20
	// auditEndsWithin bounds a check of the whole trail: a bucket of many runs is read for long.
	auditEndsWithin = time.Hour
)

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
		Long: `Checks the trail, the document and the stored plans of every run, and the signed checkpoints over all
of them, in the store that the configuration names, and the signatures of people who signed what they
decided. Then it holds them against the histories of runs
that have ended and that Temporal still has: each must have its trail, and one that could not write any
is named. Nothing in a store can show that its newest part was cut off: the histories show it, or an
anchor that was kept elsewhere. So keep the anchor that this prints, and give it the next time. What it
was held against is said; "held against nothing" means that a whole newest part could be gone unseen.

Exit codes: 0 all is as it was written, 1 something is not, 2 bad usage, 3 nothing is wrong, and for
something there was nothing to hold it against.`,
		Example: "  upkeep audit verify\n  upkeep audit verify --anchors kept.json --key 3b6a27bc...",
		Args:    args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var outside audit.Outside
			var err error
			if outside.Anchors, err = readAnchors(anchors); err != nil {
				return err
			}
			if outside.Keys, err = readKeys(keys); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), auditEndsWithin)
			defer cancel()
			return c.connected(func(s *Starter) error {
				if !offline { // before the store: see audit.Verify
					if outside.Histories, err = s.ended(ctx); err != nil {
						return err
					}
				}
				r, err := c.verifyStore(ctx, outside)
				if err != nil {
					return err
				}
				c.tellAudit(r)
				return checked(len(r.Findings), len(r.NotProven))
			})
		},
	}
	cmd.Flags().StringVar(&anchors, "anchors", "", "a file with anchors that were printed before: the lines, the objects in them, or the documents of -o json")
	cmd.Flags().StringArrayVar(&keys, "key", nil, "a public key whose checkpoints are trusted; may be given again")
	cmd.Flags().BoolVar(&offline, "offline", false, "ask Temporal nothing")
	return cmd
}

// checked is how a command ends that has checked something.
func checked(wrong, notProven int) error {
	switch {
	case wrong > 0:
		return Exit{ExitFailed}
	case notProven > 0:
		return Exit{ExitPartially}
	}
	return nil
}

func (c *cli) verifyStore(ctx context.Context, outside audit.Outside) (*audit.Report, error) {
	configured, err := config.Load(c.configPath)
	if err != nil {
		return nil, err
	}
	store, err := objstore.Open(ctx, configured.Store)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }() // it was only read
	return audit.Verify(ctx, store, outside)
}

// ended lists the runs that have ended and whose histories are still there, the newest first.
func (s *Starter) ended(ctx context.Context) (*audit.Histories, error) {
	query, err := typesQuery("")
	if err != nil {
		return nil, err
	}
	h := &audit.Histories{}
	var page []byte
	for {
		r, err := s.Client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query: query + " AND ExecutionStatus != 'Running'", PageSize: 200, NextPageToken: page,
		})
		if err != nil {
			return nil, failure.New(failure.StillFailing, "Temporal, whose histories the trail is held against, cannot be reached or refused the call").Because(err).
				Do("start it, or set TEMPORAL_ADDRESS; --offline checks the store alone")
		}
		for _, info := range r.GetExecutions() {
			if len(h.Ended) == maxListed {
				h.More = true
				return h, nil
			}
			h.Ended = append(h.Ended, s.endedRun(ctx, info))
		}
		if page = r.GetNextPageToken(); len(page) == 0 {
			return h, nil
		}
	}
}

// endedRun is what a run's own history says of its end. Its last document is in its memo, which needs no
// further look; one that was ended from outside has shown none that is final.
func (s *Starter) endedRun(ctx context.Context, info *workflowpb.WorkflowExecutionInfo) audit.Ended {
	doc := fromInfo(info)
	final := doc.Outcome.Ended()
	if !final {
		s.close(ctx, info, doc)
	}
	e := audit.Ended{Run: info.GetExecution().GetWorkflowId(), Outcome: string(doc.Outcome), Why: short(doc.Summary, maxLine)}
	if status := info.GetStatus(); status == enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED || status == enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT {
		if final { // it was about to end by itself, and had written down all
			e.Why = "ended from outside in its last moment"
		} else {
			return e // what its memo says of a trail is how that stood before
		}
	}
	e.Report = doc.Report
	if doc.Audit != nil {
		e.Head = &audit.Head{Entries: doc.Audit.Entries, Head: doc.Audit.Head}
		if c := doc.Audit.Checkpoint; c != nil {
			e.Checkpoint = &audit.Anchor{Seq: c.Seq, Hash: c.Hash}
		}
	}
	return e
}

// anchored is an anchor as it is printed, alone or in the document of -o json.
type anchored struct {
	audit.Anchor
	Document *audit.Anchor `json:"anchor"`
}

// anchorPrefix is what the printed line begins with.
const anchorPrefix = "anchor:"

// readAnchors reads what was kept, in any form that it was printed in.
func readAnchors(path string) ([]audit.Anchor, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, usage{fmt.Errorf("--anchors: %w", err)}
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxAnchors+1))
	if err != nil {
		return nil, usage{fmt.Errorf("--anchors: %w", err)}
	}
	if len(data) > maxAnchors {
		return nil, usage{fmt.Errorf("--anchors: %s has more than %d bytes", path, maxAnchors)}
	}
	lines := strings.Split(string(data), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(strings.TrimSpace(line), anchorPrefix)
	}
	text := strings.Join(lines, "\n")
	var all []audit.Anchor
	for d := json.NewDecoder(strings.NewReader(text)); ; {
		rest := text[d.InputOffset():]
		var a anchored
		err := d.Decode(&a)
		if errors.Is(err, io.EOF) {
			break
		}
		if a.Document != nil {
			a.Anchor = *a.Document
		}
		if err != nil || a.Seq < 1 || !hex64.MatchString(a.Hash) {
			line := len(lines) - strings.Count(strings.TrimLeft(rest, " \r\n\t"), "\n")
			return nil, usage{fmt.Errorf(`--anchors: at line %d of %s there is no anchor such as {"seq":7,"hash":"<64 hex digits>"}, which "upkeep audit verify" prints`, line, path)}
		}
		all = append(all, a.Anchor)
	}
	if len(all) == 0 {
		return nil, usage{fmt.Errorf("--anchors: %s holds no anchor", path)}
	}
	return all, nil
}

var hex64 = regexp.MustCompile(`^[0-9a-f]{64}$`)

// readKeys checks what was given as public keys. They are not repeated: a private one looks the same.
func readKeys(given []string) ([]string, error) {
	var keys []string
	for i, k := range given {
		k = strings.ToLower(strings.TrimSpace(k))
		if !hex64.MatchString(k) {
			why := "it has other characters than hex digits"
			if len(k) != 64 {
				why = fmt.Sprintf("it has %d characters", len(k))
			}
			return nil, usage{fmt.Errorf(`--key: number %d is no public key of 64 hex digits, as "upkeep audit verify" prints them: %s`, i+1, why)}
		}
		keys = append(keys, k)
	}
	return keys, nil
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
	switch {
	case len(r.Findings) > 0:
	case r.Checkpoints == 0:
		fmt.Fprintln(c.out, "NOT_PROVEN there is no audit trail here: no run has ended in this store, or somebody has removed it all")
	case len(r.NotProven) > 0:
		fmt.Fprintf(c.out, "NOT_PROVEN the trails of %d runs and the %d checkpoints over them are as they were written; what is open is below\n", r.Runs, r.Checkpoints)
	default:
		fmt.Fprintf(c.out, "PASS the trails of %d runs and the %d checkpoints over them are as they were written\n", r.Runs, r.Checkpoints)
	}
	for _, against := range r.Against {
		fmt.Fprintln(c.out, "held against", against)
	}
	if len(r.Against) == 0 {
		fmt.Fprintln(c.out, "held against nothing from outside the store")
	}
	for _, open := range r.NotProven {
		fmt.Fprintln(c.out, short("NOT_PROVEN "+open, maxLine))
	}
	for _, key := range r.Keys {
		fmt.Fprintln(c.out, "signed by the key:", key)
	}
	for _, s := range r.Signers {
		fmt.Fprintln(c.out, short(fmt.Sprintf("%d decisions signed by the key: %s (%s)", s.Decisions, s.Key, s.Name), maxLine))
	}
	if r.Anchor.Seq > 0 {
		anchor, _ := json.Marshal(r.Anchor) // plain data always encodes
		fmt.Fprintf(c.out, "%s %s\n", anchorPrefix, anchor)
	}
}
