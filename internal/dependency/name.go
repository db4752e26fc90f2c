package dependency

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/mod/module"
)

// A repository's files are written by anybody, and names from them become parts of URLs, of arguments of
// programs and of files. This file is the one place that says what a name and a version may be; whatever is
// not like that is shown, in a form that a terminal can bear, and never looked up or written.
var (
	// No name begins with a hyphen: none is taken for an option.
	npmName     = regexp.MustCompile(`^(@[A-Za-z0-9~][A-Za-z0-9._~-]*/)?[A-Za-z0-9~][A-Za-z0-9._~-]*$`)
	imageName   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	imageHost   = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?$`)
	gitHubName  = regexp.MustCompile(`^[A-Za-z0-9](-?[A-Za-z0-9]){0,38}/[A-Za-z0-9._][A-Za-z0-9._-]{0,99}$`)
	chartName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	writtenText = regexp.MustCompile(`^[A-Za-z0-9._+~^<>=|*!][A-Za-z0-9 ._+~^<>=|*,!/-]*$`)
	login       = regexp.MustCompile(`//[^/@\s]*@`)
	digestText  = regexp.MustCompile(`^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}|[0-9a-f]{40}|[0-9a-f]{64})$`)
)

const (
	maxName    = 255 // bytes
	maxWritten = 256 // bytes
)

// CheckPackage says what is wrong with a package's name or registry, or gives "".
func CheckPackage(p Package) string {
	ok := false
	switch p.Datasource {
	case SourceGo:
		ok = module.CheckPath(p.Name) == nil
	case SourceGoRelease:
		ok = p.Name == "go"
	case SourceNPM:
		ok = npmName.MatchString(p.Name) && len(p.Name) <= 214
	case SourceImage:
		if p.Registry != "" && (!imageHost.MatchString(p.Registry) || len(p.Registry) > maxName) {
			return "its registry is no host"
		}
		ok = imageName.MatchString(p.Name)
	case SourceHelm:
		if !repositoryURL(p.Registry) {
			return "its repository is no http or https URL, or one with a user, a query or a fragment"
		}
		ok = chartName.MatchString(p.Name)
	case SourceGitHubTags:
		ok = gitHubName.MatchString(p.Name) && !strings.HasSuffix(p.Name, "/.") && !strings.HasSuffix(p.Name, "/..")
	}
	if !ok || len(p.Name) > maxName {
		return "its name is none that a package can have"
	}
	return ""
}

func repositoryURL(text string) bool {
	if len(text) > 2000 || !printable(text) {
		return false
	}
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && imageHost.MatchString(u.Host) &&
		u.User == nil && u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && !strings.Contains(u.Path, "..")
}

// CheckWritten says what is wrong with a version, range or tag as it stands in a file, or is to stand, or
// gives "".
func CheckWritten(text string) string {
	switch {
	case text == "":
		return "it has no version"
	case len(text) > maxWritten:
		return fmt.Sprintf("its version has %d bytes", len(text))
	case !writtenText.MatchString(text) || strings.Contains(text, "..") || strings.HasSuffix(text, " "):
		return "its version has characters that no version has"
	}
	return ""
}

// CheckDigest says what is wrong with a digest or a commit's hash, or gives "".
func CheckDigest(text string) string {
	if !digestText.MatchString(text) {
		return "its digest is none"
	}
	return ""
}

// Checked returns the dependency with its names as a terminal can bear them. One that is not skipped, and has
// a name or a version that must go nowhere, is skipped.
func (d Dependency) Checked() Dependency {
	why := CheckPackage(d.Package)
	if why == "" {
		why = CheckWritten(d.Written)
	}
	if why == "" && d.Digest != "" {
		why = CheckDigest(d.Digest)
	}
	if d.Skip == "" {
		d.Skip = why
	}
	if why != "" { // a URL may have a password, and one that was refused is of no use
		d.Package.Name, d.Package.Registry = Printable(d.Package.Name), ""
		d.Written, d.Current = login.ReplaceAllString(d.Written, "//***@"), login.ReplaceAllString(d.Current, "//***@")
		d.Digest = Printable(d.Digest)
	}
	d.Name, d.Written, d.Current = Printable(d.Name), Printable(d.Written), Printable(d.Current)
	return d
}

// Printable returns text of a file as it may be shown: as it is when it is short and of visible ASCII, or
// quoted, with everything else escaped, so that look-alikes and what turns a line around can be seen.
func Printable(text string) string {
	cut := ""
	if len(text) > maxWritten {
		cut = fmt.Sprintf("... (%d bytes)", len(text))
		end := maxWritten
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end]
	}
	if printable(text) {
		return text + cut
	}
	return strconv.QuoteToASCII(text) + cut
}

func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
