package githubtest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// pull is what a pull request has beside an issue. Its two branches are of one repository.
type pull struct {
	head, base string
	sha        string // of the head, kept when the branch is gone
	baseSHA    string // when it was opened or retargeted
	judged     string // the heads for which GitHub has found out whether it can be merged
	merged     bool
	mergedAt   time.Time
	mergeSHA   string
	reviewers  []string
	teams      []string // that were asked, by their slugs
}

var pullHandlers = []handler{
	{"pulls/list", "GET", "/repos/{owner}/{repo}/pulls", (*Server).listPulls},
	{"pulls/create", "POST", "/repos/{owner}/{repo}/pulls", (*Server).createPull},
	{"pulls/get", "GET", "/repos/{owner}/{repo}/pulls/{pull_number}", (*Server).getPull},
	{"pulls/update", "PATCH", "/repos/{owner}/{repo}/pulls/{pull_number}", (*Server).updatePull},
	{"pulls/list-commits", "GET", "/repos/{owner}/{repo}/pulls/{pull_number}/commits", (*Server).pullCommits},
	{"pulls/merge", "PUT", "/repos/{owner}/{repo}/pulls/{pull_number}/merge", (*Server).mergePull},
	{"pulls/list-requested-reviewers", "GET", "/repos/{owner}/{repo}/pulls/{pull_number}/requested_reviewers", (*Server).listReviewers},
	{"pulls/request-reviewers", "POST", "/repos/{owner}/{repo}/pulls/{pull_number}/requested_reviewers", (*Server).requestReviewers},
}

func itoa(n int) string { return strconv.Itoa(n) }

func (r *Repo) pullURL(i *issue) string {
	return r.s.APIURL() + "repos/" + r.full() + "/pulls/" + itoa(i.number)
}

func (r *Repo) pullJSON(i *issue, whole bool) map[string]any {
	p := i.pull
	end := func(branch, sha string) map[string]any {
		return map[string]any{"label": r.Owner + ":" + branch, "ref": branch, "sha": sha, "user": r.s.user(r.Owner).json(), "repo": r.json()}
	}
	reviewers := []any{}
	for _, login := range p.reviewers {
		reviewers = append(reviewers, r.s.user(login).json())
	}
	m := map[string]any{
		"id": i.id, "number": i.number, "title": i.title, "body": i.body, "state": i.state, "user": i.user.json(), "labels": r.labelsJSON(i.labels),
		"created_at": stamp(i.created), "updated_at": stamp(i.updated), "closed_at": stamp(i.closed), "merged_at": stamp(p.mergedAt), "locked": false, "draft": false,
		"head": end(p.head, p.sha), "base": end(p.base, cmpOr(r.branch(p.base), p.baseSHA)), "requested_reviewers": reviewers, "requested_teams": teamsJSON(p.teams),
		"url": r.pullURL(i), "html_url": r.s.URL + "/" + r.full() + "/pull/" + itoa(i.number), "merge_commit_sha": nil, "author_association": "MEMBER",
	}
	if p.mergeSHA != "" {
		m["merge_commit_sha"] = p.mergeSHA
	}
	if !whole {
		return m
	}
	mergeable, state := r.judge(i)
	m["merged"], m["mergeable"], m["mergeable_state"], m["commits"], m["comments"] = p.merged, mergeable, state, len(r.pullRange(i)), len(i.comments)
	return m
}

// judge says whether a pull request can be merged, which GitHub finds out after it was first asked.
func (r *Repo) judge(i *issue) (mergeable any, state string) {
	p := i.pull
	base := r.branch(p.base)
	if i.state != "open" || base == "" || r.sha(p.sha) == "" {
		return nil, "unknown"
	}
	if p.judged != p.sha+base {
		return nil, "unknown"
	}
	if _, err := r.git(nil, "", "merge-tree", "--write-tree", base, p.sha); err != nil {
		return false, "dirty"
	}
	if _, ok := r.green(p.sha); !ok {
		return true, "blocked"
	}
	if r.Strict && len(r.commits(p.sha, base)) > 0 {
		return true, "behind"
	}
	return true, "clean"
}

func (r *Repo) pullRange(i *issue) []string {
	base := cmpOr(r.branch(i.pull.base), i.pull.baseSHA)
	if i.pull.merged || base == "" {
		base = i.pull.baseSHA
	}
	return r.commits(base, i.pull.sha)
}

func (s *Server) listPulls(c *call) reply {
	q := c.URL.Query()
	all := slices.DeleteFunc(c.repo.sorted(), func(i *issue) bool {
		if i.pull == nil {
			return true
		}
		if state := cmpOr(q.Get("state"), "open"); state != "all" && i.state != state {
			return true
		}
		if head := q.Get("head"); strings.Contains(head, ":") && head != c.repo.Owner+":"+i.pull.head { // without an owner it filters nothing
			return true
		}
		return q.Get("base") != "" && q.Get("base") != i.pull.base
	})
	if q.Get("direction") != "asc" {
		slices.Reverse(all)
	}
	return page(c, all, func(i *issue) any { return c.repo.pullJSON(i, false) })
}

func (s *Server) createPull(c *call) reply {
	f := c.fields()
	title, _ := f["title"].(string)
	body, _ := f["body"].(string)
	base := f["base"].(string)
	head := f["head"].(string)
	if owner, branch, ok := strings.Cut(head, ":"); ok {
		if owner != c.repo.Owner {
			return invalid("PullRequest", "head", "invalid")
		}
		head = branch
	}
	sha, baseSHA := c.repo.branch(head), c.repo.branch(base)
	switch {
	case sha == "":
		return invalid("PullRequest", "head", "invalid")
	case baseSHA == "":
		return invalid("PullRequest", "base", "invalid")
	}
	for _, i := range c.repo.issues {
		if i.pull != nil && i.state == "open" && i.pull.head == head && i.pull.base == base {
			return invalid("PullRequest", "", "A pull request already exists for "+c.repo.Owner+":"+head+".")
		}
	}
	if len(c.repo.commits(baseSHA, sha)) == 0 {
		return invalid("PullRequest", "", "No commits between "+base+" and "+head)
	}
	i := c.repo.add(title, body, c.who, c.now)
	i.pull = &pull{head: head, base: base, sha: sha, baseSHA: baseSHA}
	s.pullEvent("opened", c.repo, i, c.who)
	return reply{status: http.StatusCreated, body: c.repo.pullJSON(i, true)}
}

func (s *Server) pullOf(c *call) *issue {
	if i := c.repo.issues[c.number("pull_number")]; i != nil && i.pull != nil {
		return i
	}
	return nil
}

func (s *Server) getPull(c *call) reply {
	i := s.pullOf(c)
	if i == nil {
		return notFound()
	}
	body := c.repo.pullJSON(i, true)
	i.pull.judged = i.pull.sha + c.repo.branch(i.pull.base) // found out because it was asked for
	return reply{status: http.StatusOK, body: body}
}

func (s *Server) updatePull(c *call) reply {
	i := s.pullOf(c)
	if i == nil {
		return notFound()
	}
	f := c.fields()
	if f["state"] == "open" && i.state == "closed" && (i.pull.merged || c.repo.branch(i.pull.head) == "") {
		return invalid("PullRequest", "state", "state cannot be changed. The branch was deleted or merged.")
	}
	if base, ok := f["base"].(string); ok {
		if c.repo.branch(base) == "" {
			return invalid("PullRequest", "base", "Proposed base branch '"+base+"' was not found")
		}
		i.pull.base, i.pull.baseSHA, i.pull.judged = base, c.repo.branch(base), ""
	}
	was := i.state
	s.edit(c, i, f)
	switch {
	case was != i.state && i.state == "closed":
		s.pullEvent("closed", c.repo, i, c.who)
	case was != i.state:
		s.pullEvent("reopened", c.repo, i, c.who)
	default:
		s.pullEvent("edited", c.repo, i, c.who, "changes", map[string]any{})
	}
	return reply{status: http.StatusOK, body: c.repo.pullJSON(i, true)}
}

func (s *Server) pullCommits(c *call) reply {
	i := s.pullOf(c)
	if i == nil {
		return notFound()
	}
	return page(c, c.repo.pullRange(i), func(sha string) any { return c.repo.commitJSON(sha) })
}

func (s *Server) mergePull(c *call) reply {
	i := s.pullOf(c)
	if i == nil {
		return notFound()
	}
	f := c.fields()
	p, r := i.pull, c.repo
	no := func(status int, message string) reply {
		return reply{status: status, body: map[string]any{"message": message, "documentation_url": "https://docs.github.com/rest"}}
	}
	base := r.branch(p.base)
	switch {
	case i.state != "open":
		return no(http.StatusMethodNotAllowed, "Pull Request is not mergeable")
	case f["sha"] != nil && f["sha"] != p.sha:
		return no(http.StatusConflict, "Head branch was modified. Review and try the merge again.")
	}
	if name, ok := r.green(p.sha); !ok {
		return no(http.StatusMethodNotAllowed, `Required status check "`+name+`" is expected.`)
	}
	if r.Strict && len(r.commits(p.sha, base)) > 0 {
		return no(http.StatusMethodNotAllowed, "Head branch is out of date. Review and try the merge again.")
	}
	tree, err := r.git(nil, "", "merge-tree", "--write-tree", base, p.sha)
	if err != nil {
		return no(http.StatusMethodNotAllowed, "Pull Request is not mergeable")
	}
	title, _ := f["commit_title"].(string)
	message, _ := f["commit_message"].(string)
	args := []string{"commit-tree", tree, "-p", base}
	switch f["merge_method"] {
	case "squash":
		title = cmpOr(title, i.title+" (#"+itoa(i.number)+")")
	case nil, "merge":
		title, args = cmpOr(title, "Merge pull request #"+itoa(i.number)+" from "+r.Owner+"/"+p.head), append(args, "-p", p.sha)
	default:
		return no(http.StatusMethodNotAllowed, "the stand-in does not rebase")
	}
	sha := r.must(person(c.who.Login, c.now), strings.TrimSpace(title+"\n\n"+message), args...)
	r.must(nil, "", "update-ref", "refs/heads/"+p.base, sha, base)
	p.merged, p.mergedAt, p.mergeSHA, p.baseSHA = true, c.now, sha, base
	i.close(c.who, c.now)
	r.moved(c.who)
	s.pullEvent("closed", r, i, c.who)
	return reply{status: http.StatusOK, body: map[string]any{"sha": sha, "merged": true, "message": "Pull Request successfully merged"}}
}

func (s *Server) listReviewers(c *call) reply {
	i := s.pullOf(c)
	if i == nil {
		return notFound()
	}
	users := []any{}
	for _, login := range i.pull.reviewers {
		users = append(users, s.user(login).json())
	}
	return reply{status: http.StatusOK, body: map[string]any{"users": users, "teams": teamsJSON(i.pull.teams)}}
}

func (s *Server) requestReviewers(c *call) reply {
	i := s.pullOf(c)
	if i == nil {
		return notFound()
	}
	logins, teams := list(c.fields()["reviewers"]), list(c.fields()["team_reviewers"])
	for _, team := range teams {
		if !c.repo.teams[team] {
			return invalid("PullRequest", "", "Could not resolve to a node with the global id of '"+team+"'.")
		}
	}
	for _, login := range logins {
		if !c.repo.members[login] {
			return invalid("PullRequest", "", "Reviews may only be requested from collaborators. One or more of the users or teams you specified is not a collaborator of the "+c.repo.full()+" repository.")
		}
		if login == i.user.Login {
			return invalid("PullRequest", "", "Review cannot be requested from pull request author.")
		}
	}
	for _, login := range logins {
		if !slices.Contains(i.pull.reviewers, login) {
			i.pull.reviewers = append(i.pull.reviewers, login)
		}
	}
	for _, team := range teams {
		if !slices.Contains(i.pull.teams, team) {
			i.pull.teams = append(i.pull.teams, team)
		}
	}
	return reply{status: http.StatusCreated, body: c.repo.pullJSON(i, false)}
}

// Member makes somebody one who may be asked for a review.
func (r *Repo) Member(login string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.members[login] = true
}

// Team makes a team of the owner's one that may be asked for a review.
func (r *Repo) Team(slug string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.teams[slug] = true
}

func teamsJSON(slugs []string) []any {
	all := []any{}
	for i, slug := range slugs {
		all = append(all, map[string]any{"id": 1000 + i, "name": slug, "slug": slug, "permission": "push"})
	}
	return all
}

// Pull is a pull request as a person sees it.
type Pull struct {
	Number                          int
	Title, Body, State, Head, Base  string
	SHA, MergeSHA, Author, ClosedBy string
	Merged                          bool
	Labels, Reviewers, Comments     []string
	Teams                           []string
}

// Pulls are all pull requests, also closed ones, in the order of their numbers.
func (r *Repo) Pulls() []Pull {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	var out []Pull
	for _, i := range r.sorted() {
		if p := i.pull; p != nil {
			v := Pull{Number: i.number, Title: i.title, Body: i.body, State: i.state, Head: p.head, Base: p.base, SHA: p.sha, MergeSHA: p.mergeSHA, Author: i.user.Login, Merged: p.merged, Labels: slices.Clone(i.labels), Reviewers: slices.Clone(p.reviewers), Teams: slices.Clone(p.teams), Comments: i.texts()}
			if i.closer != nil {
				v.ClosedBy = i.closer.Login
			}
			out = append(out, v)
		}
	}
	return out
}

func (i *issue) texts() []string {
	var out []string
	for _, k := range i.comments {
		out = append(out, k.body)
	}
	return out
}

// Issue is an issue as a person sees it.
type Issue struct {
	Number             int
	Title, Body, State string
	Comments           []string
}

// Issues are all issues that are no pull requests.
func (r *Repo) Issues() []Issue {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	var out []Issue
	for _, i := range r.sorted() {
		if i.pull == nil {
			out = append(out, Issue{Number: i.number, Title: i.title, Body: i.body, State: i.state, Comments: i.texts()})
		}
	}
	return out
}

// ClosePull is a person who does not want it.
func (r *Repo) ClosePull(number int, login string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	i := r.issues[number]
	i.close(r.s.user(login), r.s.clock.Now())
	r.s.pullEvent("closed", r, i, r.s.user(login))
}

// Retarget is a person who gives it another base.
func (r *Repo) Retarget(number int, login, base string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	i := r.issues[number]
	from := i.pull.base
	i.pull.base, i.pull.baseSHA, i.pull.judged, i.updated = base, r.branch(base), "", r.s.clock.Now()
	r.s.pullEvent("edited", r, i, r.s.user(login), "changes", map[string]any{"base": map[string]any{"ref": map[string]any{"from": from}, "sha": map[string]any{"from": i.pull.baseSHA}}})
}

// Edit is a person who writes another title or body; "" leaves one as it is.
func (r *Repo) Edit(number int, login, title, body string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	i := r.issues[number]
	i.title, i.body, i.updated = cmpOr(title, i.title), cmpOr(body, i.body), r.s.clock.Now()
	if i.pull != nil {
		r.s.pullEvent("edited", r, i, r.s.user(login), "changes", map[string]any{})
	}
}
