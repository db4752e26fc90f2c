package pullrequest

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Plain makes a text from outside fit to stand in a line of Markdown, and in a terminal: no control
// characters, nothing that turns the direction of writing, nothing that Markdown or GitHub would read as
// more than text.
func Plain(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || r == '\t':
			b.WriteByte(' ')
		case hidden(r):
		case strings.ContainsRune("|<>`*_[]\\", r):
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '@' || r == '#': // would tell people, or point to an issue
			b.WriteRune(r)
			b.WriteRune(wordJoiner)
		default:
			b.WriteRune(r)
		}
	}
	return bounded(b.String(), 200)
}

// wordJoiner takes no room and parts words, so that GitHub sees no name and no number after it.
const wordJoiner = '\u2060'

// hidden reports whether a character is seen by no reader, or changes how others are seen.
func hidden(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == utf8.RuneError || unicode.Is(unicode.Co, r)
}

// bounded cuts a text to so many bytes, at a character's end.
func bounded(text string, most int) string {
	if len(text) <= most {
		return text
	}
	cut := most - len("...")
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}

// maxNotes bounds the release notes of one change; GitHub takes 65,536 characters for a whole body.
const maxNotes = 4000

var (
	htmlComment = regexp.MustCompile(`(?s)<!--.*?(-->|$)`)
	htmlTag     = regexp.MustCompile(`</?[A-Za-z][^>]*>?`)
	image       = regexp.MustCompile(`!\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])?`)
	link        = regexp.MustCompile(`\[([^\]]*)\]\(([^)\s]*)[^)]*\)`)
	reference   = regexp.MustCompile(`(?m)^\s*\[[^\]]+\]:.*$`)
	scheme      = regexp.MustCompile(`(?i)\b(?:https?|ftp|data|javascript|mailto):\S+`)
	address     = regexp.MustCompile(`(?i)(:|www)(//|\.)`)
	mention     = regexp.MustCompile(`(?i)[@#]|\bgh-`)
	blank       = regexp.MustCompile(`\n{3,}`)
)

// Notes makes the text that a maker has written about a release harmless: it is quoted text without
// images, HTML, links, mentions of people or issues, and hidden characters. It may tell lies, but it does
// nothing: it tells nobody, links to nothing and closes no issue.
func Notes(text string) string {
	if len(text) > 16*maxNotes {
		text = bounded(text, 16*maxNotes)
	}
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\r\n", "\n"), "")
	for { // what is taken out may put together what it parted
		before := text
		text = htmlComment.ReplaceAllString(text, "")
		text = htmlTag.ReplaceAllString(text, "")
		text = image.ReplaceAllString(text, "$1")
		text = link.ReplaceAllString(text, "$1")
		text = reference.ReplaceAllString(text, "")
		text = scheme.ReplaceAllString(text, "")
		if text == before {
			break
		}
	}
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return r
		case r == '\t':
			return ' '
		case hidden(r):
			return -1
		}
		return r
	}, text)
	text = strings.NewReplacer("<", "&lt;", ">", "&gt;").Replace(text)
	text = mention.ReplaceAllString(text, "$0"+string(wordJoiner))
	text = address.ReplaceAllString(text, "$1"+string(wordJoiner)+"$2")
	text = strings.TrimSpace(blank.ReplaceAllString(text, "\n\n"))
	text = bounded(text, maxNotes)
	if text == "" {
		return ""
	}
	return "> " + strings.ReplaceAll(text, "\n", "\n> ")
}
