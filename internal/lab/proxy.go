package lab

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Proxy is the HAProxy in front of the guests' workload. It never tries a
// request twice: retries would hide what a change to a host breaks.
type Proxy struct {
	dir   string
	port  int
	hosts []*Host
}

// Backend is one host as the load balancer sees it.
type Backend struct {
	Host     string `json:"host"`
	Status   string `json:"status"`   // UP, DOWN, DRAIN, MAINT ...
	Sessions string `json:"sessions"` // requests it got so far
}

const (
	proxyConfig = "haproxy.cfg"
	proxySocket = "haproxy.sock"
)

// Proxy returns the lab's load balancer.
func (l *Lab) Proxy() *Proxy {
	return &Proxy{dir: l.dir, port: l.state.ProxyPort, hosts: l.hosts}
}

// URL is where the service answers.
func (p *Proxy) URL() string { return fmt.Sprintf("http://127.0.0.1:%d/", p.port) }

// Socket is the path of HAProxy's stats socket, which takes its commands.
func (p *Proxy) Socket() string { return filepath.Join(p.dir, proxySocket) }

// Running says whether HAProxy runs.
func (p *Proxy) Running() bool { return p.process().pid() != 0 }

func (p *Proxy) process() process {
	return process{program: "haproxy", marker: filepath.Join(p.dir, proxyConfig)}
}

// Start starts HAProxy; one that runs is left alone.
func (p *Proxy) Start() error {
	if p.Running() {
		return nil
	}
	haproxy, err := lookup("haproxy")
	if err != nil {
		return err
	}
	config := filepath.Join(p.dir, proxyConfig)
	if err := os.WriteFile(config, []byte(p.config()), 0o644); err != nil {
		return fmt.Errorf("write load balancer's configuration: %w", err)
	}
	return startDetached(p.dir, filepath.Join(p.dir, "haproxy.log"), haproxy, "-db", "-f", config)
}

// Stop ends HAProxy; open requests are broken.
func (p *Proxy) Stop(ctx context.Context) error {
	return p.process().stop(ctx, unix.SIGTERM, 3*time.Second)
}

// config has no redispatch, which is HAProxy's default, and retries 0.
func (p *Proxy) config() string {
	var b strings.Builder
	fmt.Fprintf(&b, `global
    maxconn 4000
    stats socket unix@%s mode 600 level admin
defaults
    mode http
    retries 0
    no option redispatch
    option http-server-close
    timeout connect 4s
    timeout client 10s
    timeout server 6s
    timeout check 2s
frontend service
    bind 127.0.0.1:%d
    default_backend hosts
backend hosts
    balance roundrobin
    option httpchk GET /healthz
    default-server check inter 500ms fall 2 rise 2
`, proxySocket, p.port)
	for _, h := range p.hosts {
		fmt.Fprintf(&b, "    server %s 127.0.0.1:%d\n", h.Name, h.WorkloadPort())
	}
	return b.String()
}

// command sends one line to the stats socket and returns the answer.
func (p *Proxy) command(ctx context.Context, line string) (string, error) {
	conn, err := dialIn(ctx, p.dir, proxySocket)
	if err != nil {
		return "", fmt.Errorf("ask load balancer: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", fmt.Errorf("ask load balancer: %w", err)
	}
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", fmt.Errorf("ask load balancer: %w", err)
	}
	out, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("ask load balancer: %w", err)
	}
	return string(out), nil
}

// SetState puts a host into the state ready, drain or maint.
func (p *Proxy) SetState(ctx context.Context, host, state string) error {
	out, err := p.command(ctx, fmt.Sprintf("set server hosts/%s state %s", host, state))
	if err != nil {
		return err
	}
	if out = strings.TrimSpace(out); out != "" { // it answers only to refuse
		return fmt.Errorf("set %s to %s: load balancer says %q", host, state, out)
	}
	return nil
}

// Backends lists the hosts as the load balancer sees them.
func (p *Proxy) Backends(ctx context.Context) ([]Backend, error) {
	out, err := p.command(ctx, "show stat hosts 4 -1")
	if err != nil {
		return nil, err
	}
	return parseStat(out)
}

// parseStat reads the CSV of "show stat"; its first line names the columns.
func parseStat(text string) ([]Backend, error) {
	text = strings.TrimPrefix(strings.TrimSpace(text), "# ")
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read load balancer's statistics: %w", err)
	}
	if len(rows) == 0 {
		return nil, errors.New("read load balancer's statistics: empty")
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	for _, need := range []string{"svname", "status", "stot"} {
		if _, ok := column[need]; !ok {
			return nil, fmt.Errorf("read load balancer's statistics: no column %s", need)
		}
	}
	var out []Backend
	for _, row := range rows[1:] {
		out = append(out, Backend{Host: row[column["svname"]], Status: row[column["status"]], Sessions: row[column["stot"]]})
	}
	return out, nil
}

// WaitAllUp waits until every host takes traffic, at most half a minute.
func (p *Proxy) WaitAllUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("hosts not healthy within 30 s"))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		backends, err := p.Backends(ctx)
		if err == nil && p.allUp(backends) {
			return nil
		}
		if !p.Running() {
			return fmt.Errorf("wait for load balancer: it ended: %s", lastLines(filepath.Join(p.dir, "haproxy.log")))
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for load balancer: %w", context.Cause(ctx)), err)
		case <-tick.C:
		}
	}
}

// allUp wants a passed check of each host. HAProxy takes a server for up until
// its first check failed, which "UP" without more does not tell apart; Up has
// waited for the guests before.
func (p *Proxy) allUp(backends []Backend) bool {
	up := 0
	for _, b := range backends {
		if b.Status == "UP" {
			up++
		}
	}
	return up == len(p.hosts)
}
