package github

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// reads are the calls of the library that change nothing on GitHub, by how their names begin. A token of an
// app is nothing that stays.
var reads = regexp.MustCompile(`^(Get|List|Find|NewRequest$|CreateInstallationToken$)`)

// TestEachCallThatWritesHasPoints reads the package's own code: whoever adds a call that changes something on
// GitHub must let tests kill the worker before and after it.
func TestEachCallThatWritesHasPoints(t *testing.T) {
	set := token.NewFileSet()
	all, err := parser.ParseDir(set, ".", func(i fs.FileInfo) bool { return !strings.HasSuffix(i.Name(), "_test.go") }, 0)
	require.NoError(t, err)
	found := 0
	for _, file := range all["github"].Files {
		ast.Inspect(file, func(n ast.Node) bool {
			block, ok := n.(*ast.BlockStmt)
			if !ok {
				return true
			}
			for i, s := range block.List {
				call := writes(s)
				if call == "" {
					continue
				}
				found++
				at := set.Position(s.Pos())
				require.True(t, i > 0 && i+1 < len(block.List), "%s: %s has no points around it", at, call)
				before, after := hit(block.List[i-1]), hit(block.List[i+1])
				require.True(t, strings.HasSuffix(before, ".before") && strings.TrimSuffix(before, ".before")+".after" == after,
					"%s: %s stands between %q and %q, not between the two points of an effect", at, call, before, after)
			}
			return true
		})
	}
	require.GreaterOrEqual(t, found, 12)
}

// writes is the call of GitHub's in a statement that may change something; of a statement with others inside,
// such as an if with a block, what stands in its own line counts.
func writes(s ast.Stmt) (call string) {
	ast.Inspect(s, func(n ast.Node) bool {
		if _, ok := n.(*ast.BlockStmt); ok {
			return false
		}
		c, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		method, ok := c.Fun.(*ast.SelectorExpr)
		if ok && ofAPI(method.X) && !reads.MatchString(method.Sel.Name) {
			call = method.Sel.Name
		}
		return true
	})
	return call
}

// ofAPI reports whether an expression is the library's client, or a part of it.
func ofAPI(e ast.Expr) bool {
	for {
		s, ok := e.(*ast.SelectorExpr)
		if !ok {
			id, ok := e.(*ast.Ident)
			return ok && id.Name == "client"
		}
		if id, ok := s.X.(*ast.Ident); ok && id.Name == "c" && (s.Sel.Name == "api" || s.Sel.Name == "app") {
			return true
		}
		e = s.X
	}
}

// hit is the point that a statement hits.
func hit(s ast.Stmt) string {
	e, ok := s.(*ast.ExprStmt)
	if !ok {
		return ""
	}
	call, ok := e.X.(*ast.CallExpr)
	if !ok {
		return ""
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || method.Sel.Name != "Hit" {
		return ""
	}
	side, ok := method.X.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	name, ok := side.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return name.Name + "." + side.Sel.Name
}
