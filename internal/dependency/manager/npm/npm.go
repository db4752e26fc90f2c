// Package npm finds packages of npm in package.json and in npm's lock file.
package npm

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/jsonfile"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
)

const name = "npm"

// Manager is the dependency.Manager of npm.
type Manager struct{}

func (Manager) Name() string { return name }

// Claims takes package.json, and the lock files for what others need.
func (Manager) Claims(file string) bool {
	switch path.Base(file) {
	case "package.json", lockFile, shrinkwrap:
		return true
	}
	return false
}

// Extract gives for a package.json what it names, with the versions that the lock file says, and for a lock
// file what nobody in the repository names.
func (Manager) Extract(_ context.Context, repository fs.FS, file string) ([]dependency.Dependency, error) {
	if path.Base(file) != "package.json" {
		return indirect(repository, file)
	}
	all, err := mention.Extract(repository, file, find)
	if err != nil || len(all) == 0 {
		return all, err
	}
	lock := lockOf(repository, path.Dir(file))
	for i := range all {
		lock.apply(&all[i])
	}
	return all, nil
}

// Edit edits a package.json. What only the lock file names is npm's to change: see package lock.
func (Manager) Edit(content []byte, d dependency.Dependency, to dependency.Update) ([]byte, error) {
	if path.Base(d.File) != "package.json" {
		return nil, dependency.ErrLockFile
	}
	return mention.Edit(content, find, d, to)
}

// sections are the parts of a package.json that name packages, and why nothing of it is proposed.
var sections = []struct{ key, skip string }{
	{"dependencies", ""},
	{"devDependencies", ""},
	{"optionalDependencies", ""},
	{"peerDependencies", "it is a peer, which those who install this package choose"},
	{"overrides", overridden},
	{"resolutions", overridden},
}

const overridden = "it overrides what other packages ask for"

func find(content []byte) ([]mention.Mention, error) {
	root, err := jsonfile.Parse(content)
	if err != nil {
		return nil, err
	}
	var found []mention.Mention
	for _, section := range sections {
		for _, member := range root.Get(section.key).Members {
			m := specified(member)
			m.Skip = cmp.Or(section.skip, m.Skip)
			found = append(found, m)
		}
	}
	if m, ok := program(root.Get("packageManager")); ok {
		found = append(found, m)
	}
	return found, nil
}

// program is the package manager itself, such as npm@10.9.0.
func program(v jsonfile.Value) (mention.Mention, bool) {
	at := strings.LastIndexByte(v.Text, '@')
	if at <= 0 {
		return mention.Mention{}, false
	}
	m := of(v.Text[:at], v.Text[:at], v.Text[at+1:])
	m.Version = v.Span.At(at+1, len(m.Written))
	switch {
	case strings.Contains(m.Written, "+"):
		m.Skip = "it is pinned to a hash, which corepack writes"
	case !v.Plain:
		m.Skip = escaped
	}
	return m, true
}

const escaped = "it is written with escapes"

// specified is a member of a section: a name, and what is asked for.
func specified(v jsonfile.Value) mention.Mention {
	if !v.String {
		m := of(v.Key, v.Key, "")
		m.Skip = "it is no version"
		return m
	}
	at, pkg := 0, v.Key
	if alias, ok := strings.CutPrefix(v.Text, "npm:"); ok {
		pkg = alias
		at = len(v.Text)
		if i := strings.LastIndexByte(alias, '@'); i > 0 {
			pkg, at = alias[:i], len("npm:")+i+1
		}
	}
	m := of(v.Key, pkg, v.Text[at:])
	m.Version = v.Span.At(at, len(m.Written))
	m.Current = lowest(m.Written)
	if m.Skip = notFollowed(m.Written); m.Skip != "" {
		m.Current = ""
	} else if !v.Plain {
		m.Skip = escaped
	}
	return m
}

func of(key, pkg, written string) mention.Mention {
	return mention.Mention{Dependency: dependency.Dependency{
		Manager: name, Name: key, Current: written, Written: written,
		Package: dependency.Package{Datasource: dependency.SourceNPM, Name: pkg, Versioning: dependency.VersioningNPM},
	}}
}

var (
	// comparator is one part of a range; so is a version.
	comparator = regexp.MustCompile(`^(\|\||-|(\^|~>?|[<>]=?|=)?\s*v?([0-9]+|[xX*])(\.([0-9]+|[xX*])){0,2}([-+][0-9A-Za-z.+-]+)?|\^|~|[<>]=?|=)$`)
	tag        = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`)
	version    = regexp.MustCompile(`v?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+)(-[0-9A-Za-z.-]+)?)?`)
)

// notFollowed says why what is asked for is not a range of versions, or gives "".
func notFollowed(written string) string {
	scheme, _, _ := strings.Cut(written, ":")
	switch {
	case written == "":
		return "it asks for any version"
	case scheme == "file" || scheme == "link" || scheme == "portal":
		return "it is a folder or a file"
	case scheme == "workspace":
		return "it is a workspace of this repository"
	case scheme == "catalog":
		return "its version is in pnpm's or yarn's catalog"
	case scheme == "http" || scheme == "https" || strings.HasPrefix(scheme, "git") || strings.Contains(written, "/"):
		return "it is not of a registry"
	}
	for part := range strings.FieldsSeq(strings.ReplaceAll(written, "||", " || ")) {
		if !comparator.MatchString(part) {
			if tag.MatchString(written) {
				return "it follows the tag " + written
			}
			return "its range is none of npm's"
		}
	}
	if strings.Trim(written, "*xX ") == "" {
		return "it asks for any version"
	}
	return ""
}

// lowest is the version that a range begins with: what is known to be in use where no lock file says more.
func lowest(written string) string {
	alternatives := strings.Split(written, "||")
	m := version.FindStringSubmatch(alternatives[len(alternatives)-1])
	if m == nil {
		return ""
	}
	return m[1] + "." + cmp.Or(m[2], "0") + "." + cmp.Or(m[3], "0") + m[4]
}

// indirect is what a lock file has beyond what the repository's own package.json files name.
func indirect(repository fs.FS, file string) ([]dependency.Dependency, error) {
	lock, err := read(repository, file)
	if err != nil {
		return nil, err
	}
	var found []mention.Mention
	for _, p := range lock.packages() {
		if p.direct {
			continue
		}
		m := of(p.name, p.name, p.Version)
		m.Indirect = true
		m.Skip = p.skip()
		found = append(found, m)
	}
	all := mention.Dependencies(found)
	for i := range all {
		all[i].File = file
	}
	return all, nil
}

// foreign are the lock files of other programs.
var foreign = []struct{ file, program string }{
	{"yarn.lock", "yarn"}, {"pnpm-lock.yaml", "pnpm"}, {"bun.lock", "bun"}, {"bun.lockb", "bun"},
}

// inUse says which versions the packages of a folder are in.
type inUse struct {
	lock   *Lock  // nil without one of npm's
	folder string // the package's, from the lock file's folder
	skip   string // why nothing of the package is proposed
}

// lockOf finds the lock file that is for a folder's package: beside it, or above, if it is a workspace there.
// What is wrong with the lock file is said when it is read for itself.
func lockOf(repository fs.FS, folder string) inUse {
	use := inUse{folder: "."}
	for at := folder; ; at = path.Dir(at) {
		for _, other := range foreign {
			if _, err := fs.Lstat(repository, path.Join(at, other.file)); err == nil && use.skip == "" {
				use.skip = other.file + " is not made anew by Upkeep: update it with " + other.program
			}
		}
		for _, file := range []string{shrinkwrap, lockFile} {
			lock, err := read(repository, path.Join(at, file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				use.skip = cmp.Or(use.skip, "its lock file cannot be read")
				return use
			}
			inside := "."
			if at != folder {
				inside = strings.TrimPrefix(folder, at+"/")
			}
			if lock.Covers(at, folder) {
				use.lock, use.folder = lock, inside
				return use
			}
		}
		if at == "." || use.skip != "" {
			return use
		}
	}
}

// apply fills in what is in use.
func (u inUse) apply(d *dependency.Dependency) {
	if u.lock != nil {
		if p, ok := u.lock.resolve(u.folder, d.Name); ok {
			if d.Skip == "" {
				d.Skip = p.skip()
			}
			if p.Version != "" && !p.Link {
				d.Current, d.Locked = dependency.Printable(p.Version), true
			}
		}
	}
	if d.Skip == "" {
		d.Skip = u.skip
	}
}
