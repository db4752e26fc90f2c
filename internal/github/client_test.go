package github_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/github"
	"github.com/upkeep-run/upkeep/internal/github/githubtest"
)

type bench struct {
	*githubtest.Server
	repo   *githubtest.Repo
	clock  *githubtest.Clock
	client *github.Client
	head   string
}

func set(t *testing.T) *bench {
	t.Helper()
	b := &bench{clock: githubtest.NewClock()}
	b.Server = githubtest.New(t, b.clock)
	b.repo = b.Repository("octo/shop", map[string]string{"go.mod": "module shop\n"})
	b.head = b.repo.Push("upkeep/x", "upkeep", "newer", map[string]string{"go.mod": "module shop // newer\n"})
	b.client = b.open(t)
	return b
}

// open makes a client of the machine user upkeep.
func (b *bench) open(t *testing.T) *github.Client {
	t.Helper()
	token := b.Token("upkeep")
	c, err := github.Open(github.Options{Repository: "octo/shop", APIURL: b.APIURL(), Token: func(context.Context) (string, error) { return token, nil }, Clock: b.clock})
	require.NoError(t, err)
	return c
}

func (b *bench) proposal() github.Proposal {
	return github.Proposal{Branch: "upkeep/x", Head: b.head, Base: "main", Title: "newer", Body: "v1"}
}

func equal(have, want string) bool { return have == want }

// life is all that is done to a pull request until it is merged.
func (b *bench) life(ctx context.Context, c *github.Client) error {
	p, _, err := c.EnsurePull(ctx, b.proposal())
	if err != nil {
		return err
	}
	if !p.Open {
		return nil
	}
	if err := c.EnsureLabels(ctx, p.Number, []string{"dependencies", "go"}); err != nil {
		return err
	}
	if err := c.EnsureReviewers(ctx, p.Number, []string{"ann", "team:core"}); err != nil {
		return err
	}
	if _, err := c.EnsureText(ctx, p.Number, "newer", "v2", equal); err != nil {
		return err
	}
	if err := c.EnsureComment(ctx, p.Number, "rebased", "It was rebased."); err != nil {
		return err
	}
	if err := c.EnsureComment(ctx, p.Number, "waits", "It waits."); err != nil {
		return err
	}
	_, _, err = c.EnsureIssue(ctx, "Dependencies", "board", equal)
	return err
}

// merge is the end of that life.
func (b *bench) merge(ctx context.Context, c *github.Client) error {
	_, err := c.Merge(ctx, github.Merging{Number: 1, Head: b.head, Base: "main", Method: "squash", Title: "newer (#1)"})
	return err
}

// once says that everything is there, and once.
func (b *bench) once(t *testing.T) {
	t.Helper()
	pulls := b.repo.Pulls()
	require.Len(t, pulls, 1)
	p := pulls[0]
	require.Equal(t, "v2", p.Body)
	require.Equal(t, []string{"dependencies", "go"}, p.Labels)
	require.Equal(t, []string{"ann"}, p.Reviewers)
	require.Equal(t, []string{"core"}, p.Teams)
	require.Len(t, p.Comments, 2)
	require.True(t, p.Merged)
	require.Len(t, b.repo.Issues(), 1)
	require.Equal(t, "board", b.repo.Issues()[0].Body)
}

func TestALifeTwiceIsALifeOnce(t *testing.T) {
	b := set(t)
	b.repo.Member("ann")
	b.repo.Team("core")
	require.NoError(t, b.life(t.Context(), b.client))
	writes := b.Writes()
	require.NoError(t, b.life(t.Context(), b.open(t)))
	require.Equal(t, writes, b.Writes(), "the second time writes nothing")
	require.NoError(t, b.merge(t.Context(), b.client))
	require.NoError(t, b.merge(t.Context(), b.client), "it is merged already")
	b.once(t)
}

// TestEveryCallMayFail lets each call of a pull request's life fail once, in each of the ways that GitHub fails.
func TestEveryCallMayFail(t *testing.T) {
	b := set(t)
	b.repo.Member("ann")
	b.repo.Team("core")
	require.NoError(t, b.life(t.Context(), b.client))
	require.NoError(t, b.merge(t.Context(), b.client))
	faults := map[string]githubtest.Fault{
		"lost":    {LoseReply: true},
		"502":     {Status: 502},
		"limited": {Status: 403, RetryAfter: 30 * time.Second},
		"429":     {Status: 429, RetryAfter: 30 * time.Second},
	}
	runs := 0
	for _, operation := range []string{
		"users/get-authenticated", "pulls/list", "git/get-ref", "pulls/create", "pulls/get", "issues/add-labels", "pulls/request-reviewers", "pulls/update",
		"issues/list-comments", "issues/create-comment", "issues/list-for-repo", "issues/create", "pulls/merge",
	} {
		calls := b.Calls(operation)
		require.NotZero(t, calls, operation)
		for n := 1; n <= calls; n++ {
			for name, fault := range faults {
				runs++
				t.Run(fmt.Sprintf("%s %d %s", operation, n, name), func(t *testing.T) {
					b := set(t)
					b.repo.Member("ann")
					b.repo.Team("core")
					fault.Operation, fault.At = operation, n
					b.Fail(fault)
					insist := func(act func(context.Context, *github.Client) error) {
						var err error
						for range 4 {
							c := b.client
							if err != nil {
								c = b.open(t) // another process
							}
							if err = act(t.Context(), c); err == nil {
								return
							}
							f, ok := failure.As(err)
							require.True(t, ok, "%v", err)
							require.Equal(t, failure.Transient, f.Class(), "%v", err)
							b.clock.Advance(f.After)
						}
						require.NoError(t, err)
					}
					insist(b.life)
					insist(b.merge)
					b.once(t)
					require.Zero(t, b.Limited())
				})
			}
		}
	}
	require.Greater(t, runs, 50)
}

func TestTwinsOpenOnePullRequestAndSayEachThingOnce(t *testing.T) {
	b := set(t)
	b.repo.Member("ann")
	b.repo.Team("core")
	var wait sync.WaitGroup
	errs := make([]error, 6)
	for n := range errs {
		c := b.open(t)
		wait.Go(func() { errs[n] = b.life(t.Context(), c) })
	}
	wait.Wait()
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, b.life(t.Context(), b.client))
	require.NoError(t, b.merge(t.Context(), b.client))
	open := 0
	for _, i := range b.repo.Issues() {
		if i.State == "open" {
			open++
		}
	}
	require.Equal(t, 1, open)
	require.Len(t, b.repo.Pulls(), 1)
	require.Len(t, b.repo.Pulls()[0].Comments, 2)
}

func TestATwinThatWasFrozenInTheMomentBeforeItsComment(t *testing.T) {
	b := set(t)
	_, _, err := b.client.EnsurePull(t.Context(), b.proposal())
	require.NoError(t, err)
	twin := b.open(t)
	b.Fail(githubtest.Fault{Operation: "issues/create-comment", At: 1, Before: func() {
		require.NoError(t, twin.EnsureComment(t.Context(), 1, "rebased", "It was rebased."))
	}})
	require.NoError(t, b.client.EnsureComment(t.Context(), 1, "rebased", "It was rebased."))
	require.Len(t, b.repo.Pulls()[0].Comments, 1)
	b.repo.Comment(1, "mallory", "<!-- upkeep:comment waits -->")
	require.NoError(t, b.client.EnsureComment(t.Context(), 1, "waits", "It waits."))
	require.Len(t, b.repo.Pulls()[0].Comments, 3, "another's mark means nothing, and his comment stays")
}

func TestWhatPeopleDoIsRespected(t *testing.T) {
	t.Run("pushed before it was opened", func(t *testing.T) {
		b := set(t)
		b.repo.Push("upkeep/x", "ann", "mine", map[string]string{"a": "b"})
		_, _, err := b.client.EnsurePull(t.Context(), b.proposal())
		require.True(t, failure.Is(err, failure.BranchMoved), "%v", err)
		require.Empty(t, b.repo.Pulls())
	})
	t.Run("closed while a twin was frozen", func(t *testing.T) {
		b := set(t)
		_, opened, err := b.client.EnsurePull(t.Context(), b.proposal())
		require.NoError(t, err)
		require.True(t, opened)
		b.repo.ClosePull(1, "ann")
		_, _, err = b.client.EnsurePull(t.Context(), b.proposal())
		require.True(t, failure.Is(err, failure.PullChanged), "%v", err)
		again := b.proposal()
		again.Newest = 1 // it was seen, and decided on
		_, opened, err = b.client.EnsurePull(t.Context(), again)
		require.NoError(t, err)
		require.True(t, opened)
		closer, err := b.client.Closer(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "ann", closer)
	})
	t.Run("before a merge", func(t *testing.T) {
		b := set(t)
		_, _, err := b.client.EnsurePull(t.Context(), b.proposal())
		require.NoError(t, err)
		main := b.repo.Branches()["main"]
		m := github.Merging{Number: 1, Head: b.head, Base: "main", BaseAt: main}
		b.repo.Push("other", "ann", "other", map[string]string{"c": "d"})
		b.repo.Retarget(1, "ann", "other")
		_, err = b.client.Merge(t.Context(), m)
		require.True(t, failure.Is(err, failure.PullChanged), "%v", err)
		b.repo.Retarget(1, "ann", "main")
		b.repo.Push("main", "ann", "other", map[string]string{"c": "d"})
		_, err = b.client.Merge(t.Context(), m)
		require.True(t, failure.Is(err, failure.PullChanged), "%v", err)
		m.BaseAt = b.repo.Branches()["main"]
		b.Fail(githubtest.Fault{Operation: "pulls/merge", At: 1, Before: func() { b.repo.Amend("upkeep/x", "ann", "mine", map[string]string{"a": "b"}) }})
		_, err = b.client.Merge(t.Context(), m)
		require.True(t, failure.Is(err, failure.BranchMoved), "in the very moment: %v", err)
		err = b.client.Close(t.Context(), 1, b.head, "superseded", "There is a newer one.")
		require.True(t, failure.Is(err, failure.BranchMoved), "%v", err)
		require.Equal(t, "open", b.repo.Pulls()[0].State)
		require.Empty(t, b.repo.Pulls()[0].Comments)
	})
	t.Run("required checks", func(t *testing.T) {
		b := set(t)
		b.repo.Required = []string{"build"}
		_, _, err := b.client.EnsurePull(t.Context(), b.proposal())
		require.NoError(t, err)
		err = b.merge(t.Context(), b.client)
		require.True(t, failure.Is(err, failure.NotMergeable), "%v", err)
		require.ErrorContains(t, err, "build")
	})
	t.Run("closed with a word", func(t *testing.T) {
		b := set(t)
		_, _, err := b.client.EnsurePull(t.Context(), b.proposal())
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, b.client.Close(t.Context(), 1, b.head, "superseded", "There is a newer one."))
		}
		p := b.repo.Pulls()[0]
		require.Equal(t, "closed", p.State)
		require.Len(t, p.Comments, 1)
		changed, err := b.client.EnsureText(t.Context(), 1, "x", "y", equal)
		require.NoError(t, err)
		require.False(t, changed, "what is closed is left alone")
	})
}

func TestChecks(t *testing.T) {
	b := set(t)
	look := func() github.Checks {
		c, err := b.client.Checks(t.Context(), b.head)
		require.NoError(t, err)
		return c
	}
	require.Zero(t, look())
	b.repo.SetCheck(b.head, "build", "in_progress", "")
	b.repo.SetStatus(b.head, "old", "pending")
	require.Equal(t, github.Checks{All: 2, Runs: "old"}, look())
	b.repo.SetStatus(b.head, "old", "success")
	b.repo.SetCheck(b.head, "build", "completed", "success")
	require.Equal(t, github.Checks{All: 2, Passed: 2}, look())
	b.repo.SetCheck(b.head, "build", "completed", "skipped")
	require.Equal(t, github.Checks{All: 2, Passed: 1}, look(), "what was skipped has looked at nothing")
	for _, bad := range []string{"failure", "cancelled", "timed_out", "action_required"} {
		b.repo.SetCheck(b.head, "build", "completed", bad)
		require.Equal(t, "build", look().Failed, bad)
	}
	for n := range 120 { // more than a page
		b.repo.SetCheck(b.head, fmt.Sprint("c", n), "completed", "success")
	}
	require.Equal(t, 122, look().All)
}

func TestReadingAgainIsFree(t *testing.T) {
	b := set(t)
	_, _, err := b.client.EnsurePull(t.Context(), b.proposal())
	require.NoError(t, err)
	look := func() string {
		p, err := b.client.Pull(t.Context(), 1)
		require.NoError(t, err)
		_, err = b.client.Pulls(t.Context(), "upkeep/x")
		require.NoError(t, err)
		return p.State
	}
	look()
	look() // by now GitHub knows whether it can be merged
	spent := b.Spent("upkeep")
	for range 100 {
		require.Equal(t, "clean", look())
	}
	require.Equal(t, spent, b.Spent("upkeep"))
	b.repo.Edit(1, "ann", "another", "")
	p, err := b.client.Pull(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "another", p.Title)
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		fault githubtest.Fault
		code  failure.Code
	}{
		"forbidden": {githubtest.Fault{Status: 403, Message: "Resource not accessible by integration"}, failure.GitHubForbids},
		"missing":   {githubtest.Fault{Status: 404, Message: "Not Found"}, failure.MissingRepository},
		"trouble":   {githubtest.Fault{Status: 503}, failure.GitHubUnreachable},
		"lost":      {githubtest.Fault{LoseReply: true}, failure.GitHubUnreachable},
		"garbage":   {githubtest.Fault{Garbage: []byte("<html>")}, failure.GitHubUnreachable},
		"huge":      {githubtest.Fault{Garbage: []byte(`{"title":"` + strings.Repeat("x", 20<<20) + `"}`)}, failure.GitHubUnreachable},
		"deep":      {githubtest.Fault{Garbage: []byte(strings.Repeat("[", 1<<20))}, failure.GitHubUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			b := set(t)
			c.fault.Operation = "pulls/get"
			b.Fail(c.fault)
			_, err := b.client.Pull(t.Context(), 1)
			require.True(t, failure.Is(err, c.code), "%v", err)
		})
	}
	b := set(t)
	secret := "ghp_thisIsNoRealToken"
	c, err := github.Open(github.Options{Repository: "octo/shop", APIURL: b.APIURL(), Token: func(context.Context) (string, error) { return secret, nil }, Clock: b.clock})
	require.NoError(t, err)
	_, err = c.Pull(t.Context(), 1)
	require.True(t, failure.Is(err, failure.GitHubLogin), "%v", err)
	require.NotContains(t, err.Error(), secret)
	secret = "a\nb"
	_, err = c.Pull(t.Context(), 1)
	require.True(t, failure.Is(err, failure.MissingSecret), "%v", err)
}

func TestATokenGoesToNoOtherHost(t *testing.T) {
	stolen := false
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen = stolen || r.Header.Get("Authorization") != "" }))
	defer thief.Close()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, thief.URL+r.URL.Path, http.StatusMovedPermanently)
	}))
	defer front.Close()
	c, err := github.Open(github.Options{Repository: "octo/shop", APIURL: front.URL, Token: func(context.Context) (string, error) { return "s", nil }})
	require.NoError(t, err)
	_, err = c.Pull(t.Context(), 1)
	require.Error(t, err)
	require.False(t, stolen)
	for _, bad := range []github.Options{
		{Repository: "octo/../x"}, {Repository: "octo"}, {Repository: "-x/y"}, {Repository: "octo/shop", APIURL: "http://github.example.com/"},
		{Repository: "octo/shop", APIURL: "https://a:b@github.example.com/"}, {Repository: "octo/shop"},
	} {
		_, err := github.Open(bad)
		require.True(t, failure.Is(err, failure.BadConfig), "%v: %v", bad, err)
	}
}

func TestAnApp(t *testing.T) {
	b := set(t)
	app := b.App("upkeep-app")
	c, err := github.Open(github.Options{Repository: "octo/shop", APIURL: b.APIURL(), Clock: b.clock, App: &github.App{ID: app.ID, Key: func(context.Context) (string, error) { return app.PrivateKey, nil }}})
	require.NoError(t, err)
	require.NoError(t, err)
	b.repo.Member("ann")
	b.repo.Team("core")
	require.NoError(t, b.life(t.Context(), c))
	require.Equal(t, 1, b.Calls("apps/create-installation-access-token"), "one token serves for its hour")
	login, err := c.Login(t.Context())
	require.NoError(t, err)
	require.Equal(t, "upkeep-app[bot]", login)
	require.Equal(t, login, b.repo.Pulls()[0].Author)
	b.clock.Advance(51 * time.Minute)
	first, err := c.Token(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.life(t.Context(), c))
	require.Equal(t, 2, b.Calls("apps/create-installation-access-token"), "it is replaced before its end")
	second, err := c.Token(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, second)
	b.Revoke(second)
	err = b.life(t.Context(), c)
	require.True(t, failure.Is(err, failure.GitHubLogin), "%v", err)
	require.NoError(t, b.life(t.Context(), c), "a token that is revoked is not used again")

	bad, err := github.Open(github.Options{Repository: "octo/shop", APIURL: b.APIURL(), Clock: b.clock, App: &github.App{ID: app.ID, Key: func(context.Context) (string, error) { return "s3cretKey", nil }}})
	require.NoError(t, err)
	err = b.life(t.Context(), bad)
	require.True(t, failure.Is(err, failure.GitHubLogin), "%v", err)
	require.NotContains(t, err.Error(), "s3cretKey")
}

func TestHundredsOfPullRequestsHitNoLimit(t *testing.T) {
	b := set(t)
	began := b.clock.Now()
	for n := range 280 { // more than 500 writes
		branch := fmt.Sprintf("upkeep/%d", n)
		head := b.repo.Push(branch, "upkeep", "newer", map[string]string{"go.mod": branch})
		p := github.Proposal{Branch: branch, Head: head, Base: "main", Title: branch, Body: branch}
		for {
			pull, _, err := b.client.EnsurePull(t.Context(), p)
			if err == nil {
				err = b.client.EnsureLabels(t.Context(), pull.Number, []string{"dependencies"})
			}
			if err == nil {
				break
			}
			f, ok := failure.As(err)
			require.True(t, ok && f.Code == failure.GitHubLimited && f.After > 0, "%v", err)
			b.clock.Advance(f.After)
		}
	}
	require.Zero(t, b.Limited())
	require.Len(t, b.repo.Pulls(), 280)
	t.Logf("280 pull requests with a label each took %s of GitHub's time", b.clock.Now().Sub(began))
}
