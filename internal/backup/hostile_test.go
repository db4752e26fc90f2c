package backup_test

import (
	_ "embed"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

var (
	// hostileSQL makes a database of whatever PostgreSQL allows and few expect.
	//
	//go:embed testdata/hostile.sql
	hostileSQL string
	// extensionsSQL adds to it what needs the contributed extensions, which not every server has.
	//
	//go:embed testdata/extensions.sql
	extensionsSQL string
)

func TestHostileDatabaseIsProven(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, hostileSQL)
	pgservertest.Exec(t, url, "ALTER EVENT TRIGGER watch DISABLE")
	pgservertest.Exec(t, url, extensionsSQL)
	pgservertest.Exec(t, url, "ALTER EVENT TRIGGER watch ENABLE")
	d := takeAndProve(t, server, name)
	require.Contains(t, d.manifest.Elsewhere, "foreign table public.unreachable: its rows are on another server")
	require.Contains(t, d.manifest.Elsewhere, "foreign table public.mixed_abroad: its rows are on another server")
	require.Empty(t, d.manifest.LeftOut)
	require.EqualValues(t, 3, d.manifest.LargeObjects.Count)
}

// An extension's own tables come back with the extension; of those that it names as configuration,
// the rows that people made are in the backup.
func TestConfigurationOfExtensionsIsRead(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, `CREATE EXTENSION citext;
		CREATE TABLE settings (k int, own boolean); CREATE TABLE all_of_it (k int); CREATE TABLE internals (k int); CREATE SEQUENCE numbers;
		ALTER EXTENSION citext ADD TABLE settings; ALTER EXTENSION citext ADD TABLE all_of_it; ALTER EXTENSION citext ADD TABLE internals; ALTER EXTENSION citext ADD SEQUENCE numbers;
		UPDATE pg_extension SET extconfig = ARRAY['settings'::regclass, 'all_of_it'::regclass, 'numbers'::regclass]::oid[], extcondition = ARRAY['WHERE own AND k > 0', '', ''] WHERE extname = 'citext';
		INSERT INTO settings SELECT g, g % 2 = 0 FROM generate_series(-10, 9) g; INSERT INTO all_of_it VALUES (1), (2); INSERT INTO internals VALUES (1)`)
	d := newDrill(t, server, name)
	require.NoError(t, d.take(t))
	rows := make(map[format.Name]int64)
	for _, x := range d.manifest.Tables {
		require.Equal(t, "extension", x.Kind)
		rows[format.Name{Schema: x.Schema, Name: x.Name}] = x.Rows
	}
	require.Equal(t, map[format.Name]int64{{Schema: "public", Name: "settings"}: 4, {Schema: "public", Name: "all_of_it"}: 2}, rows)
	require.Equal(t, "numbers", d.manifest.Sequences[0].Name)
}
