package backup_test

import (
	_ "embed"
	"testing"

	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

// hostileSQL makes a database of whatever PostgreSQL allows and few expect.
//
//go:embed testdata/hostile.sql
var hostileSQL string

func TestHostileDatabaseIsProven(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, hostileSQL)
	takeAndProve(t, server, name)
}
