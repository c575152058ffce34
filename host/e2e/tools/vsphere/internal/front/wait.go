package front

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"time"
)

// How long a wait is given to end once it was told to. A wait of a session that
// is gone cannot be told.
const cancelWithin = 2 * time.Second

// waits mends what the simulator does when a client is lost in WaitForUpdatesEx.
// There the call goes on without its client, competes with the client's next one
// for the same updates, and takes them to a connection that is gone. A real
// vCenter gives the client that asks again with its last version all that it has
// missed; the simulator's versions are constants.
//
// So: a wait whose client is gone is cancelled, a new wait on the same collector
// ends the one before, and a reply that did not arrive is given to the next wait.
type waits struct {
	backend http.Handler

	mu          sync.Mutex
	running     map[waitKey]*wait
	undelivered map[waitKey]*reply
}

// A collector belongs to a session: each session has one of the same id.
type waitKey struct{ session, collector string }

type wait struct{ done chan struct{} }

func (ws *waits) init(backend http.Handler) {
	ws.backend = backend
	ws.running = map[waitKey]*wait{}
	ws.undelivered = map[waitKey]*reply{}
}

func (c call) isWait() bool { return c.method == "WaitForUpdatesEx" }

// run runs one wait to its end: updates, its time-out, or the loss of its client.
// What it could not deliver it leaves for the collector's next wait, which does
// not begin before that.
func (ws *waits) run(r *http.Request, c call, deliver func(*reply) bool) {
	key, me := waitKey{session: c.session, collector: c.this}, &wait{done: make(chan struct{})}
	reply := ws.begin(r, key, me)
	defer ws.end(key, me)
	if reply == nil {
		reply = ws.updates(r, key)
	}
	if !deliver(reply) {
		ws.keep(key, reply)
	}
}

// updates asks the simulator, and stops asking when the client is gone. No
// cancellation outlives it: a late one would end the collector's next wait.
func (ws *waits) updates(r *http.Request, key waitKey) *reply {
	answered := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-r.Context().Done():
			ws.cancel(r, key, answered)
		case <-answered:
		}
	})
	// In a deferred call, for the simulator may panic.
	defer watch.Wait()
	defer close(answered)

	reply := newReply()
	ws.backend.ServeHTTP(reply, r)
	return reply
}

// begin makes this the collector's only wait, and returns what an earlier one
// could not deliver.
func (ws *waits) begin(r *http.Request, key waitKey, me *wait) *reply {
	for {
		ws.mu.Lock()
		before := ws.running[key]
		if before == nil {
			ws.running[key] = me
			missed := ws.undelivered[key]
			delete(ws.undelivered, key)
			ws.mu.Unlock()
			return missed
		}
		ws.mu.Unlock()
		if !ws.cancel(r, key, before.done) {
			ws.forget(key, before)
		}
	}
}

func (ws *waits) end(key waitKey, me *wait) {
	ws.forget(key, me)
	close(me.done)
}

func (ws *waits) forget(key waitKey, w *wait) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.running[key] == w {
		delete(ws.running, key)
	}
}

// cancel ends a wait, and says whether it did end. It asks more than once, since
// a wait that has only just begun may not have heard the first time.
func (ws *waits) cancel(r *http.Request, key waitKey, ended <-chan struct{}) bool {
	deadline := time.After(cancelWithin)
	for {
		ask, err := http.NewRequestWithContext(context.Background(), http.MethodPost, r.URL.Path,
			bytes.NewReader(cancelWaitEnvelope(key.collector)))
		if err != nil {
			return false
		}
		ask.Header["Cookie"] = r.Header["Cookie"]
		ask.RemoteAddr = r.RemoteAddr
		ws.backend.ServeHTTP(newReply(), ask)

		select {
		case <-ended:
			return true
		case <-deadline:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// keep saves updates that did not arrive for the collector's next wait.
func (ws *waits) keep(key waitKey, reply *reply) {
	if reply.status != http.StatusOK || !bytes.Contains(reply.body.Bytes(), []byte("<filterSet")) {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.undelivered[key] = reply
}
