// Package image reads references to container images where they stand in a file.
package image

import (
	"regexp"
	"strings"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
)

// tag is what an image's tag may be.
var tag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// Split cuts registry/name:tag@digest into its parts; what is not there is empty.
func Split(ref string) (name, tag, digest string) {
	name, digest, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, tag = name[:i], name[i+1:]
	}
	return name, tag, digest
}

// Package is the package of an image's name.
func Package(name string) dependency.Package {
	p := dependency.Package{Datasource: dependency.SourceImage, Name: name, Versioning: dependency.VersioningImage}
	if host, rest, ok := strings.Cut(name, "/"); ok && (strings.ContainsAny(host, ".:[") || host == "localhost") {
		p.Registry, p.Name = host, rest
	}
	switch p.Registry {
	case "docker.io", "index.docker.io", "registry-1.docker.io":
		p.Registry = ""
	}
	if p.Registry == "" && !strings.Contains(p.Name, "/") {
		p.Name = "library/" + p.Name
	}
	return p
}

// Mention is a reference that stands at a place of a file. It gives false for none.
func Mention(manager, ref string, at mention.Span) (mention.Mention, bool) {
	if ref == "" || ref == "scratch" {
		return mention.Mention{}, false
	}
	if variable(ref) {
		return Unknown(manager, ref, "a variable is a part of it"), true
	}
	name, version, digest := Split(ref)
	m := Parts(manager, name, version, digest)
	m.Version = at.At(len(name)+1, len(version))
	if digest != "" {
		m.Digest = at.At(len(ref)-len(digest), len(digest))
	}
	return m, true
}

// Parts is a mention of the parts of a reference, without their places.
func Parts(manager, name, version, digest string) mention.Mention {
	m := mention.Mention{Dependency: dependency.Dependency{
		Manager: manager, Name: name, Package: Package(name), Current: version, Written: version, Digest: digest,
	}}
	switch {
	case version == "" && digest != "":
		m.Skip = "it is pinned to a digest, and no tag says which version that is"
	case version == "":
		m.Skip = "it has no tag, so it is always the newest"
	case !tag.MatchString(version):
		m.Skip = "its tag is none that an image can have"
	}
	return m
}

// Unknown is a mention of something that is not followed, and why.
func Unknown(manager, text, why string) mention.Mention {
	return mention.Mention{Dependency: dependency.Dependency{
		Manager: manager, Name: text, Skip: why,
		Package: dependency.Package{Datasource: dependency.SourceImage, Versioning: dependency.VersioningImage},
	}}
}

// Plausible says whether a text is a reference with a tag or a digest, where nothing else says that it is one.
func Plausible(ref string) bool {
	name, version, digest := Split(ref)
	return (version != "" && tag.MatchString(version) || version == "" && digest != "") && dependency.CheckPackage(Package(name)) == "" &&
		(digest == "" || dependency.CheckDigest(digest) == "")
}

func variable(text string) bool { return strings.ContainsAny(text, "${}") }
