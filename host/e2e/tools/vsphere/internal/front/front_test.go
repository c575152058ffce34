package front

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const answer = "<answer>forty-two</answer>"

// world is a front before a backend that counts what took effect.
type world struct {
	t       *testing.T
	front   *Front
	url     string
	control string
	effects atomic.Int32
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t}
	w.front = New(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			t.Error(err)
		}
		w.effects.Add(1)
		_, _ = io.WriteString(rw, answer)
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := w.front.Server()
	go func() { _ = server.Serve(w.front.Listen(l)) }()
	t.Cleanup(func() { _ = server.Close() })
	w.url = "http://" + l.Addr().String() + "/sdk"
	control := httptest.NewServer(w.front.Control())
	t.Cleanup(control.Close)
	w.control = control.URL
	return w
}

func envelope(method, inner string) string {
	return fmt.Sprintf(`<?xml version="1.0"?><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/">`+
		`<e:Header><operationID>7</operationID></e:Header><e:Body><%[1]s xmlns="urn:vim25">%[2]s</%[1]s></e:Body></e:Envelope>`, method, inner)
}

// call makes one call on a connection of its own.
func (w *world) call(method, inner string) (status int, body string, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Post(w.url, "text/xml", strings.NewReader(envelope(method, inner)))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func (w *world) do(method, path, body string) (int, string) {
	w.t.Helper()
	req, err := http.NewRequest(method, w.control+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(bytes.TrimSpace(b))
}

func (w *world) fault(body string) {
	w.t.Helper()
	if status, said := w.do(http.MethodPost, "/faults", body); status != http.StatusCreated {
		w.t.Fatalf("POST /faults %s: %d %s", body, status, said)
	}
}

func (w *world) wantEffects(n int32) {
	w.t.Helper()
	if got := w.effects.Load(); got != n {
		w.t.Errorf("%d calls took effect, want %d", got, n)
	}
}

func TestCallsAreCountedByMethod(t *testing.T) {
	w := newWorld(t)
	for _, method := range []string{"CloneVM_Task", "Login", "CloneVM_Task"} {
		if status, body, err := w.call(method, ""); status != 200 || body != answer || err != nil {
			t.Fatal(status, body, err)
		}
	}
	if _, err := http.Get(w.url + "/vimServiceVersions.xml"); err != nil {
		t.Fatal(err)
	}
	_, got := w.do(http.MethodGet, "/calls", "")
	if want := `{"CloneVM_Task":2,"GET /sdk/vimServiceVersions.xml":1,"Login":1}`; got != want {
		t.Errorf("GET /calls: %s, want %s", got, want)
	}
	w.do(http.MethodDelete, "/calls", "")
	if _, got = w.do(http.MethodGet, "/calls", ""); got != "{}" {
		t.Errorf("after DELETE /calls: %s", got)
	}
}

func TestCallsAreCountedBySession(t *testing.T) {
	w := newWorld(t)
	for _, session := range []string{"", "one", "two", "one"} {
		req, err := http.NewRequest(http.MethodPost, w.url, strings.NewReader(envelope("CurrentTime", "")))
		if err != nil {
			t.Fatal(err)
		}
		if session != "" {
			req.AddCookie(&http.Cookie{Name: sessionCookie, Value: session})
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	_, got := w.do(http.MethodGet, "/calls/by-session", "")
	if want := `{"":{"CurrentTime":1},"one":{"CurrentTime":2},"two":{"CurrentTime":1}}`; got != want {
		t.Errorf("GET /calls/by-session: %s, want %s", got, want)
	}
	if _, got = w.do(http.MethodGet, "/calls", ""); got != `{"CurrentTime":4}` {
		t.Errorf("GET /calls: %s", got)
	}
}

func TestLotsAreThoseOfTheSeed(t *testing.T) {
	struck := func(seed int) string {
		w := newWorld(t)
		w.fault(fmt.Sprintf(`{"method":"*","nth":3,"count":-1,"chance":0.25,"seed":%d,"action":"503"}`, seed))
		var calls strings.Builder
		for range 100 {
			status, _, err := w.call("CloneVM_Task", "")
			if err != nil {
				t.Fatal(err)
			}
			calls.WriteString(map[bool]string{true: "x", false: "."}[status == 503])
		}
		return calls.String()
	}
	first := struck(7)
	if again := struck(7); again != first {
		t.Errorf("seed 7 struck\n%s, and then\n%s", first, again)
	}
	if other := struck(8); other == first {
		t.Errorf("seeds 7 and 8 both struck\n%s", first)
	}
	if n := strings.Count(first, "x"); !strings.HasPrefix(first, "..") || n < 10 || n > 40 {
		t.Errorf("%d of 98 struck: %s", n, first)
	}
}

func TestAFaultStrikesItsCallsAndNoOther(t *testing.T) {
	w := newWorld(t)
	w.fault(`{"method":"CloneVM_Task","contains":"<name>web","nth":2,"count":2,"action":"503"}`)
	statusOf := func(method, inner string) int {
		status, _, err := w.call(method, inner)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	got := []int{
		statusOf("CloneVM_Task", "<name>web-0</name>"), // the first that it sees
		statusOf("CloneVM_Task", "<name>db-0</name>"),  // another name
		statusOf("Login", ""),                          // another method
		statusOf("CloneVM_Task", "<name>web-1</name>"),
		statusOf("CloneVM_Task", "<name>web-2</name>"),
		statusOf("CloneVM_Task", "<name>web-3</name>"), // spent
	}
	if want := []int{200, 200, 200, 503, 503, 200}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	w.wantEffects(4)
	if _, pending := w.do(http.MethodGet, "/faults", ""); pending != "[]" {
		t.Errorf("a spent fault is still pending: %s", pending)
	}
}

func TestFaultsQueue(t *testing.T) {
	w := newWorld(t)
	w.fault(`{"method":"*","action":"503"}`)
	w.fault(`{"method":"*","action":"429"}`)
	for _, want := range []int{503, 429, 200} {
		if status, _, _ := w.call("Login", ""); status != want {
			t.Errorf("%d, want %d", status, want)
		}
	}
}

func TestResetComesBeforeTheEffect(t *testing.T) {
	w := newWorld(t)
	w.fault(`{"method":"CloneVM_Task","action":"reset"}`)
	if _, _, err := w.call("CloneVM_Task", ""); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a connection reset", err)
	}
	w.wantEffects(0)
}

func TestDropReplyComesAfterTheEffect(t *testing.T) {
	w := newWorld(t)
	w.fault(`{"method":"CloneVM_Task","action":"drop-reply"}`)
	if _, _, err := w.call("CloneVM_Task", ""); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a connection reset", err)
	}
	w.wantEffects(1)
}

func TestTruncateEndsTheReplyHalfWay(t *testing.T) {
	w := newWorld(t)
	w.fault(`{"method":"CloneVM_Task","action":"truncate"}`)
	status, body, err := w.call("CloneVM_Task", "")
	if status != 200 || body != answer[:len(answer)/2] || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d %q %v, want half of the reply", status, body, err)
	}
	w.wantEffects(1)
}

func TestSOAPFault(t *testing.T) {
	w := newWorld(t)
	w.fault(`{"method":"CloneVM_Task","action":"fault","fault":"NotAuthenticated"}`)
	status, body, err := w.call("CloneVM_Task", "")
	if status != 500 || !strings.Contains(body, `<NotAuthenticatedFault xmlns="urn:vim25" xsi:type="NotAuthenticated">`) || err != nil {
		t.Errorf("%d %q %v", status, body, err)
	}
	w.wantEffects(0)
}

func TestADelayedCallTakesEffectWithoutItsClient(t *testing.T) {
	w := newWorld(t)
	w.fault(`{"method":"CloneVM_Task","action":"delay","delayMs":200}`)
	client := &http.Client{Timeout: 50 * time.Millisecond}
	if _, err := client.Post(w.url, "text/xml", strings.NewReader(envelope("CloneVM_Task", ""))); err == nil {
		t.Error("the call was not delayed")
	}
	w.wantEffects(0)
	for deadline := time.Now().Add(5 * time.Second); w.effects.Load() == 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	w.wantEffects(1)
}

func TestAnOutageCutsOldAndNewConnections(t *testing.T) {
	w := newWorld(t)
	client := &http.Client{} // keeps its connection
	post := func() error {
		resp, err := client.Post(w.url, "text/xml", strings.NewReader(envelope("Login", "")))
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		return err
	}
	if err := post(); err != nil {
		t.Fatal(err)
	}
	w.do(http.MethodPost, "/down", "")
	for range 3 {
		if post() == nil {
			t.Error("a call got through an outage")
		}
	}
	w.wantEffects(1)
	w.do(http.MethodPost, "/up", "")
	if err := post(); err != nil {
		t.Error("after the outage:", err)
	}
}

func TestAWrongFaultIsRefused(t *testing.T) {
	w := newWorld(t)
	for _, body := range []string{
		`{"action":"503"}`,
		`{"method":"Login"}`,
		`{"method":"Login","action":"explode"}`,
		`{"method":"Login","action":"600"}`,
		`{"method":"Login","action":"delay"}`,
		`{"method":"Login","action":"fault"}`,
		`{"method":"Login","action":"503","fault":"NotAuthenticated"}`,
		`{"method":"Login","action":"503","nth":0}`,
		`{"method":"Login","action":"503","count":0}`,
		`{"metod":"Login","action":"503"}`,
		`nonsense`,
	} {
		status, said := w.do(http.MethodPost, "/faults", body)
		var why struct{ Error string }
		if status != 400 || json.Unmarshal([]byte(said), &why) != nil || why.Error == "" {
			t.Errorf("%s: %d %s", body, status, said)
		}
	}
	if status, _ := w.do(http.MethodDelete, "/faults/9", ""); status != 404 {
		t.Errorf("removing a fault that is not there: %d", status)
	}
}
