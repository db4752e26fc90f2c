// Package starter starts and steers runs: what the command line does, usable by other programs.
package starter

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/procedures"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/strictjson"
)

// Starter starts and steers the runs of one Temporal namespace.
type Starter struct {
	Client client.Client
	// Namespace is the client's, where the schedules are; client.DefaultNamespace when empty.
	Namespace string
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

var (
	secret  = regexp.MustCompile(`(?i)://[^/@\s:]*:[^/@\s]+@|\b(ssl|pg)?password\s*=`)
	encoded = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
)

// maxDecoded is how often a text is decoded in the search for a secret. Clients decode once; more is
// for what was encoded twice on its way here.
const maxDecoded = 3

// HoldsSecret reports whether a text, such as a command's argument, has a password in it as those of
// databases are written: in a url, or as password=, with spaces or percent-encoded too.
func HoldsSecret(text string) bool {
	for range maxDecoded {
		if secret.MatchString(text) {
			return true
		}
		plain := encoded.ReplaceAllStringFunc(text, func(code string) string {
			b, _ := hex.DecodeString(code[1:]) // two digits always decode
			return string(b)
		})
		if plain == text {
			return false
		}
		text = plain
	}
	return secret.MatchString(text)
}

// Prepare checks an order against the procedure's input and returns the JSON that starts it, with the
// fields of it that every procedure has. Nothing is started by a mistake.
func Prepare(o Order) (json.RawMessage, run.Common, error) {
	if strings.HasPrefix(o.ID, target.IDPrefix) {
		return nil, run.Common{}, failure.New(failure.BadInput, "a run's id may not begin with %s, which is for what stands for a target", target.IDPrefix).Do("choose another --id")
	}
	fields, err := merge(o)
	if err != nil {
		return nil, run.Common{}, err
	}
	data, err := json.Marshal(fields)
	if err != nil {
		return nil, run.Common{}, fmt.Errorf("encode the input: %w", err)
	}
	var common run.Common
	if err := json.Unmarshal(data, &common); err != nil {
		return nil, common, fmt.Errorf("read the input again: %w", err)
	}
	return data, common, nil
}

// merge lays the order's own fields over its input. What --set says rules over --input; a flag that
// contradicts either is a mistake that nobody should have to guess the end of.
func merge(o Order) (map[string]json.RawMessage, error) {
	p, err := find(o.Procedure)
	if err != nil {
		return nil, err
	}
	if err := strictjson.Decode(o.Input, p.NewInput()); err != nil {
		return nil, err
	}
	fields := make(map[string]json.RawMessage)
	if text := strings.TrimSpace(string(o.Input)); text != "" && text != "null" {
		if err := json.Unmarshal(o.Input, &fields); err != nil {
			return nil, fmt.Errorf("read the input again: %w", err)
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
	if err := flags(o, fields); err != nil {
		return nil, err
	}
	for name, value := range fields {
		var text string
		if json.Unmarshal(value, &text) == nil && HoldsSecret(text) {
			return nil, failure.New(failure.BadInput, "the field %q holds a password", name).Do("keep passwords out of inputs; name them in upkeep.yaml with passwordFrom")
		}
	}
	return fields, nil
}

// flags lays --target and --dry-run over the other fields.
func flags(o Order, fields map[string]json.RawMessage) error {
	source := func(field string) string {
		if _, ok := o.Set[field]; ok {
			return "--set"
		}
		return "--input"
	}
	var said run.Common
	for field, into := range map[string]any{"target": &said.Target, "dryRun": &said.DryRun} {
		if value, ok := fields[field]; ok {
			if err := json.Unmarshal(value, into); err != nil {
				return fmt.Errorf("read the input again: %w", err)
			}
		}
	}
	// The texts are not repeated: they may be anything, a password too.
	for _, given := range []struct{ from, name string }{{"--target", o.Target}, {source("target"), said.Target}} {
		if problem := config.CheckName(given.name); given.name != "" && problem != "" {
			return failure.New(failure.BadInput, "the target of %s cannot be one: a target's name %s", given.from, problem).
				Do("give the name that the target has in the worker's upkeep.yaml")
		}
	}
	if o.Target != "" {
		if said.Target != "" && said.Target != o.Target {
			return failure.New(failure.BadInput, "--target says %q and %s says the target is %q", o.Target, source("target"), said.Target).Do("name the target once")
		}
		fields["target"], _ = json.Marshal(o.Target) // a text always encodes
	}
	if o.DryRun {
		if _, ok := fields["dryRun"]; ok && !said.DryRun {
			return failure.New(failure.BadInput, "--dry-run and the dryRun of %s, which is false, contradict each other", source("dryRun")).Do("leave one of them out")
		}
		fields["dryRun"] = json.RawMessage("true")
	}
	return nil
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

// typed writes a text as the JSON value that the field takes.
func typed(name, text string, kind reflect.Type) (json.RawMessage, error) {
	if kind.Kind() == reflect.String {
		return json.Marshal(text)
	}
	value := reflect.New(kind)
	if err := json.Unmarshal([]byte(text), value.Interface()); err != nil {
		return nil, failure.New(failure.BadInput, "field %q is %.40q and must be %s", name, text, strictjson.Wants(kind)).Do("correct --set %s=...", name)
	}
	return json.RawMessage(text), nil
}

// Start starts a run and returns its id. An order whose id has a run of the same procedure and input
// already starts nothing: that run is the answer, unless it failed, was refused or cancelled, when it
// is started anew. So an order may be given twice and is done once.
func (s *Starter) Start(ctx context.Context, o Order) (string, error) {
	input, common, err := Prepare(o)
	if err != nil {
		return "", err
	}
	if o.ID == "" {
		o.ID = newID(o.Procedure, common.Target)
		if id := eventID(o.Procedure, input); id != "" {
			o.ID = id
		}
	}
	what, shown := announce(o.Procedure, common)
	shown.RunID = o.ID
	_, err = s.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: o.ID, TaskQueue: run.WorkflowQueue, StaticSummary: what, Memo: map[string]any{run.MemoDocument: shown},
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
	}, o.Procedure, input)
	var started *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case err == nil:
		return o.ID, nil
	case errors.As(err, &started):
		return o.ID, s.same(ctx, o, input)
	}
	return "", unreachable(err)
}

// announce is a run's title, and the document that is shown until a worker takes it up.
func announce(procedure string, common run.Common) (string, *run.Document) {
	what := procedure
	if common.Target != "" {
		what += " of " + common.Target
	}
	return what, whole(&run.Document{Procedure: procedure, Target: common.Target, Outcome: run.Running, Summary: waitsForWorker, DryRun: common.DryRun})
}

// same returns nil if the run of the order's id is what the order asks for.
func (s *Starter) same(ctx context.Context, o Order, input json.RawMessage) error {
	events := s.Client.GetWorkflowHistory(ctx, o.ID, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	if !events.HasNext() {
		return unknownRun(o.ID)
	}
	first, err := events.Next()
	if err != nil {
		return unreachable(err)
	}
	begun := first.GetWorkflowExecutionStartedEventAttributes()
	payloads := begun.GetInput().GetPayloads()
	if begun.GetWorkflowType().GetName() == o.Procedure && len(payloads) == 1 && sameJSON(payloads[0].GetData(), input) {
		return nil
	}
	return failure.New(failure.RunExists, "there is a run %s already, of another procedure or input", o.ID).Do("look at it with: upkeep show %s; or choose another --id", o.ID)
}

func sameJSON(a, b []byte) bool {
	var left, right any
	return json.Unmarshal(a, &left) == nil && json.Unmarshal(b, &right) == nil && reflect.DeepEqual(left, right)
}

func newID(procedure, target string) string {
	parts := kebab(procedure)
	if target != "" {
		parts += "-" + target
	}
	return fmt.Sprintf("%s-%s-%s", parts, time.Now().UTC().Format("20060102-150405"), strings.ToLower(rand.Text()[:4]))
}

// eventID is the id of the one run of an event, however often that is reported; "" where there is no event.
func eventID(procedure string, input json.RawMessage) string {
	var in containincident.Input
	if procedure != containincident.WorkflowType || json.Unmarshal(input, &in) != nil || in.Event == "" || in.DryRun {
		return ""
	}
	return kebab(procedure) + "-" + in.Case(in.Target)
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
	return s.update(ctx, id, name, d)
}

// DecideOnPlan approves or rejects the plan that a run waits with, by its hash.
func (s *Starter) DecideOnPlan(ctx context.Context, id string, approve bool, d run.PlanDecision) error {
	name := run.RejectUpdate
	if approve {
		name = run.ApproveUpdate
	}
	return s.update(ctx, id, name, d)
}

// update sends a run a decision, which it takes or refuses at once.
func (s *Starter) update(ctx context.Context, id, name string, decision any) error {
	h, err := s.Client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: id, UpdateName: name, Args: []any{decision}, WaitForStage: client.WorkflowUpdateStageCompleted})
	if err == nil {
		err = h.Get(ctx, nil)
	}
	var rejected *temporal.ApplicationError
	switch {
	case err == nil:
		return nil
	case isGone(err):
		return s.over(ctx, id)
	case errors.As(err, &rejected):
		var why run.Error // where it is more than that the run does not wait for this
		if rejected.HasDetails() && rejected.Details(&why) == nil && why.Code != "" {
			return failure.New(failure.Code(why.Code), "run %s: %s", id, why.What).Do("%s", why.Remedy)
		}
		return failure.New(failure.NotWaiting, "run %s: %s", id, rejected.Message()).Do("see how it stands with: upkeep show %s", id)
	case ctx.Err() != nil, isLate(err):
		return failure.New(failure.StillFailing, "run %s did not answer in time", id).Do("see that upkeep-worker runs and try again")
	}
	return unreachable(err)
}

// Cancel asks a run to end and undo what it did.
func (s *Starter) Cancel(ctx context.Context, id string) error {
	// The server takes the cancellation of a run that has ended for done; a person should know.
	if doc, err := s.Show(ctx, id); err == nil && doc.Outcome.Ended() {
		return ended(doc)
	}
	err := s.Client.CancelWorkflow(ctx, id, "")
	switch {
	case err == nil:
		return nil
	case isGone(err):
		return s.over(ctx, id)
	}
	return unreachable(err)
}

// over says why a run takes no orders any more: it has ended, or there is none.
func (s *Starter) over(ctx context.Context, id string) error {
	doc, err := s.Show(context.WithoutCancel(ctx), id)
	if err != nil {
		return err
	}
	return ended(doc)
}

func ended(doc *run.Document) error {
	return failure.New(failure.NotWaiting, "run %s has ended: %s", doc.RunID, doc.Outcome).Do("start another with: upkeep run %s", doc.Procedure)
}

// isLate reports whether a call ran into its deadline, on this side or on the server's.
func isLate(err error) bool {
	var late *serviceerror.DeadlineExceeded
	var update *client.WorkflowUpdateServiceTimeoutOrCanceledError
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &late) || errors.As(err, &update)
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
