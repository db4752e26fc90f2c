package config

import (
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/checkout"
	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/advisory"
	"github.com/upkeep-run/upkeep/internal/dependency/choose"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/github"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// Repository is a repository whose dependencies are kept up to date. It is kept in the histories of runs.
type Repository struct {
	GitHub string     `json:"github"`           // owner/name
	API    string     `json:"api,omitempty"`    // URL of a GitHub Enterprise Server's API; github.com's when empty
	Token  Secret     `json:"token,omitzero"`   // or App
	App    *GitHubApp `json:"app,omitempty"`    // which makes tokens of an hour
	Base   string     `json:"base,omitempty"`   // the branch that is kept up to date; the default one when empty
	Merge  []string   `json:"merge,omitempty"`  // the types of updates that are merged without a person; none
	Method string     `json:"method,omitempty"` // by which they are merged
	// RebaseOnConflict leaves a branch on an older base until it conflicts, or is to be merged.
	RebaseOnConflict bool                `json:"rebaseOnConflict,omitempty"`
	Limits           pullrequest.Limits  `json:"limits"`
	Age              Ages                `json:"age"`
	Groups           []pullrequest.Group `json:"groups,omitempty"`
	Ignore           []string            `json:"ignore,omitempty"` // patterns of packages that are left alone
	Labels           []string            `json:"labels,omitempty"`
	Reviewers        []string            `json:"reviewers,omitempty"` // logins, and teams of the owner's as team:slug
	// Rollout says what follows a merged update, where the target has a release.
	Rollout string `json:"rollout"`
	// Advisories is a folder of OSV files on the worker; api.osv.dev and GitHub are asked when empty.
	Advisories string `json:"advisories,omitempty"`
	// Reachability is where Go's vulnerability database is, a URL or a folder on the worker, or "off". When empty
	// it is the Go project's own, unless advisories are those of a folder.
	Reachability string `json:"reachability,omitempty"`
}

// GitHubApp is an app that is installed on the repository.
type GitHubApp struct {
	ID  int    `json:"id"`
	Key Secret `json:"key"` // its private key, PEM
}

// Ages are how old a release must be before it is proposed, by how much it may break. What ends a
// vulnerability need not be.
type Ages struct {
	Patch time.Duration `json:"patch"`
	Minor time.Duration `json:"minor"`
	Major time.Duration `json:"major"`
}

// What follows a merged update.
const (
	RolloutOffer = "offer" // RolloutRelease is started, and waits for an approval
	RolloutStart = "start" // RolloutRelease is started, and this approves what a rollback takes back
	RolloutNever = "never"
)

// ReachabilityOff looks at no code.
const ReachabilityOff = "off"

// Methods by which a pull request is merged.
const (
	MergeCommit = "merge"
	MergeSquash = "squash"
	MergeRebase = "rebase"
)

const (
	day             = 24 * time.Hour
	maxRepositories = 50
	maxGroups       = 50
	maxPatterns     = 200
)

// Policy is what the repository's owners allow, of one whose default branch is known.
func (r Repository) Policy(base string) pullrequest.Policy {
	return pullrequest.Policy{Base: base, Merge: r.Merge, Method: r.Method, RebaseOnConflict: r.RebaseOnConflict}
}

// Options are how the repository is reached; the secret is read when it is needed.
func (r Repository) Options() github.Options {
	o := github.Options{Repository: r.GitHub, APIURL: r.API, Token: r.Token.Resolver()}
	if r.App != nil {
		o.App = &github.App{ID: int64(r.App.ID), Key: r.App.Key.Resolver()}
	}
	return o
}

// Source is where the repository's advisories come from: OSV and its GitHub, or a folder that stands in for both.
func (r Repository) Source(client *httpcache.Client, c *github.Client) advisory.Source {
	if r.Advisories == "" {
		return advisory.Both{First: advisory.API{Client: client}, Second: advisory.GitHub{List: c.Advisories}}
	}
	return advisory.Directory{FS: os.DirFS(r.Advisories), Name: r.Advisories}
}

func (p *parser) repositories(n *yaml.Node) (all []Repository) {
	for _, item := range p.list(n, "repositories", maxRepositories) {
		r := p.repository(item)
		if r.GitHub != "" && slices.ContainsFunc(all, func(o Repository) bool { return strings.EqualFold(o.GitHub, r.GitHub) && o.API == r.API }) {
			p.fail(item, "repositories has %q twice", r.GitHub)
		}
		all = append(all, r)
	}
	return all
}

func (p *parser) repository(n *yaml.Node) Repository {
	const what = "a repository"
	r := Repository{Method: MergeSquash, Limits: pullrequest.DefaultLimits, Age: Ages{Patch: choose.DefaultAge[dependency.Patch], Minor: choose.DefaultAge[dependency.Minor], Major: choose.DefaultAge[dependency.Major]}, Rollout: RolloutOffer}
	rebase := "always"
	p.fields(n, what, map[string]func(*yaml.Node){
		"github":    p.text(&r.GitHub, what+"'s github", github.RepositoryProblem),
		"apiURL":    p.text(&r.API, what+"'s apiURL", github.APIProblem),
		"tokenFrom": func(n *yaml.Node) { r.Token = p.secret(n, what+"'s tokenFrom") },
		"app":       func(n *yaml.Node) { r.App = p.app(n) },
		"base":      p.text(&r.Base, what+"'s base", checkBranch),
		"merge":     p.texts(&r.Merge, what+"'s merge", len(dependency.Types), oneOf(dependency.Types)),
		"method":    p.text(&r.Method, what+"'s method", oneOf([]string{MergeCommit, MergeRebase, MergeSquash})),
		"rebase":    p.text(&rebase, what+"'s rebase", oneOf([]string{"always", "conflict"})),
		"limits": func(n *yaml.Node) {
			p.fields(n, "limits", map[string]func(*yaml.Node){
				"open":    p.number(&r.Limits.Open, "limits.open", 0, 500),
				"perHour": p.number(&r.Limits.PerHour, "limits.perHour", 0, 500),
			})
		},
		"age": func(n *yaml.Node) {
			p.fields(n, "age", map[string]func(*yaml.Node){
				"patch": p.days(&r.Age.Patch, "age.patch"), "minor": p.days(&r.Age.Minor, "age.minor"), "major": p.days(&r.Age.Major, "age.major"),
			})
		},
		"groups": func(n *yaml.Node) {
			for _, item := range p.list(n, "groups", maxGroups) {
				g := pullrequest.Group{}
				p.fields(item, "a group", map[string]func(*yaml.Node){
					"name":     p.text(&g.Name, "a group's name", checkLine),
					"packages": p.texts(&g.Packages, "a group's packages", maxPatterns, checkPattern),
					"types":    p.texts(&g.Types, "a group's types", 4, oneOf(dependency.Types[1:])),
				}, "name", "packages")
				r.Groups = append(r.Groups, g)
			}
		},
		"ignore":     p.texts(&r.Ignore, what+"'s ignore", maxPatterns, checkPattern),
		"labels":     p.texts(&r.Labels, what+"'s labels", 20, checkLine),
		"reviewers":  p.texts(&r.Reviewers, what+"'s reviewers", 20, checkReviewer),
		"rollout":    p.text(&r.Rollout, what+"'s rollout", oneOf([]string{RolloutNever, RolloutOffer, RolloutStart})),
		"advisories": p.text(&r.Advisories, what+"'s advisories", checkAbsolute),

		"reachability": p.text(&r.Reachability, what+"'s reachability", checkReachability),
	}, "github")
	r.RebaseOnConflict = rebase == "conflict"
	for i, name := range r.Reviewers { // a team is written as people mention it, too
		organisation, team, ok := strings.Cut(strings.TrimPrefix(name, "@"), "/")
		if owner, _, _ := strings.Cut(r.GitHub, "/"); ok && !strings.EqualFold(organisation, owner) {
			p.fail(n, "%s's reviewers has %q, a team that is not of %s: GitHub asks only those", what, name, owner)
		} else if ok {
			r.Reviewers[i] = github.TeamPrefix + team
		}
	}
	if n.Kind == yaml.MappingNode && (r.Token == (Secret{})) == (r.App == nil) {
		p.fail(n, "%s must have one of the keys tokenFrom and app", what)
	}
	return r
}

func (p *parser) app(n *yaml.Node) *GitHubApp {
	a := &GitHubApp{}
	p.fields(n, "app", map[string]func(*yaml.Node){
		"id":      p.number(&a.ID, "app.id", 1, 1<<31-1),
		"keyFrom": func(n *yaml.Node) { a.Key = p.secret(n, "app.keyFrom") },
	}, "id", "keyFrom")
	return a
}

// days reads a number of days.
func (p *parser) days(into *time.Duration, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var v int
		wrong := len(p.wrong)
		if p.number(&v, what+" (days)", 0, 365)(n); len(p.wrong) == wrong {
			*into = time.Duration(v) * day
		}
	}
}

var (
	login   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,38}$`)
	team    = regexp.MustCompile(`^(team:|@[A-Za-z0-9][A-Za-z0-9-]{0,38}/)[a-z0-9][a-z0-9_-]{0,99}$`)
	oneLine = regexp.MustCompile(`^[\pL\pN\pP\pS ]{1,50}$`)
)

// checkBranch takes a branch that the clone takes, and that is none of Upkeep's own.
func checkBranch(v string) string {
	if problem := checkout.RefProblem("refs/heads/" + v); problem != "" || pullrequest.Ours(v) {
		return "must be the name of a branch: letters, digits, and . _ / - inside"
	}
	return ""
}

func checkPattern(v string) string {
	if _, err := path.Match(v, ""); err != nil || v == "" || len(v) > 200 || !oneLineOf(v) {
		return "must be a package's name, in which * stands for anything but /, or ** at the end for all below"
	}
	return ""
}

func oneLineOf(v string) bool {
	return !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// checkReachability takes a folder, the URL of a database, or off.
func checkReachability(v string) string {
	u, err := url.Parse(v)
	if v != ReachabilityOff && checkAbsolute(v) != "" && (err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || len(v) > 1000) {
		return "must be off, the absolute path of a folder, or an https:// url without a login"
	}
	return ""
}

func checkLine(v string) string {
	if !oneLine.MatchString(v) || strings.TrimSpace(v) != v {
		return "must be one line of 1 to 50 characters"
	}
	return ""
}

func checkReviewer(v string) string {
	if !login.MatchString(v) && !team.MatchString(v) {
		return "must be a login, or a team as team:slug or @owner/slug"
	}
	return ""
}
