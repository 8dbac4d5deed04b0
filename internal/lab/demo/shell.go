package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// shell types afloat's own commands, as an operator would, and shows them.
type shell struct {
	bin string   // path of the afloat binary
	env []string // of every command
	dir string   // that they run in: what they name is there
	out io.Writer
	mu  sync.Mutex // guards out: the load prints from its own goroutine
}

// say prints one line of the story.
func (s *shell) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// chapter opens a part of the story.
func (s *shell) chapter(format string, args ...any) {
	s.say("\n== "+format, args...)
}

// exec shows a command and its output as it comes; it returns what it printed.
func (s *shell) exec(ctx context.Context, args ...string) (string, error) {
	s.say("$ afloat %s", quote(args))
	cmd := s.command(ctx, args)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w // one pipe, so that the lines keep their order
	var kept bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() { s.indent(io.TeeReader(r, &kept)) })
	err := cmd.Run()
	w.Close()
	wg.Wait()
	if err != nil {
		return kept.String(), fmt.Errorf("run afloat %s: %w", quote(args), err)
	}
	return kept.String(), nil
}

// fails runs a command that must be refused, and shows the refusal.
func (s *shell) fails(ctx context.Context, args ...string) error {
	_, err := s.exec(ctx, args...)
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	if err == nil {
		return fmt.Errorf("run afloat %s: it worked, and must not", quote(args))
	}
	return err
}

// ask runs a listing quietly and decodes its JSON.
func (s *shell) ask(ctx context.Context, into any, args ...string) error {
	var stdout, stderr bytes.Buffer
	cmd := s.command(ctx, append(args, "-o", "json"))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ask afloat %s: %w: %s", quote(args), err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
		return fmt.Errorf("ask afloat %s: read answer: %w", quote(args), err)
	}
	return nil
}

// quiet runs a command and returns its output without showing either.
func (s *shell) quiet(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := s.command(ctx, args)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run afloat %s: %w: %s", quote(args), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func (s *shell) command(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Env, cmd.Dir = s.env, s.dir
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func (s *shell) indent(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		s.say("  %s", lines.Text())
	}
	_, _ = io.Copy(io.Discard, r) // after a line too long to show, the command must still end
}

// until asks again and again until done says yes, or ctx or the limit ends it.
func until(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("wait for %s: not within %v", what, limit))
	defer cancel()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		ok, err := done()
		if ok {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

// quote joins arguments as they would be typed.
func quote(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = a
		if a == "" || strings.ContainsAny(a, " \t\n'\"$&|;<>()*?") {
			out[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}
