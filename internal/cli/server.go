package cli

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"afloat/internal/api"
	"afloat/internal/bundle"
	"afloat/internal/policy"
	"afloat/internal/server"
	"afloat/internal/web"
)

type serverOptions struct {
	state, socket, nats, publishers, roles string
	rate                                   string
	listen, advertise                      []string
	verbose                                bool
}

func newServer() *cobra.Command {
	var o serverOptions
	cmd := &cobra.Command{
		Use:     "server",
		Short:   "Run the server that hosts connect to",
		GroupID: "run",
		Args:    cobra.NoArgs,
		Long: `Runs the server: the embedded NATS server for the hosts' connections, HTTPS for
joining and bundles, and a unix socket for this command line. Everything it
keeps is in the state directory; its own CA and keys are made there at the
first start. It runs as a normal user and may be killed at any time.`,
		Example: "  afloat server --advertise afloat.example.org",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runServer(cmd.Context(), cmd.OutOrStdout(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.state, "state", defaultState(), "state directory")
	f.StringSliceVar(&o.listen, "listen", []string{"0.0.0.0:7443"}, "HOST:PORT for HTTPS, may be given again; port 0 picks one")
	f.StringVar(&o.nats, "listen-nats", "0.0.0.0:7422", "HOST:PORT for the hosts' connections; port 0 picks one")
	f.StringSliceVar(&o.advertise, "advertise", nil, "name or address under which hosts reach this server, may be given again (default: this machine's name)")
	f.StringVar(&o.socket, "socket", "", "socket for the command line (default STATE/afloat.sock)")
	f.StringVar(&o.publishers, "publishers", "", "folder of publishers' .pub files: only their bundles enter the catalog")
	f.StringVar(&o.roles, "roles", "", "file of lines \"USER ROLE\": viewer, operator or admin")
	f.StringVar(&o.rate, "rate", "", "most hosts that may start in a time, all rollouts together, such as \"500 per 1m\" (default: no bound)")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log more")
	return cmd
}

func (o *serverOptions) defaults() error {
	if o.socket == "" {
		o.socket = filepath.Join(o.state, socketName)
	}
	if len(o.advertise) == 0 {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read this machine's name: %w", err)
		}
		o.advertise = []string{name}
	}
	for _, a := range o.advertise {
		if strings.ContainsAny(a, "/*") || strings.Contains(a, ":") && net.ParseIP(a) == nil {
			return withHint(fmt.Errorf("cannot advertise %q", a), "give a name or an address, without a port")
		}
	}
	for _, a := range o.listen {
		if err := checkListen("--listen", a); err != nil {
			return err
		}
	}
	return checkListen("--listen-nats", o.nats)
}

// checkListen refuses an address that cannot be listened on, before anything is
// started. One that is only taken is found out later: then another server on the
// same state directory is the better explanation.
func checkListen(flag, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		return l.Close()
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil
	}
	hint := "give HOST:PORT with an address of this machine, such as 0.0.0.0:7443"
	if errors.Is(err, fs.ErrPermission) {
		hint = "give a port from 1024 up, or let the server use lower ones"
	}
	return withHint(fmt.Errorf("cannot listen on %s %s: %w", flag, addr, listenCause(err)), "%s", hint)
}

// listenCause is an error of package net without what the message says already.
func listenCause(err error) error {
	if e, ok := errors.AsType[*os.SyscallError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return errors.New(e.Err)
	}
	if e, ok := errors.AsType[*net.AddrError](err); ok {
		return errors.New(e.Err)
	}
	return err
}

func runServer(ctx context.Context, out io.Writer, o serverOptions) error {
	if err := o.defaults(); err != nil {
		return err
	}
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	publishers, err := readPublishers(o.publishers)
	if err != nil {
		return err
	}
	roles, err := readRoles(o.roles)
	if err != nil {
		return err
	}
	rate, err := readRate(o.rate)
	if err != nil {
		return err
	}
	s, err := server.Open(ctx, server.Config{Dir: o.state, NATSListen: o.nats, Advertise: o.advertise,
		Publishers: publishers, Rate: rate, Version: Version, Log: log})
	if err != nil {
		return explainOpen(err, o.state)
	}
	defer s.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.Run(ctx) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-s.Ready():
		}
		return web.Serve(ctx, web.Config{Server: s, Listen: o.listen, Socket: o.socket, Roles: roles, Log: log},
			func() {
				group.Go(func() error {
					if err := greet(ctx, out, o.socket); err != nil && ctx.Err() == nil {
						log.Warn("no join command", "err", err) // the server itself is up
					}
					return nil
				})
			})
	})
	return explainListen(group.Wait())
}

// readRate reads the change rate of the fleet.
func readRate(s string) (policy.Rate, error) {
	if s == "" {
		return policy.Rate{}, nil
	}
	rate, err := policy.ParseRate(s)
	if err != nil {
		return rate, withHint(fmt.Errorf("cannot keep to --rate: %w", err), `give for example --rate "500 per 1m"`)
	}
	return rate, nil
}

// explainOpen says what to do about a state directory that cannot be used.
func explainOpen(err error, state string) error {
	switch {
	case errors.Is(err, server.ErrRunning):
		return withHint(err, "stop it first, or give another --state")
	case errors.Is(err, fs.ErrPermission):
		return withHint(err, "give %s to the user that runs the server (uid %d), or give another --state", state, os.Getuid())
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENOSPC):
		return withHint(err, "give a --state on a disk that can be written to")
	}
	return err
}

// explainListen says what to do about an address that another program has. The
// engine inside says so in words alone.
func explainListen(err error) error {
	if err == nil || !errors.Is(err, syscall.EADDRINUSE) && !strings.Contains(err.Error(), syscall.EADDRINUSE.Error()) {
		return err
	}
	return withHint(err, "another program listens there: give other addresses with --listen and --listen-nats")
}

// greet prints how a first host joins. The token in it is made for the
// purpose: one host, one hour, observe.
func greet(ctx context.Context, out io.Writer, socket string) error {
	c := dial(socket)
	var status api.Status
	if err := c.get(ctx, api.PathStatus, nil, &status); err != nil {
		return err
	}
	var made api.TokenMade
	if err := c.post(ctx, api.PathTokens, api.NewToken{}, &made); err != nil {
		return err
	}
	fmt.Fprintf(out, "afloat %s serves %s and %s, epoch %d\n", status.Version,
		strings.Join(status.HTTPS, " "), strings.Join(status.NATS, " "), status.Epoch)
	fmt.Fprintf(out, "socket: %s\n", socket)
	fmt.Fprintf(out, "to join one host (until %s; more with: afloat token create):\n  %s\n",
		made.Expires.Local().Format(time.TimeOnly), made.Join)
	return nil
}

func readPublishers(dir string) ([]ed25519.PublicKey, error) {
	if dir == "" {
		return nil, nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.pub"))
	if err != nil {
		return nil, fmt.Errorf("read publishers: %w", err)
	}
	if len(names) == 0 {
		return nil, withHint(fmt.Errorf("cannot find a publisher's key in %s", dir), "afloat keygen -o PATH makes PATH.pub")
	}
	var keys []ed25519.PublicKey
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read publishers: %w", err)
		}
		key, err := bundle.ParsePublicKey(data)
		if err != nil {
			return nil, withHint(fmt.Errorf("read publishers: %s: %w", name, err), "keep only PATH.pub files that `afloat keygen -o PATH` wrote in %s", dir)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func readRoles(path string) (web.Roles, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read roles: %w", err)
	}
	defer f.Close()
	roles, err := web.ReadRoles(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return roles, nil
}
