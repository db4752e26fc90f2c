// Package progress carries how far a long piece of work has come from the
// engines, which know nothing of Temporal, to whoever listens.
package progress

import "context"

// Progress is how far one step has come.
type Progress struct {
	Phase string `json:"phase"`           // what is being done, in a few words: "copying rows"
	Done  int64  `json:"done"`            // in Unit
	Total int64  `json:"total,omitempty"` // in Unit; 0 when not known
	Unit  string `json:"unit,omitempty"`  // "bytes", "rows", "tables", "chunks"
	Note  string `json:"note,omitempty"`  // the thing in hand, e.g. a table's name
}

type key struct{}

// With returns a context whose Report calls go to listen. Listen is called from
// many goroutines and must not block.
func With(ctx context.Context, listen func(Progress)) context.Context {
	return context.WithValue(ctx, key{}, listen)
}

// Report tells the listener, if there is one.
func Report(ctx context.Context, p Progress) {
	if listen, ok := ctx.Value(key{}).(func(Progress)); ok {
		listen(p)
	}
}
