package rolloutrelease_test

import (
	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

type (
	context = workflow.Context
	raw     = converter.RawValue
)

const anything = mock.Anything

// approve approves the next plans.
func approve(r *proceduretest.Run, plans int) {
	r.WhenWaiting(func(doc run.Document) {
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "so"})
		if plans > 1 {
			approve(r, plans-1)
		}
	})
}
