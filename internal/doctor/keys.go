package doctor

import (
	"context"
	"fmt"
	"strings"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

const checkKeys = "repository keys"

// examineKeys looks whether a target's encrypted backups can be read here, and whether somebody who can
// only write to the store could change that.
func examineKeys(ctx context.Context, store objstore.Store, t config.Target) []Finding {
	keys := t.Encryption.Ring(store, t.Name)
	if keys == nil {
		return nil
	}
	l := &List{Subject: fmt.Sprintf("target %s: backups' encryption", t.Name)}
	if t.Encryption.Identity == (config.Secret{}) {
		l.add(checkKeys, "", &Doubt{
			Found:  "no identity is configured here, so this machine can prune and compare stored files, and not take, restore or prove a backup",
			Remedy: "if it is to do that, give the target encryption.identityFrom, with the identity of one of the recipients",
		})
		return l.Findings
	}
	l.Look(ctx, checkKeys, func(ctx context.Context) (string, error) {
		ids, err := keys.IDs(ctx)
		if err != nil {
			return "", err
		}
		wanted := t.Encryption.Keys
		if len(wanted) == 0 {
			wanted = ids
		}
		for _, id := range wanted {
			if _, err := keys.Key(ctx, id); err != nil {
				return "", err
			}
		}
		switch {
		case len(ids) == 0:
			if err := keys.Try(ctx); err != nil {
				return "", err
			}
			return "", &Doubt{Found: "there is no repository key yet; the first backup makes one", Remedy: "make it now: upkeep keys new --target " + t.Name, Optional: true}
		case len(t.Encryption.Keys) == 0:
			return "", &Doubt{
				Found: fmt.Sprintf("the configured identity opens %s, and no key is named in encryption.keys: who can write to the store could put a key of his own there",
					strings.Join(ids, ", ")),
				Remedy:   "name in encryption.keys the key that the summary of a backup's run names, or that upkeep keys new has printed, and no other",
				Optional: len(ids) == 1,
			}
		}
		return "the configured identity opens " + strings.Join(wanted, ", "), nil
	})
	return l.Findings
}
