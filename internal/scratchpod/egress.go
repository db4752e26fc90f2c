package scratchpod

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/upkeep-run/upkeep/internal/postgres"
)

// Egress looks whether a scratch server could connect to something, by letting it try: to the API server,
// which is known to answer. It returns what people should know of it; empty where it is seen that it cannot.
// PostgreSQL itself connects when a subscription is made, so no program in the pod is needed.
func Egress(ctx context.Context, server postgres.Config) (remark string, err error) {
	conn, err := server.Connect(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var host, port string
	err = conn.QueryRow(ctx, "SELECT coalesce(current_setting($1, true), ''), coalesce(current_setting($2, true), '')", settingHost, settingPort).Scan(&host, &port)
	if err != nil {
		return "", postgres.Classify(err, "ask the scratch server for the API server's address")
	}
	if _, err := netip.ParseAddr(host); err != nil {
		host = ""
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || host == "" {
		return "it is not proven that the scratch server can connect to nothing: it does not know the API server's address to try", nil
	}
	try := fmt.Sprintf("CREATE SUBSCRIPTION upkeep_egress CONNECTION %s PUBLICATION none", postgres.Literal(fmt.Sprintf("host=%s port=%s sslmode=disable dbname=none user=none", host, port)))
	if _, err = conn.Exec(ctx, "SET statement_timeout = '3s'"); err != nil {
		return "", postgres.Classify(err, "see whether the scratch server can connect to something")
	}
	_, err = conn.Exec(ctx, try, pgx.QueryExecModeSimpleProtocol)
	var said *pgconn.PgError
	switch {
	case err == nil:
		return reached, nil
	case postgres.State(err) == "57014": // nothing came back in time: what was sent is dropped
		return "", nil
	case errors.As(err, &said) && (strings.Contains(said.Message, "Connection refused") || strings.Contains(said.Message, "unreachable") || strings.Contains(said.Message, "timed out") || strings.Contains(said.Message, "not permitted")):
		return "", nil // it is rejected: the API server itself would answer
	case said != nil:
		return reached, nil
	}
	return "", postgres.Classify(err, "see whether the scratch server can connect to something")
}

// Settings of the server that hold the API server's address, which Kubernetes tells every container.
const (
	settingHost = "upkeep.api_host"
	settingPort = "upkeep.api_port"
)

const reached = "the scratch server can connect to the API server's address although a NetworkPolicy forbids it everything: this cluster does not enforce NetworkPolicies, so code in the backup can reach its network"
