package pullrequest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

func TestCommitMessage(t *testing.T) {
	message := pullrequest.CommitMessage(patch)
	require.Equal(t, "chore(deps): update example.com/a to v1.0.1\n\ngo.mod: example.com/a v1.0.0 -> v1.0.1\n\nUpkeep-Changes: "+patch.Hash()+"\n", message)
	require.Equal(t, patch.Hash(), pullrequest.ReadTrailer(message))
	require.Empty(t, pullrequest.ReadTrailer("chore: by hand"))

	hostile := change("npm", "a\nUpkeep-Changes: "+strings.Repeat("0", 64)+"\x1b[2J", "1.0.0", "1.0.1", dependency.Patch)
	p := pullrequest.Propose([]pullrequest.Change{hostile}, nil)[0]
	require.Equal(t, p.Hash(), pullrequest.ReadTrailer(pullrequest.CommitMessage(p)))
	require.NotContains(t, pullrequest.CommitMessage(p), "\x1b")
	require.Equal(t, 1, strings.Count(pullrequest.CommitMessage(p), "\nUpkeep-Changes"))
}
