package config

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const rolloutTargets = `version: 1
store: file:///var/lib/upkeep
targets:
  - name: staging
    database: {url: "postgres://app@staging/shop"}
    kubernetes: {namespace: staging, release: shop}
  - name: bare
    database: {url: "postgres://app@bare/shop"}
  - name: shop
    database: {url: "postgres://app@db/shop"}
    kubernetes: {namespace: shop, release: shop}
    rollout: `

func TestRolloutIsRead(t *testing.T) {
	c, err := Parse("upkeep.yaml", []byte(rolloutTargets+`{chart: /charts/shop, staging: staging, bake: 1m, checks: [{name: errors, query: "sum(rate(e[5m]))", max: 0.5, prometheus: {service: prom, port: 9090}}]}`))
	require.NoError(t, err)
	r := c.Targets[2].Rollout
	require.Nil(t, c.Targets[0].Rollout)
	require.Equal(t, Chart{Path: "/charts/shop"}, r.Chart)
	require.Equal(t, time.Minute, r.Bake)
	require.Equal(t, 24*time.Hour, r.BackupWithin)
	require.Equal(t, MigrationsRefuse, r.Migrations, "nothing left out may hurt data")
	require.Equal(t, 0.5, *r.Checks[0].Max)
	require.Nil(t, r.Checks[0].Min)
	c, err = Parse("upkeep.yaml", []byte(rolloutTargets+`{chart: {repo: "https://charts.example/x", name: shop}, version: 1.2.3, migrations: restore}`))
	require.NoError(t, err)
	require.Equal(t, Chart{Repository: "https://charts.example/x", Name: "shop"}, c.Targets[2].Rollout.Chart)
}

func TestMistakesOfARollout(t *testing.T) {
	for text, says := range map[string]string{
		`{}`:                                   `lacks the key "chart"`,
		`{chart: charts/shop}`:                 "must be an absolute path",
		`{chart: "oci://host/shop"}`:           `lacks the key "version"`,
		`{chart: {repo: "http://x", name: a}}`: "https://",
		`{chart: /c, stagin: staging}`:         `did you mean "staging"?`,
		`{chart: /c, staging: shop}`:           "its own staging target",
		`{chart: /c, staging: nobody}`:         "which is not there",
		`{chart: /c, staging: bare}`:           "names no release",
		`{chart: /c, migrations: ignore}`:      "use one of: compatible, refuse, restore",
		`{chart: /c, bake: 1s}`:                "rollout.bake",
		`{chart: /c, values: [values.yaml]}`:   "absolute path",
		`{chart: /c, checks: []}`:              "1 to 32 checks",
		`{chart: /c, checks: [{name: a, query: up, prometheus: {service: p, port: 1}}]}`:                 "never fail",
		`{chart: /c, checks: [{name: a, query: up, min: 2, max: 1, prometheus: {service: p, port: 1}}]}`: "never pass",
		`{chart: /c, checks: [{name: a, query: up, min: x, prometheus: {service: p, port: 1}}]}`:         "must be a number",
		`{chart: /c, checks: [{name: a, query: up, min: 1}]}`:                                            `"prometheus"`,
	} {
		_, err := Parse("upkeep.yaml", []byte(rolloutTargets+text))
		require.ErrorContains(t, err, says, text)
	}
}
