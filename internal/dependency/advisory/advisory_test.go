package advisory

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/lookuptest"
	"github.com/upkeep-run/upkeep/internal/failure"
)

var (
	golang = Package{"Go", "golang.org/x/net"}
	npm    = Package{"npm", "lodash"}
)

// Recorded: parts of documents of osv.dev.
const (
	goDocument = `{"id":"GO-2023-1571","modified":"2024-05-20T16:03:47Z","aliases":["CVE-2022-41723","GHSA-vvpx-j8f3-3w6h"],"summary":"Denial of service via crafted HTTP/2 stream in net/http and golang.org/x/net",
		"affected":[{"package":{"name":"stdlib","ecosystem":"Go"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"1.19.6"},{"introduced":"1.20.0-0"},{"fixed":"1.20.1"}]}]},
		{"package":{"name":"golang.org/x/net","ecosystem":"Go"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"0.7.0"}]}]}]}`
	npmDocument = `{"id":"GHSA-35jh-r3h4-6jhm","aliases":["CVE-2021-23337"],"summary":"Command Injection in lodash","database_specific":{"severity":"HIGH"},
		"affected":[{"package":{"ecosystem":"npm","name":"lodash"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"4.17.21"}]}]},
		{"package":{"ecosystem":"npm","name":"lodash-template"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"last_affected":"1.0.0"}]}],"versions":["0.9.0"]},
		{"package":{"ecosystem":"RubyGems","name":"lodash-rails"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]}]}`
	malicious = `{"id":"MAL-2026-7","summary":"Malicious code","affected":[{"package":{"ecosystem":"npm","name":"lodash"},"versions":["4.17.99"]}]}`
	takenBack = `{"id":"GHSA-aaaa-bbbb-cccc","withdrawn":"2024-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"lodash"},"versions":["4.17.0"]}]}`
)

func TestAffects(t *testing.T) {
	for _, c := range []struct {
		document string
		p        Package
		v        string
		affected bool
	}{
		{goDocument, golang, "v0.6.9", true}, {goDocument, golang, "v0.7.0", false}, {goDocument, golang, "v0.0.0-20200101000000-abcdefabcdef", true},
		{goDocument, Package{"Go", "stdlib"}, "1.19.5", true}, {goDocument, Package{"Go", "stdlib"}, "1.19.6", false},
		{goDocument, Package{"Go", "stdlib"}, "1.20.1", false}, {goDocument, Package{"Go", "stdlib"}, "1.18", true},
		{npmDocument, npm, "4.17.20", true}, {npmDocument, npm, "4.17.21", false}, {npmDocument, npm, "4.17.21-rc.1", true},
		{npmDocument, Package{"npm", "lodash-template"}, "1.0.0", true}, {npmDocument, Package{"npm", "lodash-template"}, "1.0.1", false},
		{malicious, npm, "4.17.99", true}, {malicious, npm, "4.17.98", false},
	} {
		all, err := Parse([]byte(c.document))
		require.NoError(t, err)
		a, known := all[c.p]
		require.True(t, known, c.p)
		v, ok := c.p.parse(c.v)
		require.True(t, ok, c.v)
		require.Equal(t, c.affected, a.Affects(v), "%s %s %s", a.ID, c.p.Name, c.v)
	}
	all, err := Parse([]byte(npmDocument))
	require.NoError(t, err)
	require.Len(t, all, 2, "of ecosystems that are looked up")
	require.Equal(t, "HIGH", all[npm].Severity)
	require.Equal(t, 8.9, all[npm].Rating())
	require.Zero(t, Advisory{Severity: "CVSS:3.1/AV:N"}.Rating())
	require.Equal(t, []string{"CVE-2021-23337"}, all[npm].Aliases)
	all, err = Parse([]byte(malicious))
	require.NoError(t, err)
	require.True(t, all[npm].Malicious)
	all, err = Parse([]byte(takenBack))
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestDocumentsThatAreHostile(t *testing.T) {
	var many strings.Builder
	many.WriteString(`{"id":"A-1","affected":[{"package":{"ecosystem":"npm","name":"x"},"versions":["1"`)
	many.WriteString(strings.Repeat(`,"1"`, maxAffected))
	many.WriteString(`]}]}`)
	for name, text := range map[string]string{
		"nothing": "", "garbage": "\x00{", "a list": "[]", "no id": "{}", "an id that is none": `{"id":"GHSA \u001b[2J"}`, "too long an id": `{"id":"` + strings.Repeat("A", 100) + `"}`,
		"too many versions": many.String(), "too large": `{"id":"A-1","summary":"` + strings.Repeat("x", maxDocument) + `"}`, "mistyped": `{"id":7}`,
	} {
		_, err := Parse([]byte(text))
		require.Error(t, err, name)
	}
	all, err := Parse([]byte(`{"id":"A-1","summary":"a\u001b[2J\nb\u202e","affected":[{"package":{"ecosystem":"npm","name":"x"}}]}`))
	require.NoError(t, err)
	for _, r := range all[Package{"npm", "x"}].Summary {
		require.True(t, r >= ' ' && r <= '~')
	}
}

func TestADirectory(t *testing.T) {
	files := fstest.MapFS{
		"Go/GO-2023-1571.json": {Data: []byte(goDocument)}, "npm/GHSA-35jh-r3h4-6jhm.json": {Data: []byte(npmDocument)},
		"npm/MAL-2026-7.json": {Data: []byte(malicious)}, "npm/old.json": {Data: []byte(takenBack)}, "README.md": {Data: []byte("x")},
	}
	found, err := Directory{FS: files, Name: "d"}.Find(t.Context(), []Package{golang, npm, {"npm", "other"}})
	require.NoError(t, err)
	require.Len(t, found, 2)
	require.Len(t, found[npm], 2)
	require.Equal(t, "GHSA-35jh-r3h4-6jhm", found[npm][0].ID)
	files["npm/broken.json"] = &fstest.MapFile{Data: []byte("{")}
	_, err = Directory{FS: files, Name: "d"}.Find(t.Context(), []Package{npm})
	require.True(t, failure.Is(err, failure.BadConfig), "%v", err)
	require.ErrorContains(t, err, "npm/broken.json")
	_, err = Directory{FS: fstest.MapFS{}, Name: "d"}.Find(t.Context(), []Package{npm})
	require.True(t, failure.Is(err, failure.BadConfig), "an empty folder says nothing: %v", err)
}

// server is like api.osv.dev, with pages.
func server(asked *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if id, found := strings.CutPrefix(r.URL.Path, "/v1/vulns/"); found {
			for _, text := range []string{goDocument, npmDocument, malicious} {
				if strings.Contains(text, `"id":"`+id+`"`) {
					_, _ = io.WriteString(w, text)
					return
				}
			}
			w.WriteHeader(http.StatusNotFound)
			return
		}
		var q struct {
			Queries []query `json:"queries"`
		}
		if r.URL.Path != "/v1/querybatch" || r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&q) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		var results []string
		for _, one := range q.Queries {
			switch {
			case one.Package.Name == golang.Name && one.Package.Ecosystem == "Go":
				results = append(results, `{"vulns":[{"id":"GO-2023-1571","modified":"2024-05-20T16:03:47Z"}]}`)
			case one.Package.Name == npm.Name && one.PageToken == "":
				results = append(results, `{"vulns":[{"id":"GHSA-35jh-r3h4-6jhm","modified":"x"}],"next_page_token":"2"}`)
			case one.Package.Name == npm.Name && one.PageToken == "2":
				results = append(results, `{"vulns":[{"id":"MAL-2026-7","modified":"x"},{"id":"../../etc","modified":"x"}]}`)
			default:
				results = append(results, `{}`)
			}
		}
		_, _ = fmt.Fprintf(w, `{"results":[%s]}`, strings.Join(results, ","))
	}
}

func TestTheAPI(t *testing.T) {
	var asked atomic.Int64
	url, client := lookuptest.Serve(t, server(&asked), 0)
	found, err := API{Client: client, URL: url}.Find(t.Context(), []Package{golang, npm, {"npm", "other"}})
	require.NoError(t, err)
	require.Len(t, found[golang], 1)
	require.Len(t, found[npm], 2)
	require.EqualValues(t, 5, asked.Load(), "two batches and three documents")
}

func TestHostileAPIs(t *testing.T) {
	lookuptest.Hostile(t, lookuptest.Serve, func(t *testing.T, url string, client *httpcache.Client) error {
		_, err := API{Client: client, URL: url}.Find(t.Context(), []Package{npm})
		return err
	})
	for name, reply := range map[string]string{
		"too few results": `{"results":[]}`, "no end": `{"results":[{"next_page_token":"x"}]}`, "an id that is not there": `{"results":[{"vulns":[{"id":"GHSA-none"}]}]}`,
	} {
		url, client := lookuptest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			_, _ = io.WriteString(w, reply)
		}), 0)
		_, err := API{Client: client, URL: url}.Find(t.Context(), []Package{npm})
		require.True(t, failure.Is(err, failure.BadAnswer), "%s: %v", name, err)
	}
}

func TestOf(t *testing.T) {
	p, ok := Of(dependency.Package{Datasource: dependency.SourceGoRelease, Name: "go"})
	require.True(t, ok)
	require.Equal(t, Package{"Go", "stdlib"}, p)
	_, ok = Of(dependency.Package{Datasource: dependency.SourceImage, Name: "x"})
	require.False(t, ok)
}

func FuzzAdvisories(f *testing.F) {
	for _, text := range []string{goDocument, npmDocument, malicious, takenBack} {
		f.Add([]byte(text), "1.2.3")
	}
	f.Add([]byte(`{"id":"A","affected":[{"package":{"ecosystem":"npm","name":"x"},"ranges":[{"type":"SEMVER","events":[{"fixed":"1.0.0"},{"introduced":"2.0.0"},{"introduced":"0"},{"last_affected":"x"}]}]}]}`), "1.2.3")
	f.Fuzz(func(t *testing.T, text []byte, v string) {
		all, err := Parse(text)
		if err != nil {
			return
		}
		for p, a := range all {
			require.True(t, validID(a.ID))
			require.LessOrEqual(t, len(a.Summary), maxText+len("..."))
			if parsed, ok := p.parse(v); ok {
				a.Affects(parsed)
			}
		}
	})
}
