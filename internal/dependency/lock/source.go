package lock

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/internal/dependency/mention"
)

// source is a repository with edited files in place of its own.
type source struct {
	fs     fs.FS
	edited map[string][]byte
}

const (
	maxFile  = 64 << 20 // bytes
	maxAll   = 1 << 30
	maxFiles = 200_000
)

// read reads a file; nil when there is none.
func (s source) read(file string) ([]byte, error) {
	if content, ok := s.edited[file]; ok {
		return content, nil
	}
	content, err := mention.Read(s.fs, file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return content, err
}

// copy puts the wanted files below a folder into the workshop, at their own paths. Links are left out.
func (s source) copy(w *workshop, folder string, wanted func(file string) bool) error {
	size, count := 0, 0
	return fs.WalkDir(s.fs, folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains([]string{".git", "node_modules", "vendor"}, entry.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() || !wanted(name) {
			return nil
		}
		content, err := s.read(name)
		if err != nil {
			return err
		}
		size += len(content)
		if count++; count > maxFiles || size > maxAll {
			return errTooMuch
		}
		return w.write(name, content)
	})
}

// differs gives those files of the workshop, below a folder in it, that are others than the source's.
func (s source) differs(w *workshop, files ...string) (map[string][]byte, error) {
	changed := make(map[string][]byte)
	for _, file := range files {
		after, err := mention.Read(w.root.FS(), file, maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		before, err := s.read(file)
		if err != nil {
			return nil, err
		}
		if string(before) != string(after) {
			changed[file] = after
		}
	}
	return changed, nil
}

// beside is a file in another's folder.
func beside(file, name string) string { return path.Join(path.Dir(file), name) }

// above are a folder and those above it, up to the repository's root.
func above(folder string) []string {
	all := []string{folder}
	for folder != "." {
		folder = path.Dir(folder)
		all = append(all, folder)
	}
	return all
}

func inside(folder, file string) bool {
	return folder == "." || file == folder || strings.HasPrefix(file, folder+"/")
}
