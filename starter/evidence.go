package starter

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/upkeep-run/upkeep/internal/evidence"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// evidenceEndsWithin bounds a check of evidence: a case may have gigabytes.
const evidenceEndsWithin = time.Hour

func (c *cli) evidence() *cobra.Command {
	cmd := &cobra.Command{
		Use: "evidence", Short: "Check the evidence of an incident", Args: args(0, "verify"),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.verifyEvidence())
	return cmd
}

func (c *cli) verifyEvidence() *cobra.Command {
	var keys []string
	var head string
	cmd := &cobra.Command{
		Use: "verify FOLDER", Short: "Check that nothing of an incident's evidence was altered, removed, reordered or cut off",
		Long: `Checks a folder of evidence, or a copy of it: every entry of the log of custody and its signature, the file
of every item, and the signed statement at the end.
It needs neither Temporal, nor the store, nor a configuration.

Who has a key of his own can write all of it anew. So say which key is trusted: the worker's public key, which
upkeep audit verify prints, or the head of the log.

Exit codes: 0 all is as it was written, 1 something is not, 2 bad usage, 3 nothing is wrong, and for
something there was nothing to hold it against.`,
		Example: "  upkeep evidence verify /mnt/copy/evidence --key 3b6a27bc...",
		Args:    args(1, "the folder of the evidence"),
		RunE: func(cmd *cobra.Command, given []string) error {
			trusted, err := readKeys(keys)
			if err != nil {
				return err
			}
			if head != "" && !hex64.MatchString(head) {
				return usage{fmt.Errorf("--head is no hash of 64 hex digits")}
			}
			root, err := os.OpenRoot(given[0])
			if err != nil {
				return failure.New(failure.BadInput, "the folder of the evidence cannot be opened").Because(err).Do("name the folder that holds custody, items and statement.json")
			}
			defer func() { _ = root.Close() }() // only read
			ctx, cancel := context.WithTimeout(cmd.Context(), evidenceEndsWithin)
			defer cancel()
			r, err := evidence.Verify(ctx, root.FS(), evidence.Outside{Head: head, Keys: trusted})
			if err != nil {
				return err
			}
			c.tellEvidence(r)
			return checked(len(r.Findings), len(r.NotProven))
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "a public key that is trusted; may be given again")
	cmd.Flags().StringVar(&head, "head", "", "the hash of the newest entry: evidenceHead in the document of the run, or as an earlier check printed it")
	return cmd
}

func (c *cli) tellEvidence(r *evidence.Report) {
	if c.output == "json" {
		c.json(r)
		return
	}
	for _, f := range r.Findings {
		fmt.Fprintln(c.out, short("FAIL "+f, maxLine))
	}
	whole := fmt.Sprintf("%d entries of case %q are as they were written: %d items, %d gaps", r.Head.Entries, short(r.Case, maxLine), r.Head.Items, r.Head.Gaps)
	switch {
	case len(r.Findings) > 0:
	case len(r.NotProven) > 0:
		fmt.Fprintln(c.out, "NOT_PROVEN", whole+"; what is open is below")
	default:
		fmt.Fprintln(c.out, "PASS", whole)
	}
	for _, list := range []struct {
		name  string
		lines []string
	}{{"NOT_PROVEN", r.NotProven}, {"note:", r.Remarks}, {"gap:", r.Gaps}, {"signed by the key:", r.Keys}} {
		for _, line := range list.lines {
			fmt.Fprintln(c.out, short(list.name+" "+line, maxLine))
		}
	}
	fmt.Fprintln(c.out, "head:", r.Head.Hash)
}
