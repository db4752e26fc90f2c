package githubtest

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"time"
)

// Repo is a repository.
type Repo struct {
	Owner, Name, Default string
	// Required are the checks without which nothing is merged; Strict: and only on the newest base.
	Required []string
	Strict   bool

	s        *Server
	id       int64
	dir      string
	issues   map[int]*issue // pull requests too
	last     int
	labels   map[string]string // with their colours
	members  map[string]bool
	readers  map[string]bool   // who may not push
	heads    map[string]string // branches as they were seen last
	checks   map[string][]*check
	statuses map[string]map[string]string
}

type check struct {
	id                       int64
	name, status, conclusion string
	at                       time.Time
}

var repositoryHandlers = []handler{
	{"repos/get", "GET", "/repos/{owner}/{repo}", (*Server).getRepo},
	{"repos/get-branch", "GET", "/repos/{owner}/{repo}/branches/{branch}", (*Server).getBranch},
	{"repos/get-commit", "GET", "/repos/{owner}/{repo}/commits/{ref}", (*Server).getCommit},
	{"repos/compare-commits-with-basehead", "GET", "/repos/{owner}/{repo}/compare/{basehead}", (*Server).compare},
	{"repos/get-combined-status-for-ref", "GET", "/repos/{owner}/{repo}/commits/{ref}/status", (*Server).combinedStatus},
	{"checks/list-for-ref", "GET", "/repos/{owner}/{repo}/commits/{ref}/check-runs", (*Server).checkRuns},
	{"git/get-ref", "GET", "/repos/{owner}/{repo}/git/ref/{ref}", (*Server).getRef},
	{"git/list-matching-refs", "GET", "/repos/{owner}/{repo}/git/matching-refs/{ref}", (*Server).matchingRefs},
	{"git/create-ref", "POST", "/repos/{owner}/{repo}/git/refs", (*Server).createRef},
	{"git/update-ref", "PATCH", "/repos/{owner}/{repo}/git/refs/{ref}", (*Server).updateRef},
	{"git/delete-ref", "DELETE", "/repos/{owner}/{repo}/git/refs/{ref}", (*Server).deleteRef},
	{"rate-limit/get", "GET", "/rate_limit", (*Server).rateLimit},
	{"users/get-authenticated", "GET", "/user", (*Server).getUser},
}

func mkdir(t testing.TB, dir string) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func (r *Repo) full() string { return r.Owner + "/" + r.Name }

func (u *User) json() map[string]any {
	return map[string]any{"login": u.Login, "id": u.ID, "type": u.Type, "site_admin": false}
}

func (r *Repo) json() map[string]any {
	return map[string]any{
		"id": r.id, "name": r.Name, "full_name": r.full(), "owner": r.s.user(r.Owner).json(), "private": true, "fork": false,
		"default_branch": r.Default, "html_url": r.s.URL + "/" + r.full(), "clone_url": r.s.URL + "/" + r.full() + ".git",
		"created_at": "2020-01-01T00:00:00Z", "archived": false, "disabled": false, "allow_squash_merge": true, "allow_merge_commit": true, "allow_rebase_merge": true,
	}
}

func (s *Server) getRepo(c *call) reply {
	body := c.repo.json()
	push := !c.repo.readers[c.who.Login]
	body["permissions"] = map[string]any{"admin": false, "maintain": false, "push": push, "triage": push, "pull": true}
	return reply{status: http.StatusOK, body: body}
}

// Reader makes somebody one who may read, and not push.
func (r *Repo) Reader(login string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.readers[login] = true
}

func (s *Server) getUser(c *call) reply {
	u := c.who.json()
	u["user_view_type"] = "public"
	return reply{status: http.StatusOK, body: u}
}

func (s *Server) rateLimit(c *call) reply {
	w := s.window(c.who.Login, c.now)
	w.used-- // asking is free
	core := map[string]any{"limit": PrimaryLimit, "used": w.used, "remaining": PrimaryLimit - w.used, "reset": w.began.Add(time.Hour).Unix()}
	return reply{status: http.StatusOK, body: map[string]any{"resources": map[string]any{"core": core, "search": core}, "rate": core}}
}

func (r *Repo) commitJSON(sha string) map[string]any {
	fields := strings.Split(r.must(nil, "", "show", "--no-patch", "--format=%T%x00%P%x00%an%x00%ae%x00%aI%x00%cn%x00%ce%x00%cI%x00%B", sha), "\x00")
	parents := []any{}
	for _, p := range strings.Fields(fields[1]) {
		parents = append(parents, map[string]any{"sha": p, "url": r.s.APIURL() + "repos/" + r.full() + "/commits/" + p})
	}
	return map[string]any{
		"sha": sha, "parents": parents,
		"commit": map[string]any{
			"message": strings.TrimRight(fields[8], "\n"), "tree": map[string]any{"sha": fields[0], "url": r.s.APIURL()},
			"author":    map[string]any{"name": fields[2], "email": fields[3], "date": fields[4]},
			"committer": map[string]any{"name": fields[5], "email": fields[6], "date": fields[7]},
		},
		"author": r.account(fields[2], fields[3]), "committer": r.account(fields[5], fields[6]),
	}
}

// account is the one that GitHub takes an address for.
func (r *Repo) account(name, email string) any {
	login, ok := strings.CutSuffix(email, "@users.noreply.github.com")
	if _, after, has := strings.Cut(login, "+"); has {
		login = after
	}
	if u := r.s.users[login]; ok && u != nil {
		return u.json()
	}
	return nil
}

func (s *Server) getBranch(c *call) reply {
	name := c.PathValue("branch")
	sha := c.repo.branch(name)
	if sha == "" {
		return notFound()
	}
	return reply{status: http.StatusOK, body: map[string]any{"name": name, "commit": c.repo.commitJSON(sha), "protected": len(c.repo.Required) > 0}}
}

func (s *Server) getCommit(c *call) reply {
	sha := c.repo.sha(c.PathValue("ref"))
	if sha == "" {
		return invalid("Commit", "sha", "No commit found for SHA: "+c.PathValue("ref"))
	}
	return reply{status: http.StatusOK, body: c.repo.commitJSON(sha)}
}

func (s *Server) compare(c *call) reply {
	baseName, headName, _ := strings.Cut(c.PathValue("basehead"), "...")
	base, head := c.repo.sha(baseName), c.repo.sha(headName)
	if base == "" || head == "" {
		return notFound()
	}
	merge, err := c.repo.git(nil, "", "merge-base", base, head)
	if err != nil {
		return notFound()
	}
	ahead, behind := c.repo.commits(base, head), c.repo.commits(head, base)
	status := "diverged"
	switch {
	case len(ahead) == 0 && len(behind) == 0:
		status = "identical"
	case len(behind) == 0:
		status = "ahead"
	case len(ahead) == 0:
		status = "behind"
	}
	commits := []any{}
	for _, sha := range ahead {
		commits = append(commits, c.repo.commitJSON(sha))
	}
	return reply{status: http.StatusOK, body: map[string]any{
		"status": status, "ahead_by": len(ahead), "behind_by": len(behind), "total_commits": len(ahead), "commits": commits,
		"base_commit": c.repo.commitJSON(base), "merge_base_commit": c.repo.commitJSON(merge),
	}}
}

// commits are those that the head has and the base has not, the oldest first.
func (r *Repo) commits(base, head string) []string {
	out := r.must(nil, "", "rev-list", "--reverse", base+".."+head)
	return strings.Fields(out)
}

func (r *Repo) refJSON(ref, sha string) map[string]any {
	return map[string]any{"ref": ref, "node_id": "-", "url": r.s.APIURL() + "repos/" + r.full() + "/git/" + ref, "object": map[string]any{"type": "commit", "sha": sha, "url": r.s.APIURL()}}
}

func (s *Server) getRef(c *call) reply {
	ref := "refs/" + c.PathValue("ref")
	sha := c.repo.sha(ref)
	if sha == "" {
		return notFound()
	}
	return reply{status: http.StatusOK, body: c.repo.refJSON(ref, sha)}
}

func (s *Server) matchingRefs(c *call) reply {
	prefix := "refs/" + c.PathValue("ref")
	branches := c.repo.Branches()
	var found []string
	for name := range branches {
		if strings.HasPrefix("refs/heads/"+name, prefix) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	out := []any{}
	for _, name := range found {
		out = append(out, c.repo.refJSON("refs/heads/"+name, branches[name]))
	}
	return reply{status: http.StatusOK, body: out}
}

func (s *Server) createRef(c *call) reply {
	f := c.fields()
	ref, sha := f["ref"].(string), f["sha"].(string)
	switch {
	case !strings.HasPrefix(ref, "refs/heads/"):
		return invalid("Reference", "ref", "Reference name must start with 'refs/' and have two slashes")
	case c.repo.sha(sha) == "":
		return invalid("Reference", "sha", "Object does not exist")
	case c.repo.sha(ref) != "":
		return reply{status: http.StatusUnprocessableEntity, body: map[string]any{"message": "Reference already exists", "documentation_url": "https://docs.github.com/rest", "status": "422"}}
	}
	if _, err := c.repo.git(nil, "", "update-ref", ref, sha, strings.Repeat("0", 40)); err != nil {
		return invalid("Reference", "ref", "is not well formed")
	}
	c.repo.moved(c.who)
	return reply{status: http.StatusCreated, body: c.repo.refJSON(ref, sha)}
}

func (s *Server) updateRef(c *call) reply {
	f := c.fields()
	ref, sha := "refs/"+c.PathValue("ref"), f["sha"].(string)
	old := c.repo.sha(ref)
	if old == "" || c.repo.sha(sha) == "" {
		return invalid("Reference", "sha", "Reference does not exist")
	}
	if force, _ := f["force"].(bool); !force && len(c.repo.commits(sha, old)) > 0 {
		return invalid("Reference", "sha", "Update is not a fast forward")
	}
	c.repo.must(nil, "", "update-ref", ref, sha, old)
	c.repo.moved(c.who)
	return reply{status: http.StatusOK, body: c.repo.refJSON(ref, sha)}
}

func (s *Server) deleteRef(c *call) reply {
	ref := "refs/" + c.PathValue("ref")
	if c.repo.sha(ref) == "" {
		return reply{status: http.StatusUnprocessableEntity, body: map[string]any{"message": "Reference does not exist", "documentation_url": "https://docs.github.com/rest", "status": "422"}}
	}
	c.repo.must(nil, "", "update-ref", "-d", ref)
	c.repo.moved(c.who)
	return reply{status: http.StatusNoContent}
}

// SetCheck is a check run of an app on a commit.
func (r *Repo) SetCheck(sha, name, status, conclusion string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	i := slices.IndexFunc(r.checks[sha], func(c *check) bool { return c.name == name })
	if i < 0 {
		r.checks[sha] = append(r.checks[sha], &check{id: r.s.next(), name: name})
		i = len(r.checks[sha]) - 1
	}
	c := r.checks[sha][i]
	c.status, c.conclusion, c.at = status, conclusion, r.s.clock.Now()
	if status == "completed" {
		suite := map[string]any{"id": c.id, "head_sha": sha, "head_branch": nil, "status": status, "conclusion": conclusion, "pull_requests": []any{}}
		if names := r.branchesAt(sha); len(names) > 0 {
			suite["head_branch"] = names[0]
		}
		run := r.checkJSON(sha, c)
		run["check_suite"] = suite
		r.s.event("check_run", "check-run-completed", r, map[string]any{"action": "completed", "check_run": run}, r.s.user("ci[bot]"))
		r.s.event("check_suite", "check-suite-completed", r, map[string]any{"action": "completed", "check_suite": suite}, r.s.user("ci[bot]"))
	}
}

// branchesAt are the branches whose commit it is.
func (r *Repo) branchesAt(sha string) (names []string) {
	for name, at := range r.heads {
		if at == sha {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// SetStatus is a status, of the older kind, on a commit.
func (r *Repo) SetStatus(sha, name, state string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if r.statuses[sha] == nil {
		r.statuses[sha] = make(map[string]string)
	}
	r.statuses[sha][name] = state
	branches := []any{}
	for _, b := range r.branchesAt(sha) {
		branches = append(branches, map[string]any{"name": b, "protected": false, "commit": map[string]any{"sha": sha, "url": r.s.APIURL()}})
	}
	r.s.event("status", "status", r, map[string]any{"id": r.s.next(), "sha": sha, "context": name, "state": state, "name": r.full(), "commit": r.commitJSON(sha), "branches": branches, "created_at": stamp(r.s.clock.Now()), "updated_at": stamp(r.s.clock.Now())}, r.s.user("ci[bot]"))
}

func (r *Repo) checkJSON(sha string, c *check) map[string]any {
	m := map[string]any{"id": c.id, "name": c.name, "head_sha": sha, "status": c.status, "conclusion": nil, "started_at": stamp(c.at), "completed_at": nil}
	if c.status == "completed" {
		m["conclusion"], m["completed_at"] = c.conclusion, stamp(c.at)
	}
	return m
}

func (s *Server) checkRuns(c *call) reply {
	sha := c.repo.sha(c.PathValue("ref"))
	if sha == "" {
		return notFound()
	}
	r := page(c, c.repo.checks[sha], func(k *check) any { return c.repo.checkJSON(sha, k) })
	r.body = map[string]any{"total_count": len(c.repo.checks[sha]), "check_runs": r.body}
	return r
}

func (s *Server) combinedStatus(c *call) reply {
	sha := c.repo.sha(c.PathValue("ref"))
	if sha == "" {
		return notFound()
	}
	all := c.repo.statuses[sha]
	state := "pending"
	if len(all) > 0 {
		state = "success"
	}
	for _, v := range all {
		if v == "failure" || v == "error" {
			state = "failure"
		} else if v == "pending" && state == "success" {
			state = "pending"
		}
	}
	r := page(c, slices.Sorted(mapsKeys(all)), func(name string) any {
		return map[string]any{"context": name, "state": all[name], "id": 1}
	})
	r.body = map[string]any{"sha": sha, "state": state, "statuses": r.body, "total_count": len(all), "repository": c.repo.json()}
	return r
}

// green says whether all required checks of a commit have passed; if not, which one has not.
func (r *Repo) green(sha string) (missing string, ok bool) {
	for _, name := range r.Required {
		passed := r.statuses[sha][name] == "success"
		for _, c := range r.checks[sha] {
			passed = passed || c.name == name && c.status == "completed" && slices.Contains([]string{"success", "neutral", "skipped"}, c.conclusion)
		}
		if !passed {
			return name, false
		}
	}
	return "", true
}
