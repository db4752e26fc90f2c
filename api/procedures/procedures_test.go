package procedures

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryFieldIsExplained(t *testing.T) {
	for _, p := range All() {
		require.NotEmpty(t, p.Purpose, p.Name)
		require.NotEmpty(t, p.Input, p.Name)
		for _, f := range p.Input {
			require.NotEmpty(t, f.Help, "%s.%s", p.Name, f.Name)
		}
	}
}
