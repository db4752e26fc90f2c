package starter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"

	"github.com/upkeep-run/upkeep/api/procedures"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/strictjson"
	"github.com/upkeep-run/upkeep/internal/version"
)

// Exit codes of the command line.
const (
	ExitSucceeded = 0
	ExitFailed    = 1
	ExitUsage     = 2 // bad usage or input
	ExitPartially = 3
	ExitRefused   = 4
	ExitCancelled = 5
	ExitDetached  = 130 // Ctrl-C under --wait: the run goes on
)

// ExitCode is the exit code of a run's document.
func ExitCode(doc *run.Document) int {
	switch doc.Outcome {
	case run.Succeeded:
		return ExitSucceeded
	case run.PartiallySucceeded:
		return ExitPartially
	case run.Refused:
		if doc.Error != nil && doc.Error.Class == string(failure.InvalidInput) {
			return ExitUsage
		}
		return ExitRefused
	case run.Cancelled:
		return ExitCancelled
	}
	return ExitFailed
}

// Exit is an error that ends the command with a code of its own.
type Exit struct{ Code int }

func (e Exit) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// answersWithin is how long a run may take to answer.
const answersWithin = 15 * time.Second

// usage is a mistake on the command line.
type usage struct{ error }

// cli is one call of the command line.
type cli struct {
	configPath string
	output     string
	asksJSON   bool // known before the flags are, whose mistakes are told as JSON too
	out, err   io.Writer
	about      run.Document // what is known of the run that the call is about, for errors as JSON
}

// Main runs the command line and returns its exit code.
func Main(ctx context.Context, args []string, out, errOut io.Writer) int {
	c := &cli{out: out, err: errOut, asksJSON: asksForJSON(args)}
	err := refuseSecrets(args)
	if err == nil {
		root := c.root()
		root.SetArgs(args)
		err = root.ExecuteContext(ctx)
	}
	var exit Exit
	switch {
	case err == nil:
		return ExitSucceeded
	case errors.As(err, &exit):
		return exit.Code
	}
	c.complain(err)
	return exitCode(err)
}

func exitCode(err error) int {
	f, known := failure.As(err)
	switch {
	case errors.As(err, &usage{}), known && f.Class() == failure.InvalidInput, strings.HasPrefix(err.Error(), "unknown command"):
		return ExitUsage
	case known && (f.Class() == failure.NotFound || f.Class() == failure.Precondition || f.Class() == failure.Refused):
		return ExitRefused
	}
	return ExitFailed
}

// complain says what went wrong: as text, and as the one document on stdout where JSON was asked for.
func (c *cli) complain(err error) {
	fmt.Fprintln(c.err, "upkeep:", err)
	if !c.asksJSON {
		return
	}
	doc := whole(&c.about)
	doc.Outcome, doc.Summary = run.Failed, err.Error()
	if exitCode(err) == ExitUsage {
		doc.Outcome, doc.Error = run.Refused, &run.Error{Code: string(failure.BadInput), Class: string(failure.InvalidInput), What: err.Error()}
	}
	if f, ok := failure.As(err); ok {
		doc.Error = &run.Error{Code: string(f.Code), Class: string(f.Class()), What: f.What, Remedy: f.Remedy}
		switch f.Class() {
		case failure.InvalidInput, failure.NotFound, failure.Precondition, failure.Refused:
			doc.Outcome = run.Refused
		}
	}
	c.json(doc)
}

func (c *cli) json(v any) {
	e := json.NewEncoder(c.out)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // stdout may be closed; there is nobody left to tell
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "upkeep",
		Short: "Run the maintenance of a stack as durable workflows",
		Long: `Run the maintenance of a stack as durable workflows: they survive any crash, show a plan
before they act, prove what they claim, and never do a thing twice.

Temporal is found by TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS_* or a
profile (TEMPORAL_PROFILE, TEMPORAL_CONFIG_FILE).

Exit codes: 0 succeeded, 1 failed, 2 bad usage or input, 3 partially succeeded, 4 refused,
5 cancelled, 130 detached by Ctrl-C while the run goes on.`,
		Example:      "  upkeep run DrillRecovery --target shop --wait\n  upkeep runs\n  upkeep show drill-recovery-shop-20261123-191500-ab2c",
		SilenceUsage: true, SilenceErrors: true, Version: version.String(),
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if err := c.checkOutput(); err != nil || c.configPath == "" {
				return err // a configuration that was found, not named, counts where it is needed
			}
			_, err := config.Load(c.configPath)
			return err
		},
	}
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage{err} })
	root.PersistentFlags().StringVar(&c.configPath, "config", "", "the configuration file (default: $UPKEEP_CONFIG, ./upkeep.yaml, /etc/upkeep/upkeep.yaml)")
	root.PersistentFlags().StringVarP(&c.output, "output", "o", "text", "text or json; json puts one document on stdout and nothing else")
	root.AddCommand(c.run(), c.runs(), c.show(), c.decide(true), c.decide(false), c.approve(true), c.approve(false), c.cancel(), c.backups(), c.keys(), c.audit(), c.schedules(), c.restoreDirect(), c.updates(), c.probe(), c.prober(), c.processes(), c.rbac(), c.access(), c.webhooks(), c.evidence(), c.doctor(), c.procedures())
	return root
}

func (c *cli) checkOutput() error {
	if c.output != "text" && c.output != "json" {
		return usage{fmt.Errorf("--output %q is unknown: use text or json", c.output)}
	}
	return nil
}

// args counts arguments and calls a wrong number bad usage.
func args(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if len(given) != n {
			return usage{fmt.Errorf("%s needs %s (see: %s --help)", cmd.CommandPath(), what, cmd.CommandPath())}
		}
		return nil
	}
}

// asksForJSON reports whether the arguments ask for JSON, before they are parsed.
func asksForJSON(args []string) bool {
	for i, a := range args {
		switch a {
		case "-ojson", "-o=json", "--output=json":
			return true
		case "-o", "--output":
			return i+1 < len(args) && args[i+1] == "json"
		}
	}
	return false
}

// refuseSecrets refuses arguments with a password in them, without repeating it.
func refuseSecrets(args []string) error {
	if !slices.ContainsFunc(args, HoldsSecret) {
		return nil
	}
	return usage{errors.New("an argument holds a password, and everybody on the machine can see arguments; name where the password is with passwordFrom in upkeep.yaml, and change it")}
}

// connected works with Temporal; the connection is made by the first call.
func (c *cli) connected(work func(*Starter) error) error {
	o, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return usage{fmt.Errorf("Temporal's client configuration cannot be read: %w", err)}
	}
	o.Logger = log.NewStructuredLogger(quietLog)
	o.Identity = identity()
	t, err := client.NewLazyClient(o)
	if err != nil {
		return unreachable(err)
	}
	defer t.Close()
	return work(&Starter{Client: t, Namespace: o.Namespace, Store: func(context.Context) (*config.Config, error) { return config.Load(c.configPath) }})
}

// onlyTarget is the target that a run means which names none: the only one of the configuration. The
// worker's configuration is what counts, so without one here the worker decides.
func (c *cli) onlyTarget() (string, error) {
	if c.configPath == "" && config.Find() == "" {
		return "", nil
	}
	known, err := config.Load(c.configPath)
	if err != nil {
		return "", err
	}
	t, err := known.Target("")
	if err != nil {
		return "", err
	}
	return t.Name, nil
}

func (c *cli) run() *cobra.Command {
	var o Order
	var inputFile string
	var set []string
	wait := false
	cmd := &cobra.Command{
		Use:   "run PROCEDURE",
		Short: "Start a run of a procedure",
		Long: `Starts a run and prints its id. With --wait it shows the run's progress and ends with the run's
outcome as exit code; Ctrl-C then leaves the run going and says how to come back to it.

"upkeep procedures" lists the procedures and their input fields.`,
		Example: "  upkeep run BackupDatabase --target shop\n  upkeep run VerifyBackup --target shop --set backup=latest --set grade=stored --wait\n  echo '{\"target\":\"shop\"}' | upkeep run DrillRecovery --input - --wait -o json",
		Args:    args(1, "the name of a procedure"),
		RunE: func(cmd *cobra.Command, a []string) error {
			o.Procedure = a[0]
			var err error
			if o.Set, err = pairs(set); err != nil {
				return err
			}
			if o.Input, err = readInput(inputFile); err != nil {
				return err
			}
			return c.start(cmd.Context(), o, wait)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Target, "target", "", "the target in upkeep.yaml; may be left out when there is only one")
	f.StringVar(&inputFile, "input", "", "a file with the input as JSON; - reads stdin")
	f.StringArrayVar(&set, "set", nil, "a field of the input, as name=value; may be given again")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be done and change nothing")
	waitFlag(cmd, &wait)
	f.StringVar(&o.ID, "id", "", "the run's id (default: made of procedure, target and time); given twice, the run is found, not started again")
	return cmd
}

// start starts a run, and follows it if that is wanted.
func (c *cli) start(ctx context.Context, o Order, wait bool) error {
	c.about = run.Document{RunID: o.ID, Procedure: o.Procedure, DryRun: o.DryRun}
	_, common, err := Prepare(o) // before anything is asked or started
	if err != nil {
		return err
	}
	c.about.Target, c.about.DryRun = common.Target, common.DryRun // not before it is known to be a name
	if common.Target == "" {
		if o.Target, err = c.onlyTarget(); err != nil {
			return err
		}
	}
	return c.connected(func(s *Starter) error {
		starting, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		id, err := s.Start(starting, o)
		switch {
		case err != nil:
			return err
		case wait:
			return c.follow(ctx, s, id)
		case c.output == "json":
			c.json(map[string]string{"runId": id})
		default:
			fmt.Fprintf(c.out, "%s\n", id)
			fmt.Fprintf(c.err, "started; follow it with: upkeep show %s --wait\n", id)
		}
		return nil
	})
}

func pairs(set []string) (map[string]string, error) {
	out := make(map[string]string, len(set))
	for _, p := range set {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, usage{fmt.Errorf("--set %.60q is not name=value", p)}
		}
		if _, twice := out[name]; twice {
			return nil, usage{fmt.Errorf("--set names %q twice", name)}
		}
		out[name] = value
	}
	return out, nil
}

func readInput(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	from := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usage{fmt.Errorf("--input: %w", err)}
		}
		defer func() { _ = f.Close() }()
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, strictjson.MaxBytes+1))
	if err != nil {
		return nil, usage{fmt.Errorf("--input: %w", err)}
	}
	return data, nil
}

func (c *cli) show() *cobra.Command {
	wait := false
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show how a run stands, or how it ended",
		Long: `Shows a run. It answers without a worker, and from the store when the run's history is gone; exit
code 0 says that the run is shown, whatever its outcome. With --wait it follows the run to its end
as "upkeep run --wait" does, and ends with the run's outcome as exit code.`,
		Args: args(1, "a run's id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			c.about.RunID = a[0]
			return c.connected(func(s *Starter) error {
				if wait {
					return c.follow(cmd.Context(), s, a[0])
				}
				doc, p, err := s.Look(cmd.Context(), a[0])
				switch {
				case err != nil:
					return err
				case c.output == "json":
					c.json(doc)
				default:
					c.print(doc, p)
				}
				return nil
			})
		},
	}
	waitFlag(cmd, &wait)
	return cmd
}

func waitFlag(cmd *cobra.Command, wait *bool) {
	cmd.Flags().BoolVar(wait, "wait", false, "wait for the run's end, show its progress, and end with its outcome as exit code")
}

func (c *cli) runs() *cobra.Command {
	f := Filter{}
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "List runs, the newest first",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.connected(func(s *Starter) error {
				asking, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
				defer cancel()
				runs, err := s.Runs(asking, f)
				switch {
				case err != nil:
					return err
				case c.output == "json":
					c.json(runs)
				default:
					c.table(runs)
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&f.Target, "target", "", "only runs of this target")
	cmd.Flags().StringVar(&f.Procedure, "procedure", "", "only runs of this procedure")
	cmd.Flags().StringVar(&f.Outcome, "outcome", "", "only runs with this outcome: "+strings.Join(outcomes, ", "))
	cmd.Flags().IntVar(&f.Limit, "limit", 50, "at most so many; 0: all")
	return cmd
}

func (c *cli) decide(retry bool) *cobra.Command {
	var d run.Decision
	wait := false
	cmd := &cobra.Command{
		Use: "abandon ID", Short: "Give a waiting run up and undo what it did", Args: args(1, "a run's id"),
	}
	word := "gives up and undoes what it did"
	if retry {
		cmd.Use, cmd.Short = "resume ID", "Tell a waiting run to try again, after what stopped it is mended"
		word = "tries again"
	}
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		if d.By == "" {
			d.By = osUser()
		}
		return c.tell(cmd.Context(), a[0], wait, func(ctx context.Context, s *Starter) (string, error) { return word, s.Decide(ctx, a[0], retry, d) })
	}
	waitFlag(cmd, &wait)
	cmd.Flags().StringVar(&d.By, "by", "", "who says so (default: the OS user); taken as claimed")
	cmd.Flags().StringVar(&d.Reason, "reason", "", "why")
	return cmd
}

func (c *cli) cancel() *cobra.Command {
	wait := false
	cmd := &cobra.Command{
		Use: "cancel ID", Short: "Ask a run to end and undo what it did", Args: args(1, "a run's id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.tell(cmd.Context(), a[0], wait, func(ctx context.Context, s *Starter) (string, error) {
				return "is asked to end and to undo what it did", s.Cancel(ctx, a[0])
			})
		},
	}
	waitFlag(cmd, &wait)
	return cmd
}

// tell tells a run something, and then the person what the run does of it.
func (c *cli) tell(ctx context.Context, id string, wait bool, order func(context.Context, *Starter) (does string, err error)) error {
	c.about.RunID = id
	return c.connected(func(s *Starter) error {
		asking, cancel := context.WithTimeout(ctx, answersWithin)
		defer cancel()
		does, err := order(asking, s)
		if err != nil {
			return err
		}
		return c.told(ctx, s, id, does, wait)
	})
}

// told says what a run does of what it was told, or shows it.
func (c *cli) told(ctx context.Context, s *Starter, id, does string, wait bool) error {
	switch {
	case wait:
		return c.follow(ctx, s, id)
	case c.output == "json":
		c.json(map[string]string{"runId": id})
	default:
		fmt.Fprintf(c.out, "run %s %s; follow it with: upkeep show %s --wait\n", id, does, id)
	}
	return nil
}

func osUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}

func (c *cli) procedures() *cobra.Command {
	return &cobra.Command{
		Use: "procedures", Short: "List the procedures, what they are for, and their input fields", Args: args(0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			all := procedures.All()
			if c.output == "json" {
				c.json(all)
				return nil
			}
			for _, p := range all {
				fmt.Fprintf(c.out, "%s\n  %s\n", p.Name, p.Purpose)
				for _, f := range p.Input {
					fmt.Fprintf(c.out, "    %-10s %-14s %s\n", f.Name, f.Type, f.Help)
				}
				fmt.Fprintln(c.out)
			}
			return nil
		},
	}
}
