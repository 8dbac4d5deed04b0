package store

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"afloat/internal/enrol"
	"afloat/internal/fleet"
	"afloat/internal/wire"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		victim(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// rig is an embedded server with its store and desk, and no hosts yet.
type rig struct {
	embedded *Embedded
	store    *Store
	desk     *enrol.Desk
	identity *enrol.Identity
	url      string
}

func newRig(t *testing.T, dir string) *rig {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	identity, err := enrol.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Embed(EmbedConfig{Dir: dir + "/jetstream", Listen: "127.0.0.1:0", Identity: identity,
		TLS: identity.CA().TLS([]string{"127.0.0.1"}), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	nc, err := e.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	s, err := Open(t.Context(), nc, Options{Replicas: 1, Bundles: root})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := e.Accept()
	if err != nil {
		t.Fatal(err)
	}
	url := "tls://" + addr.String()
	return &rig{embedded: e, store: s, identity: identity, url: url,
		desk: enrol.NewDesk(identity, s, []string{url})}
}

// member is an enrolled host.
type member struct {
	id   fleet.HostID
	pair nkeys.KeyPair
	jwt  string
	errs chan error
	gone chan struct{}
}

func (r *rig) join(t *testing.T) *member {
	t.Helper()
	wt, rec, err := enrol.NewToken(r.identity.CA().Hash(), enrol.TokenOptions{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.AddToken(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	reply, _, err := r.desk.Join(t.Context(), joinRequest(t, wt, pair), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &member{id: reply.Host, pair: pair, jwt: reply.JWT, errs: make(chan error, 16), gone: make(chan struct{}, 4)}
}

func joinRequest(t *testing.T, wt wire.Token, pair nkeys.KeyPair) wire.JoinRequest {
	t.Helper()
	pub, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := pair.Sign(wire.JoinBytes(wt.ID, wt.Secret, pub))
	if err != nil {
		t.Fatal(err)
	}
	return wire.JoinRequest{Version: wire.Version, TokenID: wt.ID, Secret: wt.Secret, NKey: pub, Name: "h", Sig: sig}
}

func (r *rig) connect(t *testing.T, m *member) (*nats.Conn, error) {
	t.Helper()
	nc, err := nats.Connect(r.url,
		nats.UserJWT(func() (string, error) { return m.jwt, nil }, m.pair.Sign),
		nats.CustomInboxPrefix(wire.InboxPrefix(m.id)), nats.RootCAs(caFile(t, r)),
		nats.NoReconnect(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { m.errs <- err }),
		nats.ClosedHandler(func(*nats.Conn) { m.gone <- struct{}{} }))
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

func caFile(t *testing.T, r *rig) string {
	t.Helper()
	name := t.TempDir() + "/ca.pem"
	if err := os.WriteFile(name, r.identity.CA().PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func wait[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

func TestHostSpeaksOnlyForItself(t *testing.T) {
	r := newRig(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan Violation, 16)
	done := make(chan struct{})
	go func() { defer close(done); r.embedded.Violations(ctx, func(v Violation) { seen <- v }) }()
	defer func() { cancel(); <-done }()

	a, b := r.join(t), r.join(t)
	nc, err := r.connect(t, a)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, what, subject string
		try                 func(string) error
	}{
		{"publish as another", "publish", wire.ReportSubject(b.id), func(s string) error { return nc.Publish(s, []byte("x")) }},
		{"publish a nudge", "publish", wire.NudgeSubject(a.id), func(s string) error { return nc.Publish(s, nil) }},
		{"publish to the log", "publish", "afloat.log.events", func(s string) error { return nc.Publish(s, nil) }},
		{"call the JetStream API", "publish", "$JS.API.STREAM.NAMES", func(s string) error { return nc.Publish(s, nil) }},
		{"read another's nudges", "subscribe", wire.NudgeSubject(b.id), func(s string) error { _, err := nc.SubscribeSync(s); return err }},
		{"read every nudge", "subscribe", "afloat.down.>", func(s string) error { _, err := nc.SubscribeSync(s); return err }},
		{"read every report", "subscribe", wire.AllReports, func(s string) error { _, err := nc.SubscribeSync(s); return err }},
		{"read everything", "subscribe", ">", func(s string) error { _, err := nc.SubscribeSync(s); return err }},
		{"read another's replies", "subscribe", wire.InboxPrefix(b.id) + ".>", func(s string) error { _, err := nc.SubscribeSync(s); return err }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := tc.try(tc.subject); err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := wait(t, "refusal", a.errs); !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
				t.Errorf("refused with %v", err)
			}
			v := wait(t, "violation", seen)
			if v.Host != a.id || v.What != tc.what || !strings.Contains(v.Detail, tc.subject) {
				t.Errorf("violation %+v, want %s of %s by %s", v, tc.what, tc.subject, a.id)
			}
		})
	}
	sub, err := nc.SubscribeSync(wire.NudgeSubject(a.id))
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	own, err := r.embedded.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if err := own.Publish(wire.NudgeSubject(a.id), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.NextMsg(10 * time.Second); err != nil {
		t.Errorf("own nudge: %v", err)
	}
}

func TestForeignKeysAreRefused(t *testing.T) {
	r := newRig(t, t.TempDir())
	a := r.join(t)
	other, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := a.pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	forged := jwt.NewUserClaims(pub)
	forged.Name = "forged"
	forgedJWT, err := forged.Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		m    *member
	}{
		{"another key with this jwt", &member{id: a.id, pair: other, jwt: a.jwt}},
		{"a jwt signed by nobody known", &member{id: a.id, pair: a.pair, jwt: forgedJWT}},
		{"no jwt", &member{id: a.id, pair: a.pair}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.m.errs, tc.m.gone = make(chan error, 4), make(chan struct{}, 4)
			if nc, err := r.connect(t, tc.m); err == nil {
				t.Errorf("connected as %s", nc.Opts.Name)
			}
		})
	}
}

func TestRevocationDropsTheConnection(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir)
	a, b := r.join(t), r.join(t)
	if _, err := r.connect(t, a); err != nil {
		t.Fatal(err)
	}
	ncB, err := r.connect(t, b)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := a.pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.embedded.Revoke(map[string]time.Time{pub: time.Now()}); err != nil {
		t.Fatal(err)
	}
	wait(t, "end of the revoked connection", a.gone)
	if _, err := r.connect(t, a); err == nil {
		t.Error("a revoked host connected again")
	}
	if err := ncB.Flush(); err != nil {
		t.Errorf("the other host was disturbed: %v", err)
	}
}
