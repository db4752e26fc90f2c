// Package devserver runs Temporal's server and Web UI inside this process, on a SQLite file and on
// loopback only: one person's server, for trying Upkeep and for its tests. The server's packages
// promise no stability, so nothing else imports them.
package devserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/schema"
	"go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	"github.com/temporalio/ui-server/v2/server/server_options"
)

const (
	loopback = "127.0.0.1"
	// retention is how long ended runs stay to be looked at. Namespaces made at start get a day.
	retention = 90 * 24 * time.Hour
	// readyWithin bounds the start.
	readyWithin = 60 * time.Second
)

// Options say how to run the server.
type Options struct {
	// Dir holds the database and the server's log.
	Dir string
	// Port is the frontend's port; 0 takes a free one.
	Port int
	// UIPort is the Web UI's port; 0 runs without a Web UI.
	UIPort int
	// Namespace is made if it is not there; "default" when empty.
	Namespace string
	// SearchAttributes are registered in the namespace.
	SearchAttributes map[string]enumspb.IndexedValueType
}

// Server is a running server.
type Server struct {
	// Address is the frontend's host and port.
	Address string
	// UIURL is the Web UI's address, empty without one.
	UIURL string

	temporal temporal.Server
	ui       *server.Server
}

// Start runs the server and returns when it answers. A port that is taken is an error that names it.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	if err := os.MkdirAll(o.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("make the server's folder: %w", err)
	}
	if o.Port == 0 {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		o.Port = port
	}
	for _, p := range []struct {
		port int
		what string
	}{{o.Port, "Temporal (--port)"}, {o.UIPort, "the Web UI (--ui-port)"}} {
		if err := free(p.port); err != nil {
			return nil, fmt.Errorf("port %d for %s is taken: stop what uses it (is another upkeep-dev running?) or choose another", p.port, p.what)
		}
	}
	cfg, err := configure(o)
	if err != nil {
		return nil, err
	}
	if err := prepare(cfg, o); err != nil {
		return nil, err
	}
	s := &Server{Address: net.JoinHostPort(loopback, strconv.Itoa(o.Port))}
	if s.temporal, err = newTemporal(cfg, filepath.Join(o.Dir, "temporal.log")); err != nil {
		return nil, err
	}
	if err := s.temporal.Start(); err != nil {
		return nil, fmt.Errorf("start the Temporal server: %w", err)
	}
	if err := s.ready(ctx, o); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	if o.UIPort != 0 {
		s.startUI(o)
	}
	return s, nil
}

// ClientOptions say how to reach the server from this machine: without compression, which costs a
// twentieth of a step and saves nothing here, and without the client's own log lines.
func (s *Server) ClientOptions() client.Options {
	return client.Options{
		HostPort: s.Address, Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler)),
		ConnectionOptions: client.ConnectionOptions{GrpcCompression: &client.GrpcCompressionNone{}},
	}
}

// Stop ends the server; the Web UI first, since it asks the server.
func (s *Server) Stop() error {
	if s.ui != nil {
		s.ui.Stop()
	}
	return s.temporal.Stop()
}

func configure(o Options) (*config.Config, error) {
	service := func(port int) (config.Service, error) {
		membership, err := FreePort()
		return config.Service{RPC: config.RPC{GRPCPort: port, MembershipPort: membership, BindOnLocalHost: true}}, err
	}
	services := make(map[string]config.Service)
	for _, name := range []string{"frontend", "history", "matching", "worker"} {
		port := o.Port
		if name != "frontend" {
			var err error
			if port, err = FreePort(); err != nil {
				return nil, err
			}
		}
		s, err := service(port)
		if err != nil {
			return nil, err
		}
		services[name] = s
	}
	address := net.JoinHostPort(loopback, strconv.Itoa(o.Port))
	return &config.Config{
		Global: config.Global{Membership: config.Membership{MaxJoinDuration: 30 * time.Second, BroadcastAddress: loopback}},
		Persistence: config.Persistence{
			DefaultStore: sqliteplugin.PluginName, VisibilityStore: sqliteplugin.PluginName, NumHistoryShards: 1,
			DataStores: map[string]config.DataStore{sqliteplugin.PluginName: {SQL: &config.SQL{
				PluginName: sqliteplugin.PluginName, DatabaseName: filepath.Join(o.Dir, "temporal.sqlite"),
				// A killed process loses nothing with "normal"; a power cut may lose the last moments,
				// and that is twice as fast a step.
				ConnectAttributes: map[string]string{"mode": "rwc", "journal_mode": "wal", "synchronous": "normal"},
			}}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10, MasterClusterName: "active", CurrentClusterName: "active",
			ClusterInformation: map[string]cluster.ClusterInformation{"active": {Enabled: true, InitialFailoverVersion: 1, RPCAddress: address}},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services:            services,
		Archival:            config.Archival{History: config.HistoryArchival{State: "disabled"}, Visibility: config.VisibilityArchival{State: "disabled"}},
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History: config.HistoryArchivalNamespaceDefaults{State: "disabled"}, Visibility: config.VisibilityArchivalNamespaceDefaults{State: "disabled"},
		}},
		PublicClient: config.PublicClient{HostPort: address},
	}, nil
}

// prepare makes the database, once, and the namespace, if it is not there.
func prepare(cfg *config.Config, o Options) error {
	sql := cfg.Persistence.DataStores[sqliteplugin.PluginName].SQL
	if _, err := os.Stat(sql.DatabaseName); errors.Is(err, os.ErrNotExist) {
		// A file that a killed start left half made would be taken for a whole one.
		half := *sql
		half.DatabaseName += ".new"
		for _, leftover := range []string{"", "-wal", "-shm", "-journal"} {
			if err := os.RemoveAll(half.DatabaseName + leftover); err != nil {
				return fmt.Errorf("make the server's database: %w", err)
			}
		}
		half.ConnectAttributes = map[string]string{"mode": "rwc"}
		if err := sqlite.SetupSchema(&half); err != nil {
			return fmt.Errorf("make the server's database: %w", err)
		}
		if err := os.Rename(half.DatabaseName, sql.DatabaseName); err != nil {
			return fmt.Errorf("make the server's database: %w", err)
		}
	}
	ns, err := sqlite.NewNamespaceConfig("active", o.Namespace, false, o.SearchAttributes)
	if err != nil {
		return fmt.Errorf("describe the namespace: %w", err)
	}
	if err := sqlite.CreateNamespaces(sql, ns); err != nil {
		return fmt.Errorf("make the namespace %s: %w", o.Namespace, err)
	}
	return nil
}

// PostgresSchema is the SQL of the tables that a Temporal server keeps its state in when that is in
// PostgreSQL, so that tests can tell such a database from others.
func PostgresSchema() (persistence, visibility string, err error) {
	// Temporal's own tool makes this table before it applies the schema.
	const versions = "CREATE TABLE schema_version (version_partition int, db_name text, creation_time timestamp, curr_version text, min_compatible_version text);\n"
	read := func(name string) (string, error) {
		text, err := fs.ReadFile(schema.Assets(), "postgresql/v12/"+name+"/schema.sql")
		return versions + string(text), err
	}
	if persistence, err = read("temporal"); err != nil {
		return "", "", err
	}
	visibility, err = read("visibility")
	return persistence, visibility, err
}

func newTemporal(cfg *config.Config, logFile string) (temporal.Server, error) {
	logger := log.NewZapLogger(log.BuildZapLogger(log.Config{Level: "warn", OutputFile: logFile}))
	authorizer, err := authorization.GetAuthorizerFromConfig(&cfg.Global.Authorization)
	if err != nil {
		return nil, fmt.Errorf("configure the Temporal server: %w", err)
	}
	claims, err := authorization.GetClaimMapperFromConfig(&cfg.Global.Authorization, logger)
	if err != nil {
		return nil, fmt.Errorf("configure the Temporal server: %w", err)
	}
	hosts := make(map[primitives.ServiceName]static.Hosts) // fixed: one process, nobody to find
	for name, service := range cfg.Services {
		hosts[primitives.ServiceName(name)] = static.SingleLocalHost(net.JoinHostPort(loopback, strconv.Itoa(service.RPC.GRPCPort)))
	}
	s, err := temporal.NewServer(
		temporal.WithConfig(cfg),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(logger),
		temporal.WithAuthorizer(authorizer),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return claims }),
		temporal.WithDynamicConfigClient(limits()),
	)
	if err != nil {
		return nil, fmt.Errorf("configure the Temporal server: %w", err)
	}
	return s, nil
}

// limits raises the poll rates: with one shard, the default of 20 a second lets a workflow take 20
// steps a second.
func limits() dynamicconfig.StaticClient {
	const polls = 2000
	return dynamicconfig.StaticClient{
		dynamicconfig.TransferProcessorMaxPollRPS.Key():             polls,
		dynamicconfig.TimerProcessorMaxPollRPS.Key():                polls,
		dynamicconfig.VisibilityProcessorMaxPollRPS.Key():           polls,
		dynamicconfig.OutboundProcessorMaxPollRPS.Key():             polls,
		dynamicconfig.HistoryCacheHostLevelMaxSize.Key():            8096,
		dynamicconfig.ForceSearchAttributesCacheRefreshOnRead.Key(): true,
	}
}

// ready waits until the server answers, and sets what cannot be set before: how long ended runs stay,
// and search attributes in a database that an older version made.
func (s *Server) ready(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	options := s.ClientOptions()
	options.Namespace = o.Namespace
	c, err := client.NewLazyClient(options)
	if err != nil {
		return fmt.Errorf("reach the Temporal server: %w", err)
	}
	defer c.Close()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.setUp(ctx, c, o)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the Temporal server is not ready after %s: %w", readyWithin, err)
		}
	}
}

func (s *Server) setUp(ctx context.Context, c client.Client, o Options) error {
	if _, err := c.CheckHealth(ctx, &client.CheckHealthRequest{}); err != nil {
		return err
	}
	described, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: o.Namespace})
	if err != nil {
		return err
	}
	if described.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration() != retention {
		_, err := c.WorkflowService().UpdateNamespace(ctx, &workflowservice.UpdateNamespaceRequest{
			Namespace: o.Namespace, Config: &namespacepb.NamespaceConfig{WorkflowExecutionRetentionTtl: durationpb.New(retention)},
		})
		if err != nil {
			return err
		}
	}
	known, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: o.Namespace})
	if err != nil {
		return err
	}
	missing := make(map[string]enumspb.IndexedValueType)
	for name, kind := range o.SearchAttributes {
		if _, ok := known.GetCustomAttributes()[name]; !ok {
			missing[name] = kind
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: o.Namespace, SearchAttributes: missing})
	return err
}

func (s *Server) startUI(o Options) {
	s.UIURL = fmt.Sprintf("http://%s", net.JoinHostPort(loopback, strconv.Itoa(o.UIPort)))
	s.ui = server.NewServer(server_options.WithConfigProvider(&uiconfig.Config{
		Host: loopback, Port: o.UIPort, TemporalGRPCAddress: s.Address, EnableUI: true, DefaultNamespace: o.Namespace,
		CORS: uiconfig.CORS{CookieInsecure: true}, HideLogs: true, DisableNewsFetch: true,
	}))
	go func() {
		// It blocks until stopped. Without it everything but the Web UI works, so it ends nothing.
		if err := s.ui.Start(); err != nil {
			fmt.Fprintln(os.Stderr, "the Web UI has ended:", err)
		}
	}()
}

// given are the ports that this process was told are free.
var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: make(map[int]bool)}

// FreePort finds a TCP port on loopback that is free, and that nobody takes before the server does: it
// is below those that the kernel gives to connections, and no other caller here gets it. Temporal ends
// the process without a word when it does not get a port.
func FreePort() (int, error) {
	const lowest, count, tries = 15000, 15000, 1000
	given.Lock()
	defer given.Unlock()
	for range tries {
		port := lowest + rand.N(count)
		if !given.ports[port] && free(port) == nil {
			given.ports[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("there is no free port between %d and %d", lowest, lowest+count)
}

func free(port int) error {
	if port == 0 {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}
