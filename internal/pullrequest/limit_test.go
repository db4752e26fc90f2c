package pullrequest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

func TestAdmit(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var changes []pullrequest.Change
	for i := range 20 {
		changes = append(changes, change("npm", fmt.Sprintf("p%02d", i), "1.0.0", "1.0.1", dependency.Patch))
	}
	for i := range 3 {
		changes = append(changes, change("npm", fmt.Sprintf("s%02d", i), "1.0.0", "1.0.1", dependency.Security))
	}
	all := pullrequest.Propose(changes, nil)

	admitted, waiting := pullrequest.Admit(all, nil, pullrequest.DefaultLimits, now)
	require.Len(t, admitted, 3+2)
	require.Len(t, waiting, 18)
	require.Contains(t, waiting[0].Why, "2 were opened within the hour")

	var standing []pullrequest.Standing
	for n, p := range all[:13] { // ten of them no security
		standing = append(standing, pullrequest.Standing{Branch: p.Branch, Number: n + 1, Opened: now.Add(-2 * time.Hour)})
	}
	admitted, waiting = pullrequest.Admit(all, standing, pullrequest.DefaultLimits, now)
	require.Len(t, admitted, 13, "those that stand are kept up to date")
	require.Contains(t, waiting[0].Why, "10 are open")

	admitted, _ = pullrequest.Admit(all, standing[:12], pullrequest.DefaultLimits, now)
	require.Len(t, admitted, 13, "one has been closed, and another takes its place")

	standing[12].Number = 0
	admitted, _ = pullrequest.Admit(all, standing, pullrequest.DefaultLimits, now)
	require.Len(t, admitted, 13, "a branch that was left over is no pull request, and counts for none")
}

func TestObsolete(t *testing.T) {
	all := pullrequest.Propose([]pullrequest.Change{change("npm", "a", "1.0.0", "1.0.1", dependency.Patch)}, nil)
	standing := []pullrequest.Standing{{Branch: all[0].Branch}, {Branch: "upkeep/patch/b"}, {Branch: "upkeep/major/c"}}
	require.Equal(t, standing[1:2], pullrequest.Obsolete(standing, all, []string{dependency.Patch}))
	require.Equal(t, standing[1:], pullrequest.Obsolete(standing, all, nil))
}

func TestDashboard(t *testing.T) {
	d := pullrequest.Dashboard{
		Open:    []pullrequest.Line{{Number: 7, What: "chore(deps): update a to 1.0.1", Why: "its checks run"}},
		Refused: []pullrequest.Line{{What: "b|c", Why: "@ada closed it"}},
	}
	for i := range 150 {
		d.Young = append(d.Young, pullrequest.Line{What: fmt.Sprint(i)})
	}
	body := d.Render()
	require.Contains(t, body, "### Open (1)\n- #7 chore(deps): update a to 1.0.1: its checks run\n")
	require.Contains(t, body, "and 50 more")
	require.Contains(t, body, `b\|c: @`)
	seen, _, _ := strings.Cut(strings.Replace(body, "#7", "", 1), "<!--")
	require.False(t, acts.MatchString(seen), seen)
	require.True(t, pullrequest.SameBody(body, d.Render()))
	require.Contains(t, pullrequest.Dashboard{}.Render(), "Everything is up to date")
}
