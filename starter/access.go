package starter

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

func (c *cli) access() *cobra.Command {
	cmd := &cobra.Command{
		Use: "access", Short: "Show reviews of access, what has changed since the baseline, and check the baselines",
		Long: `Looks at what ReviewAccess has left: whole reviews, and the baselines that people have accepted. All of it works
on the store, without Temporal and without the cluster; with a store in a folder, use it where that folder is.`,
		Args: args(0, "one of: show, diff, verify"),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var target string
	cmd.PersistentFlags().StringVar(&target, "target", "", "the target in upkeep.yaml; may be left out when there is only one")
	cmd.AddCommand(c.showAccess(&target), c.diffAccess(&target), c.verifyAccess(&target))
	return cmd
}

// reviews are the reviews and baselines of one target.
type reviews struct {
	store   objstore.Store
	target  string
	trusted []string
}

func (c *cli) onReviews(ctx context.Context, target string, keys []string, work func(context.Context, reviews) error) error {
	return c.onTarget(ctx, target, func(ctx context.Context, t *config.Target, store objstore.Store) error {
		return work(ctx, reviews{store, t.Name, append(slices.Clone(t.Kubernetes.BaselineKeys), keys...)})
	})
}

// of reads the newest review that a run has written.
func (r reviews) of(ctx context.Context, runID string) (*access.Review, string, error) {
	var newest objstore.Info
	prefix := strings.TrimSuffix(format.RunKey(runID, format.ReviewFile("")), ".json")
	if err := r.store.List(ctx, prefix, func(i objstore.Info) error {
		if newest.Key == "" || i.ModTime.After(newest.ModTime) {
			newest = i
		}
		return nil
	}); err != nil {
		return nil, "", err
	}
	if newest.Key == "" {
		return nil, "", failure.New(failure.UnknownRun, "no run %.200q has left a review of access", runID).Do("see upkeep runs --procedure ReviewAccess")
	}
	data, err := r.store.Read(ctx, newest.Key, access.MaxReview)
	if err != nil {
		return nil, "", err
	}
	hash := strings.TrimSuffix(strings.TrimPrefix(path.Base(newest.Key), "access-"), ".json")
	review, err := access.Decode(data, hash)
	if err != nil {
		return nil, "", failure.New(failure.BadBaseline, "the review %s: %v", newest.Key, err).Do("see who has changed the store; start a new run of ReviewAccess")
	}
	return review, hash, nil
}

// baseline is the newest, whoever has signed it when no key is trusted here.
func (r reviews) baseline(ctx context.Context) (*access.Baseline, *access.Review, error) {
	trusted := r.trusted
	if len(trusted) == 0 {
		all, err := access.Chain(ctx, r.store, r.target)
		if err != nil {
			return nil, nil, err
		}
		if len(all) > 0 {
			trusted = []string{all[len(all)-1].Key}
		}
	}
	b, review, err := access.Newest(ctx, r.store, r.target, trusted)
	if err == nil && b == nil {
		err = failure.New(failure.UnknownRun, "no review of access to target %s was accepted as a baseline", r.target).Do("start one: upkeep run ReviewAccess --target %s --wait", r.target)
	}
	return b, review, err
}

func (c *cli) showAccess(target *string) *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use: "show [RUN]", Short: "Show who may do what: the review of a run, or the baseline", Args: cobra.MaximumNArgs(1),
		Example: "  upkeep access show review-access-shop-20261123-191500-ab2c\n  upkeep access show -o json",
		RunE: func(cmd *cobra.Command, given []string) error {
			return c.onReviews(cmd.Context(), *target, nil, func(ctx context.Context, r reviews) (err error) {
				var review *access.Review
				var hash string
				if len(given) == 1 {
					review, hash, err = r.of(ctx, given[0])
				} else {
					var b *access.Baseline
					if b, review, err = r.baseline(ctx); err == nil {
						hash = b.Review
					}
				}
				if err != nil {
					return err
				}
				if c.output == "json" {
					c.json(review)
					return nil
				}
				review.Write(c.out, all)
				fmt.Fprintf(c.out, "\nThe review's SHA-256, which the plan of its run names: %s\n", hash)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "show what comes with Kubernetes too, the grants of its own controllers")
	return cmd
}

func (c *cli) diffAccess(target *string) *cobra.Command {
	return &cobra.Command{
		Use: "diff RUN", Short: "Show all that has changed from the baseline to the review of a run", Args: args(1, "the id of a run"),
		Long: `Shows all that has changed from the baseline to the review of a run.

Exit codes: 0 nobody may do more, 1 somebody may do more, or the baseline cannot be used, 2 bad usage,
3 something was not read for both.`,
		RunE: func(cmd *cobra.Command, given []string) error {
			return c.onReviews(cmd.Context(), *target, nil, func(ctx context.Context, r reviews) error {
				_, before, err := r.baseline(ctx)
				if err != nil {
					return err
				}
				now, _, err := r.of(ctx, given[0])
				if err != nil {
					return err
				}
				d := access.Compare(before, now)
				if c.output == "json" {
					c.json(d)
				} else {
					for _, change := range d.Changes {
						fmt.Fprintln(c.out, change)
					}
					for _, blind := range d.Blind {
						fmt.Fprintln(c.out, "NOT_PROVEN not compared, since it was not read for both:", blind)
					}
					if len(d.Changes) == 0 {
						fmt.Fprintln(c.out, "nothing has changed")
					}
				}
				switch {
				case d.More():
					return Exit{ExitFailed}
				case len(d.Blind) > 0:
					return Exit{ExitPartially}
				}
				return nil
			})
		},
	}
}

// BaselineListed is a baseline in a list.
type BaselineListed struct {
	Seq    int64     `json:"seq"`
	SHA256 string    `json:"sha256"` // of its file
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	// Signers are the fingerprints of the keys by which they signed.
	Signers []string `json:"signers,omitempty"`
	Reason  string   `json:"reason"`
	Run     string   `json:"run"`
	Key     string   `json:"key"`
}

func (c *cli) verifyAccess(target *string) *cobra.Command {
	var keys []string
	var has string
	cmd := &cobra.Command{
		Use: "verify", Short: "Check that the baselines are as they were signed, and list them", Args: args(0, "no argument"),
		Long: `Checks every baseline of a target: that it is as it was signed, that none is missing before the newest, that
the newest is signed by a key that is trusted, and that the review which it accepts is as it was. Nothing in a store
can show that the newest were removed with all trace of them: give the SHA-256 of one that was printed before with
--has, or see "upkeep audit verify", which holds the run that accepted it against Temporal.

Exit codes: 0 all is as it was signed, 1 something is not, 2 bad usage, 3 nothing is wrong, and no key was given
whose signature is trusted, or there is no baseline.`,
		Example: "  upkeep access verify --target shop --key 3b6a27bc... --has 9f86d081...",
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := readKeys(keys)
			if err != nil {
				return err
			}
			return c.onReviews(cmd.Context(), *target, keys, func(ctx context.Context, r reviews) error {
				all, err := access.Chain(ctx, r.store, r.target)
				if err != nil {
					return err
				}
				listed := []BaselineListed{}
				for _, b := range all {
					listed = append(listed, BaselineListed{Seq: b.Seq, SHA256: b.Hash(), At: b.At, By: b.By, Signers: b.Signers, Reason: b.Reason, Run: b.Run, Key: b.Key})
				}
				if has != "" && !slices.ContainsFunc(listed, func(l BaselineListed) bool { return l.SHA256 == strings.ToLower(has) }) {
					return failure.New(failure.BadBaseline, "the baseline %.64s is not among those of target %s: it was removed or altered", access.Show(has), r.target).Do("see who has changed the store, and bring the file back from a copy")
				}
				if len(all) > 0 {
					if _, _, err := r.baseline(ctx); err != nil {
						return err
					}
				}
				if c.output == "json" {
					c.json(listed)
				} else {
					c.tellBaselines(listed, len(r.trusted) > 0)
				}
				if len(all) == 0 || len(r.trusted) == 0 {
					return Exit{ExitPartially}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "a public key whose baselines are trusted, besides kubernetes.baselineKeys; may be given again")
	cmd.Flags().StringVar(&has, "has", "", "the SHA-256 of a baseline's file, as this prints it, which must still be there")
	return cmd
}

func (c *cli) tellBaselines(all []BaselineListed, trusted bool) {
	switch {
	case len(all) == 0:
		fmt.Fprintln(c.out, "NOT_PROVEN there is no baseline here: none was accepted, or somebody has removed them all")
	case trusted:
		fmt.Fprintf(c.out, "PASS the %d baselines are as they were signed, the newest by a key that is trusted\n", len(all))
	default:
		fmt.Fprintf(c.out, "NOT_PROVEN the %d baselines are as they were signed; whose the keys are is open: give those that you trust\n", len(all))
	}
	for _, b := range all {
		fmt.Fprintf(c.out, "%d  %s  accepted by %s (%s), in run %s\n   sha256 %s\n   signed by the key %s\n", b.Seq, b.At.UTC().Format(time.RFC3339), access.Who(b.By, b.Signers), access.Show(b.Reason), access.Show(b.Run), b.SHA256, b.Key)
	}
}
