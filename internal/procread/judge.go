package procread

import (
	"net/netip"
	"slices"
)

// Fate is what became of a connection between two looks.
type Fate int

// The fates.
const (
	Ended Fate = iota // it is gone, or is being ended
	Stuck             // what is sent over it is not acknowledged, and is sent again in vain
	Quiet             // it is there, and nothing at all has come into the pod's network meanwhile
	Lives             // it is there, and nothing says that it is cut off
)

// Connection is one that was open at the first look.
type Connection struct {
	Local, Remote netip.AddrPort
	Fate          Fate
}

// open reports whether a socket carries something, at least one way.
func (s Socket) open() bool {
	return s.State == "ESTABLISHED" || s.State == "CLOSE_WAIT" || s.State == "FIN_WAIT2"
}

// outside reports whether a socket goes to somebody outside of the pod.
func (s Socket) outside(own []netip.Addr) bool {
	to := s.Remote.Addr()
	return s.Remote.Port() != 0 && !to.IsLoopback() && !to.IsUnspecified() && to != s.Local.Addr() && !slices.Contains(own, to)
}

// Connections says what became of the connections that were open at the first look, to others than the pod itself.
// Own are its addresses. The kernel counts no bytes where all may read it, so one that is not seen to be cut off
// counts as living, unless the pod has got no packet at all.
func (s Seen) Connections(own []netip.Addr) (all []Connection) {
	for _, was := range s.First.Sockets {
		if !was.open() || !was.outside(own) {
			continue
		}
		c := Connection{was.Local, was.Remote, Ended}
		i := slices.IndexFunc(s.Second.Sockets, func(now Socket) bool {
			return now.Local == was.Local && now.Remote == was.Remote && now.Inode == was.Inode
		})
		if i >= 0 && s.Second.Sockets[i].open() {
			c.Fate = fate(was, s.Second.Sockets[i], s.Second.Received > s.First.Received)
		}
		all = append(all, c)
	}
	return all
}

func fate(was, now Socket, received bool) Fate {
	switch {
	// What waits has not become less, and was sent again and again; once may be chance.
	case now.Unsent > 0 && now.Unsent >= was.Unsent && now.Again >= 2 && now.Again >= was.Again:
		return Stuck
	case !received && now.Unread == was.Unread:
		return Quiet
	}
	return Lives
}

// Listens are the ports on which something listens for others than the pod itself, in order.
func (s Seen) Listens(own []netip.Addr) (ports []uint16) {
	for _, l := range s.Second.Sockets {
		to := l.Local.Addr()
		if l.State == "LISTEN" && (to.IsUnspecified() || slices.Contains(own, to)) {
			ports = append(ports, l.Local.Port())
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
