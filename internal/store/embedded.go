// Package store keeps what afloat must not lose in NATS with JetStream: the
// rollout log, the catalog, the hosts, the join tokens, the audit chain, and
// the leader's lease and epoch. It also runs the embedded NATS server that
// carries both the store and the hosts' connections.
//
// One writer decides what is written (the server); the store makes each write
// conditional, so that a second writer is told ErrConflict instead of being obeyed.
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"afloat/internal/enrol"
)

// EmbedConfig is what the embedded NATS server needs.
type EmbedConfig struct {
	Dir      string // JetStream's own folder
	Listen   string // HOST:PORT for hosts; port 0 picks one
	TLS      *tls.Config
	Identity *enrol.Identity
	Log      *slog.Logger
}

// Embedded is a NATS server in this process. Hosts cannot connect before Accept.
type Embedded struct {
	ns       *server.Server
	resolver *server.MemAccResolver
	identity *enrol.Identity
	watch    *watch
	addr     net.Addr
}

const (
	startLimit = 60 * time.Second
	// handshakeLimit is generous: a host under emulation needs seconds for TLS.
	handshakeLimit = 20 * time.Second
	pingInterval   = 30 * time.Second
)

// Embed starts the server and its storage, not yet its listener.
func Embed(cfg EmbedConfig) (*Embedded, error) {
	host, port, err := splitListen(cfg.Listen)
	if err != nil {
		return nil, err
	}
	claims, err := cfg.Identity.Claims(nil)
	if err != nil {
		return nil, fmt.Errorf("start nats: %w", err)
	}
	e := &Embedded{resolver: &server.MemAccResolver{}, identity: cfg.Identity}
	if err := errors.Join(e.resolver.Store(claims.System, claims.SystemJWT),
		e.resolver.Store(claims.Account, claims.AccountJWT)); err != nil {
		return nil, fmt.Errorf("start nats: %w", err)
	}
	e.ns, err = server.NewServer(&server.Options{
		ServerName: "afloat", Host: host, Port: port, DontListen: true,
		NoSigs: true, NoLog: true, TLSConfig: cfg.TLS, TLS: true,
		TLSTimeout: handshakeLimit.Seconds(), AuthTimeout: handshakeLimit.Seconds(),
		PingInterval: pingInterval, MaxPingsOut: 2, MaxPayload: 1 << 20,
		JetStream: true, StoreDir: cfg.Dir, SyncAlways: true,
		TrustedOperators: []*jwt.OperatorClaims{claims.Operator}, SystemAccount: claims.System,
		AccountResolver: e.resolver, Cluster: server.ClusterOpts{NoAdvertise: true},
	})
	if err != nil {
		return nil, fmt.Errorf("start nats: %w", err)
	}
	e.watch = newWatch(e.ns, cfg.Log)
	e.ns.SetLoggerV2(e.watch, false, false, false)
	e.ns.Start()
	if !e.ns.ReadyForConnections(startLimit) {
		e.Close()
		return nil, fmt.Errorf("start nats: not ready after %s%s", startLimit, e.watch.lastError())
	}
	return e, nil
}

func splitListen(listen string) (string, int, error) {
	host, p, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("read listen address %q: %w", listen, err)
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("read listen address %q: port %q", listen, p)
	}
	if port == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(port), nil
}

// Accept opens the listener for hosts. Call it once revocations are in place
// and somebody answers, so that nobody slips in before.
func (e *Embedded) Accept() (net.Addr, error) {
	ready := make(chan struct{})
	e.ns.AcceptLoop(ready)
	<-ready
	addr, ok := e.ns.Addr().(*net.TCPAddr)
	if !ok || addr == nil {
		return nil, fmt.Errorf("listen for hosts%s", e.watch.lastError())
	}
	e.addr = addr
	return addr, nil
}

// Connect opens the server's own connection, inside the process.
func (e *Embedded) Connect() (*nats.Conn, error) {
	token, pair, err := e.identity.ServerUser()
	if err != nil {
		return nil, fmt.Errorf("connect to own nats: %w", err)
	}
	nc, err := nats.Connect("", nats.InProcessServer(e.ns), nats.Name("afloat server"),
		nats.UserJWT(func() (string, error) { return token, nil }, pair.Sign),
		nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.Timeout(handshakeLimit))
	if err != nil {
		return nil, fmt.Errorf("connect to own nats: %w%s", err, e.watch.lastError())
	}
	return nc, nil
}

// Revoke makes the NATS server refuse the given nkeys' JWTs, and drops their
// connections at once. revoked is the whole list: it replaces the one before.
func (e *Embedded) Revoke(revoked map[string]time.Time) error {
	claims, err := e.identity.Claims(revoked)
	if err != nil {
		return fmt.Errorf("revoke hosts: %w", err)
	}
	account, err := e.ns.LookupAccount(claims.Account)
	if err != nil {
		return fmt.Errorf("revoke hosts: %w", err)
	}
	ac, err := jwt.DecodeAccountClaims(claims.AccountJWT)
	if err != nil {
		return fmt.Errorf("revoke hosts: %w", err)
	}
	if err := e.resolver.Store(claims.Account, claims.AccountJWT); err != nil {
		return fmt.Errorf("revoke hosts: %w", err)
	}
	e.ns.UpdateAccountClaims(account, ac)
	return nil
}

// Violations delivers what hosts tried and were not allowed to; see Violation.
// It blocks until ctx ends. Call it at most once.
func (e *Embedded) Violations(ctx context.Context, each func(Violation)) {
	e.watch.run(ctx, each)
}

// Connections is the number of hosts connected now.
func (e *Embedded) Connections() int { return max(0, e.ns.NumClients()-1) }

// Close stops the server and waits for it.
func (e *Embedded) Close() {
	e.ns.Shutdown()
	e.ns.WaitForShutdown()
}
