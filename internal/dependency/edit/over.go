package edit

import (
	"bytes"
	"io/fs"
	"time"
)

// over is a repository in which some files are edited already, so that one change sees what another has made.
type over struct {
	fs.FS
	edited map[string][]byte
}

// Open gives the edited file, if there is one.
func (o over) Open(name string) (fs.File, error) {
	f, err := o.FS.Open(name)
	content, ok := o.edited[name]
	if err != nil || !ok {
		return f, err
	}
	info, err := f.Stat()
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return nil, err
	}
	return &memory{Reader: bytes.NewReader(content), FileInfo: info, size: int64(len(content))}, nil
}

// memory is a file of which only the content is another.
type memory struct {
	*bytes.Reader
	fs.FileInfo
	size int64
}

func (m *memory) Stat() (fs.FileInfo, error) { return m, nil }
func (m *memory) Close() error               { return nil }
func (m *memory) Size() int64                { return m.size }
func (m *memory) ModTime() time.Time         { return time.Time{} }
