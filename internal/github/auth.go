package github

import (
	"context"
	"crypto/rsa"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-github/v60/github"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// App is a GitHub App, whose tokens live for an hour and are for one repository.
type App struct {
	ID  int64
	Key func(context.Context) (string, error) // its private key, as PEM
}

// credentials give the token of the moment.
type credentials interface {
	token(ctx context.Context) (string, error)
	// wrong says that GitHub no longer takes a token.
	wrong(token string)
}

// fixed is a token of a person or a machine user, read each time: it may be rotated.
type fixed func(context.Context) (string, error)

func (f fixed) token(ctx context.Context) (string, error) {
	secret, err := f(ctx)
	if err != nil {
		return "", err
	}
	if secret = strings.TrimSpace(secret); secret == "" || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", failure.New(failure.MissingSecret, "GitHub's token is empty, or has characters that no token has").Do("put the token alone into its place, then resume the run")
	}
	return secret, nil
}

func (fixed) wrong(string) {}

// installation gets an app's tokens for one repository.
type installation struct {
	app   App
	owner string
	name  string
	clock Clock
	api   func(credentials) *github.Client

	mu      sync.Mutex
	secret  string
	expires time.Time
	id      int64
}

// early is how long before its end a token is replaced: a push that begins must be able to end.
const early = 10 * time.Minute

func (i *installation) token(ctx context.Context) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.secret != "" && i.clock.Now().Add(early).Before(i.expires) {
		return i.secret, nil
	}
	client := i.api(signer{i.app, i.clock})
	if i.id == 0 {
		found, _, err := client.Apps.FindRepositoryInstallation(ctx, i.owner, i.name)
		if err != nil {
			return "", classify(err, fmt.Sprintf("the app's installation at %s/%s", i.owner, i.name))
		}
		i.id = found.GetID()
	}
	made, _, err := client.Apps.CreateInstallationToken(ctx, i.id, &github.InstallationTokenOptions{Repositories: []string{i.name}})
	if err != nil {
		return "", classify(err, fmt.Sprintf("a token of the app for %s/%s", i.owner, i.name))
	}
	i.secret, i.expires = made.GetToken(), made.GetExpiresAt().Time
	return i.secret, nil
}

func (i *installation) wrong(token string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.secret == token {
		i.secret = ""
	}
}

// signer makes the tokens by which an app shows who it is.
type signer struct {
	app   App
	clock Clock
}

func (s signer) token(ctx context.Context) (string, error) {
	text, err := s.app.Key(ctx)
	if err != nil {
		return "", err
	}
	key, err := parseKey(text)
	if err != nil {
		return "", err
	}
	now := s.clock.Now()
	signed, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"iss": strconv.FormatInt(s.app.ID, 10),
		"iat": now.Add(-time.Minute).Unix(), // our clock may be ahead of GitHub's
		"exp": now.Add(8 * time.Minute).Unix(),
	}).SignedString(key)
	if err != nil {
		return "", failure.New(failure.GitHubLogin, "the app's private key cannot sign").Do("put the key that GitHub made for the app into its place, then resume the run")
	}
	return signed, nil
}

func (signer) wrong(string) {}

func parseKey(text string) (*rsa.PrivateKey, error) {
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(text))
	if err != nil { // the error may quote the key
		return nil, failure.New(failure.GitHubLogin, "the app's private key is no RSA key in PEM").Do("put the key that GitHub made for the app into its place, then resume the run")
	}
	return key, nil
}

// authorized is the transport that adds the token, for one host alone.
type authorized struct {
	by   credentials
	host string
	next http.RoundTripper
}

func (t authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != t.host {
		return nil, failure.New(failure.GitHubUnreachable, "GitHub sends us to another host, %.100s", r.URL.Host).Do("correct apiURL in upkeep.yaml")
	}
	secret, err := t.by.token(r.Context())
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+secret)
	answer, err := t.next.RoundTrip(r)
	if err == nil && answer.StatusCode == http.StatusUnauthorized {
		t.by.wrong(secret)
	}
	return answer, err
}
