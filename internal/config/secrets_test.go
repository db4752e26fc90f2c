package config

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/rotation"
)

// withSecrets is a target in a cluster with the given secrets.
func withSecrets(secrets string) []byte {
	return []byte(fmt.Sprintf(`version: 1
store: file:///var/lib/upkeep
targets:
  - name: shop
    kubernetes: {namespace: shop}
    database: {service: db, name: shop, role: keeper, passwordFrom: {secret: {name: keeper, key: password}}}
    secrets: %s
`, secrets))
}

func TestSecrets(t *testing.T) {
	c, err := Parse("upkeep.yaml", withSecrets(`
      - {name: app, secret: shop-db, keys: {username: user, password: password, url: DATABASE_URL}, owner: shop, roles: [shop_a, shop_b]}
      - {name: reports, secret: reports-db, keys: {password: password}, role: reports, withoutOverlap: true, consumers: [{kind: Deployment, name: reports}]}`))
	require.NoError(t, err)
	require.Equal(t, []rotation.Entry{
		{Name: "app", Secret: "shop-db", Keys: rotation.Keys{Username: "user", Password: "password", URL: "DATABASE_URL"}, Owner: "shop", Roles: []string{"shop_a", "shop_b"}},
		{Name: "reports", Secret: "reports-db", Keys: rotation.Keys{Password: "password"}, Role: "reports", Consumers: []rotation.Ref{{Kind: "Deployment", Name: "reports"}}},
	}, c.Targets[0].Secrets)
	names := map[string]string{}
	for _, s := range c.Targets[0].Schedules {
		names[s.Name] = string(s.Input)
	}
	require.Equal(t, `{"secret":"app"}`, names["quarterly-rotation-app"])
	require.Equal(t, `{"secret":"reports"}`, names["quarterly-rotation-reports"])
}

func TestSecretsThatAreWrong(t *testing.T) {
	const keys = "keys: {username: user, password: password}"
	for secrets, says := range map[string]string{
		`[]`: "a list of 1 to",
		`[{name: app, secret: shop-db, keys: {password: SALT}, role: shop, withoutOverlap: true}]`:                                                                                                      "cannot be rotated safely: a salt",
		`[{name: app, secret: shop-db, keys: {url: ENCRYPTION_KEY}, role: shop, withoutOverlap: true}]`:                                                                                                 "could never be read again",
		`[{name: app, secret: shop-db, ` + keys + `, role: shop}]`:                                                                                                                                      "write withoutOverlap: true",
		`[{name: app, secret: shop-db, ` + keys + `}]`:                                                                                                                                                  `lacks the keys "owner" and "roles"`,
		`[{name: app, secret: shop-db, ` + keys + `, owner: shop, roles: [shop_a]}]`:                                                                                                                    "two other roles",
		`[{name: app, secret: shop-db, ` + keys + `, owner: shop, roles: [shop_a, shop]}]`:                                                                                                              "two other roles",
		`[{name: app, secret: shop-db, ` + keys + `, owner: shop, roles: [shop_a, shop_b], role: shop}]`:                                                                                                "give one or the other",
		`[{name: app, secret: shop-db, ` + keys + `, owner: shop, roles: [shop_a, shop_b], withoutOverlap: true}]`:                                                                                      "take withoutOverlap away",
		`[{name: app, secret: shop-db, keys: {password: password}, owner: shop, roles: [shop_a, shop_b]}]`:                                                                                              "must be told which role logs in",
		`[{name: app, secret: shop-db, keys: {username: user}, owner: shop, roles: [shop_a, shop_b]}]`:                                                                                                  `lack the key "password"`,
		`[{name: app, secret: shop-db, keys: {username: user, password: user}, owner: shop, roles: [shop_a, shop_b]}]`:                                                                                  "name one key twice",
		`[{name: app, secret: shop-db, ` + keys + `, owner: shop, rolls: [shop_a, shop_b]}]`:                                                                                                            `did you mean "roles"?`,
		`[{name: App, secret: shop-db, ` + keys + `, owner: shop, roles: [shop_a, shop_b]}]`:                                                                                                            "small letters",
		`[{name: app, secret: shop-db, ` + keys + `, owner: shop, roles: [shop_a, shop_b], consumers: [{kind: CronJob, name: x}]}]`:                                                                     "consumers.kind",
		`[{name: app, secret: shop-db, ` + keys + `, owner: shop, roles: [shop_a, shop_b]}, {name: app, secret: other, keys: {password: password}, role: other, withoutOverlap: true}]`:                 "two secrets named",
		`[{name: app, secret: shop-db, ` + keys + `, owner: shop, roles: [shop_a, shop_b]}, {name: other, secret: other, keys: {password: password}, role: shop, withoutOverlap: true}]`:                `two secrets are of the role "shop"`,
		`[{name: app, secret: shop-db, ` + keys + `, owner: shop, roles: [shop_a, shop_b]}, {name: other, secret: other, keys: {password: password}, role: shop_a, withoutOverlap: true}]`:              "is one of the secret",
		`[{name: app, secret: shop-db, ` + keys + `, owner: shop, roles: [shop_a, shop_b]}, {name: other, secret: other, ` + keys + `, owner: other, roles: [shop_b, other_b], withoutOverlap: false}]`: "is one of the secret",
	} {
		_, err := Parse("upkeep.yaml", withSecrets(secrets))
		require.True(t, failure.Is(err, failure.BadConfig), "%s: %v", secrets, err)
		require.ErrorContains(t, err, says, secrets)
	}
	_, err := Parse("upkeep.yaml", []byte("version: 1\nstore: file:///var/lib/upkeep\ntargets:\n  - name: shop\n    database: {url: \"postgres://app@127.0.0.1/shop\"}\n    secrets: [{name: app, secret: shop-db, keys: {password: password}, role: shop, withoutOverlap: true}]\n"))
	require.ErrorContains(t, err, `lacks the key "kubernetes"`)
}
