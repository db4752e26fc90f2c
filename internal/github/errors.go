package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-github/v60/github"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// classify says what an error of GitHub's means, and what to do about it.
func classify(err error, what string) error {
	if f, ok := failure.As(err); ok {
		return f
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	var answer *github.ErrorResponse
	if !errors.As(err, &answer) || answer.Response == nil {
		return failure.New(failure.GitHubUnreachable, "GitHub does not answer, or not as it should, about %s", what).Because(err).
			Do("see that the worker reaches it")
	}
	said := says(answer)
	switch code := answer.Response.StatusCode; {
	case code == http.StatusUnauthorized:
		return failure.New(failure.GitHubLogin, "GitHub does not take our token: %s", said).Do("put a token that is valid into the place that tokenFrom names, then resume the run")
	case code == http.StatusForbidden:
		return failure.New(failure.GitHubForbids, "we may not have %s: %s", what, said).
			Do("give the token or the app the right (contents, pull requests, issues: write; checks, commit statuses: read), then resume the run")
	case code == http.StatusNotFound || code == http.StatusGone:
		return failure.New(failure.MissingRepository, "GitHub shows us no such thing: %s", what).
			Do("correct the repository's name, or give the token or the app access to it, then resume the run")
	case code >= 500:
		return failure.New(failure.GitHubUnreachable, "GitHub is in trouble (%d), asked for %s", code, what)
	}
	return failure.New(failure.GitHubRefused, "GitHub refuses %s: %s", what, said).Do("see what it says")
}

// status is the status of GitHub's answer, or 0.
func status(err error) int {
	var answer *github.ErrorResponse
	if errors.As(err, &answer) && answer.Response != nil {
		return answer.Response.StatusCode
	}
	return 0
}

// said is what GitHub says in an error.
func said(err error) string {
	var answer *github.ErrorResponse
	if errors.As(err, &answer) {
		return says(answer)
	}
	return ""
}

// says is what GitHub says, bounded and without control characters: it may repeat what others wrote.
func says(answer *github.ErrorResponse) string {
	text := answer.Message
	for _, e := range answer.Errors {
		text += "; " + strings.TrimSpace(fmt.Sprint(e.Field, " ", e.Message))
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "..."
	}
	return text
}
