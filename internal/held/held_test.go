package held

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/failure"
)

var (
	replicas = Field{Name: "web", Path: []string{"spec", "replicas"}, Value: 0}
	early    = Order{Key: "a", Target: "shop", At: time.Date(2026, 3, 1, 12, 0, 0, 1, time.UTC)}
	late     = Order{Key: "b", Target: "shop", At: early.At.Add(time.Minute)}
	others   = Order{Key: "c", Target: "books", At: early.At.Add(time.Hour)}
)

// object has so many replicas, and a note; nil: none.
func object(t testing.TB, count int64, n *note) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"kind": "Deployment", "metadata": map[string]any{"name": "web", "uid": "u"}, "spec": map[string]any{"replicas": count}}}
	if n != nil {
		text, err := json.Marshal(n)
		require.NoError(t, err)
		o.SetAnnotations(map[string]string{Note: string(text)})
	}
	return o
}

func holding(by Order, before string) *note { return &note{Order: by, Before: json.RawMessage(before)} }

func over(by Order) *note { return &note{Order: by, Over: true} }

func TestTaking(t *testing.T) {
	for name, c := range map[string]struct {
		count  int64
		note   *note
		by     Order
		uid    types.UID
		before string // that the plan knows
		want   string // that is written down; "": nothing is done
		code   failure.Code
	}{
		"free":                           {3, nil, early, "u", "3", "3", ""},
		"done before":                    {0, holding(early, "3"), early, "u", "3", "", ""},
		"started again by somebody":      {3, holding(early, "3"), early, "u", "3", "3", ""},
		"left by an earlier order":       {0, holding(early, "3"), late, "u", "3", "3", ""},
		"given back by an earlier order": {3, over(early), late, "u", "3", "3", ""},
		"at 0 by a person":               {0, nil, early, "u", "0", "0", ""},
		"another count":                  {4, nil, early, "u", "3", "", failure.PlanVoid},
		"another object":                 {3, nil, early, "v", "3", "", failure.PlanVoid},
		"an attempt that comes late":     {3, over(early), early, "u", "3", "", failure.PlanVoid},
		"past a later order's":           {0, holding(late, "3"), early, "u", "3", "", failure.PlanVoid},
		"past a later tombstone":         {3, over(late), early, "u", "3", "", failure.PlanVoid},
		"of another target":              {0, holding(early, "3"), others, "u", "3", "", failure.LockHeld},
		"that another target gave back":  {3, over(early), others, "u", "3", "3", ""},
	} {
		t.Run(name, func(t *testing.T) {
			before, done, err := replicas.take(object(t, c.count, c.note), c.by, Facts{UID: c.uid, Before: json.RawMessage(c.before)})
			if c.code != "" {
				require.True(t, failure.Is(err, c.code), "%v", err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want == "", done)
			require.Equal(t, c.want, string(before))
		})
	}
}

func TestGiving(t *testing.T) {
	for name, c := range map[string]struct {
		count  int64
		note   *note
		by     Order
		want   string // that it gets; "": nothing is done
		remark string
	}{
		"held":                            {0, holding(early, "3"), early, "3", ""},
		"left by an earlier order":        {0, holding(early, "3"), late, "3", ""},
		"done before":                     {3, over(early), early, "", ""},
		"never held":                      {3, nil, early, "3", ""},
		"after an earlier tombstone":      {3, over(early), late, "3", ""},
		"changed by somebody":             {5, holding(early, "3"), early, "5", "was changed by somebody else"},
		"taken over by a later order":     {0, holding(late, "3"), early, "", "a later run's"},
		"given back by a later order":     {3, over(late), early, "", "a later run's"},
		"held by a run of another target": {0, holding(early, "3"), others, "", "for target shop"},
	} {
		t.Run(name, func(t *testing.T) {
			value, remark, done, err := replicas.give(object(t, c.count, c.note), c.by)
			require.NoError(t, err)
			require.Equal(t, c.want == "", done)
			require.Equal(t, c.want, string(value))
			if c.remark == "" {
				require.Empty(t, remark)
			}
			require.Contains(t, remark, c.remark)
		})
	}
}

// TestAFieldThatIsNotThere is held, and is gone again when it is given back: the patch says null.
func TestAFieldThatIsNotThere(t *testing.T) {
	f := Field{Path: []string{"spec", "template", "spec", "nodeSelector", "upkeep.run/stopped"}, Value: "true"}
	o := object(t, 1, nil)
	before, _, err := f.take(o, early, Facts{UID: "u", Before: json.RawMessage("null")})
	require.NoError(t, err)
	require.Equal(t, "null", string(before))
	require.NoError(t, unstructured.SetNestedField(o.Object, "true", f.Path...))
	o.SetAnnotations(map[string]string{Note: `{"key":"a","target":"shop","at":"2026-03-01T12:00:00.000000001Z","before":null}`})
	value, remark, done, err := f.give(o, early)
	require.NoError(t, err)
	require.False(t, done)
	require.Empty(t, remark)
	require.Equal(t, "null", string(value))
}

func TestLeft(t *testing.T) {
	text := func(n *note) map[string]string { return object(t, 0, n).GetAnnotations() }
	require.True(t, Left(text(holding(early, "3")), "shop"))
	require.False(t, Left(text(holding(early, "3")), "books"), "another target's run may be at work")
	require.False(t, Left(text(over(early)), "shop"))
	require.False(t, Left(nil, "shop"))
	require.False(t, Left(map[string]string{Note: "{"}, "shop"))
}

// FuzzANote: whoever may write annotations writes what he likes. Nothing but a whole note is taken for one,
// and what is given back is JSON.
func FuzzANote(f *testing.F) {
	for _, seed := range []string{
		`{"key":"a","target":"shop","at":"2026-03-01T12:00:00Z","before":3}`, `{"key":"a","at":"2026-03-01T12:00:00Z","over":true}`, `{"key":"a","at":"2026-03-01T12:00:00Z","before":null}`,
		`{"key":"","at":"2026-03-01T12:00:00Z","before":3}`, `{"key":"a","at":"9999-12-31T23:59:59Z","before":{"a":[1e999]}}`, `{`, `null`, `[]`, `"x"`, strings.Repeat("[", 20_000),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o := object(t, 0, nil)
		o.SetAnnotations(map[string]string{Note: text})
		before, _, err := replicas.Before(o)
		if err == nil && !json.Valid(before) {
			t.Fatalf("%q is no JSON", before)
		}
		value, _, done, err := replicas.give(o, late)
		if err == nil && !done && !json.Valid(value) {
			t.Fatalf("%q is no JSON", value)
		}
		if _, _, err := replicas.take(o, late, Facts{UID: "u", Before: json.RawMessage("0")}); err != nil {
			if _, known := failure.As(err); !known {
				t.Fatalf("not of the catalogue: %v", err)
			}
		}
		Left(o.GetAnnotations(), "shop")
	})
}
