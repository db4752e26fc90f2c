package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/calendar"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/keyring/keyringtest"
)

const good = `version: 1
store: file:///var/lib/upkeep
targets:
  - name: shop
    database:
      url: postgres://app@127.0.0.1:5432/shop
      passwordFrom: {env: SHOP_DB_PASSWORD}
  - name: other
    database:
      url: postgres://app@db/other
      connections: 4
      scratch: {server: "postgres://drill@scratch/postgres", passwordFrom: {file: /run/secrets/drill}}
`

func TestParse(t *testing.T) {
	c, err := Parse("upkeep.yaml", []byte(good))
	require.NoError(t, err)
	require.Equal(t, "file:///var/lib/upkeep", c.Store)
	require.Equal(t, []Target{
		{Name: "shop", Database: Database{URL: "postgres://app@127.0.0.1:5432/shop", Password: Secret{Env: "SHOP_DB_PASSWORD"}, Connections: DefaultConnections, Scratch: Scratch{Runner: RunnerLocal}}, Schedules: defaults("shop", "UTC")},
		{Name: "other", Database: Database{URL: "postgres://app@db/other", Connections: 4, Scratch: Scratch{Runner: RunnerServer, URL: "postgres://drill@scratch/postgres", Password: Secret{File: "/run/secrets/drill"}}}, Schedules: defaults("other", "UTC")},
	}, c.Targets)
	require.Len(t, c.SHA256, 64)
}

func TestParseNamesEveryMistakeWithItsLine(t *testing.T) {
	for _, c := range []struct {
		name, from, to string
		want           []string
	}{
		{"unknown key", "store:", "stor:", []string{`upkeep.yaml:2:`, `"stor"`, `did you mean "store"?`, `lacks the key "store"`}},
		{"unknown key below", "passwordFrom: {env", "password_from: {env", []string{"upkeep.yaml:7:", `did you mean "passwordFrom"?`}},
		{"password in the url", "app@127", "app:hunter2@127", []string{"upkeep.yaml:6:", "must not hold a password"}},
		{"a setting in the url", "5432/shop", "5432/shop?statement_timeout=60000", []string{"upkeep.yaml:6:", `the parameter "statement_timeout"`, "options=-c"}},
		{"a parameter misspelt", "5432/shop", "5432/shop?ssl_mode=require", []string{"upkeep.yaml:6:", `did you mean "sslmode"?`}},
		{"version", "version: 1", "version: 2", []string{"upkeep.yaml:1: version 2 is unknown to this Upkeep; it reads version 1"}},
		{"version in words", "version: 1", "version: one", []string{"upkeep.yaml:1: version must be the number 1"}},
		{"relative store", "file:///var/lib/upkeep", "file://var/lib", []string{"upkeep.yaml:2:", "absolute"}},
		{"unknown store", "file:///var", "ftp:///var", []string{"upkeep.yaml:2:", "s3://bucket"}},
		{"name", "name: shop", "name: ../shop", []string{"upkeep.yaml:4:", "small letters"}},
		{"name of the runs", "name: shop", "name: runs", []string{"upkeep.yaml:4:", "must be another"}},
		{"two of a name", "name: other", "name: shop", []string{"upkeep.yaml:8:", "two targets"}},
		{"twice", "store:", "version: 1\nstore:", []string{`"version" twice`}},
		{"connections", "connections: 4", "connections: many", []string{"upkeep.yaml:11:", "whole number"}},
		{"not yaml", "targets:", "targets: [", []string{"upkeep.yaml:3: did not find"}},
		{"empty", good, "# nothing\n", []string{"upkeep.yaml: the file is empty"}},
		{"secret of nothing", "{env: SHOP_DB_PASSWORD}", "{}", []string{"upkeep.yaml:7:", "one of the keys env, file and secret"}},
		{"secret of both", "{env: SHOP_DB_PASSWORD}", "{env: A, file: /b}", []string{"upkeep.yaml:7:", "one of the keys env, file and secret"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Contains(t, good, c.from)
			_, err := Parse("upkeep.yaml", []byte(strings.Replace(good, c.from, c.to, 1)))
			require.True(t, failure.Is(err, failure.BadConfig), "%v", err)
			for _, part := range c.want {
				require.ErrorContains(t, err, part)
			}
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

const encrypted = good + `    encryption:
      recipients:
        - age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq
      identityFrom: {file: /etc/upkeep/identity}
      keys: [0123456789abcdef0123456789abcdef]
`

func TestEncryption(t *testing.T) {
	recipient := keyringtest.NewPerson(t).Recipient
	text := strings.Replace(encrypted, "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq", recipient, 1)
	c, err := Parse("upkeep.yaml", []byte(text))
	require.NoError(t, err)
	require.Equal(t, Encryption{Recipients: []string{recipient}, Identity: Secret{File: "/etc/upkeep/identity"}, Keys: []string{"0123456789abcdef0123456789abcdef"}}, c.Targets[1].Encryption)
	require.NotNil(t, c.Targets[1].Encryption.Ring(nil, "other"))
	require.Nil(t, c.Targets[0].Encryption.Ring(nil, "shop"))
	for name, change := range map[string]struct{ from, to, want string }{
		"a secret as recipient": {recipient, keyringtest.NewPerson(t).Secret, "must be public keys of age"},
		"no recipients":         {"- " + recipient, "[]", "must be a list of 1 to 32 texts"},
		"recipients left out":   {"recipients:\n        - " + recipient + "\n      ", "", `lacks the key "recipients"`},
		"twice":                 {"- " + recipient, "- " + recipient + "\n        - " + recipient, "twice"},
		"a short fingerprint":   {"[0123456789abcdef", "[0123", "must be fingerprints"},
		"an identity in place":  {"{file: /etc/upkeep/identity}", "AGE-SECRET-KEY-1ABC", "must be a mapping"},
	} {
		require.Contains(t, text, change.from)
		_, err := Parse("upkeep.yaml", []byte(strings.Replace(text, change.from, change.to, 1)))
		require.ErrorContains(t, err, change.want, name)
		require.NotContains(t, err.Error(), "AGE-SECRET-KEY", name)
	}
}

func TestTargetIsFoundOrTheNearestNamed(t *testing.T) {
	c, err := Parse("upkeep.yaml", []byte(good))
	require.NoError(t, err)
	got, err := c.Target("shop")
	require.NoError(t, err)
	require.Equal(t, "shop", got.Name)
	_, err = c.Target("shpo")
	require.True(t, failure.Is(err, failure.UnknownTarget))
	require.ErrorContains(t, err, `did you mean "shop"?`)
	_, err = c.Target("")
	require.True(t, failure.Is(err, failure.UnknownTarget), "two targets: none is the only one")
	c.Targets = c.Targets[:1]
	got, err = c.Target("")
	require.NoError(t, err)
	require.Equal(t, "shop", got.Name)
}

func TestSecretIsReadAndItsErrorsNameTheReference(t *testing.T) {
	t.Setenv("SECRET_OF_TEST", "s3cret")
	v, err := Secret{Env: "SECRET_OF_TEST"}.Read()
	require.NoError(t, err)
	require.Equal(t, "s3cret", v)
	file := filepath.Join(t.TempDir(), "password")
	_, err = Secret{File: file}.Read()
	require.True(t, failure.Is(err, failure.MissingSecret))
	require.ErrorContains(t, err, file)
	require.NoError(t, os.WriteFile(file, []byte("s3cret\n"), 0o600))
	v, err = Secret{File: file}.Read()
	require.NoError(t, err)
	require.Equal(t, "s3cret", v)
	_, err = Secret{Env: "NOT_SET_AT_ALL"}.Read()
	require.True(t, failure.Is(err, failure.MissingSecret))
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Parse("f", data); err != nil {
			require.True(t, failure.Is(err, failure.BadConfig))
		}
	})
}

func TestCalendar(t *testing.T) {
	const text = `    calendar:
      zone: Europe/Berlin
      windows:
        - {days: [sat, Sun], from: "22:00", to: 02:30}
      freezes:
        - {from: 2026-12-20, to: 2027-01-02, why: the holidays}
        - {from: 2026-11-27T06:00:00Z, to: 2026-11-27T20:00:00Z}
`
	one, rest, _ := strings.Cut(good, "  - name: other")
	c, err := Parse("upkeep.yaml", []byte(one+text+"  - name: other"+rest))
	require.NoError(t, err)
	at := func(text string) time.Time {
		v, err := time.Parse(time.RFC3339, text)
		require.NoError(t, err)
		return v
	}
	require.Equal(t, calendar.Calendar{
		Zone:    "Europe/Berlin",
		Windows: []calendar.Window{{Days: []time.Weekday{time.Saturday, time.Sunday}, From: 22 * 60, To: 2*60 + 30}},
		Freezes: []calendar.Freeze{
			{From: at("2026-12-19T23:00:00Z"), To: at("2027-01-02T23:00:00Z"), Why: "the holidays"},
			{From: at("2026-11-27T06:00:00Z"), To: at("2026-11-27T20:00:00Z")},
		},
	}, c.Targets[0].Calendar)
	for from, wrong := range map[string][2]string{
		"Europe/Berlin": {"Berlin", "must be a zone such as Europe/Berlin"},
		"[sat, Sun]":    {"[saturday]", `"saturday" is no day; use: sun, mon`},
		`"22:00"`:       {`"10pm"`, "a time of day"},
		"02:30":         {"25:00", "a time of day"},
		"2026-12-20":    {"20.12.2026", "must be a date"},
		"2027-01-02":    {"2026-01-02", "must end after it begins"},
		"zone:":         {"timezone:", `did you mean "zone"?`},
	} {
		_, err := Parse("upkeep.yaml", []byte(one+strings.Replace(text, from, wrong[0], 1)+"  - name: other"+rest))
		require.ErrorContains(t, err, wrong[1], from)
	}
}
