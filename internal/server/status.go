package server

import (
	"context"
	"net"
)

// StatusView is the server in a few lines.
type StatusView struct {
	Version          string
	Epoch            uint64
	CAHash           string
	HTTPS, NATS      []string
	Hosts, Connected int
	Held             string // why nothing is decided now, "" when it is
}

// SetHTTPS tells the server where its HTTPS listener is, for the join command.
func (s *Server) SetHTTPS(addr net.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.httpsURLs = nil
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return
	}
	for _, host := range s.cfg.Advertise {
		s.httpsURLs = append(s.httpsURLs, "https://"+net.JoinHostPort(host, port))
	}
}

// URL is the first address under which hosts reach the server, "" before SetHTTPS.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.httpsURLs) == 0 {
		return ""
	}
	return s.httpsURLs[0]
}

// Status describes the server. It fails when the owner does not answer.
func (s *Server) Status(ctx context.Context) (StatusView, error) {
	v := StatusView{Version: s.cfg.Version, Epoch: s.lease.Epoch(), CAHash: s.identity.CA().Hash(),
		NATS: natsURLs(s.cfg.Advertise, s.NATSAddr()), Connected: s.embedded.Connections()}
	s.mu.Lock()
	v.HTTPS = append([]string{}, s.httpsURLs...)
	s.mu.Unlock()
	return ask(ctx, s, func(o *owner) (StatusView, error) {
		for _, h := range o.hosts {
			if h.reg.Revoked.IsZero() {
				v.Hosts++
			}
		}
		v.Held = o.held
		return v, nil
	})
}
