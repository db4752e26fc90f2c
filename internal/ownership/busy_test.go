package ownership

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBusy(t *testing.T) {
	for text, is := range map[string]bool{
		`{}`:             false,
		`{"status":"x"}`: false,
		`{"status":{"conditions":[null,"x",{"type":"Ready","status":"True"}]}}`:                              false,
		`{"status":{"conditions":[{"type":"Reconciling","status":"True","reason":"Progressing"}]}}`:          true,
		`{"status":{"conditions":[{"type":"Reconciling","status":"True","reason":"ProgressingWithRetry"}]}}`: false,
		`{"status":{"operationState":{"phase":"Running"}}}`:                                                  true,
		`{"status":{"operationState":{"phase":"Succeeded"}}}`:                                                false,
	} {
		var object map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &object))
		require.Equal(t, is, busy(object), text)
	}
}
