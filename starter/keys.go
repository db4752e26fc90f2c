package starter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/keyring"
)

// KeyListed is a repository key in a list.
type KeyListed struct {
	Fingerprint string `json:"fingerprint"`
	Opens       bool   `json:"opens"`         // the configured identity opens it, and the configuration trusts it
	Why         string `json:"why,omitempty"` // why not
}

func (c *cli) keys() *cobra.Command {
	cmd := &cobra.Command{
		Use: "keys", Short: "List, make and rewrap the keys by which a target's backups are encrypted",
		Long: `Looks after a target's repository keys, which lie in the store, wrapped to the recipients of the
configuration (encryption.recipients). All of it works on the store, without Temporal, and wants the identity
of a recipient on this machine (encryption.identityFrom).

To give somebody the right to read, or take it away: change the recipients, then rewrap. No backup is
written again. Who had the right may have kept the key: after a theft, make a new key, name it first in
encryption.keys, and let the old backups go by their retention.`,
		Args: args(0, "one of: list, new, rewrap"),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var target string
	cmd.PersistentFlags().StringVar(&target, "target", "", "the target in upkeep.yaml; may be left out when there is only one")
	cmd.AddCommand(c.listKeys(&target), c.newKey(&target), c.rewrapKeys(&target))
	return cmd
}

// onRing works with the repository keys of a target that is encrypted.
func (c *cli) onRing(ctx context.Context, target string, work func(context.Context, *keyring.Ring) error) error {
	return c.inStore(ctx, target, func(ctx context.Context, b Backups) error {
		if b.Keys == nil {
			return failure.New(failure.BadConfig, "the backups of target %s are not encrypted", b.Target).
				Do("give it encryption: {recipients: [age1...], identityFrom: {file: /path/of/identity}} in upkeep.yaml")
		}
		return work(ctx, b.Keys)
	})
}

func (c *cli) listKeys(target *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the repository keys, and whether the identity here opens them", Args: args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.onRing(cmd.Context(), *target, func(ctx context.Context, keys *keyring.Ring) error {
				ids, err := keys.IDs(ctx)
				if err != nil {
					return err
				}
				all := []KeyListed{}
				for _, id := range ids {
					k := KeyListed{Fingerprint: id, Opens: true}
					if _, err := keys.Key(ctx, id); err != nil {
						k.Opens, k.Why = false, err.Error()
					}
					all = append(all, k)
				}
				if c.output == "json" {
					c.json(all)
					return nil
				}
				if len(all) == 0 {
					fmt.Fprintln(c.out, "no repository key; the first backup makes one, or: upkeep keys new")
				}
				for _, k := range all {
					said := "the identity here opens it"
					if !k.Opens {
						said = k.Why
					}
					fmt.Fprintf(c.out, "%s  %s\n", k.Fingerprint, said)
				}
				return nil
			})
		},
	}
}

func (c *cli) newKey(target *string) *cobra.Command {
	return &cobra.Command{
		Use: "new", Short: "Make a new repository key, and say how new backups come to use it", Args: args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.onRing(cmd.Context(), *target, func(ctx context.Context, keys *keyring.Ring) error {
				old, err := keys.IDs(ctx)
				if err != nil {
					return err
				}
				k, err := keys.Create(ctx)
				if err != nil {
					return err
				}
				trust := append([]string{k.ID}, keys.Trusted()...)
				others := slices.DeleteFunc(old, func(id string) bool { return slices.Contains(trust, id) })
				if c.output == "json" {
					c.json(map[string]any{"fingerprint": k.ID, "keys": trust, "others": others})
					return nil
				}
				fmt.Fprintf(c.out, "made repository key %s\nwrite it into upkeep.yaml, for every worker; the first one is for new backups, and the next backup stores everything anew:\n    encryption:\n      keys: [%s]\n",
					k.ID, strings.Join(trust, ", "))
				if len(others) > 0 {
					fmt.Fprintf(c.out, "there are others in the store, which the configuration does not name: %s\nwhoever can write to the store can have put one there: add, behind the new one, only what you know, as from the summary of a backup's run\n",
						strings.Join(others, ", "))
				}
				return nil
			})
		},
	}
}

func (c *cli) rewrapKeys(target *string) *cobra.Command {
	return &cobra.Command{
		Use: "rewrap", Short: "Wrap every repository key to the recipients that are configured now, and to nobody else", Args: args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.onRing(cmd.Context(), *target, func(ctx context.Context, keys *keyring.Ring) error {
				ids, err := keys.Rewrap(ctx)
				if err != nil {
					return err
				}
				if c.output == "json" {
					c.json(map[string]any{"rewrapped": ids})
					return nil
				}
				fmt.Fprintf(c.out, "wrapped %d repository keys to the configured recipients: %s\n", len(ids), strings.Join(ids, ", "))
				return nil
			})
		},
	}
}
