package postgres

import (
	"net/url"
	"slices"
	"strings"
)

// withDatabase returns the URL leading to another database of the same server; database "" keeps it.
func withDatabase(raw, database string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return "", badURL(err)
	}
	if database == "" {
		return raw, nil
	}
	q := u.Query()
	q.Del("dbname")
	u.RawQuery = q.Encode()
	u.Path, u.RawPath = "/"+database, "/"+escapeSegment(database)
	return u.String(), nil
}

// pinned takes the options out of a URL and returns them with the pins of toolPins behind, for
// $PGOPTIONS, which libpq would not look at beside options in the URL. They go before what the role or
// the database has set.
func pinned(raw string) (without, options string) {
	u, err := url.Parse(raw)
	if err != nil {
		return raw, "" // withDatabase has parsed it before
	}
	q := u.Query()
	options = q.Get("options")
	if q.Has("options") {
		q.Del("options")
		u.RawQuery = q.Encode()
		raw = u.String()
	}
	for _, p := range slices.Concat(rowPins, sessionPins) {
		if slices.Contains(toolPins, p.Name) {
			options += " -c " + p.Name + "=" + p.Value // none has a space in it
		}
	}
	return raw, strings.TrimSpace(options)
}

func escapeSegment(s string) string {
	return strings.ReplaceAll(url.PathEscape(s), "/", "%2F")
}
