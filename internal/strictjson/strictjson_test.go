package strictjson

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
)

type inner struct {
	Target string `json:"target,omitempty"`
	DryRun bool   `json:"dryRun,omitempty"`
}

type input struct {
	inner
	Backup string `json:"backup"`
	Count  int    `json:"count"`
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     input
		refused  []string // parts of the error
	}{
		{name: "nothing", in: ""},
		{name: "null", in: "null"},
		{name: "empty", in: "{}"},
		{name: "all", in: `{"target":"a","dryRun":true,"backup":"b","count":2}`, want: input{inner{"a", true}, "b", 2}},
		{name: "another spelling", in: `{"dry_run":true}`, refused: []string{`"dry_run"`, `"dryRun"`}},
		{name: "another case", in: `{"DryRun":true}`, refused: []string{`"DryRun"`, `"dryRun"`}},
		{name: "nothing near", in: `{"zzzzzzzz":1}`, refused: []string{`"zzzzzzzz"`, "backup, count, dryRun, target"}},
		{name: "mistyped", in: `{"dryRun":"yes"}`, refused: []string{`"dryRun"`, "true or false"}},
		{name: "mistyped number", in: `{"count":"2"}`, refused: []string{`"count"`, "a number"}},
		{name: "null for a value", in: `{"dryRun":null}`, refused: []string{`"dryRun"`, "null"}},
		{name: "twice", in: `{"dryRun":true,"dryRun":false}`, refused: []string{`"dryRun"`, "twice"}},
		{name: "a list", in: `[]`, refused: []string{"not a JSON object"}},
		{name: "a text", in: `"shop"`, refused: []string{"not a JSON object"}},
		{name: "more after it", in: `{} {}`, refused: []string{"after the end"}},
		{name: "cut off", in: `{"target":`, refused: []string{"cannot be read"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got input
			err := Decode([]byte(c.in), &got)
			if c.refused == nil {
				require.NoError(t, err)
				require.Equal(t, c.want, got)
				return
			}
			require.True(t, failure.Is(err, failure.BadInput), "%v", err)
			for _, part := range c.refused {
				require.ErrorContains(t, err, part)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"target":"a","dryRun":true}`))
	f.Add([]byte(`{"a":{"b":[1,2,{"c":null}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got input
		if err := Decode(data, &got); err != nil {
			require.True(t, failure.Is(err, failure.BadInput))
		}
	})
}
