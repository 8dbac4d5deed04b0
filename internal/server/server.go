// Package server turns what hosts report into what hosts are told. Reports and
// commands go to one goroutine, the owner; it decides (control), stores the
// decision, and only then signs new orders and wakes the hosts they concern.
// Everything that is durable lives in the store; what is in memory here is
// rebuilt from it at each start.
package server

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"afloat/internal/enrol"
	"afloat/internal/policy"
	"afloat/internal/store"
)

// Config of a server.
type Config struct {
	Dir string // state directory, 0750 with everything but the socket closed to the group
	// NATSListen is HOST:PORT for the hosts' connections.
	NATSListen string
	// Advertise are the names and addresses under which hosts reach this
	// server; they go into its certificate and into the replies to joins.
	Advertise []string
	// Publishers, if any, are the only keys whose bundles enter the catalog.
	// Hosts check for themselves against the keys pinned on them.
	Publishers []ed25519.PublicKey
	// Rate is how many hosts may start in a time over all rollouts together;
	// zero means no bound.
	Rate    policy.Rate
	Version string
	Log     *slog.Logger
}

// Server is one afloat server. Open makes it, Run runs it, Close ends it.
type Server struct {
	cfg      Config
	log      *slog.Logger
	identity *enrol.Identity
	embedded *store.Embedded
	nc       *nats.Conn
	store    *store.Store
	desk     *enrol.Desk
	lease    *store.Lease
	recorder *recorder
	owner    *owner
	outlooks outlooks

	roots []*os.Root
	lock  *os.File

	mu        sync.Mutex // guards natsAddr and httpsURLs
	natsAddr  net.Addr
	httpsURLs []string

	work  chan func(*owner) // for the owner; unbuffered: whoever asks waits
	ready chan struct{}     // closed once hosts are answered
	ended chan struct{}     // closed when Run returns
}

// Open makes the state directory ready, starts the embedded NATS server, takes
// the lease and rebuilds the state. Hosts cannot connect before Run.
func Open(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, log: cfg.Log, work: make(chan func(*owner)), ready: make(chan struct{}), ended: make(chan struct{})}
	if err := s.open(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("open server: %w", err)
	}
	return s, nil
}

func (s *Server) open(ctx context.Context) (err error) {
	if err = s.openDirs(); err != nil {
		return err
	}
	if s.identity, err = enrol.Load(s.roots[0]); err != nil {
		return err
	}
	s.embedded, err = store.Embed(store.EmbedConfig{
		Dir: filepath.Join(s.cfg.Dir, "jetstream"), Listen: s.cfg.NATSListen, TLS: s.TLS(),
		Identity: s.identity, Log: s.cfg.Log,
	})
	if err != nil {
		return err
	}
	if s.nc, err = s.embedded.Connect(); err != nil {
		return err
	}
	if s.store, err = store.Open(ctx, s.nc, store.Options{Replicas: 1, Bundles: s.roots[1]}); err != nil {
		return err
	}
	return s.restore(ctx)
}

// restore rebuilds what the owner keeps in memory.
func (s *Server) restore(ctx context.Context) error {
	lease, err := s.store.Lead(ctx, s.identity.Name(), leaseTTL)
	if err != nil {
		return err
	}
	s.lease = lease
	if err := s.store.SettleTokens(ctx); err != nil {
		return err
	}
	if s.recorder, err = newRecorder(ctx, s.store.Audit, s.log); err != nil {
		return err
	}
	s.owner, err = newOwner(ctx, s)
	return err
}

// openDirs makes the state directory, locks it and opens its folders.
func (s *Server) openDirs() error {
	if err := os.MkdirAll(filepath.Join(s.cfg.Dir, "jetstream"), 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	// The group may reach the socket in it, and nothing else.
	if err := os.Chmod(s.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	for _, dir := range []string{s.cfg.Dir, filepath.Join(s.cfg.Dir, "bundles")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make state directory: %w", err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return fmt.Errorf("open state directory: %w", err)
		}
		s.roots = append(s.roots, root)
	}
	lock, err := LockState(s.roots[0])
	s.lock = lock
	return err
}

// LockState makes sure that nobody else uses a state directory, until the file
// is closed or the process ends. It returns ErrRunning when somebody does.
func LockState(dir *os.Root) (*os.File, error) {
	lock, err := dir.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock state directory %s: %w", dir.Name(), ErrRunning)
		}
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	return lock, nil
}

// ErrRunning: another server uses the same state directory.
var ErrRunning = errors.New("another afloat server is using it")

// Run answers hosts until ctx ends or the lease is lost. It returns the cause.
// Call it once.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.ended)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop(nil)
	wg.Go(func() { stop(s.keepLease(ctx)) })
	wg.Go(func() { s.embedded.Violations(ctx, func(v store.Violation) { s.auditViolation(ctx, v) }) })
	unsubscribe, err := s.subscribe(ctx)
	if err != nil {
		return fmt.Errorf("run server: %w", err)
	}
	defer unsubscribe()
	wg.Go(func() { stop(s.owner.run(ctx)) })
	addr, err := s.embedded.Accept()
	if err != nil {
		return fmt.Errorf("run server: %w", err)
	}
	s.setAddr(addr)
	s.log.Info("server leads", "epoch", s.lease.Epoch(), "hosts", addr.String())
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("run server: %w", cause)
	}
	return nil
}

// setAddr publishes the address that hosts connect to.
func (s *Server) setAddr(addr net.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.natsAddr = addr
	s.desk = enrol.NewDesk(s.identity, s.store, natsURLs(s.cfg.Advertise, addr))
	close(s.ready)
}

func natsURLs(advertise []string, addr net.Addr) []string {
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return nil
	}
	urls := make([]string, len(advertise))
	for i, host := range advertise {
		urls[i] = "tls://" + net.JoinHostPort(host, port)
	}
	return urls
}

// Ready is closed once hosts can connect.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// NATSAddr is where hosts connect; only after Ready.
func (s *Server) NATSAddr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.natsAddr
}

// Close releases everything. Call it after Run has returned.
func (s *Server) Close() {
	if s.nc != nil {
		s.nc.Close()
	}
	if s.embedded != nil {
		s.embedded.Close()
	}
	for _, r := range s.roots {
		r.Close()
	}
	if s.lock != nil {
		s.lock.Close() // releases the lock
	}
}

const (
	leaseTTL   = 15 * time.Second
	leaseRenew = leaseTTL / 3
)

// keepLease renews the lease until ctx ends. It gives up, and thereby ends the
// server, when another server leads or the lease ran out unrenewed.
func (s *Server) keepLease(ctx context.Context) error {
	tick := time.NewTicker(leaseRenew)
	defer tick.Stop()
	renewed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := s.lease.Renew(ctx)
		switch {
		case err == nil:
			renewed = time.Now()
		case errors.Is(err, store.ErrConflict):
			if s.lease.Recover(ctx) == nil {
				renewed = time.Now()
				continue
			}
			return fmt.Errorf("keep lease: %w", err)
		case time.Since(renewed) > leaseTTL:
			return fmt.Errorf("keep lease: not renewed for %s: %w", leaseTTL, err)
		default:
			s.log.Warn("lease not renewed", "err", err)
		}
	}
}
