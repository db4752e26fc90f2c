package githubtest

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// issue is an issue, or a pull request, which is one too.
type issue struct {
	number                   int
	id                       int64
	title, body, state       string
	user                     *User
	labels                   []string
	comments                 []*comment
	created, updated, closed time.Time
	closer                   *User
	pull                     *pull
}

type comment struct {
	id               int64
	body             string
	user             *User
	created, updated time.Time
}

var issueHandlers = []handler{
	{"issues/list-for-repo", "GET", "/repos/{owner}/{repo}/issues", (*Server).listIssues},
	{"issues/create", "POST", "/repos/{owner}/{repo}/issues", (*Server).createIssue},
	{"issues/get", "GET", "/repos/{owner}/{repo}/issues/{issue_number}", (*Server).getIssue},
	{"issues/update", "PATCH", "/repos/{owner}/{repo}/issues/{issue_number}", (*Server).updateIssue},
	{"issues/list-comments", "GET", "/repos/{owner}/{repo}/issues/{issue_number}/comments", (*Server).listComments},
	{"issues/create-comment", "POST", "/repos/{owner}/{repo}/issues/{issue_number}/comments", (*Server).createComment},
	{"issues/update-comment", "PATCH", "/repos/{owner}/{repo}/issues/comments/{comment_id}", (*Server).updateComment},
	{"issues/delete-comment", "DELETE", "/repos/{owner}/{repo}/issues/comments/{comment_id}", (*Server).deleteComment},
	{"issues/list-labels-on-issue", "GET", "/repos/{owner}/{repo}/issues/{issue_number}/labels", (*Server).listIssueLabels},
	{"issues/add-labels", "POST", "/repos/{owner}/{repo}/issues/{issue_number}/labels", (*Server).addLabels},
	{"issues/remove-label", "DELETE", "/repos/{owner}/{repo}/issues/{issue_number}/labels/{name}", (*Server).removeLabel},
}

func (i *issue) close(who *User, now time.Time) {
	i.state, i.closed, i.updated, i.closer = "closed", now, now, who
}

func (r *Repo) sorted() []*issue {
	all := make([]*issue, 0, len(r.issues))
	for n := 1; n <= r.last; n++ {
		if r.issues[n] != nil {
			all = append(all, r.issues[n])
		}
	}
	return all
}

func (r *Repo) add(title, body string, who *User, now time.Time) *issue {
	r.last++
	i := &issue{number: r.last, id: r.s.next(), title: title, body: body, state: "open", user: who, created: now, updated: now}
	r.issues[i.number] = i
	return i
}

func (r *Repo) labelsJSON(names []string) []any {
	out := []any{}
	for _, name := range names {
		out = append(out, map[string]any{"id": 1, "node_id": "-", "name": name, "color": cmpOr(r.labels[name], "ededed"), "default": false, "description": ""})
	}
	return out
}

func (r *Repo) issueJSON(i *issue) map[string]any {
	m := map[string]any{
		"id": i.id, "number": i.number, "title": i.title, "body": i.body, "state": i.state, "user": i.user.json(), "labels": r.labelsJSON(i.labels),
		"comments": len(i.comments), "created_at": stamp(i.created), "updated_at": stamp(i.updated), "closed_at": stamp(i.closed), "locked": false,
		"html_url": r.s.URL + "/" + r.full() + "/issues/" + itoa(i.number), "author_association": "MEMBER",
	}
	m["closed_by"] = nil
	if i.closer != nil && i.state == "closed" {
		m["closed_by"] = i.closer.json()
	}
	if i.pull != nil {
		m["pull_request"] = map[string]any{"url": r.pullURL(i), "html_url": r.s.URL + "/" + r.full() + "/pull/" + itoa(i.number), "diff_url": r.pullURL(i), "patch_url": r.pullURL(i)}
	}
	return m
}

func (s *Server) listIssues(c *call) reply {
	q := c.URL.Query()
	all := slices.DeleteFunc(c.repo.sorted(), func(i *issue) bool {
		if state := cmpOr(q.Get("state"), "open"); state != "all" && i.state != state {
			return true
		}
		if creator := q.Get("creator"); creator != "" && i.user.Login != creator {
			return true
		}
		if labels := q.Get("labels"); labels != "" {
			for l := range strings.SplitSeq(labels, ",") {
				if !slices.Contains(i.labels, l) {
					return true
				}
			}
		}
		return false
	})
	slices.Reverse(all) // the newest first
	if q.Get("direction") == "asc" {
		slices.Reverse(all)
	}
	return page(c, all, func(i *issue) any { return c.repo.issueJSON(i) })
}

func (s *Server) createIssue(c *call) reply {
	f := c.fields()
	body, _ := f["body"].(string)
	i := c.repo.add(f["title"].(string), body, c.who, c.now)
	for _, l := range list(f["labels"]) {
		i.label(c.repo, l)
	}
	return reply{status: http.StatusCreated, body: c.repo.issueJSON(i)}
}

func (s *Server) issueOf(c *call) *issue { return c.repo.issues[c.number("issue_number")] }

func (s *Server) getIssue(c *call) reply {
	i := s.issueOf(c)
	if i == nil {
		return notFound()
	}
	return reply{status: http.StatusOK, body: c.repo.issueJSON(i)}
}

func (s *Server) updateIssue(c *call) reply {
	i := s.issueOf(c)
	if i == nil {
		return notFound()
	}
	f := c.fields()
	s.edit(c, i, f)
	if _, ok := f["labels"]; ok {
		i.labels = nil
		for _, l := range list(f["labels"]) {
			i.label(c.repo, l)
		}
	}
	return reply{status: http.StatusOK, body: c.repo.issueJSON(i)}
}

// edit changes what an issue and a pull request have in common.
func (s *Server) edit(c *call, i *issue, f map[string]any) {
	if v, ok := f["title"].(string); ok {
		i.title = v
	}
	if v, ok := f["body"].(string); ok {
		i.body = v
	}
	switch f["state"] {
	case "closed":
		if i.state == "open" {
			i.close(c.who, c.now)
		}
	case "open":
		i.state, i.closed = "open", time.Time{}
	}
	i.updated = c.now
}

func list(v any) []string {
	var out []string
	items, _ := v.([]any)
	for _, item := range items {
		switch item := item.(type) {
		case string:
			out = append(out, item)
		case map[string]any:
			if name, ok := item["name"].(string); ok {
				out = append(out, name)
			}
		}
	}
	return out
}

// label adds a label, and makes it, as GitHub does.
func (i *issue) label(r *Repo, name string) {
	if _, ok := r.labels[name]; !ok {
		r.labels[name] = "ededed"
	}
	if !slices.Contains(i.labels, name) {
		i.labels = append(i.labels, name)
	}
}

func (s *Server) listIssueLabels(c *call) reply {
	i := s.issueOf(c)
	if i == nil {
		return notFound()
	}
	return reply{status: http.StatusOK, body: c.repo.labelsJSON(i.labels)}
}

func (s *Server) addLabels(c *call) reply {
	i := s.issueOf(c)
	if i == nil {
		return notFound()
	}
	for _, l := range list(c.fields()["labels"]) {
		i.label(c.repo, l)
	}
	return reply{status: http.StatusOK, body: c.repo.labelsJSON(i.labels)}
}

func (s *Server) removeLabel(c *call) reply {
	i := s.issueOf(c)
	if i == nil || !slices.Contains(i.labels, c.PathValue("name")) {
		return notFound()
	}
	i.labels = slices.DeleteFunc(i.labels, func(l string) bool { return l == c.PathValue("name") })
	return reply{status: http.StatusOK, body: c.repo.labelsJSON(i.labels)}
}

func (r *Repo) commentJSON(i *issue, k *comment) map[string]any {
	return map[string]any{"id": k.id, "body": k.body, "user": k.user.json(), "created_at": stamp(k.created), "updated_at": stamp(k.updated), "html_url": r.s.URL, "issue_url": r.s.APIURL() + "repos/" + r.full() + "/issues/" + itoa(i.number), "author_association": "MEMBER"}
}

func (s *Server) listComments(c *call) reply {
	i := s.issueOf(c)
	if i == nil {
		return notFound()
	}
	return page(c, i.comments, func(k *comment) any { return c.repo.commentJSON(i, k) })
}

func (s *Server) createComment(c *call) reply {
	i := s.issueOf(c)
	if i == nil {
		return notFound()
	}
	k := s.comment(c.repo, i, c.who, c.fields()["body"].(string))
	return reply{status: http.StatusCreated, body: c.repo.commentJSON(i, k)}
}

func (s *Server) comment(r *Repo, i *issue, who *User, body string) *comment {
	k := &comment{id: s.next(), body: body, user: who, created: s.clock.Now(), updated: s.clock.Now()}
	i.comments = append(i.comments, k)
	i.updated = s.clock.Now()
	s.event("issue_comment", "issue-comment-created", r, map[string]any{"action": "created", "issue": r.issueJSON(i), "comment": r.commentJSON(i, k)}, who)
	return k
}

func (s *Server) updateComment(c *call) reply {
	id := int64(c.number("comment_id"))
	for _, i := range c.repo.issues {
		for _, k := range i.comments {
			if k.id == id {
				k.body, k.updated = c.fields()["body"].(string), c.now
				return reply{status: http.StatusOK, body: c.repo.commentJSON(i, k)}
			}
		}
	}
	return notFound()
}

func (s *Server) deleteComment(c *call) reply {
	id := int64(c.number("comment_id"))
	for _, i := range c.repo.issues {
		if n := slices.IndexFunc(i.comments, func(k *comment) bool { return k.id == id }); n >= 0 {
			i.comments = slices.Delete(i.comments, n, n+1)
			return reply{status: http.StatusNoContent}
		}
	}
	return notFound()
}

// OpenIssue is somebody who writes an issue.
func (r *Repo) OpenIssue(login, title, body string, labels ...string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	i := r.add(title, body, r.s.user(login), r.s.clock.Now())
	for _, l := range labels {
		i.label(r, l)
	}
}

// Comment is what somebody says to an issue or a pull request.
func (r *Repo) Comment(number int, login, body string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.comment(r, r.issues[number], r.s.user(login), body)
}
