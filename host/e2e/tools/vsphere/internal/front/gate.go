package front

import (
	"net"
	"sync"
)

// gate holds the open connections, so that an outage can cut them all.
type gate struct {
	mu     sync.Mutex
	closed bool
	conns  map[*gatedConn]struct{}
}

func (g *gate) init() { g.conns = map[*gatedConn]struct{}{} }

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = false
}

func (g *gate) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	conns := g.conns
	g.conns = map[*gatedConn]struct{}{}
	g.mu.Unlock()
	for c := range conns {
		c.reset()
	}
}

// admit is false during an outage.
func (g *gate) admit(c *gatedConn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.conns[c] = struct{}{}
	}
	return !g.closed
}

func (g *gate) forget(c *gatedConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// gatedListener goes on listening during an outage, and resets what connects:
// closing the socket instead would let another process take the port.
type gatedListener struct {
	net.Listener
	gate *gate
}

func (l *gatedListener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &gatedConn{accepted, l.gate}
		if l.gate.admit(c) {
			return c, nil
		}
		c.reset()
	}
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c *gatedConn) Close() error {
	c.gate.forget(c)
	return c.Conn.Close()
}

// reset closes with RST instead of FIN, and drops what is not sent yet.
func (c *gatedConn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
