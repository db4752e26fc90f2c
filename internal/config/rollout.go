package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/kube"
)

// Rollout says how a target's Helm release is upgraded. It is kept in the histories of runs; what is in the
// files of values is not.
type Rollout struct {
	Chart      Chart    `json:"chart"`
	Version    string   `json:"version,omitempty"` // of the chart; unused by a chart on the worker's disk
	Values     []string `json:"values,omitempty"`  // files on the worker, the later ones over the earlier ones
	Staging    string   `json:"staging,omitempty"` // the target that is upgraded first
	Migrations string   `json:"migrations"`        // what becomes of the data when a release fails that has migrated them
	// Bake is how long a new revision is watched until it is taken for good.
	Bake time.Duration `json:"bake"`
	// Timeout is how long what was applied may take to become ready.
	Timeout time.Duration `json:"timeout"`
	// BackupWithin is how old the drilled backup may be that a release with migrations needs.
	BackupWithin time.Duration  `json:"backupWithin"`
	Checks       []RolloutCheck `json:"checks,omitempty"`
}

// What becomes of the data when a release fails that has migrated them.
const (
	MigrationsCompatible = "compatible" // the old version works on them: the release is rolled back, the data stay
	MigrationsRestore    = "restore"    // after an approval the backup is put in the database's place, then the release is rolled back
	MigrationsRefuse     = "refuse"     // a person decides
)

// Chart says where a chart is; one of Path, OCI and Repository is set.
type Chart struct {
	Path       string `json:"path,omitempty"`       // absolute, on the worker
	OCI        string `json:"oci,omitempty"`        // oci://host/repository
	Repository string `json:"repository,omitempty"` // https://..., with Name
	Name       string `json:"name,omitempty"`
}

// RolloutCheck is a query of Prometheus whose every value must be within bounds, both included.
type RolloutCheck struct {
	Name       string        `json:"name"`
	Query      string        `json:"query"`
	Min        *float64      `json:"min,omitempty"`
	Max        *float64      `json:"max,omitempty"`
	Prometheus kube.Endpoint `json:"prometheus"` // a Service of the target's namespace
}

const (
	maxValuesFiles = 16
	maxChecks      = 32
	maxQuery       = 4 << 10 // bytes
)

func (p *parser) rollout(n *yaml.Node) *Rollout {
	r := &Rollout{Bake: 10 * time.Minute, Timeout: 5 * time.Minute, BackupWithin: 24 * time.Hour, Migrations: MigrationsRefuse}
	p.fields(n, "rollout", map[string]func(*yaml.Node){
		"chart":        func(n *yaml.Node) { r.Chart = p.chart(n) },
		"version":      p.text(&r.Version, "rollout.version", checkVersion),
		"values":       p.texts(&r.Values, "rollout.values", maxValuesFiles, checkAbsolute),
		"staging":      p.text(&r.Staging, "rollout.staging", checkWord),
		"migrations":   p.text(&r.Migrations, "rollout.migrations", oneOf([]string{MigrationsCompatible, MigrationsRefuse, MigrationsRestore})),
		"bake":         p.duration(&r.Bake, "rollout.bake", 10*time.Second, 24*time.Hour),
		"timeout":      p.duration(&r.Timeout, "rollout.timeout", 10*time.Second, 24*time.Hour),
		"backupWithin": p.duration(&r.BackupWithin, "rollout.backupWithin", time.Minute, 90*24*time.Hour),
		"checks": func(n *yaml.Node) {
			if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > maxChecks {
				p.fail(n, "rollout.checks must be a list of 1 to %d checks", maxChecks)
				return
			}
			names := make(map[string]bool)
			for _, item := range n.Content {
				c := p.check(item)
				if names[c.Name] && c.Name != "" {
					p.fail(item, "there are two checks named %q", c.Name)
				}
				names[c.Name] = true
				r.Checks = append(r.Checks, c)
			}
		},
	}, "chart")
	if r.Chart != (Chart{}) && r.Chart.Path == "" && r.Version == "" {
		p.fail(n, `rollout with a chart that is not on the worker's disk lacks the key "version"`)
	}
	return r
}

func (p *parser) chart(n *yaml.Node) Chart {
	var c Chart
	if n.Kind == yaml.MappingNode {
		p.fields(n, "rollout.chart", map[string]func(*yaml.Node){
			"repo": p.text(&c.Repository, "rollout.chart.repo", checkRepository),
			"name": p.text(&c.Name, "rollout.chart.name", kube.NameProblem),
		}, "repo", "name")
		return c
	}
	var where string
	p.text(&where, "rollout.chart", func(v string) string {
		_, problem := ParseChart(v)
		return problem
	})(n)
	c, _ = ParseChart(where)
	return c
}

// ParseChart reads where a chart is: an absolute path or oci://host/repository. It says what is wrong, or "".
func ParseChart(v string) (Chart, string) {
	switch {
	case len(v) > 1000:
		return Chart{}, "is too long"
	case strings.HasPrefix(v, "oci://") && len(v) > len("oci://"):
		return Chart{OCI: v}, ""
	case filepath.IsAbs(v):
		return Chart{Path: filepath.Clean(v)}, ""
	}
	return Chart{}, "must be an absolute path, oci://host/repository, or {repo: https://..., name: ...}"
}

func checkRepository(v string) string {
	if !strings.HasPrefix(v, "https://") && !strings.HasPrefix(v, "http://127.0.0.1") && !strings.HasPrefix(v, "http://localhost") || strings.Contains(v, "@") {
		return "must be the https:// url of a repository of charts, without a login"
	}
	return ""
}

func checkVersion(v string) string {
	if v == "" || len(v) > 128 || strings.ContainsAny(v, " \t\n/\\") {
		return "must be the version of a chart, such as 1.2.3"
	}
	return ""
}

func (p *parser) check(n *yaml.Node) RolloutCheck {
	var c RolloutCheck
	p.fields(n, "a check", map[string]func(*yaml.Node){
		"name": p.text(&c.Name, "a check's name", checkWord),
		"query": p.text(&c.Query, "a check's query", func(v string) string {
			if strings.TrimSpace(v) == "" || len(v) > maxQuery {
				return fmt.Sprintf("must be a query of Prometheus of at most %d bytes", maxQuery)
			}
			return ""
		}),
		"min": p.float(&c.Min, "a check's min"),
		"max": p.float(&c.Max, "a check's max"),
		"prometheus": func(n *yaml.Node) {
			p.fields(n, "a check's prometheus", map[string]func(*yaml.Node){
				"service": p.text(&c.Prometheus.Service, "prometheus.service", kube.NameProblem),
				"port":    p.number(&c.Prometheus.Port, "prometheus.port", 1, 65535),
			}, "service", "port")
		},
	}, "name", "query", "prometheus")
	if n.Kind == yaml.MappingNode && c.Min == nil && c.Max == nil {
		p.fail(n, `a check lacks the key "min" or the key "max", so it would never fail`)
	}
	if c.Min != nil && c.Max != nil && *c.Min > *c.Max {
		p.fail(n, "a check has a min above its max, so it would never pass")
	}
	return c
}

func (p *parser) float(into **float64, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var v float64
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" && n.Tag != "!!float" || n.Decode(&v) != nil || v != v {
			p.fail(n, "%s must be a number", what)
			return
		}
		*into = &v
	}
}

// stagings refuses a rollout whose staging target is not there, or is itself.
func (p *parser) stagings(n *yaml.Node, targets []Target) {
	release := make(map[string]bool)
	for _, t := range targets {
		release[t.Name] = t.Kubernetes.Release != ""
	}
	for _, t := range targets {
		if t.Rollout == nil {
			continue
		}
		if t.Kubernetes.Release == "" {
			p.fail(n, "target %q has a rollout and names no release under kubernetes", t.Name)
		}
		switch has, known := release[t.Rollout.Staging]; {
		case t.Rollout.Staging == "":
		case t.Rollout.Staging == t.Name:
			p.fail(n, "target %q is its own staging target", t.Name)
		case !known:
			p.fail(n, "target %q has the staging target %q, which is not there", t.Name, t.Rollout.Staging)
		case !has:
			p.fail(n, "target %q has the staging target %q, which names no release under kubernetes", t.Name, t.Rollout.Staging)
		}
	}
}
