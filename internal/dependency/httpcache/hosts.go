package httpcache

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// Hosts come from files of repositories that anybody may have written: the registry of an image, the URL of
// a chart's repository. Such a host is asked only over https, on no address that is inside of somebody's
// network, and after DNS at that. Hosts that the operator's own configuration names may be anywhere.

// inside are the ranges that are not on the internet, beyond those that net/netip knows.
var inside = func() []netip.Prefix {
	var list []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4",
		"64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2002::/16", "fec0::/10",
	} {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}()

// Internal says whether an address is one that nobody outside may make us talk to.
func Internal(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsInterfaceLocalMulticast() {
		return true
	}
	for _, p := range inside {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func refused(host, why string) error {
	return failure.New(failure.HostRefused, "%q is not asked: %s", host, why).
		Do("if it is right, name the host in the configuration of who runs Upkeep; a file of a repository cannot")
}

// checkURL refuses what may not be asked, before a name is looked up.
func (c *Client) checkURL(u *url.URL) error {
	host := u.Hostname()
	switch {
	case host == "" || u.User != nil || u.Opaque != "":
		return refused(u.Host, "it is no plain URL")
	case c.trusts(u):
		if u.Scheme != "https" && u.Scheme != "http" {
			return refused(host, "it is neither https nor http")
		}
		return nil
	case u.Scheme != "https":
		return refused(host, "it is not https")
	case u.Port() != "" && u.Port() != "443" && (len(u.Port()) < 4):
		return refused(host, "its port is one of other services")
	}
	if a, err := netip.ParseAddr(host); err == nil && Internal(a) {
		return refused(host, "it is an address inside of a network")
	}
	if name := strings.TrimSuffix(strings.ToLower(host), "."); name == "localhost" || strings.HasSuffix(name, ".localhost") || !strings.ContainsAny(name, ".:") {
		return refused(host, "it is a name inside of a network")
	}
	return nil
}

func (c *Client) trusts(u *url.URL) bool { return c.trusted[u.Host] || c.trusted[u.Hostname()] }

// dial connects to a host. What is not trusted is checked again by the address that it has now, so that a
// name which changes its address between a check and its use gains nothing.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("split %q: %w", address, err)
	}
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if !c.trusted[address] && !c.trusted[host] {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil || Internal(at.Addr()) {
				return refused(host, "its address is inside of a network")
			}
			return nil
		}
	}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", host, err)
	}
	return conn, nil
}

const maxRedirects = 5

func (c *Client) redirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return failure.New(failure.BadAnswer, "%s redirects more than %d times", via[0].URL.Host, maxRedirects)
	}
	return c.checkURL(r.URL)
}
