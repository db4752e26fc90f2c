package backup

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// A row is blamed only for what a long row does: what passes by itself must be tried again.
func TestNotEveryShortageIsARowTooLong(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (1, 'a value')")
	conn, err := postgres.Config{URL: url}.Connect(t.Context())
	require.NoError(t, err)
	k := &keeper{conn: conn}
	defer k.close(t.Context())
	j := &job{what: `"public"."a"`, table: &format.Table{Schema: "public", Name: "a", Columns: []string{"id", "v"}}, span: format.Range{End: -1}}
	for _, said := range []*pgconn.PgError{
		{Code: "54000", Message: "out of memory", Detail: "Cannot enlarge string buffer containing 1073741808 bytes by 20 more bytes."},
		{Code: "XX000", Message: "invalid memory alloc request size 1100000003"},
	} {
		err := k.rowTooLong(t.Context(), j, said)
		require.True(t, failure.Is(err, failure.RowTooLong), "%v", err)
		require.ErrorContains(t, err, "id = 1")
	}
	for _, said := range []*pgconn.PgError{
		{Code: "53200", Message: "out of shared memory"}, {Code: "53200", Message: "out of memory"}, {Code: "XX000", Message: "cache lookup failed for type 16390"},
	} {
		f, ok := failure.As(k.rowTooLong(t.Context(), j, said))
		require.True(t, ok)
		require.Equal(t, failure.Transient, f.Class(), "%v", f)
		require.ErrorContains(t, f, said.Message)
	}
}
