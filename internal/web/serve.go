package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"afloat/internal/server"
)

// Config of Serve.
type Config struct {
	Server *server.Server
	Listen []string // HOST:PORT of the HTTPS listeners
	Socket string   // path of the operators' socket
	Roles  Roles
	Log    *slog.Logger
}

const (
	headerLimit  = 20 * time.Second // a host under emulation needs seconds for TLS
	idleLimit    = 2 * time.Minute
	requestLimit = 10 * time.Minute // a bundle over a thin line
	closeLimit   = 3 * time.Second
)

// Serve answers hosts and operators until ctx ends. It calls ready once every
// listener is open. The server must be running.
func Serve(ctx context.Context, cfg Config, ready func()) error {
	listeners, err := listen(cfg)
	if err != nil {
		return err
	}
	cfg.Server.SetHTTPS(listeners[1].Addr())
	local := &http.Server{Handler: Operators(cfg.Server, cfg.Roles, cfg.Log), ConnContext: PeerContext,
		ReadHeaderTimeout: headerLimit, IdleTimeout: idleLimit, ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug)}
	agents := &http.Server{Handler: Agents(cfg.Server, cfg.Log), ReadHeaderTimeout: headerLimit,
		ReadTimeout: requestLimit, WriteTimeout: requestLimit, IdleTimeout: idleLimit,
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug)}
	failed := make(chan error, len(listeners)) // each says at most one thing
	var wg sync.WaitGroup
	wg.Go(func() { failed <- local.Serve(listeners[0]) })
	for _, l := range listeners[1:] {
		wg.Go(func() { failed <- agents.Serve(l) })
	}
	ready()
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	for _, s := range []*http.Server{local, agents} {
		if s.Shutdown(grace) != nil {
			err = errors.Join(err, s.Close())
		}
	}
	wg.Wait()
	return err
}

// listen opens the socket first and then each HTTPS listener.
func listen(cfg Config) (all []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				l.Close()
			}
		}
	}()
	socket, err := listenSocket(cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("listen for operators: %w", err)
	}
	all = append(all, socket)
	conf := cfg.Server.TLS()
	conf.NextProtos = []string{"h2", "http/1.1"}
	for _, addr := range cfg.Listen {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return all, fmt.Errorf("listen for hosts: %w", err)
		}
		all = append(all, tls.NewListener(l, conf))
	}
	if len(all) < 2 {
		return all, errors.New("listen for hosts: no address given")
	}
	return all, nil
}

// listenSocket replaces a socket that a killed server left behind; the state
// directory's lock has made sure that nobody serves it. Only the owner and the
// group can enter that directory, whatever the umask gives the socket at first.
func listenSocket(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("cannot make a socket at %s: a file that is no socket is there", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
