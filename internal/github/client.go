// Package github does what a pull request needs on GitHub: looks at it, opens it, describes it, labels it,
// comments on it, merges it, closes it. Each effect has a business key (a branch, a number, a kind of comment)
// and looks before it acts, so that it may run twice, or half, or beside a stale twin, or lose its answer, and
// still be there once. Branches are moved by git: see the package checkout.
package github

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/go-github/v60/github"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/version"
)

const (
	// PublicAPI is where github.com's API is.
	PublicAPI = "https://api.github.com/"

	within   = 30 * time.Second // a request and its answer, without its turn
	maxReply = 8 << 20          // bytes
	maxPages = 10               // of a hundred
	memorize = 16 << 20         // bytes of answers, where no cache is given
)

// Options say how to reach a repository.
type Options struct {
	Repository string // owner/name
	APIURL     string // of GitHub Enterprise Server, such as https://github.example.com/api/v3/; github.com's when empty
	Token      func(context.Context) (string, error)
	App        *App    // instead of Token
	Limits     *Limits // shared by all that use the same identity; its own when nil
	Cache      Cache   // of answers; a small one in memory when nil
	Clock      Clock   // the machine's when nil
	// Transport is below all of ours; http.DefaultTransport's settings when nil.
	Transport http.RoundTripper
}

// Client works on one repository. It is safe for use by several goroutines.
type Client struct {
	owner, name string
	api         *github.Client
	app         *github.Client // as the app itself; nil for a token
	by          credentials
	git         string

	mu    sync.Mutex
	login string
}

var fullName = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9-]{0,38})/([A-Za-z0-9_.-]{1,100})$`)

// RepositoryProblem says what is wrong with a repository's name, or "".
func RepositoryProblem(v string) string {
	m := fullName.FindStringSubmatch(v)
	if m == nil || m[2] == "." || m[2] == ".." || strings.HasSuffix(m[2], ".git") {
		return "must be owner/name, as in octo/shop"
	}
	return ""
}

// APIProblem says what is wrong with the address of an API, or "". Plain HTTP is for tests: a token is sent
// with each request.
func APIProblem(v string) string {
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())) {
		return "must be a URL such as https://github.example.com/api/v3/, without a user or a secret"
	}
	return ""
}

func isLoopback(host string) bool { return host == "127.0.0.1" || host == "::1" || host == "localhost" }

// Open makes a client. It asks GitHub nothing.
func Open(o Options) (*Client, error) {
	if problem := RepositoryProblem(o.Repository); problem != "" {
		return nil, failure.New(failure.BadConfig, "the repository %.100q %s", o.Repository, problem).Do("correct repositories in upkeep.yaml")
	}
	base := PublicAPI
	if o.APIURL != "" {
		if problem := APIProblem(o.APIURL); problem != "" {
			return nil, failure.New(failure.BadConfig, "apiURL %s", problem).Do("correct repositories in upkeep.yaml")
		}
		base = strings.TrimSuffix(o.APIURL, "/") + "/"
	}
	if (o.Token == nil) == (o.App == nil) {
		return nil, failure.New(failure.BadConfig, "the repository %s needs a token or an app, and not both", o.Repository).Do("give it tokenFrom or app in upkeep.yaml")
	}
	if o.Clock == nil {
		o.Clock = Machine
	}
	if o.Limits == nil {
		o.Limits = NewLimits(o.Clock)
	}
	if o.Cache == nil {
		o.Cache = NewMemory(memorize)
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, failure.New(failure.BadConfig, "apiURL is no URL").Do("correct repositories in upkeep.yaml")
	}
	c := &Client{git: gitURL(u, o.Repository)}
	c.owner, c.name, _ = strings.Cut(o.Repository, "/")
	who := "token"
	api := func(by credentials) *github.Client {
		transport := limited{o.Limits, conditional{o.Cache, who, authorized{by, u.Host, bounded{o.Transport}}}}
		client := github.NewClient(&http.Client{Transport: transport, CheckRedirect: sameHost})
		client.BaseURL, client.UserAgent = u, "upkeep/"+version.String()
		return client
	}
	c.by = fixed(o.Token)
	if o.App != nil {
		who = fmt.Sprintf("app %d", o.App.ID)
		c.app = api(signer{*o.App, o.Clock})
		c.by = &installation{app: *o.App, owner: c.owner, name: c.name, clock: o.Clock, api: api}
	}
	c.api = api(c.by)
	return c, nil
}

// sameHost follows a repository that was renamed, and nothing that leads elsewhere.
func sameHost(r *http.Request, via []*http.Request) error {
	if len(via) > 3 || r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
		return http.ErrUseLastResponse
	}
	return nil
}

// gitURL is where git finds the repository.
func gitURL(api *url.URL, repository string) string {
	u := url.URL{Scheme: api.Scheme, Host: api.Host, Path: "/" + repository + ".git"}
	if api.Host == "api.github.com" {
		u.Host = "github.com"
	}
	return u.String()
}

// GitURL is where git finds the repository; it has no secret in it.
func (c *Client) GitURL() string { return c.git }

// Token gives the secret by which git logs in, as the password of the user x-access-token.
func (c *Client) Token(ctx context.Context) (string, error) { return c.by.token(ctx) }

func (c *Client) full() string { return c.owner + "/" + c.name }

// bounded is the transport that gives up in time, and reads only so much.
type bounded struct{ next http.RoundTripper }

func (t bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), within)
	answer, err := t.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	answer.Body = &boundedBody{answer.Body, maxReply, cancel}
	return answer, nil
}

type boundedBody struct {
	io.ReadCloser
	left   int64
	cancel func()
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, failure.New(failure.GitHubUnreachable, "GitHub's answer has more than %d bytes", maxReply)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func (b *boundedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// Login is who we are on GitHub; "" where GitHub does not say so to this kind of token.
func (c *Client) Login(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.login != "" {
		return c.login, nil
	}
	if c.app != nil {
		app, _, err := c.app.Apps.Get(ctx, "")
		if err != nil {
			return "", classify(err, "the app")
		}
		c.login = app.GetSlug() + "[bot]"
		return c.login, nil
	}
	user, _, err := c.api.Users.Get(ctx, "")
	if err != nil {
		err = classify(err, "who we are")
		if failure.Is(err, failure.GitHubForbids) { // such as the token of a GitHub Action
			return "", nil
		}
		return "", err
	}
	c.login = user.GetLogin()
	return c.login, nil
}

// pages reads a list to its end, or to where it is too long for us.
func pages[T any](read func(github.ListOptions) ([]T, *github.Response, error)) ([]T, error) {
	var all []T
	options := github.ListOptions{PerPage: 100}
	for range maxPages {
		part, answer, err := read(options)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
		if answer.NextPage == 0 {
			return all, nil
		}
		options.Page = answer.NextPage
	}
	return nil, failure.New(failure.RepositoryTooLarge, "a list of GitHub's has more than %d entries", maxPages*options.PerPage)
}
