package config

import (
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/netcheck"
)

const (
	// maxExpectations bounds those of a target, each of which is tried.
	maxExpectations = 50
	maxLabels       = 20
)

// network reads what should come through in a target's namespace.
func (p *parser) network(n *yaml.Node) (network netcheck.Network) {
	const what = "kubernetes.network"
	p.fields(n, what, map[string]func(*yaml.Node){
		"prober": func(n *yaml.Node) {
			p.fields(n, what+".prober", map[string]func(*yaml.Node){
				"image":    p.text(&network.Prober.Image, what+".prober.image", checkImage),
				"standing": p.text(&network.Prober.Standing, what+".prober.standing", checkStanding),
			}, "image")
		},
		"expect": func(n *yaml.Node) {
			for _, item := range p.list(n, what+".expect", maxExpectations) {
				e := p.expectation(item)
				if slices.ContainsFunc(network.Expect, func(o netcheck.Expectation) bool { return o.Name == e.Name }) {
					p.fail(item, "there are two expectations named %q", e.Name)
				}
				network.Expect = append(network.Expect, e)
			}
		},
	})
	return network
}

func (p *parser) expectation(n *yaml.Node) (e netcheck.Expectation) {
	const what = "an expectation"
	p.fields(n, what, map[string]func(*yaml.Node){
		"name":    p.text(&e.Name, what+"'s name", checkExpectation),
		"from":    func(n *yaml.Node) { e.From = p.selector(n, what+"'s from", false) },
		"to":      func(n *yaml.Node) { e.To = p.selector(n, what+"'s to", true) },
		"port":    p.number(&e.Port, what+"'s port", 1, 65535),
		"allowed": p.flag(&e.Allowed, what+"'s allowed"),
	}, "name", "from", "to", "port", "allowed")
	return e
}

// selector reads an end of connections. Only a destination is a Service or an address, and only a source a
// pod without labels.
func (p *parser) selector(n *yaml.Node, what string, destination bool) (s netcheck.Selector) {
	known := map[string]func(*yaml.Node){
		"pods":      func(n *yaml.Node) { s.Pods = p.labels(n, what+".pods") },
		"namespace": p.text(&s.Namespace, what+".namespace", kube.NameProblem),
	}
	if destination {
		known["service"] = p.text(&s.Service, what+".service", kube.NameProblem)
		known["address"] = p.text(&s.Address, what+".address", checkAddress)
	}
	p.fields(n, what, known)
	given := 0
	for _, yes := range []bool{len(s.Pods) > 0, s.Service != "", s.Address != ""} {
		if yes {
			given++
		}
	}
	if destination && given != 1 {
		p.fail(n, "%s must have one of pods, service and address", what)
	}
	if s.Namespace != "" && (s.Service != "" || s.Address != "") {
		p.fail(n, "%s.namespace goes with pods alone", what)
	}
	return s
}

// labels reads labels; none, written {}, are those of a pod that has none.
func (p *parser) labels(n *yaml.Node, what string) map[string]string {
	if n.Kind != yaml.MappingNode || len(n.Content) > 2*maxLabels {
		p.fail(n, "%s must be labels, as in {app: web}, at most %d", what, maxLabels)
		return nil
	}
	set := make(map[string]string, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if len(validation.IsQualifiedName(key.Value)) > 0 {
			p.fail(key, "%s has %.100q, which is no name of a label", what, key.Value)
		}
		if value.Kind != yaml.ScalarNode || len(validation.IsValidLabelValue(value.Value)) > 0 {
			p.fail(value, "%s has label %.100s with a value that no label can have", what, key.Value)
		}
		set[key.Value] = value.Value
	}
	return set
}

// checkStanding holds the name of a standing prober to what a StatefulSet's can be, whose pods' names are longer and
// their hostnames.
func checkStanding(v string) string {
	if len(v) > 52 || len(validation.IsDNS1123Label(v)) > 0 {
		return "must be the name of a StatefulSet: small letters, digits and -, at most 52"
	}
	return ""
}

func checkExpectation(v string) string {
	if v == "" || len(v) > 100 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "must be a name of 1 to 100 bytes on one line"
	}
	return ""
}

func checkAddress(v string) string {
	if _, err := netip.ParseAddr(v); err != nil {
		return "must be an IP address"
	}
	return ""
}
