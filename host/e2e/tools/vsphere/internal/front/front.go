// Package front stands between the clients and the simulated vCenter: it counts
// the calls by SOAP method, and makes some of them fail as a real network and a
// real vCenter fail them.
//
// It reads a request's envelope only as far as the method's name, and knows no
// vSphere type. WaitForUpdatesEx is the one method that it knows by name, because
// the simulator handles the loss of its client badly: see wait.go.
package front

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Front is an HTTP handler that passes what it gets to a backend.
// Serve it with Server, so that it can reach the connections.
type Front struct {
	backend http.Handler
	waits   waits
	gate    gate

	mu sync.Mutex
	// By session, then by method.
	calls  map[string]map[string]int
	faults []*Fault
	lastID int
}

// New is a front without faults that lets everything through.
func New(backend http.Handler) *Front {
	f := &Front{backend: backend, calls: map[string]map[string]int{}}
	f.waits.init(backend)
	f.gate.init()
	return f
}

// Server serves the front's clients on what Listen returned.
func (f *Front) Server() *http.Server {
	return &http.Server{
		Handler:           f,
		ConnContext:       withConn,
		ReadHeaderTimeout: 30 * time.Second,
		// HTTP/1.1 only: a reset concerns one call, not all those of a connection.
		Protocols: http1(),
	}
}

func http1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

// Listen wraps the listener, below TLS, so that Down can cut its connections.
func (f *Front) Listen(l net.Listener) net.Listener { return &gatedListener{l, &f.gate} }

// Down resets all connections, and every new one, until Up. The port stays taken.
func (f *Front) Down() { f.gate.close() }

// Up ends an outage.
func (f *Front) Up() { f.gate.open() }

// IsDown tells whether an outage is on.
func (f *Front) IsDown() bool { return f.gate.isClosed() }

// Calls is the number of calls by SOAP method since the start or the last reset,
// those included that a fault struck.
func (f *Front) Calls() map[string]int {
	total := map[string]int{}
	for _, calls := range f.CallsBySession() {
		for method, n := range calls {
			total[method] += n
		}
	}
	return total
}

// CallsBySession is the same by the cookie of the session that called; what was
// called without one is under "".
func (f *Front) CallsBySession() map[string]map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	sessions := make(map[string]map[string]int, len(f.calls))
	for session, calls := range f.calls {
		sessions[session] = maps.Clone(calls)
	}
	return sessions
}

// ResetCalls forgets the count of calls.
func (f *Front) ResetCalls() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.calls)
}

// AddFault puts a fault behind those that are pending, and gives it an id.
func (f *Front) AddFault(fault Fault) (Fault, error) {
	if err := fault.validate(); err != nil {
		return Fault{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastID++
	fault.ID, fault.Seen, fault.Struck = f.lastID, 0, 0
	if fault.Chance > 0 {
		fault.lots = rand.New(rand.NewPCG(fault.Seed, 0))
	}
	f.faults = append(f.faults, &fault)
	return fault, nil
}

// Faults are those that may still strike.
func (f *Front) Faults() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	pending := make([]Fault, 0, len(f.faults))
	for _, fault := range f.faults {
		pending = append(pending, *fault)
	}
	return pending
}

// RemoveFault removes one fault, and says whether it was pending.
func (f *Front) RemoveFault(id int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := len(f.faults)
	f.faults = slices.DeleteFunc(f.faults, func(x *Fault) bool { return x.ID == id })
	return len(f.faults) < before
}

// ClearFaults removes all faults.
func (f *Front) ClearFaults() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// admit counts the call and picks the fault that strikes it, if any. The oldest
// comes first; a call that one fault strikes is not seen by those behind it.
func (f *Front) admit(c call) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls[c.session] == nil {
		f.calls[c.session] = map[string]int{}
	}
	f.calls[c.session][c.method]++
	for i, fault := range f.faults {
		if fault.strikes(c) {
			if fault.exhausted() {
				f.faults = slices.Delete(f.faults, i, i+1)
			}
			struck := *fault
			return &struck
		}
	}
	return nil
}

func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // The client went away before it had said what it wants.
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	c := readCall(r, body)

	fault := f.admit(c)
	if fault == nil {
		f.forward(w, r, c)
		return
	}
	time.Sleep(time.Duration(fault.DelayMs) * time.Millisecond)
	switch fault.Action {
	case ActionReset:
		reset(r)
	case ActionDelay:
		f.forward(w, r, c)
	case ActionDropReply:
		f.execute(r, c, func(*reply) bool { return false })
		reset(r)
	case ActionTruncate:
		f.execute(r, c, func(reply *reply) bool {
			reply.sendHalf(w)
			return false
		})
		panic(http.ErrAbortHandler)
	case ActionFault:
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write(soapFault(fault.Fault))
	default:
		http.Error(w, fmt.Sprintf("%d %s", fault.status(), http.StatusText(fault.status())), fault.status())
	}
}

func (f *Front) forward(w http.ResponseWriter, r *http.Request, c call) {
	if !c.isWait() {
		f.backend.ServeHTTP(w, r)
		return
	}
	f.waits.run(r, c, func(reply *reply) bool {
		// A client that left while the updates were on their way did not get them.
		return r.Context().Err() == nil && reply.send(w) == nil
	})
}

// execute lets the call take effect, and hands over the reply. deliver says
// whether the reply reached the client whole.
func (f *Front) execute(r *http.Request, c call, deliver func(*reply) bool) {
	if c.isWait() {
		f.waits.run(r, c, deliver)
		return
	}
	reply := newReply()
	f.backend.ServeHTTP(reply, r)
	deliver(reply)
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = secure.NetConn()
	}
	return context.WithValue(ctx, connKey{}, c)
}

// reset cuts the request's connection with a TCP reset. It does not return.
func reset(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*gatedConn); ok {
		c.reset()
	}
	panic(http.ErrAbortHandler)
}

// reply is an http.ResponseWriter that keeps what is written.
type reply struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newReply() *reply { return &reply{header: http.Header{}, status: http.StatusOK} }

func (p *reply) Header() http.Header         { return p.header }
func (p *reply) WriteHeader(status int)      { p.status = status }
func (p *reply) Write(b []byte) (int, error) { return p.body.Write(b) }

// send passes the reply on, and fails if the connection is known to be gone.
func (p *reply) send(w http.ResponseWriter) error {
	maps.Copy(w.Header(), p.header)
	w.Header().Set("Content-Length", strconv.Itoa(p.body.Len()))
	w.WriteHeader(p.status)
	if _, err := w.Write(p.body.Bytes()); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// sendHalf announces the whole body and sends the first half of it.
func (p *reply) sendHalf(w http.ResponseWriter) {
	maps.Copy(w.Header(), p.header)
	w.Header().Set("Content-Length", strconv.Itoa(p.body.Len()))
	w.WriteHeader(p.status)
	_, _ = w.Write(p.body.Bytes()[:p.body.Len()/2])
	_ = http.NewResponseController(w).Flush()
}
