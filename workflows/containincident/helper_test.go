package containincident_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	api "github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/run"
)

func result(t *testing.T, doc *run.Document) (r api.Result) {
	t.Helper()
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	return r
}

// index is where an activity was called first.
func index(t *testing.T, calls []string, activity string) int {
	t.Helper()
	at := slices.Index(calls, activity)
	require.GreaterOrEqual(t, at, 0, activity)
	return at
}
