package agent_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/enrol"
	"afloat/internal/fleet"
	"afloat/internal/store"
	"afloat/internal/wire"

	"github.com/nats-io/nats.go"
)

// testServer is the least that an agent can be enrolled with and led by: the
// real CA, tokens, JWTs and NATS server, and orders that the test sets.
type testServer struct {
	t        *testing.T
	identity *enrol.Identity
	nc       *nats.Conn
	url      string

	mu      sync.Mutex // guards what follows
	tokens  map[string]enrol.Token
	hosts   map[fleet.HostID]enrol.Registration
	desired map[fleet.HostID]wire.Signed
	permits map[fleet.HostID]wire.Signed
	bundles map[bundle.Digest][]byte
	reports map[fleet.HostID][]wire.Report
	beats   int
	changed chan struct{}
}

func startServer(t *testing.T) *testServer {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	identity, err := enrol.Load(root)
	must(t, err)
	must(t, root.Close())
	s := &testServer{
		t: t, identity: identity, tokens: map[string]enrol.Token{}, hosts: map[fleet.HostID]enrol.Registration{},
		desired: map[fleet.HostID]wire.Signed{}, permits: map[fleet.HostID]wire.Signed{},
		bundles: map[bundle.Digest][]byte{}, reports: map[fleet.HostID][]wire.Report{}, changed: make(chan struct{}, 1),
	}
	e, err := store.Embed(store.EmbedConfig{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", TLS: identity.CA().TLS([]string{"127.0.0.1"}), Identity: identity, Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	t.Cleanup(e.Close)
	s.nc, err = e.Connect()
	must(t, err)
	t.Cleanup(s.nc.Close)
	s.subscribe()
	addr, err := e.Accept()
	must(t, err)
	desk := enrol.NewDesk(identity, s, []string{"tls://" + addr.String()})
	web := httptest.NewUnstartedServer(s.handler(desk))
	web.Listener = tls.NewListener(web.Listener, identity.CA().TLS([]string{"127.0.0.1"}))
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	web.Start()
	t.Cleanup(web.Close)
	s.url = "https://" + web.Listener.Addr().String()
	return s
}

func (s *testServer) subscribe() {
	for subject, handle := range map[string]func(fleet.HostID, *nats.Msg){
		wire.AllReports: s.onReport, wire.AllRequests: s.onOrders,
		wire.AllBeats: func(fleet.HostID, *nats.Msg) { s.locked(func() { s.beats++ }) },
	} {
		_, err := s.nc.Subscribe(subject, func(m *nats.Msg) {
			id, err := wire.SubjectHost(m.Subject)
			if err != nil {
				s.t.Error(err)
				return
			}
			handle(id, m)
		})
		must(s.t, err)
	}
}

func (s *testServer) locked(f func()) {
	s.mu.Lock()
	f()
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *testServer) onReport(id fleet.HostID, m *nats.Msg) {
	r, err := wire.DecodeReport(m.Data)
	if err != nil {
		s.t.Error(err)
		return
	}
	s.locked(func() { s.reports[id] = append(s.reports[id], r) })
	if err := m.Respond(nil); err != nil {
		s.t.Error(err)
	}
}

func (s *testServer) onOrders(id fleet.HostID, m *nats.Msg) {
	var o wire.Orders
	have := false
	s.locked(func() {
		o.Desired, have = s.desired[id]
		if p, ok := s.permits[id]; ok {
			o.Permit = &p
		}
	})
	if !have {
		return
	}
	data, err := json.Marshal(o)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		s.t.Error(err)
	}
}

func (s *testServer) handler(desk *enrol.Desk) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathJoin, func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, func(req wire.JoinRequest) (any, error) {
			reply, reg, err := desk.Join(r.Context(), req, time.Now())
			s.locked(func() { s.hosts[reg.Host] = reg })
			return reply, err
		})
	})
	mux.HandleFunc("GET "+wire.PathNonce, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, desk.Nonce(time.Now()), nil)
	})
	mux.HandleFunc("POST "+wire.PathRenew, func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, func(req wire.RenewRequest) (any, error) { return desk.Renew(r.Context(), req, time.Now()) })
	})
	mux.HandleFunc("GET "+wire.PathBundle+"{digest}", func(w http.ResponseWriter, r *http.Request) {
		var file []byte
		s.locked(func() { file = s.bundles[bundle.Digest(r.PathValue("digest"))] })
		if file == nil {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(file)
	})
	return mux
}

func answer[Q any](w http.ResponseWriter, r *http.Request, f func(Q) (any, error)) {
	var q Q
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	v, err := f(q)
	reply(w, v, err)
}

func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	_ = json.NewEncoder(w).Encode(v)
}

// Registry of enrol.

func (s *testServer) ChangeToken(_ context.Context, id string, change func(enrol.Token) (enrol.Token, error)) (err error) {
	s.locked(func() {
		t, ok := s.tokens[id]
		if !ok {
			err = enrol.ErrNotFound
			return
		}
		if t, err = change(t); err == nil {
			s.tokens[id] = t
		}
	})
	return err
}

func (s *testServer) AddHost(_ context.Context, r enrol.Registration) error {
	s.locked(func() { s.hosts[r.Host] = r })
	return nil
}

func (s *testServer) Host(_ context.Context, id fleet.HostID) (r enrol.Registration, err error) {
	s.locked(func() {
		var ok bool
		if r, ok = s.hosts[id]; !ok {
			err = enrol.ErrNotFound
		}
	})
	return r, err
}

func (s *testServer) token() string {
	w, t, err := enrol.NewToken(s.identity.CA().Hash(), enrol.TokenOptions{Mode: fleet.ModeAct}, time.Now())
	must(s.t, err)
	s.locked(func() { s.tokens[t.ID] = t })
	return w.String()
}

// order sets what a host should be and nudges it.
func (s *testServer) order(d wire.Desired) {
	s.t.Helper()
	d.Version = wire.Version
	signed, err := wire.Sign(s.identity.OrdersKey(), wire.ContextDesired, d)
	must(s.t, err)
	s.send(d.Host, signed)
}

func (s *testServer) send(id fleet.HostID, signed wire.Signed) {
	s.locked(func() { s.desired[id] = signed })
	s.nudge(id)
}

func (s *testServer) nudge(id fleet.HostID) { must(s.t, s.nc.Publish(wire.NudgeSubject(id), nil)) }

func (s *testServer) permit(id fleet.HostID, p wire.Permit) {
	s.t.Helper()
	p.Version = wire.Version
	signed, err := wire.Sign(s.identity.OrdersKey(), wire.ContextPermit, p)
	must(s.t, err)
	s.locked(func() { s.permits[id] = signed })
	s.nudge(id)
}

// publish makes a bundle available and returns its digest.
func (s *testServer) publish(file []byte) bundle.Digest {
	d := bundle.DigestOf(file)
	s.locked(func() { s.bundles[d] = file })
	return d
}

// wait returns the first report of a host, sent since the call or the last
// before it, for which ok holds.
func (s *testServer) wait(id fleet.HostID, what string, ok func(wire.Report) bool) wire.Report {
	s.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	from := -1
	for {
		var reports []wire.Report
		s.locked(func() { reports = slices.Clone(s.reports[id]) })
		if from < 0 {
			from = max(0, len(reports)-1)
		}
		for _, r := range reports[from:] {
			if ok(r) {
				return r
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline.C:
			last, _ := json.MarshalIndent(reports[max(0, len(reports)-1):], "", " ")
			s.t.Fatalf("no report with %s; the last is %s", what, last)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// publisher is a key pair whose public half is in a file.
type publisher struct {
	key  ed25519.PrivateKey
	path string
}

func newPublisher(t *testing.T) publisher {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	_, public, err := bundle.EncodeKeys(key)
	must(t, err)
	p := publisher{key: key, path: filepath.Join(t.TempDir(), "publisher.pub")}
	must(t, os.WriteFile(p.path, public, 0o644))
	return p
}

func isRefused(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "403") || errors.Is(err, net.ErrClosed))
}
