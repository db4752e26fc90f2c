package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/starter"
)

// scenario is one thing that goes wrong, and the ways to put it right.
type scenario struct {
	name  string
	title string
	about string // what is wrong
	size  size
	// proven has the release's revision seen healthy by Upkeep before the harm, as a rollout leaves it.
	proven bool
	// harm does it; callers are to see it before the ways begin. Nil: the ways do it themselves.
	harm func(f *field, p *place) error
	ways []way
}

// way is one way to put it right, from the order to its own end.
type way struct {
	name string
	take func(ctx context.Context, f *field, p *place) taken
}

// taken is what a way said of itself.
type taken struct {
	err   error  // it did not succeed
	text  string // its own words, for whoever watches
	notes []string
	steps []run.Step
}

// badImage and badAnswers are releases: of an image that is nowhere, and of pods that are ready and answer
// nothing that the service is for.
const (
	badImage   = "images.langfuse=upkeep.test/none:dev"
	badAnswers = "postgresql.database=postgres"
)

// scenarios are all that is measured, in turns.
func scenarios() []*scenario {
	loss := func(name, title, about, sql string, size size) *scenario {
		return &scenario{
			name: name, title: title, about: about, size: size,
			harm: func(_ *field, p *place) error { _, err := p.Psql("langfuse", sql); return err },
			ways: []way{
				upkeep("Upkeep, RecoverData", recoverdata.WorkflowType, `{"confirm": "langfuse"}`, run.Succeeded),
				script("the guide, Data Loss", "data-loss.sh"),
			},
		}
	}
	release := func(name, title, about, set string) *scenario {
		return &scenario{
			name: name, title: title, about: about, size: small,
			ways: []way{
				upkeep("Upkeep, RolloutRelease", rolloutrelease.WorkflowType, input(set), run.Failed),
				script("helm upgrade --wait, then the guide's helm rollback", "upgrade-then-rollback.sh", "SET="+set),
				script("helm upgrade --atomic", "upgrade-atomic.sh", "SET="+set),
			},
		}
	}
	recover := upkeep("Upkeep, RecoverService", recoverservice.WorkflowType, `{"wait": 1}`, run.Succeeded)
	return []*scenario{
		{
			name: "wedged", title: "Outage to healthy: all pods have locked themselves up",
			about: "every pod of the service lives and answers nothing; its liveness probe does not see it", size: small,
			harm: func(_ *field, p *place) error { return p.wedge() },
			ways: []way{recover, script("the guide, Restart failed pods", "restart-pods.sh"), script("the guide, Service Outage", "service-outage.sh")},
		},
		{
			name: "broken", title: "Outage to healthy: somebody's release has broken the service",
			about: "after a helm upgrade all pods are ready, and each request that counts fails", size: small, proven: true,
			harm: func(f *field, p *place) error { return p.upgrade(f, "--set", badAnswers) },
			ways: []way{recover, script("the guide, Service Outage", "service-outage.sh")},
		},
		loss("loss", "Loss to served: all rows of a small database", "all rows of the table are deleted", "TRUNCATE traces CASCADE", small),
		loss("half", "Loss to served: every other row", "every other row of the table is deleted", "DELETE FROM traces WHERE id % 2 = 0", small),
		loss("loss-large", "Loss to served: all rows of a larger database", "all rows of the table are deleted", "TRUNCATE traces CASCADE", large),
		release("image", "Bad release to rolled back: an image that is nowhere", "the new pods never start; the old go on serving", badImage),
		{
			name: "killed", title: "Bad release to rolled back: who rolls it out is killed in the middle",
			about: "the image is nowhere, and as soon as it is applied, the worker, or helm, is killed and started again", size: small,
			ways: []way{
				killed("Upkeep, RolloutRelease", rolloutrelease.WorkflowType, input(badImage), run.Failed),
				script("helm upgrade --atomic, killed, and again", "upgrade-killed.sh", "SET="+badImage, "BAD=none"),
				script("the same, and then the guide's helm rollback", "upgrade-killed.sh", "SET="+badImage, "BAD=none", "ROLLBACK=1"),
			},
		},
		release("answers", "Bad release to rolled back: pods that are ready and do not work", "the new pods are ready and fail every request that counts", badAnswers),
	}
}

// input is a rollout's, of a value.
func input(set string) string {
	name, value, _ := strings.Cut(set, "=")
	return fmt.Sprintf(`{"set": {%q: %q}}`, name, value)
}

// killed is upkeep, and the worker is killed as soon as the release's change is there.
func killed(name, procedure, input string, want run.Outcome) way {
	w := upkeep(name, procedure, input, want)
	take := w.take
	w.take = func(ctx context.Context, f *field, p *place) taken {
		killed := make(chan error, 1)
		go func() {
			err := p.changes(ctx)
			if err == nil {
				err = f.upkeep.Replace()
			}
			killed <- err
		}()
		t := take(ctx, f, p)
		t.err = errors.Join(t.err, <-killed)
		return t
	}
	return w
}

// upkeep is one of Upkeep's procedures. An approval that it asks for comes at once.
func upkeep(name, procedure, input string, want run.Outcome) way {
	return way{name, func(ctx context.Context, f *field, p *place) (t taken) {
		doc, err := f.upkeep.Approved(ctx, starter.Order{Procedure: procedure, Target: p.size.name, Input: []byte(input)})
		if err != nil {
			return taken{err: err}
		}
		t.text, t.steps = doc.Summary, doc.Steps
		if doc.Outcome != want {
			t.err = fmt.Errorf("%s: %s", doc.Outcome, doc.Summary)
		}
		return t
	}}
}

// patience bounds every way.
const patience = 5 * time.Minute
