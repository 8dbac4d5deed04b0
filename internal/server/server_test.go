package server

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"afloat/internal/audit"
	"afloat/internal/bundle"
	"afloat/internal/enrol"
	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var operator = audit.Actor{Kind: audit.ActorOperator, Name: "root", Role: "admin", UID: new(uint32(0))}

var stranger = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4711}

// running is a server under test.
type running struct {
	*Server
	dir  string
	stop func()
}

// start runs a server over dir until the test ends or stop is called.
func start(t *testing.T, dir string, tune func(*Config)) *running {
	t.Helper()
	cfg := Config{Dir: dir, NATSListen: "127.0.0.1:0", Advertise: []string{"127.0.0.1"}, Version: "test",
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if tune != nil {
		tune(&cfg)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop := sync.OnceFunc(func() { cancel(); wg.Wait(); s.Close() })
	t.Cleanup(stop)
	<-s.Ready()
	return &running{Server: s, dir: dir, stop: stop}
}

// guest is a host that says what the test makes it say.
type guest struct {
	id    fleet.HostID
	pair  nkeys.KeyPair
	nkey  string
	reply wire.JoinReply
	nc    *nats.Conn
	seq   uint64
}

func (r *running) token(t *testing.T, o enrol.TokenOptions) wire.Token {
	t.Helper()
	token, _, err := r.NewToken(t.Context(), operator, o)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (r *running) ask(t *testing.T, token wire.Token, pair nkeys.KeyPair, labels fleet.Labels) (wire.JoinReply, error) {
	t.Helper()
	pub, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := pair.Sign(wire.JoinBytes(token.ID, token.Secret, pub))
	if err != nil {
		t.Fatal(err)
	}
	return r.Join(t.Context(), wire.JoinRequest{Version: wire.Version, TokenID: token.ID, Secret: token.Secret, NKey: pub,
		Name: "guest", Labels: labels, Sig: sig}, stranger)
}

func (r *running) join(t *testing.T, o enrol.TokenOptions) *guest {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	reply, err := r.ask(t, r.token(t, o), pair, nil)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{id: reply.Host, pair: pair, reply: reply}
	if g.nkey, err = pair.PublicKey(); err != nil {
		t.Fatal(err)
	}
	g.connect(t, reply.NATS[0])
	return g
}

func (g *guest) connect(t *testing.T, url string) {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(g.reply.CA), 0o600); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(url, nats.RootCAs(ca), nats.CustomInboxPrefix(wire.InboxPrefix(g.id)), nats.NoReconnect(),
		nats.UserJWT(func() (string, error) { return g.reply.JWT, nil }, g.pair.Sign),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	g.nc = nc
}

var testKernel = kernel.ID{Release: "6.1.0-55-amd64", Version: "#1 SMP Debian 6.1.192-1", BuildID: "0123456789abcdef"}

// say sends a report and waits until the server has it.
func (g *guest) say(t *testing.T, change func(*wire.Report)) {
	t.Helper()
	g.seq++
	r := wire.Report{Version: wire.Version, Host: g.id, Seq: g.seq, Boot: "boot-1", Kernel: testKernel, Name: "guest",
		Mode: fleet.ModeAct, Phase: wire.PhaseIdle, UptimeS: 1000}
	if change != nil {
		change(&r)
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.nc.Request(wire.ReportSubject(g.id), data, 20*time.Second); err != nil {
		t.Fatalf("report: %v", err)
	}
}

// orders asks what the host should be, and verifies the answer.
func (g *guest) orders(t *testing.T) (wire.Desired, *wire.Permit) {
	t.Helper()
	m, err := g.nc.Request(wire.OrdersSubject(g.id), nil, 20*time.Second)
	if err != nil {
		t.Fatalf("orders: %v", err)
	}
	var o wire.Orders
	if err := wire.Decode(m.Data, &o); err != nil {
		t.Fatal(err)
	}
	d, err := wire.OpenDesired(g.reply.ServerKey, o.Desired, g.id)
	if err != nil {
		t.Fatal(err)
	}
	if o.Permit == nil {
		return d, nil
	}
	p, err := wire.OpenPermit(g.reply.ServerKey, *o.Permit)
	if err != nil {
		t.Fatal(err)
	}
	return d, &p
}

// trail waits until the audit has a record that matches, and returns it.
func (r *running) trail(t *testing.T, what string, match func(audit.Record) bool) audit.Record {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		records, err := r.Audit(t.Context(), 0, 10000)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := audit.Verify(records); err != nil {
			t.Fatal(err)
		}
		for _, rec := range records {
			if rec.What == what && match(rec) {
				return rec
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s in the audit: %+v", what, records)
		}
	}
}

func isRefused(err error, part string) bool {
	r, ok := errors.AsType[*RefusedError](err)
	return ok && strings.Contains(r.Reason, part)
}

func TestReplayedTokenIsRefusedAndAudited(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	token := s.token(t, enrol.TokenOptions{})
	for i, want := range []string{"", "used up"} {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.ask(t, token, pair, nil)
		if want == "" && err != nil || want != "" && !isRefused(err, want) {
			t.Errorf("use %d: %v", i+1, err)
		}
	}
	rec := s.trail(t, "host.join", func(r audit.Record) bool { return r.Outcome == audit.Refused })
	if rec.Who.Kind != audit.ActorStranger || rec.Who.Name != "192.0.2.1" || !strings.Contains(rec.Reason, "used up") {
		t.Errorf("record %+v", rec)
	}
}

func TestPublishAsAnotherIsRefusedAndAudited(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	a, b := s.join(t, enrol.TokenOptions{}), s.join(t, enrol.TokenOptions{})
	data, err := json.Marshal(wire.Report{Version: wire.Version, Host: b.id, Boot: "forged", Phase: wire.PhaseApplied})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.nc.Publish(wire.ReportSubject(b.id), data); err != nil {
		t.Fatal(err)
	}
	s.trail(t, "nats.publish", func(r audit.Record) bool {
		return r.Outcome == audit.Refused && r.Who.Name == string(a.id) && strings.Contains(r.Target, string(b.id))
	})
	// Its own subject, but another's name in the body.
	if err := a.nc.Publish(wire.ReportSubject(a.id), data); err != nil {
		t.Fatal(err)
	}
	s.trail(t, "host.report", func(r audit.Record) bool {
		return r.Outcome == audit.Refused && r.Who.Name == string(a.id) && strings.Contains(r.Reason, string(b.id))
	})
	views, err := s.Hosts(t.Context(), fleet.Selector{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range views {
		if v.Report.Boot != "" {
			t.Errorf("host %s has boot %s", v.Registration.Host, v.Report.Boot)
		}
	}
}

func TestRefusalsOfHostsAreAuditedOnce(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	g := s.join(t, enrol.TokenOptions{})
	for range 3 {
		g.say(t, func(r *wire.Report) {
			r.Refusals = []wire.Refusal{{ID: "r1", What: "bundle", Reason: "signed by no publisher this host trusts"},
				{ID: "r2", What: "desired", Reason: "generation 1 is below 2"}}
		})
	}
	s.trail(t, "desired.apply", func(r audit.Record) bool { return r.Who.Name == string(g.id) })
	records, err := s.Audit(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, r := range records {
		if r.What == "bundle.apply" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the refused bundle is in the audit %d times", n)
	}
	s.stop()
	again := start(t, s.dir, nil)
	g.connect(t, again.url(t))
	g.say(t, func(r *wire.Report) {
		r.Refusals = []wire.Refusal{{ID: "r1", What: "bundle", Reason: "signed by no publisher this host trusts"}}
	})
	after, err := again.Audit(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(records) {
		t.Errorf("%d records after the restart, %d before", len(after), len(records))
	}
}

func (r *running) url(t *testing.T) string {
	t.Helper()
	return natsURLs([]string{"127.0.0.1"}, r.NATSAddr())[0]
}

func TestRevokedHostStaysOut(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	g := s.join(t, enrol.TokenOptions{})
	g.say(t, nil)
	gone := make(chan struct{})
	g.nc.SetClosedHandler(func(*nats.Conn) { close(gone) })
	if err := s.RevokeHost(t.Context(), operator, string(g.id), "sold"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Fatal("the connection was not dropped")
	}
	nonce := s.Nonce().Nonce
	sig, err := g.pair.Sign(wire.RenewBytes(g.id, g.nkey, nonce))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Renew(t.Context(), wire.RenewRequest{Version: wire.Version, Host: g.id, NKey: g.nkey, Nonce: nonce, Sig: sig}, stranger)
	if !isRefused(err, "revoked") {
		t.Errorf("renewal: %v", err)
	}
	s.stop()
	again := start(t, s.dir, nil)
	if nc, err := nats.Connect(again.url(t), nats.Secure(&tls.Config{RootCAs: again.identity.CA().Pool()}),
		nats.UserJWT(func() (string, error) { return g.reply.JWT, nil }, g.pair.Sign)); err == nil {
		nc.Close()
		t.Error("a revoked host connected to the restarted server")
	}
	again.trail(t, "nats.connect", func(r audit.Record) bool { return r.Outcome == audit.Refused })
}

func TestModeIsOrdered(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	g := s.join(t, enrol.TokenOptions{Labels: fleet.Labels{"tier": "rc"}})
	g.say(t, func(r *wire.Report) { r.Labels = fleet.Labels{"tier": "prod", "zone": "a", "host": "another"} })
	if d, _ := g.orders(t); d.Mode != fleet.ModeObserve || d.Epoch != 1 || d.Live != "" || d.Generation == 0 {
		t.Errorf("desired %+v", d)
	}
	for text, want := range map[string]int{"tier=prod": 0, "host=another": 0, "tier=rc,zone=a": 1} {
		sel, err := fleet.ParseSelector(text)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := s.SetMode(t.Context(), operator, sel, fleet.ModeAct)
		if err != nil || len(ids) != want {
			t.Errorf("%s: changed %v, %v", text, ids, err)
		}
	}
	if d, _ := g.orders(t); d.Mode != fleet.ModeAct {
		t.Errorf("desired %+v", d)
	}
	s.stop()
	again := start(t, s.dir, nil)
	g.connect(t, again.url(t))
	if d, _ := g.orders(t); d.Mode != fleet.ModeAct || d.Epoch != 2 {
		t.Errorf("after the restart: desired %+v", d)
	}
}

func seal(t *testing.T, key ed25519.PrivateKey, name string) []byte {
	t.Helper()
	file, err := bundle.Seal(key, bundle.Manifest{Kind: bundle.KindLive, Name: name, Module: "afloat_test", Kernel: testKernel},
		[]byte("payload of "+name))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCatalog(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, t.TempDir(), func(c *Config) { c.Publishers = []ed25519.PublicKey{pub} })
	good := seal(t, key, "p1")
	flipped := append([]byte{}, good...)
	flipped[len(flipped)-1] ^= 1
	other, err := bundle.Seal(key, bundle.Manifest{Kind: bundle.KindLive, Name: "p1", Module: "other", Kernel: testKernel}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, want string
		file       []byte
	}{
		{"good", "", good},
		{"good again", "", good},
		{"flipped bit", "damaged", flipped},
		{"unknown publisher", "publisher", seal(t, foreign, "p2")},
		{"same name and kernel", "another one named p1", other},
		{"no bundle", "damaged", []byte("hello")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := s.AddBundle(t.Context(), operator, tc.file)
			if tc.want == "" && err != nil || tc.want != "" && !isRefused(err, tc.want) {
				t.Fatal(err)
			}
			if tc.want != "" {
				s.trail(t, "bundle.add", func(r audit.Record) bool {
					return r.Outcome == audit.Refused && r.Target == string(bundle.DigestOf(tc.file))
				})
			}
		})
	}
	g := s.join(t, enrol.TokenOptions{})
	d := bundle.DigestOf(good)
	if _, err := s.Withdraw(t.Context(), operator, d.Short(), "oops"); err != nil {
		t.Fatal(err)
	}
	if order, _ := g.orders(t); len(order.Withdrawn) != 1 || order.Withdrawn[0] != d {
		t.Errorf("withdrawn %v", order.Withdrawn)
	}
	if _, err := s.OpenBundle(t.Context(), d); !isRefused(err, "withdrawn") {
		t.Errorf("withdrawn bundle: %v", err)
	}
	if _, err := s.AddBundle(t.Context(), operator, good); !isRefused(err, "withdrawn") {
		t.Errorf("withdrawn bundle came back: %v", err)
	}
}

func TestStateDirectoryIsLocked(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	_, err := Open(t.Context(), Config{Dir: s.dir, NATSListen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, ErrRunning) {
		t.Errorf("second server: %v, want ErrRunning", err)
	}
}
