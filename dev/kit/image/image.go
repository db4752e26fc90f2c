// Package image makes container images of files that the machine has, without a registry or a
// container engine: an archive as "docker save" writes it, of one layer.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Image is what goes into one.
type Image struct {
	Name       string // with its tag
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	StopSignal string
	Volumes    []string // folders that an engine puts a volume on
	Labels     map[string]string

	entries map[string]entry // by path, without the leading slash
}

// entry is a folder, a link, a text or a file of the machine.
type entry struct {
	mode   fs.FileMode
	owner  int // the ids of its user and group
	link   string
	text   []byte
	source string
}

// New begins an image with the folders that every program expects.
func New(name string, entrypoint ...string) *Image {
	i := &Image{Name: name, Entrypoint: entrypoint, entries: map[string]entry{}, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}}
	i.Folder("/tmp", 0o777|fs.ModeSticky)
	i.Text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644)
	i.Text("/etc/group", "root:x:0:\n", 0o644)
	return i
}

func (i *Image) put(place string, e entry) {
	place = strings.TrimPrefix(path.Clean(place), "/")
	for parent := path.Dir(place); parent != "."; parent = path.Dir(parent) {
		if _, there := i.entries[parent]; !there {
			i.entries[parent] = entry{mode: fs.ModeDir | 0o755}
		}
	}
	i.entries[place] = e
}

// Folder adds a folder.
func (i *Image) Folder(place string, mode fs.FileMode) { i.put(place, entry{mode: fs.ModeDir | mode}) }

// Owned adds a folder that belongs to a user and the group of the same id.
func (i *Image) Owned(place string, mode fs.FileMode, owner int) {
	i.put(place, entry{mode: fs.ModeDir | mode, owner: owner})
}

// Text adds a file of a few words.
func (i *Image) Text(place, content string, mode fs.FileMode) {
	i.put(place, entry{mode: mode, text: []byte(content)})
}

// Link adds a symbolic link.
func (i *Image) Link(place, to string) { i.put(place, entry{mode: fs.ModeSymlink | 0o777, link: to}) }

// File adds a file of the machine; of a link, what it leads to.
func (i *Image) File(place, source string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	i.put(place, entry{mode: info.Mode().Perm(), source: source})
	return nil
}

// Tree adds a folder of the machine under its own path, without what skip says of a path in it.
func (i *Image) Tree(folder string, skip func(string) bool) error {
	return i.TreeAt(folder, folder, skip)
}

// TreeAt is Tree under another path.
func (i *Image) TreeAt(place, folder string, skip func(string) bool) error {
	return filepath.WalkDir(folder, func(name string, e fs.DirEntry, err error) error {
		at := place + strings.TrimPrefix(name, folder)
		switch {
		case err != nil:
			return err
		case skip != nil && skip(name):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			i.Folder(at, 0o755)
			return nil
		}
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
			return nil // a link to nowhere or to a folder
		}
		return i.File(at, name)
	})
}

// Libraries adds the shared libraries that the programs and libraries already in the image load.
func (i *Image) Libraries(ctx context.Context) error {
	for _, place := range slices.Sorted(maps.Keys(i.entries)) {
		e := i.entries[place]
		if e.source == "" || (e.mode&0o111 == 0 && !strings.Contains(place, ".so")) || !isELF(e.source) {
			continue
		}
		output, err := exec.CommandContext(ctx, "ldd", e.source).Output()
		if err != nil { // a static program
			continue
		}
		for line := range strings.Lines(string(output)) {
			for _, field := range strings.Fields(line) {
				if !strings.HasPrefix(field, "/") {
					continue
				}
				if err := i.File(field, field); err != nil {
					return fmt.Errorf("a library of %s: %w", e.source, err)
				}
			}
			if strings.Contains(line, "not found") {
				return fmt.Errorf("%s needs a library that is not on this machine: %s", e.source, strings.TrimSpace(line))
			}
		}
	}
	return nil
}

func isELF(name string) bool {
	file, err := os.Open(name)
	if err != nil {
		return false
	}
	defer file.Close()
	magic := make([]byte, 4)
	_, err = io.ReadFull(file, magic)
	return err == nil && string(magic) == "\x7fELF"
}

// Write writes the image's archive. The same content gives the same bytes.
func (i *Image) Write(out string) (err error) {
	layer, err := os.CreateTemp(filepath.Dir(out), ".layer-")
	if err != nil {
		return err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	sum := sha256.New()
	if err := i.writeLayer(io.MultiWriter(layer, sum)); err != nil {
		return fmt.Errorf("image %s: %w", i.Name, err)
	}
	size, err := layer.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	volumes := map[string]struct{}{}
	for _, folder := range i.Volumes {
		volumes[folder] = struct{}{}
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{
			"Entrypoint": i.Entrypoint, "Cmd": i.Cmd, "Env": i.Env, "User": i.User, "StopSignal": i.StopSignal,
			"Volumes": volumes, "Labels": i.Labels,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum.Sum(nil))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	archive := tar.NewWriter(file)
	for _, member := range []struct {
		name    string
		size    int64
		content io.Reader
	}{
		{"config.json", int64(len(config)), bytes.NewReader(config)},
		{"layer.tar", size, layer},
		{"manifest.json", int64(len(manifest)), bytes.NewReader(manifest)},
	} {
		if err := archive.WriteHeader(&tar.Header{Name: member.name, Size: member.size, Mode: 0o644}); err != nil {
			return err
		}
		if _, err := io.Copy(archive, member.content); err != nil {
			return err
		}
	}
	return archive.Close()
}

func (i *Image) writeLayer(w io.Writer) error {
	archive := tar.NewWriter(w)
	for _, place := range slices.Sorted(maps.Keys(i.entries)) {
		e := i.entries[place]
		header := &tar.Header{Name: place, Mode: int64(e.mode.Perm()), Typeflag: tar.TypeReg, Size: int64(len(e.text)), Uid: e.owner, Gid: e.owner}
		if e.mode&fs.ModeSticky != 0 {
			header.Mode |= 0o1000
		}
		var content io.Reader = bytes.NewReader(e.text)
		switch {
		case e.mode.IsDir():
			header.Name, header.Typeflag = place+"/", tar.TypeDir
		case e.link != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, e.link
		case e.source != "":
			file, err := os.Open(e.source)
			if err != nil {
				return err
			}
			defer file.Close()
			info, err := file.Stat()
			if err != nil {
				return err
			}
			header.Size, content = info.Size(), file
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.Copy(archive, content); err != nil {
			return fmt.Errorf("%s: %w", place, err)
		}
	}
	return archive.Close()
}
