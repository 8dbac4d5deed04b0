package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"afloat/internal/api"
	"afloat/internal/bundle"
	"afloat/internal/lab"
)

const policy = `name: bench
target: {live: bench}
waves:
  - {name: all, size: 100%, soak: 1h}
gate:
  crashes: {cap: {excess: 1/1000, within: 24h}}
  onInconclusive: continue
  onRevert: revert
budgets:
  - {name: service, unavailable: 1}
`

// guest measures the agent in one guest: its memory as a daemon that a rollout
// made apply a live patch, then applying against a bare module load.
func (b *bench) guest(ctx context.Context) (err error) {
	s, err := b.sealed(ctx)
	if err != nil {
		return err
	}
	dir := b.file("lab")
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_, e := b.afloat(ctx, nil, "lab", "down", "--dir", dir)
		err = errors.Join(err, e)
	}()
	b.say("booting a guest")
	_, err = b.afloat(ctx, nil, "lab", "up", "--dir", dir, "--hosts", "1", "--kernel", b.Kit.Ref.String(),
		"--publisher-key", b.file("publisher.pub"))
	if err != nil {
		return err
	}
	l, err := lab.Open(dir)
	if err != nil {
		return err
	}
	h := l.Hosts()[0]
	if err := b.daemon(ctx, l, h); err != nil {
		return err
	}
	return b.applies(ctx, h, s)
}

// sealed builds the smallest of the patches.
func (b *bench) sealed(ctx context.Context) (*bundle.Bundle, error) {
	s := &subject{}
	if _, err := b.write(s, single()[0]); err != nil {
		return nil, err
	}
	if _, err := b.afloat(ctx, nil, b.buildArgs(s)...); err != nil {
		return nil, err
	}
	file, err := os.ReadFile(b.file("bench.afloat"))
	if err != nil {
		return nil, err
	}
	return bundle.Decode(file)
}

// daemon lets the server order the patch, and looks at the agent after that.
func (b *bench) daemon(ctx context.Context, l *lab.Lab, h *lab.Host) error {
	b.say("rolling the patch out to it")
	env := []string{"AFLOAT_SOCKET=" + l.ServerSocket()}
	if err := os.WriteFile(b.file("bench.yaml"), []byte(policy), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{{"bundle", "add", b.file("bench.afloat")}, {"rollout", "start", b.file("bench.yaml")}} {
		if _, err := b.afloat(ctx, env, args...); err != nil {
			return err
		}
	}
	report, err := b.applied(ctx, env)
	if err != nil {
		return err
	}
	b.say("the daemon took %d ms to apply", report)
	status, err := h.Script(ctx, "cat /proc/$(pidof afloat-agent)/status")
	if err != nil {
		return err
	}
	rss := megabytes(status, "VmRSS:")
	if rss == 0 {
		return errors.New("cannot see the agent's memory")
	}
	b.emit("agent_rss_mb", rss, "MB")
	return nil
}

// applied waits until the host reports the patch; it returns how many
// milliseconds the host says it took.
func (b *bench) applied(ctx context.Context, env []string) (int64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the guest did not apply the patch within 2 minutes"))
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := b.afloat(ctx, env, "hosts", "-o", "json")
		if err == nil {
			var hosts []api.Host
			if err := json.Unmarshal([]byte(out), &hosts); err != nil {
				return 0, fmt.Errorf("read hosts: %w", err)
			}
			for _, h := range hosts {
				if h.Report != nil && h.Report.ApplyMS > 0 {
					return h.Report.ApplyMS, nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return 0, errors.Join(context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// applies runs the rounds inside the guest, with the daemon stopped.
func (b *bench) applies(ctx context.Context, h *lab.Host, s *bundle.Bundle) error {
	if err := h.StopAgent(ctx); err != nil {
		return err
	}
	if _, err := h.Run(ctx, "/bin/afloat-agent", "revert"); err != nil {
		return err
	}
	file, err := os.ReadFile(b.file("bench.afloat"))
	if err != nil {
		return err
	}
	program, err := os.ReadFile(filepath.Join(b.Bin, "bench-applier"))
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{
		"/tmp/applier": program, "/tmp/bench.afloat": file, "/tmp/bench.ko": s.Payload,
	} {
		if err := h.Put(ctx, path, 0o755, content); err != nil {
			return err
		}
	}
	b.say("applying the patch %d times each way", b.Applies)
	out, err := h.Run(ctx, "/tmp/applier", "/tmp/bench.afloat", "/tmp/bench.ko", s.Manifest.Module, strconv.Itoa(b.Applies))
	if err != nil {
		return err
	}
	var took struct {
		Agent []float64 `json:"agent_ms"`
		Bare  []float64 `json:"bare_ms"`
	}
	if err := json.Unmarshal([]byte(out), &took); err != nil {
		return fmt.Errorf("read rounds: %w", err)
	}
	if len(took.Agent) != b.Applies || len(took.Bare) != b.Applies {
		return fmt.Errorf("%d and %d rounds came back, want %d", len(took.Agent), len(took.Bare), b.Applies)
	}
	b.say("agent %.0f ms", took.Agent)
	b.say("bare  %.0f ms", took.Bare)
	b.emit("apply_ms", median(took.Agent), "ms")
	b.emit("apply_bare_ms", median(took.Bare), "ms")
	b.emit("apply_ratio", median(took.Agent)/median(took.Bare), "ratio")
	return nil
}
