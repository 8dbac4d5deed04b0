package enrol

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"afloat/internal/fleet"
	"afloat/internal/wire"
)

var now = time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)

// shelf is a Registry in memory; the store's own is tested by its suite.
type shelf struct {
	mu     sync.Mutex // guards both
	tokens map[string]Token
	hosts  map[fleet.HostID]Registration
}

func (s *shelf) ChangeToken(_ context.Context, id string, change func(Token) (Token, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.tokens[id]
	if !ok {
		return ErrNotFound
	}
	next, err := change(old)
	if err == nil {
		s.tokens[id] = next
	}
	return err
}

func (s *shelf) AddHost(_ context.Context, r Registration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.hosts[r.Host]; !ok {
		s.hosts[r.Host] = r
	}
	return nil
}

func (s *shelf) Host(_ context.Context, id fleet.HostID) (Registration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.hosts[id]
	if !ok {
		return r, ErrNotFound
	}
	return r, nil
}

type bench struct {
	*Desk
	shelf    *shelf
	identity *Identity
}

func newBench(t *testing.T) *bench {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	id, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{tokens: map[string]Token{}, hosts: map[fleet.HostID]Registration{}}
	return &bench{Desk: NewDesk(id, s, []string{"tls://x:1"}), shelf: s, identity: id}
}

func (b *bench) token(t *testing.T, o TokenOptions) wire.Token {
	t.Helper()
	wt, rec, err := NewToken(b.identity.CA().Hash(), o, now)
	if err != nil {
		t.Fatal(err)
	}
	b.shelf.tokens[rec.ID] = rec
	return wt
}

func newKey(t *testing.T) (nkeys.KeyPair, string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pair, pub
}

func sign(t *testing.T, pair nkeys.KeyPair, data []byte) []byte {
	t.Helper()
	sig, err := pair.Sign(data)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func joinReq(t *testing.T, wt wire.Token) (wire.JoinRequest, nkeys.KeyPair) {
	t.Helper()
	pair, pub := newKey(t)
	return wire.JoinRequest{Version: wire.Version, TokenID: wt.ID, Secret: wt.Secret, NKey: pub, Name: "web1",
		Labels: fleet.Labels{"zone": "a", "tier": "mine"}, Sig: sign(t, pair, wire.JoinBytes(wt.ID, wt.Secret, pub))}, pair
}

func isRefused(err error, part string) bool {
	r, ok := errors.AsType[*RefusedError](err)
	return ok && strings.Contains(r.Reason, part)
}

func TestJoin(t *testing.T) {
	b := newBench(t)
	wt := b.token(t, TokenOptions{Mode: fleet.ModeAct, Labels: fleet.Labels{"tier": "rc"}})
	req, _ := joinReq(t, wt)
	reply, reg, err := b.Join(t.Context(), req, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.ParseHostID(string(reply.Host)); err != nil || len(reply.Host) != 26 {
		t.Errorf("host id %q: %v", reply.Host, err)
	}
	if reg.Mode != fleet.ModeAct || reg.Labels.String() != "tier=rc,zone=a" {
		t.Errorf("registration %+v: the token's labels must win", reg)
	}
	claims, err := jwt.DecodeUserClaims(reply.JWT)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Name != string(reply.Host) || claims.Subject != req.NKey || !claims.HasEmptyPermissions() ||
		claims.Expires != now.Add(UserLife).Unix() || claims.BearerToken {
		t.Errorf("jwt %+v", claims)
	}
}

func TestTokenIsBurnt(t *testing.T) {
	b := newBench(t)
	wt := b.token(t, TokenOptions{})
	req, _ := joinReq(t, wt)
	first, _, err := b.Join(t.Context(), req, now)
	if err != nil {
		t.Fatal(err)
	}
	second, _ := joinReq(t, wt)
	if _, _, err := b.Join(t.Context(), second, now); !isRefused(err, "used up") {
		t.Errorf("second host: %v", err)
	}
	again, _, err := b.Join(t.Context(), req, now.Add(2*time.Hour)) // its answer may have been lost
	if err != nil || again.Host != first.Host {
		t.Errorf("same key again: %v, host %s and %s", err, again.Host, first.Host)
	}
	if len(b.shelf.hosts) != 1 {
		t.Errorf("%d hosts", len(b.shelf.hosts))
	}
	reg := b.shelf.hosts[first.Host]
	reg.Revoked = now
	b.shelf.hosts[first.Host] = reg
	if _, _, err := b.Join(t.Context(), req, now); !isRefused(err, "revoked") {
		t.Errorf("revoked host joined again: %v", err)
	}
}

func TestJoinRefusals(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		at         time.Duration
		spoil      func(*bench, *wire.JoinRequest)
	}{
		{"wrong secret", "signature", 0, func(_ *bench, r *wire.JoinRequest) { r.Secret = "x" }},
		{"expired", "expired", 61 * time.Minute, func(*bench, *wire.JoinRequest) {}},
		{"wildcard token", "malformed", 0, func(_ *bench, r *wire.JoinRequest) { r.TokenID = "*" }},
		{"wrong version", "version", 0, func(_ *bench, r *wire.JoinRequest) { r.Version = 9 }},
		{"not a user key", "nkey", 0, func(_ *bench, r *wire.JoinRequest) { r.NKey = "A" + r.NKey[1:] }},
		{"forged signature", "signature", 0, func(_ *bench, r *wire.JoinRequest) { r.Sig[0] ^= 1 }},
		{"long name", "too long", 0, func(_ *bench, r *wire.JoinRequest) { r.Name = strings.Repeat("x", 300) }},
		{"revoked token", "revoked", 0, func(b *bench, r *wire.JoinRequest) {
			k := b.shelf.tokens[r.TokenID]
			k.Revoked = true
			b.shelf.tokens[r.TokenID] = k
		}},
		{"token gone", "not known", 0, func(b *bench, r *wire.JoinRequest) { delete(b.shelf.tokens, r.TokenID) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			req, _ := joinReq(t, b.token(t, TokenOptions{}))
			tc.spoil(b, &req)
			if _, _, err := b.Join(t.Context(), req, now.Add(tc.at)); !isRefused(err, tc.want) {
				t.Errorf("err = %v, want a refusal with %q", err, tc.want)
			}
			if len(b.shelf.hosts) != 0 {
				t.Error("a host was recorded")
			}
		})
	}
}

func TestSecretIsCheckedBehindTheSignature(t *testing.T) {
	b := newBench(t)
	wt := b.token(t, TokenOptions{})
	wt.Secret = base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	req, _ := joinReq(t, wt)
	if _, _, err := b.Join(t.Context(), req, now); !isRefused(err, "secret is wrong") {
		t.Errorf("err = %v", err)
	}
}

func TestNobodyIsNamedStar(t *testing.T) {
	b := newBench(t)
	_, pub := newKey(t)
	for _, id := range []fleet.HostID{"*", ">", "a.b", "", "A", "a b"} {
		if _, _, err := b.identity.issue(id, pub, now); err == nil {
			t.Errorf("a jwt was issued for %q", id)
		}
	}
}

func TestRenew(t *testing.T) {
	b := newBench(t)
	req, pair := joinReq(t, b.token(t, TokenOptions{}))
	joined, _, err := b.Join(t.Context(), req, now)
	if err != nil {
		t.Fatal(err)
	}
	other, otherPub := newKey(t)
	renewal := func(nonce string, signer nkeys.KeyPair, nkey string) wire.RenewRequest {
		return wire.RenewRequest{Version: wire.Version, Host: joined.Host, NKey: nkey, Nonce: nonce,
			Sig: sign(t, signer, wire.RenewBytes(joined.Host, nkey, nonce))}
	}
	good := b.Nonce(now).Nonce
	foreign := newBench(t).Nonce(now).Nonce
	for _, tc := range []struct {
		name, want string
		req        wire.RenewRequest
		at         time.Time
	}{
		{"in order", "", renewal(good, pair, req.NKey), now.Add(time.Minute)},
		{"stale nonce", "old", renewal(good, pair, req.NKey), now.Add(3 * time.Minute)},
		{"nonce of another server", "not made", renewal(foreign, pair, req.NKey), now},
		{"no nonce", "malformed", renewal("", pair, req.NKey), now},
		{"changed nonce", "not made", renewal("B"+good[1:], pair, req.NKey), now},
		{"another's signature", "signature", renewal(good, other, req.NKey), now},
		{"another's key", "another key", renewal(good, other, otherPub), now},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reply, err := b.Renew(t.Context(), tc.req, tc.at)
			if tc.want == "" {
				if err != nil || !reply.Expires.Equal(tc.at.Add(UserLife)) {
					t.Errorf("reply %+v, err %v", reply, err)
				}
				return
			}
			if !isRefused(err, tc.want) {
				t.Errorf("err = %v, want a refusal with %q", err, tc.want)
			}
		})
	}
	reg := b.shelf.hosts[joined.Host]
	reg.Revoked = now
	b.shelf.hosts[joined.Host] = reg
	if _, err := b.Renew(t.Context(), renewal(good, pair, req.NKey), now); !isRefused(err, "revoked") {
		t.Errorf("revoked host renewed: %v", err)
	}
}

func TestIdentityIsKept(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	a, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	if a.CA().Hash() != b.CA().Hash() || !a.orders.Equal(b.orders) {
		t.Error("the second start made other keys")
	}
	info, err := os.Stat(dir + "/" + identityFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for _, broken := range []string{"", "{", "{}", `{"unknown":1}`} {
		if err := os.WriteFile(dir+"/"+identityFile, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(root); err == nil {
			t.Errorf("identity %q was accepted", broken)
		}
	}
}

func TestCertificate(t *testing.T) {
	b := newBench(t)
	conf := b.identity.CA().TLS([]string{"afloat.example.org", "10.0.2.2"})
	cert, err := conf.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"afloat.example.org", "10.0.2.2"} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: b.identity.CA().Pool(), DNSName: name}); err != nil {
			t.Error(err)
		}
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: b.identity.CA().Pool(), DNSName: "other"}); err == nil {
		t.Error("a name that was not asked for verifies")
	}
	if last := cert.Certificate[len(cert.Certificate)-1]; string(last) != string(b.identity.CA().cert.Raw) {
		t.Error("the chain does not end with the CA")
	}
	i := &issuer{ca: b.identity.CA()}
	first, err := i.current(now)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		after time.Duration
		same  bool
	}{{serverLife / 2, true}, {serverLife * 3 / 4, false}} {
		next, err := i.current(now.Add(tc.after))
		if err != nil || (next == first) != tc.same {
			t.Errorf("after %s: same certificate is %v, %v", tc.after, next == first, err)
		}
	}
}

func TestTokenOptions(t *testing.T) {
	for _, o := range []TokenOptions{{TTL: -1}, {TTL: 200 * 24 * time.Hour}, {Uses: -1}, {Uses: 1 << 20}, {Mode: "rm"}} {
		if _, _, err := NewToken("h", o, now); !isRefused(err, "cannot") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
