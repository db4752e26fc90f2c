// Package edit brings the files of a repository to what is proposed, without touching the repository.
package edit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"

	"github.com/pmezard/go-difflib/difflib"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/manager"
	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	maxFile = 8 << 20 // bytes of a file that is edited
	maxDiff = 4 << 10 // bytes of a diff that people are shown
)

// Change is a dependency and what it is brought to.
type Change struct {
	Dependency dependency.Dependency
	Update     dependency.Update
}

// Apply edits the files that say what is depended on, and those that follow them, and returns their new content
// by path. Either all changes can be made, or it is an error that names the one that cannot. What only a lock
// file names is left to the one who makes that anew.
func Apply(ctx context.Context, repository fs.FS, changes []Change) (map[string][]byte, error) {
	edited := make(map[string][]byte)
	for _, c := range changes {
		d := c.Dependency
		m, ok := manager.Named(d.Manager)
		if !ok || !m.Claims(d.File) {
			return nil, failure.New(failure.NotEditable, "no manager %.40q edits %.200q", d.Manager, d.File)
		}
		content, ok := edited[d.File]
		if !ok {
			var err error
			if content, err = read(repository, d.File); err != nil {
				return nil, err
			}
		}
		after, err := m.Edit(content, d, c.Update)
		if errors.Is(err, dependency.ErrLockFile) {
			continue
		}
		if err != nil {
			return nil, err
		}
		edited[d.File] = after
		if f, ok := m.(dependency.Follower); ok {
			follow, err := f.Follow(ctx, over{repository, edited}, d, c.Update)
			if err != nil {
				return nil, err
			}
			maps.Copy(edited, follow)
		}
	}
	return edited, nil
}

func read(repository fs.FS, file string) ([]byte, error) {
	f, err := repository.Open(file)
	if err != nil {
		return nil, failure.New(failure.NotEditable, "%.200q cannot be read", file).Because(err)
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil || len(data) > maxFile {
		return nil, failure.New(failure.NotEditable, "%.200q cannot be read, or has more than %d MiB", file, maxFile>>20).Because(err)
	}
	return data, nil
}

// Diff shows what edited files have otherwise than the repository's, for people: it is cut where it is long.
func Diff(repository fs.FS, edited map[string][]byte) (string, error) {
	diff := ""
	for _, file := range slices.Sorted(maps.Keys(edited)) {
		before, err := read(repository, file)
		if err != nil {
			return "", err
		}
		text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
			A: difflib.SplitLines(string(before)), B: difflib.SplitLines(string(edited[file])), FromFile: "a/" + file, ToFile: "b/" + file, Context: 1,
		})
		if err != nil {
			return "", fmt.Errorf("compare %s with what it was: %w", file, err)
		}
		if diff += text; len(diff) > maxDiff {
			return diff[:maxDiff] + "\n...\n", nil
		}
	}
	return diff, nil
}
