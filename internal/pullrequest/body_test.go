package pullrequest_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

func TestBody(t *testing.T) {
	c := change("gomod", "example.com/a", "v1.0.0", "v1.0.1", dependency.Security)
	c.Update.Advisories = []string{"GO-2026-0001", "CVE-2026-1"}
	c.Update.Summaries, c.Update.Severity = map[string]string{"CVE-2026-1": "a | b"}, 7.5
	p := pullrequest.Propose([]pullrequest.Change{c}, nil)[0]
	x := pullrequest.Context{Notes: map[string]string{pullrequest.NotesKey(c): "Thanks @ada, fixes #12"}, Merges: pullrequest.Merges(p, nil)}
	body := pullrequest.Body(p, x)
	require.Contains(t, body, "| example.com/a | go.mod | v1.0.0 | v1.0.1 | not known |")
	require.Contains(t, body, "- CVE-2026-1: a \\| b\n- GO-2026-0001\n")
	require.Contains(t, body, "What the makers of example.com/a say of v1.0.1")
	require.Equal(t, body, pullrequest.Body(p, x))

	m, ok := pullrequest.ReadMark(body)
	require.True(t, ok)
	require.Equal(t, pullrequest.Mark{Version: 1, Changes: p.Hash(), Means: p.Means(), Text: m.Text, Severity: 7.5}, m)
	require.True(t, pullrequest.SameBody(strings.ReplaceAll(body, "\n", "\r\n"), body), "as GitHub gives it back")
	x.Merges = "otherwise"
	require.False(t, pullrequest.SameBody(body, pullrequest.Body(p, x)))
	require.False(t, pullrequest.SameBody("", body))
}

func TestAMakerCannotForgeAMark(t *testing.T) {
	c := change("gomod", "example.com/a", "v1.0.0", "v1.0.1", dependency.Patch)
	p := pullrequest.Propose([]pullrequest.Change{c}, nil)[0]
	forged := `<!-- {"upkeep":1,"changes":"x","means":"x","text":"x"} -->`
	m, ok := pullrequest.ReadMark(pullrequest.Body(p, pullrequest.Context{Notes: map[string]string{pullrequest.NotesKey(c): forged + "<" + forged[1:]}}))
	require.True(t, ok)
	require.Equal(t, p.Means(), m.Means)
	for _, damaged := range []string{`<!-- {"upkeep":1,"more":2} -->`, `<!-- {"upkeep":2,"changes":"","means":"","text":""} -->`, `<!-- {"upkeep":1`} {
		_, ok := pullrequest.ReadMark(damaged)
		require.False(t, ok, damaged)
	}
}

func TestABodyFits(t *testing.T) {
	var changes []pullrequest.Change
	notes := make(map[string]string)
	for range 300 {
		c := change("npm", strings.Repeat("n", len(changes)+1), "1.0.0", "1.0.1", dependency.Patch)
		changes, notes[pullrequest.NotesKey(c)] = append(changes, c), strings.Repeat("é", 20000)
	}
	p := pullrequest.Propose(changes, []pullrequest.Group{{Name: "all", Packages: []string{"**"}}})[0]
	body := pullrequest.Body(p, pullrequest.Context{Notes: notes})
	require.Less(t, len([]rune(body)), 65536)
	_, ok := pullrequest.ReadMark(body)
	require.True(t, ok)
	require.Contains(t, body, "100 more")
}

var (
	acts  = regexp.MustCompile(`(?i)[@#][a-z0-9]|\bgh-[0-9]|://|www\.|<[a-z/!]|!\[`)
	lines = regexp.MustCompile(`(?m)^[^>]`)
)

func TestNotesDoNothing(t *testing.T) {
	for _, text := range []string{
		"Thanks @ada and @org/team", "closes #1, fixes owner/name#2, resolves GH-3", "<img src=x onerror=y>", "![a](http://x/y.png)",
		"[click](javascript:alert)", "https://github.com/a/b/issues/1", "<!-- {\"upkeep\":1} -->", "<<!-- -->!-- hidden", "a\u202Eb\u200B", "\x1b[31mred",
		"```\nunclosed", "[x]: http://evil", "</details>", "<scr<script>ipt>", "\r\n# head\r\n", "hhttps://xttps://y", "WWW.example.com",
	} {
		got := pullrequest.Notes(text)
		require.False(t, acts.MatchString(got), "%q became %q", text, got)
		require.False(t, lines.MatchString(got), "%q", got)
	}
	require.Equal(t, "> Fixed a leak.\n> \n> Thanks.", pullrequest.Notes("Fixed a leak.\r\n\r\n\r\n\r\nThanks.\n"))
}

func FuzzNotes(f *testing.F) {
	f.Add("Thanks @ada, fixes #1 <!-- x --> ![a](b) [c](d) https://e")
	f.Fuzz(func(t *testing.T, text string) {
		got := pullrequest.Notes(text)
		if acts.MatchString(got) || lines.MatchString(got) {
			t.Errorf("%q became %q", text, got)
		}
		for _, r := range got {
			if r != '\n' && r != '\u2060' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
				t.Errorf("%q became %q", text, got)
			}
		}
		if plain := pullrequest.Plain(text); strings.ContainsAny(plain, "\n\r\x1b") || len(plain) > 200 {
			t.Errorf("%q became %q", text, plain)
		}
	})
}

func FuzzReadMark(f *testing.F) {
	f.Add(`text <!-- {"upkeep":1,"changes":"a","means":"b","text":"c"} -->`)
	f.Fuzz(func(t *testing.T, body string) {
		if m, ok := pullrequest.ReadMark(body); ok && m.Version != 1 {
			t.Errorf("%q: %+v", body, m)
		}
	})
}
