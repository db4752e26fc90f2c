package config

import (
	"net"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// DefaultListen is where webhooks are taken when nothing is said: on this machine alone, behind a proxy that
// ends TLS.
const DefaultListen = "127.0.0.1:8092"

// Webhooks say how GitHub's webhooks are taken.
type Webhooks struct {
	Listen string // host:port
	Secret Secret // by which GitHub signs them
}

func (p *parser) webhooks(n *yaml.Node) *Webhooks {
	w := &Webhooks{Listen: DefaultListen}
	p.fields(n, "webhooks", map[string]func(*yaml.Node){
		"listen":     p.text(&w.Listen, "webhooks.listen", checkListen),
		"secretFrom": func(n *yaml.Node) { w.Secret = p.secret(n, "webhooks.secretFrom") },
	}, "secretFrom")
	return w
}

func checkListen(v string) string {
	_, port, err := net.SplitHostPort(v)
	if n, wrong := strconv.ParseUint(port, 10, 16); err != nil || wrong != nil || n == 0 && port != "0" {
		return "must be host:port, such as " + DefaultListen
	}
	return ""
}
