package github

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-github/v60/github"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// Access is how a repository stands to us, as far as GitHub says.
type Access struct {
	Default string
	Private bool
	// Push says that whoever has the token may push; it may still be a token that may not.
	Push bool
	// Classic says that the token is of the kind that has Scopes.
	Classic bool
	Scopes  []string
}

// Access looks at the repository. One that is archived is an error.
func (c *Client) Access(ctx context.Context) (Access, error) {
	r, answer, err := c.api.Repositories.Get(ctx, c.owner, c.name)
	if err != nil {
		return Access{}, classify(err, "the repository "+c.full())
	}
	if r.GetArchived() {
		return Access{}, archived(c.full())
	}
	a := Access{Default: r.GetDefaultBranch(), Private: r.GetPrivate(), Push: r.GetPermissions()["push"]}
	if scopes, ok := answer.Header[http.CanonicalHeaderKey("X-OAuth-Scopes")]; ok {
		a.Classic = true
		a.Scopes = strings.FieldsFunc(strings.Join(scopes, ","), func(r rune) bool { return r == ',' || r == ' ' })
	}
	return a, nil
}

func archived(repository string) error {
	return failure.New(failure.GitHubRefused, "the repository %s is archived", repository).Do("take it out of repositories in upkeep.yaml")
}

// Missing are the scopes that a classic token lacks for the work on the repository.
func (a Access) Missing() []string {
	if !a.Classic || slices.Contains(a.Scopes, "repo") || !a.Private && slices.Contains(a.Scopes, "public_repo") {
		return nil
	}
	return []string{"repo"}
}

// Installation is that of our app at the repository.
type Installation struct {
	ID          int64
	App         string // its slug
	Suspended   bool
	Permissions map[string]string // such as contents: write
}

// Installation looks for the app's installation at the repository. It is for an app, and for no token.
func (c *Client) Installation(ctx context.Context) (Installation, error) {
	found, _, err := c.app.Apps.FindRepositoryInstallation(ctx, c.owner, c.name)
	switch {
	case status(err) == http.StatusNotFound:
		return Installation{}, failure.New(failure.MissingRepository, "the app is not installed at %s", c.full()).
			Do("install it there, on the app's page at GitHub, and give it the repository")
	case err != nil:
		return Installation{}, classify(err, "the app's installation at "+c.full())
	}
	i := Installation{ID: found.GetID(), App: found.GetAppSlug(), Suspended: found.SuspendedAt != nil}
	data, err := json.Marshal(found.GetPermissions())
	if err == nil {
		err = json.Unmarshal(data, &i.Permissions)
	}
	if err != nil {
		return i, failure.New(failure.GitHubUnreachable, "what GitHub says of the app's permissions cannot be understood").Because(err)
	}
	return i, nil
}

// needs is what the work on a repository needs of an app.
var needs = []struct{ name, level string }{
	{"contents", "write"}, {"pull_requests", "write"}, {"issues", "write"}, {"checks", "read"}, {"statuses", "read"},
}

// Missing are the permissions that the installation lacks, such as "issues: write".
func (i Installation) Missing() (missing []string) {
	for _, n := range needs {
		if have := i.Permissions[n.name]; have != "write" && have != n.level {
			missing = append(missing, n.name+": "+n.level)
		}
	}
	return missing
}

// Limit is what is left of the hour's requests. Asking costs none.
type Limit struct {
	Left, Of int
	Until    time.Time
}

// Limit asks for it; none of a server that has no limits.
func (c *Client) Limit(ctx context.Context) (Limit, bool, error) {
	limits, _, err := c.api.RateLimit.Get(ctx)
	switch {
	case status(err) == http.StatusNotFound:
		return Limit{}, false, nil
	case err != nil:
		return Limit{}, false, classify(err, "what is left of our limit")
	}
	core := limits.GetCore()
	return Limit{Left: core.Remaining, Of: core.Limit, Until: core.Reset.Time}, true, nil
}

// Unreadable are the permissions without which something of the repository cannot be read. Of others than apps
// GitHub does not list what they may; it only refuses.
func (c *Client) Unreadable(ctx context.Context, branch string) (missing []string, err error) {
	one := github.ListOptions{PerPage: 1}
	for _, look := range []struct {
		permission string
		ask        func() error
	}{
		{"contents", func() error {
			_, err := c.Commit(ctx, branch)
			return err
		}},
		{"pull_requests", func() error {
			_, _, err := c.api.PullRequests.List(ctx, c.owner, c.name, &github.PullRequestListOptions{ListOptions: one})
			return err
		}},
		{"issues", func() error {
			_, _, err := c.api.Issues.ListByRepo(ctx, c.owner, c.name, &github.IssueListByRepoOptions{ListOptions: one})
			return err
		}},
		{"checks", func() error {
			_, _, err := c.api.Checks.ListCheckRunsForRef(ctx, c.owner, c.name, branch, &github.ListCheckRunsOptions{ListOptions: one})
			return err
		}},
		{"statuses", func() error {
			_, _, err := c.api.Repositories.GetCombinedStatus(ctx, c.owner, c.name, branch, &one)
			return err
		}},
	} {
		err := look.ask()
		if err == nil {
			continue
		}
		if err = classify(err, look.permission+" of "+c.full()); !failure.Is(err, failure.GitHubForbids) {
			return nil, err
		}
		missing = append(missing, look.permission)
	}
	return missing, nil
}
