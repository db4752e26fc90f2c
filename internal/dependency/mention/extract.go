package mention

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/upkeep-run/upkeep/internal/dependency"
)

// MaxFile bounds a file that people write, in bytes.
const MaxFile = 2 << 20

// Extract is the Extract of a Manager that needs no more than the file.
func Extract(repository fs.FS, file string, find Find) ([]dependency.Dependency, error) {
	content, err := Read(repository, file, MaxFile)
	if err != nil {
		return nil, err
	}
	mentions, err := find(content)
	if err != nil {
		return nil, Named(err, file)
	}
	all := Dependencies(mentions)
	for i := range all {
		all[i].File = file
	}
	return all, nil
}

// Named returns the problem with the file's name.
func Named(err error, file string) error {
	var p *dependency.Problem
	if !errors.As(err, &p) {
		p = &dependency.Problem{What: err.Error()}
	}
	named := *p
	named.File = file
	named.What = dependency.Printable(named.What)
	return &named
}

// Read reads a regular file of at most so many bytes. A symbolic link is not followed.
func Read(repository fs.FS, file string, most int64) ([]byte, error) {
	info, err := fs.Lstat(repository, file)
	if err != nil {
		return nil, unreadable(file, err)
	}
	if !info.Mode().IsRegular() {
		return nil, &dependency.Problem{File: file, What: "it is no regular file"}
	}
	f, err := repository.Open(file)
	if err != nil {
		return nil, unreadable(file, err)
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, unreadable(file, err)
	}
	if int64(len(content)) > most {
		return nil, &dependency.Problem{File: file, What: fmt.Sprintf("it has more than %d bytes", most)}
	}
	return content, nil
}

func unreadable(file string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err // without the folder in which the repository is
	}
	return &unread{&dependency.Problem{File: file, What: "it cannot be read: " + err.Error()}, err}
}

// unread is the problem of a file that is not there, or cannot be read.
type unread struct {
	*dependency.Problem
	cause error
}

func (u *unread) Unwrap() []error { return []error{u.Problem, u.cause} }
