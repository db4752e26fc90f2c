package gomod

import (
	"context"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
)

var _ dependency.Follower = Manager{}

const (
	maxSources = 100_000
	maxSource  = 16 << 20 // bytes of one file
)

// major is the element by which a module's path names its major version.
var major = regexp.MustCompile(`^v([2-9]|[1-9][0-9]+)$`)

// Follow renames the imports of a module whose next major version is another module, in the files of the
// module that requires it.
func (Manager) Follow(ctx context.Context, repository fs.FS, d dependency.Dependency, to dependency.Update) (map[string][]byte, error) {
	if to.Package == "" || to.Package == d.Package.Name || path.Base(d.File) != "go.mod" {
		return nil, nil
	}
	content, err := mention.Read(repository, d.File, mention.MaxFile)
	if err != nil {
		return nil, err
	}
	mod, err := modfile.ParseLax(d.File, content, nil)
	if err != nil {
		return nil, mention.Named(err, d.File)
	}
	// An import belongs to the longest path of a module that it begins with.
	var longer []string
	for _, r := range mod.Require {
		if strings.HasPrefix(r.Mod.Path, d.Package.Name+"/") {
			longer = append(longer, r.Mod.Path)
		}
	}
	changed := make(map[string][]byte)
	seen := 0
	root := path.Dir(d.File)
	err = fs.WalkDir(repository, root, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case entry.IsDir():
			if _, err := fs.Lstat(repository, path.Join(file, "go.mod")); file != root && err == nil || slices.Contains([]string{".git", "node_modules", "vendor", "testdata"}, entry.Name()) {
				return fs.SkipDir // of another module, or of others
			}
			return nil
		case !entry.Type().IsRegular() || path.Ext(file) != ".go":
			return nil
		}
		if seen++; seen > maxSources {
			return fmt.Errorf("the module has more than %d files", maxSources)
		}
		content, err := mention.Read(repository, file, maxSource)
		if err != nil {
			return err
		}
		after, err := rename(content, d.Package.Name, to.Package, longer)
		if err != nil {
			return mention.Named(err, file)
		}
		if string(after) != string(content) {
			changed[file] = after
		}
		return nil
	})
	return changed, err
}

// rename puts one module's path in the place of another's in the imports of a file. Only these bytes change.
func rename(content []byte, from, to string, longer []string) ([]byte, error) {
	if !strings.Contains(string(content), from) {
		return content, nil
	}
	files := token.NewFileSet()
	source, err := parser.ParseFile(files, "", content, parser.ImportsOnly)
	if err != nil {
		return nil, &dependency.Problem{What: "it cannot be read, so its imports were not renamed"}
	}
	var parts []mention.Replacement
	for _, i := range source.Imports {
		name, err := strconv.Unquote(i.Path.Value)
		if err != nil || name != from && !strings.HasPrefix(name, from+"/") || name != i.Path.Value[1:len(i.Path.Value)-1] {
			continue
		}
		next, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(name, from), "/"), "/")
		if major.MatchString(next) || slices.ContainsFunc(longer, func(l string) bool { return name == l || strings.HasPrefix(name, l+"/") }) {
			continue // of another module
		}
		at := files.Position(i.Path.Pos()).Offset + 1
		parts = append(parts, mention.Replacement{Span: mention.Span{Start: at, End: at + len(from)}, Text: to})
	}
	after, ok := mention.Splice(content, parts)
	if !ok {
		return nil, &dependency.Problem{What: "its imports cannot be renamed"}
	}
	return after, nil
}
