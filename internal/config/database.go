package config

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/strictjson"
)

// Database is a PostgreSQL database.
type Database struct {
	URL         string
	Password    Secret
	In          kube.Endpoint // where it is in the target's cluster; the zero one: at the URL's host
	Scratch     Scratch
	Connections int
}

// Runners of scratch servers.
const (
	RunnerLocal  = "local"  // a private server on the worker
	RunnerServer = "server" // the server of scratch.server
	RunnerPod    = "pod"    // a pod beside the database's, of the same image
)

// Runners are all of them.
var Runners = []string{RunnerLocal, RunnerServer, RunnerPod}

// Scratch says where drills restore.
type Scratch struct {
	Runner    string
	URL       string // of the runner server
	Password  Secret
	Image     string // of the runner pod; that of the database's pod when empty
	RunAsUser int64  // of the runner pod, where the database's pod does not say; the image's own when 0
}

func (p *parser) database(n *yaml.Node) Database {
	d := Database{Connections: DefaultConnections}
	var name, role string
	var user int
	p.fields(n, "database", map[string]func(*yaml.Node){
		"url":          p.text(&d.URL, "database.url", checkDatabaseURL),
		"service":      p.text(&d.In.Service, "database.service", kube.NameProblem),
		"pod":          p.text(&d.In.Pod, "database.pod", kube.NameProblem),
		"port":         p.number(&d.In.Port, "database.port", 1, 65535),
		"name":         p.text(&name, "database.name", checkIdentifier),
		"role":         p.text(&role, "database.role", checkIdentifier),
		"passwordFrom": func(n *yaml.Node) { d.Password = p.secretAnywhere(n, "database.passwordFrom") },
		"connections":  p.number(&d.Connections, "database.connections", 1, maxConnections),
		"scratch": func(n *yaml.Node) {
			p.fields(n, "scratch", map[string]func(*yaml.Node){
				"runner":       p.text(&d.Scratch.Runner, "scratch.runner", oneOf(Runners)),
				"server":       p.text(&d.Scratch.URL, "scratch.server", checkDatabaseURL),
				"passwordFrom": func(n *yaml.Node) { d.Scratch.Password = p.secretAnywhere(n, "scratch.passwordFrom") },
				"image":        p.text(&d.Scratch.Image, "scratch.image", checkImage),
				"runAsUser":    p.number(&user, "scratch.runAsUser", 1, 1<<31-1),
			})
		},
	})
	d.Scratch.RunAsUser = int64(user)
	switch named := d.In.Service != "" || d.In.Pod != ""; {
	case n.Kind != yaml.MappingNode:
	case d.URL == "" && !named:
		p.fail(n, `database lacks the key "url" (or, for one in a cluster, "service" or "pod")`)
	case d.URL != "" && (named || d.In.Port != 0 || name != "" || role != ""):
		p.fail(n, "database has a url and keys of a database in a cluster (service, pod, port, name, role); give one or the other")
	case d.In.Service != "" && d.In.Pod != "":
		p.fail(n, "database has a service and a pod; give one of them")
	case named && (name == "" || role == ""):
		p.fail(n, `database in a cluster lacks the key "name" or the key "role"`)
	case named:
		d.In.Port = cmp.Or(d.In.Port, 5432)
		d.URL = (&url.URL{Scheme: "postgres", User: url.User(role), Host: net.JoinHostPort(cmp.Or(d.In.Service, d.In.Pod), fmt.Sprint(d.In.Port)),
			Path: "/" + name, RawPath: "/" + strings.ReplaceAll(url.PathEscape(name), "/", "%2F")}).String()
	}
	switch {
	case d.Scratch.Runner == "" && d.Scratch.URL != "":
		d.Scratch.Runner = RunnerServer
	case d.Scratch.Runner == "" && d.In != (kube.Endpoint{}):
		d.Scratch.Runner = RunnerPod // the worker of a cluster has no server programs, and not the extensions
	case d.Scratch.Runner == "":
		d.Scratch.Runner = RunnerLocal
	case d.Scratch.Runner == RunnerServer && d.Scratch.URL == "":
		p.fail(n, `scratch with the runner server lacks the key "server"`)
	case d.Scratch.Runner != RunnerServer && (d.Scratch.URL != "" || d.Scratch.Password != (Secret{})):
		p.fail(n, "scratch has a server or a password, which go with the runner server only")
	}
	if d.Scratch.Runner != RunnerPod && (d.Scratch.Image != "" || user != 0) {
		p.fail(n, "scratch has an image or a user, which go with the runner pod only")
	}
	return d
}

func checkDatabaseURL(v string) string {
	u, err := url.Parse(v)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return "must be a url such as postgres://role@host:5432/database"
	}
	if _, has := u.User.Password(); has || u.Query().Has("password") || u.Query().Has("sslpassword") {
		return "must not hold a password; name it with passwordFrom: {env: ...} or {file: ...}"
	}
	for key := range u.Query() {
		if !slices.Contains(urlParameters, key) {
			hint := "use only: " + strings.Join(urlParameters, ", ")
			if near := strictjson.Nearest(key, urlParameters); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			return fmt.Sprintf("has the parameter %.40q, which Upkeep's driver and pg_dump do not both know; %s (settings go into options=-csearch_path%%3Dapp)", key, hint)
		}
	}
	return ""
}

// urlParameters are the parameters of a database's URL that both pgx and libpq know.
var urlParameters = []string{
	"application_name", "channel_binding", "connect_timeout", "host", "krbsrvname", "options", "passfile", "port", "service",
	"sslcert", "sslkey", "sslmode", "sslrootcert", "target_session_attrs", "user",
}

// checkImage checks the name of an image; what it leads to, the cluster knows.
func checkImage(v string) string {
	if v == "" || len(v) > 512 || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "must be the name of an image"
	}
	return ""
}

// checkIdentifier checks a name of PostgreSQL's.
func checkIdentifier(v string) string {
	if v == "" || len(v) > 63 || strings.ContainsRune(v, 0) {
		return "must be a name of 1 to 63 bytes"
	}
	return ""
}
