package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"afloat/internal/lab/guestwire"
)

// Result is a command that ended in the guest.
type Result struct {
	Stdout string
	Stderr string
	Code   int
}

// Output is what both streams said.
func (r Result) Output() string { return r.Stdout + r.Stderr }

// ErrRebooted says that a guest booted again while a command ran in it.
var ErrRebooted = errors.New("host booted again")

// Exec runs a command in the guest as root and waits for its end. An exit
// code other than 0 is not an error; a guest that boots again meanwhile is
// ErrRebooted, one without power ErrOff.
func (h *Host) Exec(ctx context.Context, argv ...string) (Result, error) {
	return h.ExecInput(ctx, nil, argv...)
}

// ExecInput is Exec with something on the command's standard input.
func (h *Host) ExecInput(ctx context.Context, stdin []byte, argv ...string) (Result, error) {
	body, err := json.Marshal(guestwire.ExecRequest{Argv: argv, Stdin: stdin})
	if err != nil {
		return Result{}, fmt.Errorf("exec on %s: %w", h.Name, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { h.watchBoot(ctx, cancel) })
	var reply guestwire.ExecReply
	err = h.call(ctx, http.MethodPost, guestwire.PathExec, body, &reply)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	watcher.Wait()
	if err != nil {
		return Result{}, fmt.Errorf("exec on %s: %w", h.Name, err)
	}
	r := Result{Stdout: string(reply.Stdout), Stderr: string(reply.Stderr), Code: reply.Code}
	if reply.Error != "" {
		return r, fmt.Errorf("exec on %s: %s", h.Name, reply.Error)
	}
	return r, nil
}

// Run is Exec for a command that must succeed; it returns its stdout.
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	r, err := h.Exec(ctx, argv...)
	if err != nil {
		return r.Stdout, err
	}
	if r.Code != 0 {
		return r.Stdout, fmt.Errorf("exec on %s: %s: exit code %d: %s", h.Name, argv[0], r.Code, strings.TrimSpace(r.Output()))
	}
	return r.Stdout, nil
}

// Script runs a shell script in the guest and must succeed; it returns its stdout.
func (h *Host) Script(ctx context.Context, script string) (string, error) {
	return h.Run(ctx, "sh", "-ec", script)
}

// watchBoot ends ctx when the guest boots again or loses its power: the
// connection itself would wait for ever for an answer.
func (h *Host) watchBoot(ctx context.Context, end context.CancelCauseFunc) {
	start := time.Now()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s, err := h.Status(ctx)
		age := time.Duration(s.Uptime * float64(time.Second))
		switch {
		case errors.Is(err, ErrOff):
			end(ErrOff)
		case err == nil && age < time.Since(start)-time.Second: // this boot is younger than the command
			end(ErrRebooted)
		}
	}
}
