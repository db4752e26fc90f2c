//go:build fault

package backup_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

// TestEveryMutantIsFound breaks the backup in each way that a mutant knows: it is refused at once, or
// its copy does not pass.
func TestEveryMutantIsFound(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, steadySQL+`CREATE TABLE zzz AS SELECT 1 AS a, NULL::text AS b; INSERT INTO zzz VALUES (2, NULL);
		CREATE SEQUENCE counter; SELECT lo_from_bytea(0, 'x'); GRANT SELECT ON small TO PUBLIC`)
	n := 0
	for _, mutant := range append(fault.Mutants(), "none") {
		if mutant != "none" && !strings.HasPrefix(mutant, "backup-") {
			continue
		}
		n++
		t.Run(mutant, func(t *testing.T) {
			where, env := newDrill(t, server, name).children(t), "UPKEEP_FAULT=mutant="+mutant
			var err error
			for _, where.Step = range []string{"backup", "restore", "compare"} {
				if _, err = where.call(t, env); err != nil {
					break
				}
			}
			switch {
			case mutant == "none":
				require.NoError(t, err, "the others are found for another reason")
			case where.Step == "backup":
				require.ErrorContains(t, err, "does not agree with the catalog")
			default:
				require.Equal(t, "compare", where.Step, "%v", err)
				require.ErrorContains(t, err, "FAIL")
			}
		})
	}
	require.Greater(t, n, 7)
}
