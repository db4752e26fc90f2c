package starter

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"

	"github.com/upkeep-run/upkeep/api/procedures"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/strictjson"
)

const (
	// askFor bounds each of the places that are asked for a run's document: together under 3 s.
	askFor = 1200 * time.Millisecond
	// maxDocument bounds a document in the store, in bytes.
	maxDocument = 4 << 20
	// maxListed bounds how many runs are looked at for a list.
	maxListed = 2000
	// waitsForWorker is the summary of a run that no worker has taken up yet.
	waitsForWorker = "waiting for a worker"
)

// Show returns how a run stands. It needs no worker: the document is in the run's memo while it runs,
// in its result when it has ended, and in the store when its history is gone or Temporal is away.
func (s *Starter) Show(ctx context.Context, id string) (*run.Document, error) {
	doc, _, err := s.Look(ctx, id)
	return doc, err
}

// Look is Show with how far the step in hand has come, where that is known.
func (s *Starter) Look(ctx context.Context, id string) (*run.Document, *progress.Progress, error) {
	doc, p, err := s.fromTemporal(ctx, id)
	if err == nil {
		return doc, p, nil
	}
	if stored, storeErr := s.fromStore(ctx, id); storeErr == nil {
		return stored, nil, nil
	}
	return nil, nil, err
}

func (s *Starter) fromTemporal(ctx context.Context, id string) (*run.Document, *progress.Progress, error) {
	if s.Client == nil {
		return nil, nil, unreachable(errors.New("not connected"))
	}
	asking, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	d, err := s.Client.DescribeWorkflowExecution(asking, id, "")
	if isGone(err) {
		return nil, nil, unknownRun(id)
	}
	if err != nil {
		return nil, nil, unreachable(err)
	}
	info := d.GetWorkflowExecutionInfo()
	doc := fromInfo(info)
	if info.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		s.close(ctx, info, doc)
		return doc, nil, nil
	}
	if doc.Outcome.Ended() { // its last document is shown a moment before its end
		doc.Outcome = run.Running
	}
	if doc.AsksApproval() && !doc.Approval.HasPlan() {
		doc = s.fromWorker(ctx, doc)
	}
	var p *progress.Progress
	for _, a := range d.GetPendingActivities() {
		if payloads := a.GetHeartbeatDetails(); payloads != nil {
			var newest progress.Progress
			if converter.GetDefaultDataConverter().FromPayloads(payloads, &newest) == nil {
				p = &newest
			}
		}
		if a.GetAttempt() > 1 && doc.WaitingFor == "" && a.GetLastFailure() != nil {
			doc.Summary += " (attempt " + strconv.Itoa(int(a.GetAttempt())) + ", after: " + a.GetLastFailure().GetMessage() + ")"
		}
	}
	return doc, p, nil
}

// fromWorker asks a run itself, of which the memo does not hold everything. Where no worker answers, what is known of
// it has to do.
func (s *Starter) fromWorker(ctx context.Context, known *run.Document) *run.Document {
	asking, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	var doc run.Document
	answer, err := s.Client.QueryWorkflow(asking, known.RunID, "", run.StatusQuery)
	if err != nil || answer.Get(&doc) != nil {
		return known
	}
	return whole(&doc)
}

// fromInfo reads the document in a run's memo; a run that has shown none yet gets an empty one.
func fromInfo(info *workflowpb.WorkflowExecutionInfo) *run.Document {
	doc := &run.Document{RunID: info.GetExecution().GetWorkflowId(), Procedure: info.GetType().GetName(), Outcome: run.Running, Summary: waitsForWorker}
	if p := info.GetMemo().GetFields()[run.MemoDocument]; p != nil {
		var shown run.Document
		if decode(p, &shown) == nil {
			shown.RunID = doc.RunID // a schedule could not know it
			doc = &shown
		}
	}
	return whole(doc)
}

// whole fills what a reader of the JSON relies on.
func whole(doc *run.Document) *run.Document {
	if doc.Steps == nil {
		doc.Steps = []run.Step{}
	}
	if len(doc.Result) == 0 {
		doc.Result = json.RawMessage("{}")
	}
	return doc
}

func decode(p *commonpb.Payload, into any) error {
	return converter.GetDefaultDataConverter().FromPayload(p, into)
}

// close takes the final document from the run's last event. A run that was ended from outside never
// wrote one, so its end is said here.
func (s *Starter) close(ctx context.Context, info *workflowpb.WorkflowExecutionInfo, doc *run.Document) {
	asking, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	events := s.Client.GetWorkflowHistory(asking, info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT)
	var last *historypb.HistoryEvent
	for events.HasNext() {
		e, err := events.Next()
		if err != nil {
			break // the memo's document is what there is
		}
		last = e
	}
	var final run.Document
	if p := finalPayload(last); p != nil && decode(p, &final) == nil && final.RunID != "" {
		*doc = *whole(&final)
		return
	}
	if doc.Outcome.Ended() {
		return
	}
	doc.WaitingFor = ""
	for i := range doc.Steps {
		if doc.Steps[i].Verdict == "" {
			doc.Steps[i].Verdict = run.NotProven // it was cut off
		}
	}
	switch info.GetStatus() {
	case enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED:
		doc.Outcome, doc.Summary = run.Cancelled, "terminated from outside"
		a := last.GetWorkflowExecutionTerminatedEventAttributes()
		if a.GetIdentity() != "" {
			doc.Summary += " by " + a.GetIdentity()
		}
		if a.GetReason() != "" {
			doc.Summary += " (" + a.GetReason() + ")"
		}
		doc.Summary += "; nothing was undone, a new run takes over what it left"
	case enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
		doc.Outcome, doc.Summary = run.Failed, "timed out"
	case enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:
		doc.Outcome, doc.Summary = run.Cancelled, "cancelled"
	case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED:
		doc.Outcome = run.Succeeded
	default: // it failed without a document: a fault of the workflow's code
		doc.Outcome, doc.Summary = run.Failed, last.GetWorkflowExecutionFailedEventAttributes().GetFailure().GetMessage()
	}
}

func finalPayload(e *historypb.HistoryEvent) *commonpb.Payload {
	var payloads []*commonpb.Payload
	switch {
	case e.GetWorkflowExecutionCompletedEventAttributes() != nil:
		payloads = e.GetWorkflowExecutionCompletedEventAttributes().GetResult().GetPayloads()
	case e.GetWorkflowExecutionFailedEventAttributes() != nil:
		payloads = e.GetWorkflowExecutionFailedEventAttributes().GetFailure().GetApplicationFailureInfo().GetDetails().GetPayloads()
	case e.GetWorkflowExecutionCanceledEventAttributes() != nil:
		payloads = e.GetWorkflowExecutionCanceledEventAttributes().GetDetails().GetPayloads()
	}
	if len(payloads) == 0 {
		return nil
	}
	return payloads[0]
}

// fromStore reads the document that the run left in the store.
func (s *Starter) fromStore(ctx context.Context, id string) (*run.Document, error) {
	if s.Store == nil {
		return nil, unknownRun(id)
	}
	asking, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	c, err := s.Store(asking)
	if err != nil {
		return nil, err
	}
	store, err := objstore.Open(asking, c.Store)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }()
	data, err := store.Read(asking, format.RunKey(id, "run.json"), maxDocument)
	if err != nil {
		return nil, err
	}
	var doc run.Document
	if err := json.Unmarshal(data, &doc); err != nil || doc.RunID != id {
		return nil, failure.New(failure.UnknownRun, "what the store has of run %.200q cannot be read", id)
	}
	return whole(&doc), nil
}

// Listed is a run in a list.
type Listed struct {
	run.Document
	StartedAt time.Time `json:"startedAt"`
	Seconds   float64   `json:"seconds"`
}

// Filter chooses runs; empty fields choose all.
type Filter struct {
	Target, Procedure, Outcome string
	Limit                      int
}

var outcomes = []string{
	string(run.Running), string(run.Waiting), string(run.Succeeded), string(run.PartiallySucceeded),
	string(run.Failed), string(run.Refused), string(run.Cancelled),
}

// Runs lists runs, the newest first. A filter that no run can pass is a mistake, not an empty list.
func (s *Starter) Runs(ctx context.Context, f Filter) ([]Listed, error) {
	if f.Outcome != "" && !slices.ContainsFunc(outcomes, func(o string) bool { return strings.EqualFold(o, f.Outcome) }) {
		return nil, strictjson.Unknown("outcome", f.Outcome, outcomes)
	}
	query, err := typesQuery(f.Procedure)
	if err != nil {
		return nil, err
	}
	var found []Listed
	var page []byte
	for len(found) < maxListed {
		r, err := s.Client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: query, PageSize: 200, NextPageToken: page})
		if err != nil {
			return nil, unreachable(err)
		}
		for _, info := range r.GetExecutions() {
			doc := fromInfo(info)
			if info.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING && !doc.Outcome.Ended() {
				s.close(ctx, info, doc)
			}
			if (f.Target == "" || doc.Target == f.Target) && (f.Outcome == "" || strings.EqualFold(string(doc.Outcome), f.Outcome)) {
				found = append(found, listed(info, doc))
			}
		}
		if page = r.GetNextPageToken(); len(page) == 0 {
			break
		}
	}
	// The server lists running runs before ended ones, whenever they began.
	slices.SortStableFunc(found, func(a, b Listed) int { return b.StartedAt.Compare(a.StartedAt) })
	if f.Limit > 0 && len(found) > f.Limit {
		found = found[:f.Limit]
	}
	return append([]Listed{}, found...), nil // never nil: an empty list is one in JSON too
}

func listed(info *workflowpb.WorkflowExecutionInfo, doc *run.Document) Listed {
	l := Listed{Document: *doc, StartedAt: info.GetStartTime().AsTime()}
	end := time.Now()
	if info.GetCloseTime() != nil {
		end = info.GetCloseTime().AsTime()
	}
	l.Seconds = end.Sub(l.StartedAt).Round(time.Millisecond).Seconds()
	return l
}

// typesQuery asks for the runs of one procedure, or of all.
func typesQuery(procedure string) (string, error) {
	if procedure != "" {
		_, err := find(procedure)
		return "WorkflowType = '" + procedure + "'", err
	}
	var types []string
	for _, p := range procedures.All() {
		types = append(types, "'"+p.Name+"'")
	}
	return "WorkflowType IN (" + strings.Join(types, ", ") + ")", nil
}
