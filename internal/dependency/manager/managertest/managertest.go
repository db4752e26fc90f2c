// Package managertest holds managers to what a dependency.Manager promises. It looks at bytes, and uses
// nothing of what the managers share.
package managertest

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// Lines says a list of dependencies in short: name, what is written, and what else there is to say.
func Lines(all []dependency.Dependency) []string {
	var lines []string
	for _, d := range all {
		line := d.Name + " " + d.Written
		if d.Current != d.Written {
			line += " now=" + d.Current
		}
		if d.Package.Name != d.Name || d.Package.Registry != "" {
			line += " of=" + strings.TrimSuffix(d.Package.Name+"@"+d.Package.Registry, "@")
		}
		if d.Digest != "" {
			line += " digest=" + d.Digest[:min(len(d.Digest), 12)]
		}
		if d.Indirect {
			line += " indirect"
		}
		if len(d.Excluded) > 0 {
			line += fmt.Sprint(" excluded=", d.Excluded)
		}
		if d.Skip != "" {
			line += " skip: " + d.Skip
		}
		lines = append(lines, line)
	}
	return lines
}

// Extract reads one file.
func Extract(t testing.TB, m dependency.Manager, file, content string) []dependency.Dependency {
	t.Helper()
	require.True(t, m.Claims(file), file)
	all, err := m.Extract(context.Background(), fstest.MapFS{file: {Data: []byte(content)}}, file)
	require.NoError(t, err)
	for _, d := range all {
		require.Equal(t, m.Name(), d.Manager)
		require.Equal(t, file, d.File)
	}
	return all
}

// Edits updates each dependency of a file, one after another, each in the file as it was, and looks that
// nothing else has changed. Each that is not skipped must be editable.
func Edits(t *testing.T, m dependency.Manager, file, content string) {
	t.Helper()
	edited := 0
	for _, d := range Extract(t, m, file, content) {
		if d.Skip == "" {
			to := Next(d)
			after, err := m.Edit([]byte(content), d, to)
			require.NoError(t, err, d.Name)
			keeps(t, m, file, content, string(after), d, to)
			edited++
		} else if d.Written != "" {
			_, err := m.Edit([]byte(content), d, dependency.Update{Version: "99.0.0", Written: "99.0.0", Digest: digest})
			require.Error(t, err, "what is skipped is not edited: %s", d.Name)
		}
	}
	require.Positive(t, edited)
}

// Fuzz feeds a manager with anything: it must not panic, must show nothing that a terminal cannot bear, and
// an edit changes only what it must or is refused.
func Fuzz(f *testing.F, m dependency.Manager, file string, seeds ...string) {
	for _, s := range append(seeds, hostile...) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		all, err := m.Extract(t.Context(), fstest.MapFS{file: {Data: content}}, file)
		if err != nil {
			require.True(t, visible.MatchString(err.Error()), "%q", err.Error())
			return
		}
		seen := make(map[string]bool)
		for i, d := range all {
			for _, text := range []string{d.Name, d.Written, d.Current, d.Digest} {
				require.True(t, visible.MatchString(text), "%q", text)
			}
			key := d.Name + "\x00" + d.Written + "\x00" + d.Digest
			require.False(t, seen[key], "%s %s is there twice", d.Name, d.Written)
			seen[key] = true
			if d.Skip != "" || i > 20 {
				continue
			}
			require.False(t, strings.HasPrefix(d.Package.Name, "-") || strings.Contains(d.Package.Name, ".."), d.Package.Name)
			require.False(t, strings.HasPrefix(d.Written, "-") || strings.Contains(d.Written, ".."), d.Written)
			to := Next(d)
			after, err := m.Edit(content, d, to)
			if err != nil {
				require.True(t, failure.Is(err, failure.NotEditable), err)
				continue
			}
			keeps(t, m, file, string(content), string(after), d, to)
		}
	})
}

const digest = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"

var (
	visible = regexp.MustCompile(`^[ -~]*$`)
	number  = regexp.MustCompile(`[0-9]+`)
	// hostile is what somebody may write who means harm, in all kinds of files.
	hostile = []string{"", "\ufeff", "{", "[[[[[[", "\x00", "\xff\xfe", "a: &a [*a]\n", "{\"a\":{\"a\":{\"a\":1}}}", strings.Repeat("x", 3000)}
)

// Next is an update for a dependency: the second number in what is written, or the only one, gets a 9 before it.
func Next(d dependency.Dependency) dependency.Update {
	to := dependency.Update{Type: dependency.Minor, Written: d.Written}
	if all := number.FindAllStringIndex(d.Written, 2); len(all) > 0 {
		at := all[len(all)-1]
		to.Written = d.Written[:at[0]] + "9" + d.Written[at[0]:]
	}
	to.Version = to.Written
	if d.Digest != "" {
		to.Digest = digest
		if !strings.HasPrefix(d.Digest, "sha") {
			to.Digest = strings.Repeat("f", len(d.Digest))
		}
	}
	return to
}

// keeps looks at an edit: lines and their ends are the same but for the words that an update replaces, the
// dependency is found anew with the update and all others as they were, and once more changes nothing.
func keeps(t *testing.T, m dependency.Manager, file, before, after string, d dependency.Dependency, to dependency.Update) {
	t.Helper()
	was, is := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	require.Len(t, is, len(was))
	for i := range was {
		if was[i] == is[i] {
			continue
		}
		line := was[i]
		if d.Digest != "" {
			line = strings.ReplaceAll(line, d.Digest, to.Digest)
		}
		require.True(t, replaces(line, is[i]), "%q became %q", was[i], is[i])
	}
	again, err := m.Extract(t.Context(), fstest.MapFS{file: {Data: []byte(after)}}, file)
	require.NoError(t, err)
	want, err := m.Extract(t.Context(), fstest.MapFS{file: {Data: []byte(before)}}, file)
	require.NoError(t, err)
	got := make(map[string]bool)
	for _, a := range again {
		got[a.Name+" "+a.Written+" "+a.Digest] = true
	}
	for _, w := range want {
		if w.Name == d.Name && w.Written == d.Written && w.Digest == d.Digest {
			w.Written = to.Written
			if w.Digest != "" {
				w.Digest = to.Digest
			}
		}
		require.True(t, got[w.Name+" "+w.Written+" "+w.Digest], "%s %s is missing after the edit: %v", w.Name, w.Written, Lines(again))
	}
	twice, err := m.Edit([]byte(after), d, to)
	if to.Written != d.Written || to.Digest != d.Digest {
		require.NoError(t, err, "an edit of what is edited already")
		require.Equal(t, after, string(twice))
	}
}

// replaces says whether a line became another one by nothing but what Next puts in, and maybe quotes.
func replaces(was, is string) bool {
	for was != "" || is != "" {
		switch {
		case was != "" && is != "" && was[0] == is[0]:
			was, is = was[1:], is[1:]
		case strings.HasPrefix(is, "9"), strings.HasPrefix(is, `"`):
			is = is[1:]
		default:
			return false
		}
	}
	return true
}
