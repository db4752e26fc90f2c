package version

import (
	"regexp"
	"strings"

	depsdev "deps.dev/util/semver"
	masterminds "github.com/Masterminds/semver/v3"
)

type npmVersioning struct{}

func (npmVersioning) Parse(text string) (Version, bool) {
	v, ok := parseStrict(text, "v")
	return v, ok && !strings.HasPrefix(text, "v")
}

// plain is what a range is made of. Words (latest, a branch), URLs and paths are none.
var plain = regexp.MustCompile(`^[0-9A-Za-z.+*^~<>=| -]*$`)

func (npmVersioning) Range(written string) (func(Version) bool, bool) {
	if len(written) > MaxLength || !plain.MatchString(written) {
		return nil, false
	}
	c, err := depsdev.NPM.ParseConstraint(written)
	if err != nil {
		return nil, false
	}
	return func(v Version) bool { return c.Match(v.Text) }, true
}

func (n npmVersioning) Rewrite(written string, to Version) (string, bool) {
	return rewrite(written, to, n.Range)
}

type helmVersioning struct{}

func (helmVersioning) Parse(text string) (Version, bool) {
	if len(text) > MaxLength {
		return Version{}, false
	}
	m, err := masterminds.NewVersion(text)
	if err != nil {
		return Version{}, false
	}
	v, ok := parseStrict(m.String(), "")
	v.Text = text
	return v, ok
}

func (helmVersioning) Range(written string) (func(Version) bool, bool) {
	if len(written) > MaxLength {
		return nil, false
	}
	c, err := masterminds.NewConstraint(written)
	if err != nil {
		return nil, false
	}
	return func(v Version) bool {
		m, err := masterminds.NewVersion(v.Text)
		return err == nil && c.Check(m)
	}, true
}

func (h helmVersioning) Rewrite(written string, to Version) (string, bool) {
	return rewrite(written, to, h.Range)
}

var (
	simple = regexp.MustCompile(`^(\s*(?:\^|~>?|>=|=)?\s*v?)(` + number + `)((?:\.(?:` + number + `|[xX*])){0,2})((?:-[0-9A-Za-z.-]+)?)(\s*)$`)
	hyphen = regexp.MustCompile(`^(.*\S\s+-\s+v?)(` + number + `)((?:\.(?:` + number + `|[xX*])){0,2})(\s*)$`)
)

// rewrite brings a range to a version in its own form: the operator, the precision and the spaces stay. An
// alternative is added to alternatives. What comes out is asked once more whether it admits the version, so
// no form that is read wrongly here gets through.
func rewrite(written string, to Version, read func(string) (func(Version) bool, bool)) (string, bool) {
	admits := func(text string) bool {
		inside, ok := read(text)
		return ok && inside(to)
	}
	text := written
	if m := simple.FindStringSubmatch(written); m != nil {
		text = m[1] + precise(m[3], to) + m[5]
	} else if !admits(written) {
		if i := strings.LastIndex(written, "||"); i >= 0 {
			last, ok := rewrite(written[i+len("||"):], to, read)
			if !ok {
				return "", false
			}
			text = written + " || " + strings.TrimSpace(last)
		} else if m := hyphen.FindStringSubmatch(written); m != nil {
			text = m[1] + precise(m[3], to) + m[4]
		}
	}
	return text, len(text) <= MaxLength && admits(text)
}

// precise writes a version as precisely as the one that stood there: rest is what followed its major.
func precise(rest string, to Version) string {
	parts := strings.Split(rest, ".")[1:]
	text, wild := to.number(0), false
	for i, p := range parts {
		if p == "x" || p == "X" || p == "*" {
			wild = true
		} else {
			p = to.number(i + 1)
		}
		text += "." + p
	}
	if len(parts) == 2 && !wild {
		text += to.pre
	}
	return text
}
