package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// Join is what a guest's agent needs to join a server.
type Join struct {
	Server string // https://10.0.2.2:PORT for a server on this machine
	Token  string
	// Publishers are pinned on the host: the operator brings their keys there,
	// no server ever does. At least one.
	Publishers []Publisher
	// RunFlags are further flags of `afloat-agent run`, such as --proven-after=10s.
	RunFlags []string
}

// Publisher is a named public key in PEM.
type Publisher struct {
	Name string
	Key  []byte
}

// agentStart is the script that init.sh's respawn loop runs. It is on the data
// disk, so a joined guest's agent starts at every boot.
const agentStart = "/data/lab/agent"

// Joined says whether the guest has joined a server.
func (h *Host) Joined(ctx context.Context) (bool, error) {
	r, err := h.Exec(ctx, "test", "-x", agentStart)
	return r.Code == 0 && err == nil, err
}

// Join lets the guest's agent join and starts it, now and at every boot.
func (h *Host) Join(ctx context.Context, j Join) error {
	for _, p := range j.Publishers {
		pinned := filepath.Join("/etc/afloat/publishers.d", filepath.Base(p.Name)+".pub")
		if err := h.Put(ctx, pinned, 0o644, p.Key); err != nil {
			return err
		}
	}
	_, err := h.Run(ctx, "/bin/afloat-agent", "join", "--server", j.Server, "--token", j.Token)
	if err != nil {
		return fmt.Errorf("join %s: %w", h.Name, err)
	}
	return h.StartAgent(ctx, j.RunFlags...)
}

// StartAgent starts the agent, now and at every boot, with further flags for
// `afloat-agent run`. After a kill it is back in about a second.
func (h *Host) StartAgent(ctx context.Context, flags ...string) error {
	var script strings.Builder
	script.WriteString("#!/bin/sh\nexec /bin/afloat-agent run")
	for _, f := range flags {
		script.WriteString(" '" + f + "'")
	}
	return h.Put(ctx, agentStart, 0o755, []byte(script.String()+"\n"))
}

// StopAgent ends the agent and keeps it from starting again, also at boot.
func (h *Host) StopAgent(ctx context.Context) error {
	_, err := h.Script(ctx, "rm -f "+agentStart+"; killall afloat-agent 2>/dev/null || true")
	return err
}

// KillAgent kills the agent with SIGKILL; it starts again by itself. It is an
// error if none runs.
func (h *Host) KillAgent(ctx context.Context) error {
	_, err := h.Run(ctx, "killall", "-9", "afloat-agent")
	return err
}

// AgentLog is what the agent said since the disk was made.
func (h *Host) AgentLog(ctx context.Context) (string, error) {
	return h.Run(ctx, "cat", "/data/log/agent.log")
}
