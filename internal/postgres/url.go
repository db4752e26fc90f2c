package postgres

import (
	"net/url"
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

func escapeSegment(s string) string {
	return strings.ReplaceAll(url.PathEscape(s), "/", "%2F")
}
