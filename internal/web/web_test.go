package web

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nkeys"

	"afloat/internal/api"
	"afloat/internal/audit"
	"afloat/internal/bundle"
	"afloat/internal/kernel"
	"afloat/internal/server"
	"afloat/internal/wire"
)

// site is a running server with both its faces.
type site struct {
	server   *server.Server
	base     string // https://127.0.0.1:port
	agents   *http.Client
	operator *http.Client
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := server.Open(t.Context(), server.Config{Dir: dir, NATSListen: "127.0.0.1:0", Advertise: []string{"127.0.0.1"}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	socket := filepath.Join(dir, "s")
	ready := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	<-s.Ready()
	wg.Go(func() {
		err := Serve(ctx, Config{Server: s, Listen: []string{"127.0.0.1:0"}, Socket: socket, Log: log}, func() { close(ready) })
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); s.Close() })
	<-ready
	out := &site{server: s, base: s.URL()}
	out.operator = &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }}}
	var made api.TokenMade
	if code := post(t, out.operator, "http://x"+api.PathTokens, api.NewToken{}, &made); code != http.StatusOK {
		t.Fatalf("token: %d", code)
	}
	token, err := wire.ParseToken(made.Token)
	if err != nil {
		t.Fatal(err)
	}
	out.agents = pinned(t, out.base, token.CAHash)
	return out
}

// pinned trusts the CA that the server shows, as a joining agent does.
func pinned(t *testing.T, base, hash string) *http.Client {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(base, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	chain := conn.ConnectionState().PeerCertificates
	ca := chain[len(chain)-1]
	if got := strings.TrimPrefix(string(bundle.DigestOf(ca.Raw)), "sha256:"); got != hash {
		t.Fatalf("the chain ends with %s, the token pins %s", got, hash)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

func post(t *testing.T, c *http.Client, url string, in, out any) int {
	t.Helper()
	body, ok := in.([]byte)
	if !ok {
		var err error
		if body, err = json.Marshal(in); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := c.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, resp, out)
}

func decode(t *testing.T, resp *http.Response, out any) int {
	t.Helper()
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(data, out); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
	}
	return resp.StatusCode
}

func TestJoinAndRenewOverHTTPS(t *testing.T) {
	s := newSite(t)
	var made api.TokenMade
	post(t, s.operator, "http://x"+api.PathTokens, api.NewToken{}, &made)
	token, err := wire.ParseToken(made.Token)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := pair.Sign(wire.JoinBytes(token.ID, token.Secret, pub))
	if err != nil {
		t.Fatal(err)
	}
	req := wire.JoinRequest{Version: wire.Version, TokenID: token.ID, Secret: token.Secret, NKey: pub, Sig: sig}
	var joined wire.JoinReply
	if code := post(t, s.agents, s.base+wire.PathJoin, req, &joined); code != http.StatusOK || joined.JWT == "" {
		t.Fatalf("join: %d %+v", code, joined)
	}
	resp, err := s.agents.Get(s.base + wire.PathNonce)
	if err != nil {
		t.Fatal(err)
	}
	var nonce wire.Nonce
	if code := decode(t, resp, &nonce); code != http.StatusOK || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("nonce: %d %v", code, resp.Header)
	}
	for signed, want := range map[string]int{nonce.Nonce: http.StatusOK, "another": http.StatusForbidden} {
		sig, err := pair.Sign(wire.RenewBytes(joined.Host, pub, signed))
		if err != nil {
			t.Fatal(err)
		}
		code := post(t, s.agents, s.base+wire.PathRenew, wire.RenewRequest{Version: wire.Version, Host: joined.Host, NKey: pub,
			Nonce: nonce.Nonce, Sig: sig}, nil)
		if code != want {
			t.Errorf("renewal signed over %.7s: %d, want %d", signed, code, want)
		}
	}
}

func TestRequestsAreReadStrictly(t *testing.T) {
	s := newSite(t)
	for _, body := range []string{"", "{", `{"v":1,"unknown":2}`, `{} {}`, strings.Repeat(" ", wire.MaxMessage+1)} {
		var e api.Error
		if code := post(t, s.agents, s.base+wire.PathJoin, []byte(body), &e); code != http.StatusBadRequest || e.Error == "" {
			t.Errorf("join with %.20q: %d %+v", body, code, e)
		}
		if code := post(t, s.operator, "http://x"+api.PathTokens, []byte(body), &e); code != http.StatusBadRequest || e.Error == "" {
			t.Errorf("token with %.20q: %d %+v", body, code, e)
		}
	}
	if code := post(t, s.agents, s.base+api.PathTokens, []byte(`{}`), nil); code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
		t.Errorf("the operators' API answers hosts: %d", code)
	}
}

func TestBundleDownload(t *testing.T) {
	s := newSite(t)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	file, err := bundle.Seal(key, bundle.Manifest{Kind: bundle.KindLive, Name: "p", Module: "m",
		Kernel: kernel.ID{Release: "r", Version: "v", BuildID: "b"}}, []byte("payload"))
	if err != nil {
		t.Fatal(err)
	}
	var added api.Bundle
	if code := post(t, s.operator, "http://x"+api.PathBundles, file, &added); code != http.StatusOK {
		t.Fatalf("add: %d", code)
	}
	get := func(path string) (*http.Response, string) {
		resp, err := s.agents.Get(s.base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	resp, body := get(wire.PathBundle + string(added.Digest))
	if resp.StatusCode != http.StatusOK || body != string(file) || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("download: %d, %d bytes, %v", resp.StatusCode, len(body), resp.Header)
	}
	for path, want := range map[string]int{
		wire.PathBundle + string(bundle.DigestOf(nil)): http.StatusNotFound,
		wire.PathBundle + "sha256:..":                  http.StatusForbidden,
		wire.PathBundle + "..%2f..%2fidentity.json":    http.StatusForbidden,
		"/healthz": http.StatusOK,
	} {
		if resp, body := get(path); resp.StatusCode != want {
			t.Errorf("%s: %d %s, want %d", path, resp.StatusCode, body, want)
		}
	}
	if _, body := get("/metrics"); !strings.Contains(body, "afloat_hosts 0") || !strings.Contains(body, "afloat_epoch 1") {
		t.Errorf("metrics: %s", body)
	}
	var gone api.Bundle
	post(t, s.operator, "http://x"+api.PathWithdraw, api.Named{ID: added.Digest.Short(), Reason: "r"}, &gone)
	if resp, _ := get(wire.PathBundle + string(added.Digest)); resp.StatusCode != http.StatusForbidden || gone.State != "withdrawn" {
		t.Errorf("withdrawn bundle: %d, %+v", resp.StatusCode, gone)
	}
}

func TestPeerIsAudited(t *testing.T) {
	s := newSite(t)
	records, err := s.server.Audit(t.Context(), 0, 10)
	if err != nil || len(records) == 0 {
		t.Fatal(records, err)
	}
	if who := records[0].Who; who.Kind != audit.ActorOperator || who.UID == nil || who.Role != "admin" {
		t.Errorf("token made by %+v", who)
	}
}

func TestRoles(t *testing.T) {
	roles, err := ReadRoles(strings.NewReader("# who may\n12001 operator\n\n12002 admin # all\n"))
	if err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]Role{0: Admin, 12001: Operator, 12002: Admin, 12003: Viewer} {
		if got := roles.of(uid); got != want {
			t.Errorf("uid %d is %s, want %s", uid, got, want)
		}
	}
	for _, bad := range []string{"12001", "12001 king", "no-such-user-here viewer", "1 viewer x"} {
		if _, err := ReadRoles(strings.NewReader(bad)); err == nil {
			t.Errorf("roles %q were accepted", bad)
		}
	}
}
