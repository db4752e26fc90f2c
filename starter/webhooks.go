package starter

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
	"github.com/upkeep-run/upkeep/internal/webhook"
)

const (
	// webhookPath is where GitHub's webhooks are taken.
	webhookPath = "/webhooks/github"
	// wakeWithin bounds the work for one delivery: GitHub gives an answer ten seconds.
	wakeWithin = 9 * time.Second
	// signalsAtOnce is how many runs are woken at once.
	signalsAtOnce = 16
)

// waking are the events after which a pull request may stand otherwise than before.
var waking = []string{"push", "pull_request", "pull_request_review", "check_run", "check_suite", "status"}

// Wake wakes the runs that follow the pull requests that a delivery is about, and says how many. When it has
// ended without an error, Temporal has kept that they are woken. It starts nothing: what nobody follows wakes
// nobody.
func (s *Starter) Wake(ctx context.Context, c *config.Config, d webhook.Delivery) (int, error) {
	if !slices.Contains(waking, d.Event) {
		return 0, nil
	}
	var woken atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(signalsAtOnce)
	signal := func(id string) {
		g.Go(func() error {
			err := s.Client.SignalWorkflow(ctx, id, "", followpullrequest.WakeSignal, nil)
			switch {
			case isGone(err): // nobody follows it, or not any more
				return nil
			case err != nil:
				return unreachable(err)
			}
			woken.Add(1)
			return nil
		})
	}
	for _, t := range c.Targets {
		for _, r := range t.Repositories {
			if !strings.EqualFold(r.GitHub, d.Repository) {
				continue
			}
			ids, err := s.about(ctx, t.Name, r, d)
			if err != nil {
				_ = g.Wait() // that they cannot be named comes first
				return int(woken.Load()), err
			}
			for _, id := range ids {
				signal(id)
			}
		}
	}
	err := g.Wait()
	return int(woken.Load()), err
}

// about are the runs that a delivery is about, if they are there.
func (s *Starter) about(ctx context.Context, target string, r config.Repository, d webhook.Delivery) (ids []string, err error) {
	switch {
	case d.Event == "push" && slices.Contains(d.Branches, cmp.Or(r.Base, d.Default)): // all stand on it
		return s.followers(ctx, target, r.GitHub)
	case d.Event != "push" && len(d.Branches) == 0: // of a commit alone it is not known whose it is
		return s.followers(ctx, target, r.GitHub)
	}
	for _, branch := range d.Branches {
		if pullrequest.Ours(branch) {
			ids = append(ids, followpullrequest.ID(target, r.GitHub, branch))
		}
	}
	return ids, nil
}

// followers are the runs that follow pull requests of a repository.
func (s *Starter) followers(ctx context.Context, target, repository string) (ids []string, err error) {
	query := fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Running' AND WorkflowId STARTS_WITH '%s%s-'", followpullrequest.WorkflowType, followpullrequest.IDPrefix, target)
	var page []byte
	for len(ids) < maxListed {
		r, err := s.Client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: query, PageSize: 200, NextPageToken: page})
		if err != nil {
			return nil, unreachable(err)
		}
		for _, info := range r.GetExecutions() {
			doc := fromInfo(info)
			var shown followpullrequest.Result // what a run has not shown yet is no reason to let it sleep
			if json.Unmarshal(doc.Result, &shown) == nil && shown.Repository != "" && !strings.EqualFold(shown.Repository, repository) {
				continue
			}
			if doc.Target == "" || doc.Target == target { // the name of another target may begin alike
				ids = append(ids, info.GetExecution().GetWorkflowId())
			}
		}
		if page = r.GetNextPageToken(); len(page) == 0 {
			break
		}
	}
	return ids, nil
}

func (c *cli) webhooks() *cobra.Command {
	return &cobra.Command{
		Use: "webhooks", Short: "Take GitHub's webhooks, and wake the runs of the pull requests that they are about",
		Long: `Takes GitHub's webhooks until it is told to stop (SIGTERM, SIGINT), and wakes the runs that follow
the pull requests that they are about, so that a pull request is looked at at once and not within
seconds or minutes. It starts nothing, and does without GitHub's tokens: it needs Temporal and the
secret by which GitHub signs.

upkeep.yaml says where, and which secret; it is read anew for each delivery:

  webhooks:
    listen: 127.0.0.1:8092              # if left out
    secretFrom: {env: GITHUB_WEBHOOK_SECRET}

At GitHub, give the repository or the organisation a webhook: its URL ends in ` + webhookPath + `, its
content type is application/json, its events are pushes, pull requests, pull request reviews, check
runs, check suites and statuses. TLS is the business of a proxy before it. /livez and /readyz answer on the
same address.

What is not signed, too large or was delivered before is refused. A delivery is answered with 202 when
Temporal has kept that the runs are woken, also when there is none to wake, and with 503 when it could
not be: then the runs look by themselves, as without webhooks.`,
		Example: "  upkeep webhooks --config upkeep.yaml",
		Args:    args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			known, err := config.Load(c.configPath)
			if err != nil {
				return err
			}
			if known.Webhooks == nil {
				return failure.New(failure.BadConfig, "%s does not say how webhooks are taken", known.Path).
					Do("write into it: webhooks: {secretFrom: {env: GITHUB_WEBHOOK_SECRET}}")
			}
			if _, err := known.Webhooks.Secret.Read(); err != nil {
				return err
			}
			return c.connected(func(s *Starter) error { return c.takeWebhooks(cmd.Context(), s, known.Webhooks.Listen) })
		},
	}
}

// takeWebhooks takes webhooks until the context ends.
func (c *cli) takeWebhooks(ctx context.Context, s *Starter, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return failure.New(failure.BadConfig, "webhooks cannot be taken at %s", address).Because(err).Do("name an address of this machine's that is free in webhooks.listen")
	}
	log := slog.New(slog.NewTextHandler(c.err, nil))
	take := webhook.New(webhook.Options{
		Timeout: wakeWithin,
		Secret: func(context.Context) (string, error) {
			known, err := c.webhooksConfig()
			if err != nil {
				return "", err
			}
			return known.Webhooks.Secret.Read()
		},
		Handle: func(ctx context.Context, d webhook.Delivery) error {
			known, err := c.webhooksConfig()
			if err != nil {
				return err
			}
			n, err := s.Wake(ctx, known, d)
			if err != nil {
				log.Error("nobody is woken for sure", "delivery", d.ID, "event", d.Event, "repository", short(d.Repository, 140), "why", err)
			} else {
				log.Info("taken", "delivery", d.ID, "event", d.Event, "repository", short(d.Repository, 140), "woken", n)
			}
			return err
		},
	})
	where := "http://" + l.Addr().String() + webhookPath
	if c.output == "json" {
		c.json(map[string]string{"url": where})
	} else {
		fmt.Fprintf(c.out, "taking webhooks at %s\n", where)
	}
	return webhook.Serve(ctx, l, webhookMux(s, take), wakeWithin)
}

func (c *cli) webhooksConfig() (*config.Config, error) {
	known, err := config.Load(c.configPath)
	if err == nil && known.Webhooks == nil {
		err = failure.New(failure.BadConfig, "%s does not say any more how webhooks are taken", known.Path)
	}
	return known, err
}

// webhookMux puts what a supervisor asks beside the webhooks.
func webhookMux(s *Starter, take http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(webhookPath, take)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "alive\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if _, err := s.Client.CheckHealth(ctx, &client.CheckHealthRequest{}); err != nil {
			http.Error(w, "the Temporal server does not answer", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
	return mux
}
