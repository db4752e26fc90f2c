package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWebhooks(t *testing.T) {
	const target = repositoryTarget + "{github: shop/web, tokenFrom: {env: GITHUB_TOKEN}}\n"
	c, err := Parse("upkeep.yaml", []byte(target))
	require.NoError(t, err)
	require.Nil(t, c.Webhooks)
	c, err = Parse("upkeep.yaml", []byte(target+"webhooks: {secretFrom: {env: HOOK}}\n"))
	require.NoError(t, err)
	require.Equal(t, &Webhooks{Listen: "127.0.0.1:8092", Secret: Secret{Env: "HOOK"}}, c.Webhooks)
	c, err = Parse("upkeep.yaml", []byte(target+"webhooks: {listen: ':9000', secretFrom: {file: /hook}}\n"))
	require.NoError(t, err)
	require.Equal(t, &Webhooks{Listen: ":9000", Secret: Secret{File: "/hook"}}, c.Webhooks)
	for text, said := range map[string]string{
		"{}":                                  `webhooks lacks the key "secretFrom"`,
		"{secretFrom: {env: X}, listen: web}": "webhooks.listen must be host:port",
		"{secretFrom: {env: X}, listen: '127.0.0.1:99999'}": "webhooks.listen must be host:port",
		"{secretFrom: {env: X}, lisen: '127.0.0.1:1'}":      `did you mean "listen"?`,
		"{secret: hunter2}": `unknown key "secret"`,
		"{secretFrom: {secret: {name: hook, key: secret}}}": "cannot be a Secret of the cluster",
	} {
		_, err := Parse("upkeep.yaml", []byte(target+"webhooks: "+text+"\n"))
		require.ErrorContains(t, err, said, text)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
