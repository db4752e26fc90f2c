package helm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
)

func TestValuesAreMergedInOrder(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	c := Change{
		Values: []string{write("a.yaml", "image: {tag: a, pull: Never}\nlist: [1, 2]\n"), write("b.yaml", "image: {tag: b}\nlist: [3]\n")},
		Set:    map[string]any{"image.tag": "c", "new.deep.value": true},
	}
	got, err := c.Request()
	require.NoError(t, err)
	require.Equal(t, map[string]any{
		"image": map[string]any{"tag": "c", "pull": "Never"}, "list": []any{float64(3)}, "new": map[string]any{"deep": map[string]any{"value": true}},
	}, got.Values)

	for name, c := range map[string]Change{
		"not there": {Values: []string{filepath.Join(dir, "none")}},
		"no YAML":   {Values: []string{write("bad", "secret: [hunter2")}},
		"too large": {Values: []string{write("large", "a: "+strings.Repeat("x", maxValues))}},
		"no map":    {Set: map[string]any{"a": 1, "a.b": 2}},
	} {
		_, err := c.Request()
		f, ok := failure.As(err)
		require.True(t, ok, name)
		require.Contains(t, []failure.Class{failure.InvalidInput}, f.Class(), name)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestHowFarAnOperationHasCome(t *testing.T) {
	id, undo := helmrelease.OperationID("mine"), helmrelease.OperationID("undo")
	for name, c := range map[string]struct {
		history []helmrelease.Revision
		want    Stands
	}{
		"done":              {[]helmrelease.Revision{{Number: 2, Status: "deployed", Operation: id}, {Number: 1, Status: "superseded"}}, Done},
		"cut off":           {[]helmrelease.Revision{{Number: 2, Status: "pending-upgrade", Operation: id}}, Halfway},
		"failed":            {[]helmrelease.Revision{{Number: 2, Status: "failed", Operation: id}}, Halfway},
		"being taken back":  {[]helmrelease.Revision{{Number: 3, Status: "pending-rollback", Operation: undo}, {Number: 2, Status: "failed", Operation: id}}, Halfway},
		"taken back":        {[]helmrelease.Revision{{Number: 3, Status: "deployed", Operation: undo}, {Number: 2, Status: "failed", Operation: id}}, Halfway},
		"mended by others":  {[]helmrelease.Revision{{Number: 3, Status: "deployed"}, {Number: 2, Status: "failed", Operation: id}}, Over},
		"changed by others": {[]helmrelease.Revision{{Number: 3, Status: "deployed"}, {Number: 2, Status: "superseded", Operation: id}}, Over},
	} {
		require.Equal(t, c.want, stands(c.history, made(c.history, "mine"), made(c.history, "undo")), name)
	}
	require.Nil(t, made([]helmrelease.Revision{{Number: 1, Status: "deployed"}}, "mine"))
}

func TestWhereItGoesBackTo(t *testing.T) {
	history := []helmrelease.Revision{{Number: 5, Status: "failed"}, {Number: 4, Status: "failed"}, {Number: 3, Status: "deployed"}, {Number: 2, Status: "superseded"}}
	to, err := before(history, 5)
	require.NoError(t, err)
	require.Equal(t, 3, to)
	_, err = before(history, 2)
	require.True(t, failure.Is(err, failure.MissingRelease))
}

func TestWhatAPlanShowsIsBounded(t *testing.T) {
	p := helmrelease.Plan{Diff: helmrelease.Diff{Changed: 9, Cut: 1}}
	for range 8 {
		p.Diff.Objects = append(p.Diff.Objects, helmrelease.ObjectDiff{Text: strings.Repeat("x", maxShown/4)})
	}
	show(&p)
	require.Len(t, p.Diff.Objects, 3)
	require.Equal(t, 6, p.Diff.Cut)
}
