package doctor

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/github"
)

const (
	checkToken        = "token"
	checkInstallation = "the app's installation"
	checkLimit        = "requests left"
	checkRepository   = "repository"
	checkPermissions  = "permissions"
	checkWorkflows    = "may change workflows"
	checkGit          = "git"
	checkLockTools    = "programs for lock files"
	checkHook         = "secret"
)

// fewRequests is how few requests may be left of an hour until it is worth a word.
const fewRequests = 500

// examineRepository looks at a repository as the worker that does the work on code would.
func examineRepository(ctx context.Context, target string, r config.Repository) []Finding {
	l := &List{Subject: "target " + target + ": repository " + r.GitHub}
	rest := []string{checkLimit, checkRepository, checkPermissions, checkWorkflows}
	c, err := github.Open(r.Options())
	readable := l.Look(ctx, checkToken, func(context.Context) (string, error) {
		if err != nil {
			return "", err
		}
		return seeReference(r)
	})
	if !readable {
		l.Skip("the token or the app's key is not there", rest...)
		return l.Findings
	}
	var app github.Installation
	if r.App != nil && !l.Reach(ctx, checkInstallation, func(ctx context.Context) (string, error) {
		if app, err = c.Installation(ctx); err != nil {
			return "", err
		}
		if app.Suspended {
			return "", failure.New(failure.GitHubForbids, "the app %s is installed and suspended", app.App).Do("let it work again, on the page of the installation at GitHub")
		}
		return fmt.Sprintf("the app %s is installed", app.App), nil
	}) {
		l.Skip("the app is not there", rest...)
		return l.Findings
	}
	if !l.Reach(ctx, checkLimit, func(ctx context.Context) (string, error) { return seeLimit(ctx, c) }) &&
		slices.ContainsFunc(l.Findings, func(f Finding) bool { return f.Code == failure.GitHubLogin || f.Code == failure.GitHubUnreachable }) {
		l.Skip("GitHub cannot be asked", rest[1:]...)
		return l.Findings
	}
	var access github.Access
	if !l.Reach(ctx, checkRepository, func(ctx context.Context) (string, error) {
		if access, err = c.Access(ctx); err != nil {
			return "", err
		}
		base := cmp.Or(r.Base, access.Default)
		at, err := c.Commit(ctx, base)
		if err == nil && at == "" {
			err = failure.New(failure.GitHubRefused, "it has no branch %s", base).Do("correct its base in upkeep.yaml")
		}
		return fmt.Sprintf("branch %s at %.12s", base, at), err
	}) {
		l.Skip("the repository cannot be seen", rest[2:]...)
		return l.Findings
	}
	if r.App != nil {
		examineApp(ctx, l, app)
	} else {
		examineToken(ctx, l, c, access, cmp.Or(r.Base, access.Default))
	}
	return l.Findings
}

// seeReference looks whether the secret is where it should be.
func seeReference(r config.Repository) (string, error) {
	what, s := "the token", r.Token
	if r.App != nil {
		what, s = "the app's key", r.App.Key
	}
	if _, err := s.Read(); err != nil {
		return "", err
	}
	if s.Env != "" {
		return fmt.Sprintf("%s is in the environment variable %s", what, s.Env), nil
	}
	return fmt.Sprintf("%s is in the file %s", what, s.File), nil
}

func seeLimit(ctx context.Context, c *github.Client) (string, error) {
	limit, has, err := c.Limit(ctx)
	switch {
	case err != nil:
		return "", err
	case !has:
		return "the server has no limit", nil
	case limit.Left < min(fewRequests, limit.Of/2):
		return "", &Doubt{Found: fmt.Sprintf("%d of %d until %s", limit.Left, limit.Of, limit.Until.UTC().Format(time.TimeOnly+" UTC")), Optional: true,
			Remedy: "nothing, if it is the end of a busy hour; else give Upkeep a token of its own, or an app"}
	}
	return fmt.Sprintf("%d of %d in this hour", limit.Left, limit.Of), nil
}

// examineApp compares what the installation may with what the work needs.
func examineApp(ctx context.Context, l *List, app github.Installation) {
	l.Look(ctx, checkPermissions, func(context.Context) (string, error) {
		if missing := app.Missing(); len(missing) > 0 {
			return "", failure.New(failure.GitHubForbids, "the app %s lacks %s", app.App, strings.Join(missing, ", ")).
				Do("give it these permissions on its page at GitHub, and accept them where it is installed")
		}
		return "contents, pull requests, issues: write; checks, statuses: read", nil
	})
	l.Look(ctx, checkWorkflows, func(context.Context) (string, error) {
		if app.Permissions["workflows"] == "write" {
			return "workflows: write", nil
		}
		return "", noWorkflows("give the app the permission workflows: write")
	})
}

// examineToken looks at what a token may, as far as GitHub says.
func examineToken(ctx context.Context, l *List, c *github.Client, a github.Access, branch string) {
	l.Look(ctx, checkPermissions, func(ctx context.Context) (string, error) {
		if !a.Push {
			return "", failure.New(failure.GitHubForbids, "whoever has the token may not push").Do("give the token's user the right to write to the repository")
		}
		if missing := a.Missing(); len(missing) > 0 {
			return "", failure.New(failure.GitHubForbids, "the token lacks the scope %s", strings.Join(missing, ", ")).Do("give it the scope, or make a new token with it")
		}
		missing, err := c.Unreadable(ctx, branch)
		switch {
		case err != nil:
			return "", err
		case len(missing) > 0:
			return "", failure.New(failure.GitHubForbids, "the token lacks %s", strings.Join(missing, ", ")).
				Do("give it the permissions contents, pull requests and issues (write), checks and commit statuses (read)")
		case !a.Classic:
			return "", &Doubt{Optional: true, Found: "all that is needed can be read, and its user may push; of this kind of token GitHub does not say what it may write, and nothing is written to find out",
				Remedy: "see on the token's page that it has contents, pull requests and issues: write"}
		}
		return "the scopes " + strings.Join(a.Scopes, ", "), nil
	})
	l.Look(ctx, checkWorkflows, func(context.Context) (string, error) {
		switch {
		case slices.Contains(a.Scopes, "workflow"):
			return "the scope workflow", nil
		case a.Classic:
			return "", noWorkflows("give the token the scope workflow")
		}
		return "", &Doubt{Optional: true, Found: "of this kind of token GitHub does not say it", Remedy: "if actions are to be updated, see on the token's page that it has workflows: write"}
	})
}

func noWorkflows(remedy string) error {
	return &Doubt{Optional: true, Found: "GitHub lets it push no change of .github/workflows, so actions there cannot be updated", Remedy: remedy + ", or name the actions in the repository's ignore"}
}

// examinePrograms looks for what the work on repositories runs.
func examinePrograms(ctx context.Context) []Finding {
	l := &List{Subject: "repositories"}
	l.Look(ctx, checkGit, func(context.Context) (string, error) {
		path, err := exec.LookPath("git")
		if err != nil {
			return "", failure.New(failure.MissingProgram, "git is not installed").Do("install git on the worker")
		}
		return path, nil
	})
	l.Look(ctx, checkLockTools, func(context.Context) (string, error) {
		var missing []string
		for _, name := range []string{"go", "node", "npm"} {
			if _, err := exec.LookPath(name); err != nil {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			return "", &Doubt{Optional: true, Found: strings.Join(missing, ", ") + " not installed: updates whose lock files need it wait", Remedy: "install what the repositories need: go for Go modules, node and npm for npm packages"}
		}
		return "go, node, npm", nil
	})
	return l.Findings
}

// examineWebhooks looks at how GitHub's webhooks are taken.
func examineWebhooks(ctx context.Context, w *config.Webhooks) []Finding {
	l := &List{Subject: "webhooks"}
	l.Look(ctx, checkHook, func(context.Context) (string, error) {
		_, err := w.Secret.Read()
		return "it is there", err
	})
	return l.Findings
}
