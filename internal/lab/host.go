package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"afloat/internal/lab/guestwire"
)

// Host is one guest. It holds no connection: any process may use it.
type Host struct {
	Name   string
	Kernel Kernel
	vm     machine
}

// ErrOff says that a host's QEMU does not run.
var ErrOff = errors.New("host is powered off")

// Start powers the host on; one that runs is left alone.
func (h *Host) Start() error {
	if err := h.vm.start(); err != nil {
		return fmt.Errorf("start %s: %w", h.Name, err)
	}
	return nil
}

// PowerOff takes the power away, as a pulled plug: nothing is flushed.
func (h *Host) PowerOff(ctx context.Context) error {
	if err := h.vm.powerOff(ctx); err != nil {
		return fmt.Errorf("power off %s: %w", h.Name, err)
	}
	return nil
}

// Reset presses the reset button. The guest boots again in the same QEMU.
func (h *Host) Reset(ctx context.Context) error {
	return h.fault(ctx, "reset", h.vm.reset)
}

// Cut takes the host off the fleet's network without notice: packets vanish.
// Exec, Put and Status still work, on a network of their own.
func (h *Host) Cut(ctx context.Context) error {
	return h.fault(ctx, "cut", func(ctx context.Context) error { return h.vm.setLink(ctx, false) })
}

// Restore undoes Cut.
func (h *Host) Restore(ctx context.Context) error {
	return h.fault(ctx, "restore", func(ctx context.Context) error { return h.vm.setLink(ctx, true) })
}

// Crash panics the guest's kernel; it boots again after 3 s.
func (h *Host) Crash(ctx context.Context) error {
	return h.fault(ctx, "crash", func(ctx context.Context) error {
		_, err := h.Exec(ctx, "sh", "-c", "(sleep 0.3; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
		return err
	})
}

func (h *Host) fault(ctx context.Context, name string, do func(context.Context) error) error {
	err := error(ErrOff)
	if h.Running() {
		err = do(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", name, h.Name, err)
	}
	return nil
}

// Running says whether the host's QEMU runs, not whether its kernel is well.
func (h *Host) Running() bool { return h.vm.process().pid() != 0 }

// IsCut says whether Cut is in force.
func (h *Host) IsCut() bool { return h.vm.isCut() }

// PID is the number of the host's QEMU, 0 when it is off.
func (h *Host) PID() int { return h.vm.process().pid() }

// WorkloadPort is the workload's port on 127.0.0.1.
func (h *Host) WorkloadPort() int { return h.vm.workload }

// ControlPort is the lab's own port to the guest on 127.0.0.1.
func (h *Host) ControlPort() int { return h.vm.control }

// Dir is the host's folder: data.ext4, console.log, qemu.log.
func (h *Host) Dir() string { return h.vm.dir }

// ConsoleLog is all that the guest's kernel printed since the lab was made,
// over every boot.
func (h *Host) ConsoleLog() (string, error) {
	raw, err := os.ReadFile(filepath.Join(h.vm.dir, consoleLog))
	if err != nil {
		return "", fmt.Errorf("read console of %s: %w", h.Name, err)
	}
	return string(raw), nil
}

// Status asks the guest who it is. It fails while the guest boots.
func (h *Host) Status(ctx context.Context) (guestwire.Status, error) {
	var s guestwire.Status
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := h.call(ctx, http.MethodGet, guestwire.PathStatus, nil, &s)
	return s, err
}

// BootID is the kernel's name for the running boot.
func (h *Host) BootID(ctx context.Context) (string, error) {
	s, err := h.Status(ctx)
	return s.BootID, err
}

// Put writes a file in the guest, with its folders. Only what is below /data
// outlives a boot.
func (h *Host) Put(ctx context.Context, path string, perm os.FileMode, content []byte) error {
	query := url.Values{"path": {path}, "mode": {fmt.Sprintf("%o", perm.Perm())}}
	if err := h.call(ctx, http.MethodPut, guestwire.PathFile+"?"+query.Encode(), content, nil); err != nil {
		return fmt.Errorf("put %s on %s: %w", path, h.Name, err)
	}
	return nil
}

// call is one request to the guest's control port on a connection of its own:
// one kept from before a reset would hang.
func (h *Host) call(ctx context.Context, method, path string, body []byte, reply any) error {
	if !h.Running() {
		return ErrOff
	}
	target := fmt.Sprintf("http://127.0.0.1:%d%s", h.vm.control, path)
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return fmt.Errorf("guest says %s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	if reply == nil {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(reply); err != nil {
		return fmt.Errorf("read guest's reply: %w", err)
	}
	return nil
}

// WaitReady waits until the guest answers. When it does not in time, or its
// QEMU ends, the error carries the end of its console.
func (h *Host) WaitReady(ctx context.Context) error {
	_, err := h.WaitBoot(ctx, "")
	return err
}

// WaitBoot waits until the guest answers from another boot than old, and
// returns the new boot's id.
func (h *Host) WaitBoot(ctx context.Context, old string) (string, error) {
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	for {
		// Short tries: a packet lost while the guest boots is not sent again for seconds.
		try, cancel := context.WithTimeout(ctx, time.Second)
		s, err := h.Status(try)
		cancel()
		switch {
		case err == nil && s.BootID != "" && s.BootID != old:
			return s.BootID, nil
		case errors.Is(err, ErrOff):
			return "", fmt.Errorf("wait for %s: %w%s", h.Name, err, h.lastWords())
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %s: %w%s", h.Name, context.Cause(ctx), h.lastWords())
		case <-tick.C:
		}
	}
}

// lastWords is the end of QEMU's and the kernel's output, for an error.
func (h *Host) lastWords() string {
	var out strings.Builder
	for _, name := range []string{qemuLog, consoleLog} {
		if text := lastLines(filepath.Join(h.vm.dir, name)); text != "" {
			fmt.Fprintf(&out, "\n%s: ...%s", name, text)
		}
	}
	return out.String()
}

// lastLines is the end of a log, for an error; "" if there is none.
func lastLines(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw[max(0, len(raw)-600):]))
}
