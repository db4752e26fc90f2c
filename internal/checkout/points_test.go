package checkout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/fault"
)

// TestEachCallOfGitHasPoints reads the package's own code: the first argument of each call is one of those
// around which a test can kill the worker, git is started in one place, and none of them is there for nothing.
func TestEachCallOfGitHasPoints(t *testing.T) {
	all, err := parser.ParseDir(token.NewFileSet(), ".", func(i fs.FileInfo) bool { return !strings.HasSuffix(i.Name(), "_test.go") }, 0)
	require.NoError(t, err)
	made, starts := make(map[string]bool), 0
	for _, file := range all["checkout"].Files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if n.Sel.Name == "CommandContext" || n.Sel.Name == "Command" || n.Sel.Name == "StartProcess" {
					starts++
				}
			case *ast.CompositeLit: // []string{"push", ...}, wherever it comes from
				if len(n.Elts) == 0 {
					return true
				}
				if text, ok := n.Elts[0].(*ast.BasicLit); ok && text.Kind == token.STRING {
					word, err := strconv.Unquote(text.Value)
					require.NoError(t, err)
					if _, known := calls[word]; known {
						made[word] = true
					}
				}
			}
			return true
		})
	}
	require.Equal(t, 1, starts, "git is started in one place, which refuses a call without points")
	for name := range calls {
		require.True(t, made[name], "git %s is called nowhere", name)
		require.Contains(t, fault.Points(), "git/"+name+"/before")
		require.Contains(t, fault.Points(), "git/"+name+"/after")
	}
	_, err = git{remote: Remote{URL: "https://example.com/a"}}.run(t.Context(), call{args: []string{"gc"}})
	require.ErrorContains(t, err, "none of the calls that have points")
}
