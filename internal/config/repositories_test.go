package config

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

const repositoryTarget = `version: 1
store: file:///var/lib/upkeep
targets:
  - name: code
    repositories:
      - `

func TestRepositories(t *testing.T) {
	c, err := Parse("upkeep.yaml", []byte(repositoryTarget+`{github: shop/web, tokenFrom: {env: GITHUB_TOKEN}}`))
	require.NoError(t, err)
	require.Equal(t, []Repository{{
		GitHub: "shop/web", Token: Secret{Env: "GITHUB_TOKEN"}, Method: MergeSquash, Limits: pullrequest.Limits{Open: 10, PerHour: 2},
		Age: Ages{Patch: 3 * day, Minor: 7 * day, Major: 14 * day}, Rollout: RolloutOffer,
	}}, c.Targets[0].Repositories, "nothing left out merges")
	require.Empty(t, c.Databases())
	var names []string
	for _, s := range c.Targets[0].Schedules {
		names = append(names, s.Name)
	}
	require.Equal(t, []string{"daily-security-updates", "weekly-patches", "monthly-minor-updates", "quarterly-major-updates"}, names, "there is no database to back up")
	c, err = Parse("upkeep.yaml", []byte(repositoryTarget+`{github: shop/web, apiURL: "https://github.example/api/v3", app: {id: 1, keyFrom: {file: /key.pem}}, base: main,
        merge: [patch, security], method: rebase, rebase: conflict, limits: {open: 3}, age: {major: 30}, groups: [{name: kubernetes, packages: ["k8s.io/*"]}],
        ignore: ["example.com/**"], labels: [dependencies], reviewers: [ada, "team:core", "@Shop/ops_2"], rollout: never, advisories: /var/lib/osv, reachability: /var/lib/vulndb}`))
	require.NoError(t, err)
	r := c.Targets[0].Repositories[0]
	require.Equal(t, &GitHubApp{ID: 1, Key: Secret{File: "/key.pem"}}, r.App)
	require.Equal(t, pullrequest.Limits{Open: 3, PerHour: 2}, r.Limits)
	require.Equal(t, 30*24*time.Hour, r.Age.Major)
	require.Equal(t, "/var/lib/vulndb", r.Reachability)
	require.Equal(t, []string{"ada", "team:core", "team:ops_2"}, r.Reviewers)
	require.Equal(t, pullrequest.Policy{Base: "main", Merge: []string{"patch", "security"}, Method: "rebase", RebaseOnConflict: true}, r.Policy("main"))
}

func TestMistakesOfARepository(t *testing.T) {
	const token = `, tokenFrom: {env: T}`
	for text, says := range map[string]string{
		`{github: shop/web}`:                                                          "tokenFrom and app",
		`{github: shop` + token + `}`:                                                 "owner/name",
		`{github: shop/web, rollout: start` + token + `}`:                             `lacks the key "rollout"`,
		`{github: shop/web, reachability: vulndb` + token + `}`:                       "must be off",
		`{github: shop/web, reachability: "http://example.com"` + token + `}`:         "must be off",
		`{github: shop/web, reachability: "https://a:b@example.com"` + token + `}`:    "without a login",
		`{github: shop/web, rollout: now` + token + `}`:                               "use one of: never, offer, start",
		`{github: shop/..` + token + `}`:                                              "owner/name",
		`{github: "-x/--upload-pack=x"` + token + `}`:                                 "owner/name",
		`{github: "https://github.com/shop/web"` + token + `}`:                        "owner/name",
		`{github: shop/web, tokenFrom: {secret: {name: a, key: b}}}`:                  "cannot be a Secret",
		`{github: shop/web, tokenFrom: {env: T}, app: {id: 1, keyFrom: {env: K}}}`:    "one of the keys",
		`{github: shop/web, app: {id: 0, keyFrom: {env: K}}}`:                         "app.id",
		`{github: shop/web, apiURL: "http://github.example"` + token + `}`:            "https://",
		`{github: shop/web, apiURL: "https://me:secret@github.example"` + token + `}`: "without a user",
		`{github: shop/web, base: "-x"` + token + `}`:                                 "name of a branch",
		`{github: shop/web, base: "a..b"` + token + `}`:                               "name of a branch",
		`{github: shop/web, base: "upkeep/patch/a"` + token + `}`:                     "name of a branch",
		`{github: shop/web, merge: [pacth]` + token + `}`:                             `did you mean "patch"?`,
		`{github: shop/web, merge: [patch, patch]` + token + `}`:                      "twice",
		`{github: shop/web, method: force` + token + `}`:                              "use one of",
		`{github: shop/web, limits: {open: -1}` + token + `}`:                         "limits.open",
		`{github: shop/web, age: {patch: 1h}` + token + `}`:                           "age.patch (days)",
		`{github: shop/web, groups: [{name: a}]` + token + `}`:                        `lacks the key "packages"`,
		`{github: shop/web, groups: [{name: a, packages: ["["]}]` + token + `}`:       "a package's name",
		`{github: shop/web, ignore: ["\u001b"]` + token + `}`:                         "a package's name",
		`{github: shop/web, labels: ["a\nb"]` + token + `}`:                           "one line",
		`{github: shop/web, reviewers: ["@other/core"]` + token + `}`:                 "a team that is not of shop",
		`{github: shop/web, reviewers: ["team:Core Team"]` + token + `}`:              "team:slug",
		`{github: shop/web, reviewers: ["shop/team"]` + token + `}`:                   "a login",
		`{github: shop/web, advisories: osv` + token + `}`:                            "absolute",
		`{github: shop/web` + token + "}\n      - {github: Shop/Web" + token + "}":    "twice",
		`{github: shop/web` + token + "}\n  - name: empty\n    connections: 2\n":      `lacks the key "database"`,
	} {
		_, err := Parse("upkeep.yaml", []byte(repositoryTarget+text))
		require.ErrorContains(t, err, says, text)
	}
}
