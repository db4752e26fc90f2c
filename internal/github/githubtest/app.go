package githubtest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// App is a GitHub App, installed at all owners.
type App struct {
	ID, Installation int64
	Slug             string
	PrivateKey       string // PEM, as GitHub hands it out
	Permissions      map[string]string
	Suspended        bool
	Absent           bool // it is not installed

	key *rsa.PrivateKey
	bot *User
}

var appHandlers = []handler{
	{"apps/get-authenticated", "GET", "/app", (*Server).getApp},
	{"apps/get-repo-installation", "GET", "/repos/{owner}/{repo}/installation", (*Server).getInstallation},
	{"apps/create-installation-access-token", "POST", "/app/installations/{installation_id}/access_tokens", (*Server).createToken},
}

// isApp says whether an operation is an app's own, by its JWT.
func isApp(id string) bool { return strings.HasPrefix(id, "apps/") }

// App registers an app.
func (s *Server) App(slug string) *App {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &App{ID: s.next(), Installation: s.next(), Slug: slug, key: key, bot: s.user(slug + "[bot]"), Permissions: map[string]string{
		"metadata": "read", "contents": "write", "pull_requests": "write", "issues": "write", "workflows": "write", "checks": "read", "statuses": "read",
	}}
	a.PrivateKey = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	s.apps[a.ID] = a
	return a
}

// appOf is the app that has signed a JWT, which lives for ten minutes at most.
func (s *Server) appOf(jwt string) *App {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return nil
	}
	var head struct{ Alg string }
	var claims struct {
		Iss      json.RawMessage
		Iat, Exp int64
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || decode(parts[0], &head) != nil || decode(parts[1], &claims) != nil || head.Alg != "RS256" {
		return nil
	}
	id, err := strconv.ParseInt(strings.Trim(string(claims.Iss), `"`), 10, 64)
	app := s.apps[id]
	if err != nil || app == nil {
		return nil
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if rsa.VerifyPKCS1v15(&app.key.PublicKey, crypto.SHA256, sum[:], signature) != nil {
		return nil
	}
	now := s.clock.Now()
	if issued, ends := time.Unix(claims.Iat, 0), time.Unix(claims.Exp, 0); issued.After(now) || !ends.After(now) || ends.Sub(now) > 10*time.Minute {
		return nil
	}
	return app
}

func decode(part string, into any) error {
	data, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

func (s *Server) getApp(c *call) reply {
	return reply{status: http.StatusOK, body: map[string]any{"id": c.who.ID, "name": c.who.Login, "slug": strings.TrimSuffix(c.who.Login, "[bot]"), "owner": c.who.json()}}
}

func (s *Server) appOfBot(u *User) *App {
	for _, a := range s.apps {
		if a.bot == u {
			return a
		}
	}
	return nil
}

func (s *Server) getInstallation(c *call) reply {
	a := s.appOfBot(c.who)
	if a.Absent {
		return notFound()
	}
	var suspended any
	if a.Suspended {
		suspended = stamp(c.now)
	}
	return reply{status: http.StatusOK, body: map[string]any{
		"suspended_at": suspended,
		"id":           a.Installation, "app_id": a.ID, "app_slug": a.Slug, "account": s.user(c.repo.Owner).json(), "target_type": "User",
		"repository_selection": "all", "permissions": a.Permissions, "events": []any{"pull_request"},
	}}
}

func (s *Server) createToken(c *call) reply {
	a := s.appOfBot(c.who)
	if int64(c.number("installation_id")) != a.Installation {
		return notFound()
	}
	secret := fmt.Sprintf("ghs_%036d", s.next())
	expires := c.now.Add(time.Hour)
	s.tokens[secret] = &token{user: a.bot, expires: expires, repos: list(c.fields()["repositories"])}
	return reply{status: http.StatusCreated, body: map[string]any{"token": secret, "expires_at": stamp(expires), "permissions": map[string]any{"contents": "write"}, "repository_selection": "selected"}}
}

// Revoke ends a token.
func (s *Server) Revoke(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, secret)
}
