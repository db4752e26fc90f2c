package starter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/netprobe"
	"github.com/upkeep-run/upkeep/internal/prober"
)

// ownNamespace is where a pod with a token finds the namespace that it is in.
const ownNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// prober is what the pod of a standing prober runs.
func (c *cli) prober() *cobra.Command {
	var namespace string
	var every time.Duration
	cmd := &cobra.Command{
		Use:    "prober",
		Short:  "Try the ports of a namespace's pods all the time, as a standing prober does",
		Hidden: true,
		Long: fmt.Sprintf(`Watch the pods of a namespace, connect again and again to the TCP ports that they declare, and answer on
127.0.0.1:%d when each was last reached, for ContainIncident to ask by a forwarded port. Nothing is sent
to the ports. At most %d are tried; how many are left out is said. It lists and watches pods, and may need
to do nothing else.`, prober.Listen, prober.MaxPorts),
		Args: args(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			if every < time.Second {
				return usage{fmt.Errorf("--every %s is less than a second", every)}
			}
			if namespace == "" {
				text, err := os.ReadFile(ownNamespace)
				if err != nil {
					return usage{fmt.Errorf("--namespace is missing, and this is no pod with a token: %w", err)}
				}
				namespace = strings.TrimSpace(string(text))
			}
			return c.probeOn(ctx, namespace, every)
		},
	}
	cmd.Flags().StringVar(&namespace, "namespace", "", "whose pods are tried (default: the pod's own)")
	cmd.Flags().DurationVar(&every, "every", prober.Every, "how often each port is tried")
	return cmd
}

func (c *cli) probeOn(ctx context.Context, namespace string, every time.Duration) error {
	cluster, err := kube.Connect(ctx, kube.Options{Namespace: namespace})
	if err != nil {
		return err
	}
	config := rest.CopyConfig(cluster.Config)
	config.Timeout = 0 // a watch has no end
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	pods, err := prober.Watch(ctx, client, namespace)
	if err != nil {
		return err
	}
	self, err := os.Hostname() // a pod's is its name
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(prober.Listen)))
	if err != nil {
		return err
	}
	p := prober.New(prober.Options{Pods: pods, Self: self, Every: every, Connect: netprobe.Connect})
	server := http.Server{Handler: p, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10}
	go func() {
		p.Run(ctx)
		_ = server.Close()
	}()
	fmt.Fprintf(c.err, "upkeep: trying the ports of namespace %s every %s\n", namespace, every)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
