package postgres_test

import (
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// thief is a server that asks everybody for a password, and keeps what it is told.
type thief struct {
	mu   sync.Mutex
	told []string
}

func (h *thief) serve(t *testing.T, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			server := pgproto3.NewBackend(conn, conn)
			if _, err := server.ReceiveStartupMessage(); err != nil {
				return
			}
			server.Send(&pgproto3.AuthenticationCleartextPassword{})
			if server.Flush() != nil || server.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
				return
			}
			if said, err := server.Receive(); err == nil {
				if password, ok := said.(*pgproto3.PasswordMessage); ok {
					h.mu.Lock()
					h.told = append(h.told, password.Password)
					h.mu.Unlock()
				}
			}
		}()
	}
}

func (h *thief) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	told := h.told
	h.told = nil
	return told
}

func TestAnUntrustedServerIsToldNoPassword(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	var h thief
	go h.serve(t, l)
	passfile := filepath.Join(dir, ".pgpass")
	require.NoError(t, os.WriteFile(passfile, []byte("*:*:*:*:canary-file\n"), 0o600))
	tool, err := postgres.FindTool(t.Context(), "pg_dump", pgservertest.Default)
	require.NoError(t, err)
	config := postgres.Config{URL: "postgres:///postgres?" + url.Values{"host": {dir}, "port": {"5432"}, "user": {"postgres"}}.Encode()}
	both := func() []string {
		_, err := config.Connect(t.Context())
		require.Error(t, err)
		_, _, err = postgres.DumpSchema(context.Background(), tool, config, "postgres", "", time.Second)
		require.Error(t, err)
		return h.take()
	}
	for _, c := range []struct{ name, variable, value string }{
		{"a password in the environment", "PGPASSWORD", "canary-environment"},
		{"a file of passwords", "PGPASSFILE", passfile},
		{"a file of passwords at home", "HOME", dir},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(c.variable, c.value)
			config.Untrusted = false
			require.NotEmpty(t, both(), "the thief works")
			config.Untrusted = true
			for _, told := range both() {
				require.Empty(t, told)
			}
		})
	}
}
