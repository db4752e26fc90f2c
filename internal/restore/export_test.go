package restore

import "context"

// Prepare is what an attempt to create the copy does that was frozen after it had looked.
func (o Options) Prepare(ctx context.Context) error { return o.prepare(ctx) }
