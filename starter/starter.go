// Package starter starts and steers runs: what the command line does, usable by other programs.
package starter

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/upkeep-run/upkeep/api/procedures"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/strictjson"
)

// Starter starts and steers the runs of one Temporal namespace.
type Starter struct {
	Client client.Client
	// Store is where the documents of ended runs are; nil: only Temporal is asked.
	Store func(ctx context.Context) (*config.Config, error)
}

// Order is a run to start.
type Order struct {
	Procedure string
	Target    string
	DryRun    bool
	Input     []byte            // JSON; may be empty
	Set       map[string]string // fields of the input, as texts
	ID        string            // the run's id; made when empty
}

var secretInURL = regexp.MustCompile(`://[^/@\s:]*:[^/@\s]+@`)

// Prepare checks an order against the procedure's input and returns the JSON that starts it. Nothing
// is started by a mistake.
func Prepare(o Order) (json.RawMessage, error) {
	p, err := find(o.Procedure)
	if err != nil {
		return nil, err
	}
	fields := make(map[string]json.RawMessage)
	if len(o.Input) > 0 {
		if err := strictjson.Decode(o.Input, p.NewInput()); err != nil {
			return nil, err
		}
		if len(strings.TrimSpace(string(o.Input))) > 0 {
			if err := json.Unmarshal(o.Input, &fields); err != nil {
				return nil, failure.New(failure.BadInput, "the input is not a JSON object").Do("correct the input")
			}
		}
	}
	types := strictjson.Fields(p.NewInput())
	for name, text := range o.Set {
		kind, ok := types[name]
		if !ok {
			return nil, strictjson.Unknown("field", name, fieldNames(p))
		}
		value, err := typed(name, text, kind)
		if err != nil {
			return nil, err
		}
		fields[name] = value
	}
	if o.Target != "" {
		fields["target"], _ = json.Marshal(o.Target) // a text always encodes
	}
	if o.DryRun {
		fields["dryRun"] = json.RawMessage("true")
	}
	data, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	if secretInURL.Match(data) {
		return nil, failure.New(failure.BadInput, "the input holds a url with a password").Do("keep passwords out of inputs; name them in upkeep.yaml with passwordFrom")
	}
	return data, strictjson.Decode(data, p.NewInput())
}

func find(name string) (procedures.Procedure, error) {
	var names []string
	for _, p := range procedures.All() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return procedures.Procedure{}, strictjson.Unknown("procedure", name, names)
}

func fieldNames(p procedures.Procedure) []string {
	var names []string
	for _, f := range p.Input {
		names = append(names, f.Name)
	}
	return names
}

func typed(name, text string, kind reflect.Type) (json.RawMessage, error) {
	if kind.Kind() == reflect.Bool {
		v, err := strconv.ParseBool(text)
		if err != nil {
			return nil, failure.New(failure.BadInput, "field %q is %.40q and must be true or false", name, text).Do("write --set %s=true", name)
		}
		return json.Marshal(v)
	}
	return json.Marshal(text)
}

// Start starts a run and returns its id.
func (s *Starter) Start(ctx context.Context, o Order) (string, error) {
	input, err := Prepare(o)
	if err != nil {
		return "", err
	}
	if o.ID == "" {
		o.ID = newID(o)
	}
	what := o.Procedure
	if o.Target != "" {
		what += " of " + o.Target
	}
	_, err = s.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: o.ID, TaskQueue: run.WorkflowQueue, StaticSummary: what,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
	}, o.Procedure, input)
	var started *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &started) {
		return "", failure.New(failure.RunExists, "there is a run %s already", o.ID).Do("look at it with: upkeep show %s; or choose another --id", o.ID)
	}
	if err != nil {
		return "", unreachable(err)
	}
	return o.ID, nil
}

func newID(o Order) string {
	target := o.Target
	if target == "" {
		target = "default"
	}
	return fmt.Sprintf("%s-%s-%s-%s", kebab(o.Procedure), target, time.Now().UTC().Format("20060102-150405"), strings.ToLower(rand.Text()[:4]))
}

var word = regexp.MustCompile(`[A-Z][a-z]*`)

func kebab(name string) string {
	return strings.ToLower(strings.Join(word.FindAllString(name, -1), "-"))
}

// Decide tells a waiting run to try again, or to give up.
func (s *Starter) Decide(ctx context.Context, id string, retry bool, d run.Decision) error {
	name := run.AbandonUpdate
	if retry {
		name = run.RetryUpdate
	}
	h, err := s.Client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: id, UpdateName: name, Args: []any{d}, WaitForStage: client.WorkflowUpdateStageCompleted})
	if err == nil {
		err = h.Get(ctx, nil)
	}
	var app *temporal.ApplicationError
	switch {
	case err == nil:
		return nil
	case isGone(err):
		return unknownRun(id)
	case errors.As(err, &app):
		return failure.New(failure.NotWaiting, "run %s: %s", id, app.Message()).Do("see how it stands with: upkeep show %s", id)
	case errors.Is(err, context.DeadlineExceeded):
		return failure.New(failure.StillFailing, "run %s did not answer: no worker serves it", id).Do("start upkeep-worker and try again")
	}
	return unreachable(err)
}

// Cancel asks a run to end and undo what it did.
func (s *Starter) Cancel(ctx context.Context, id string) error {
	err := s.Client.CancelWorkflow(ctx, id, "")
	if isGone(err) {
		return unknownRun(id)
	}
	if err != nil {
		return unreachable(err)
	}
	return nil
}

func isGone(err error) bool {
	var gone *serviceerror.NotFound
	return errors.As(err, &gone)
}

func unknownRun(id string) error {
	return failure.New(failure.UnknownRun, "there is no run %.200q", id).Do("list the runs with: upkeep runs")
}

func unreachable(err error) error {
	return failure.New(failure.StillFailing, "Temporal cannot be reached or refused the call").Because(err).
		Do("start it (upkeep-dev runs one), or set TEMPORAL_ADDRESS")
}
