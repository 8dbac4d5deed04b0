package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
)

// Trial is one guest that boots, does one thing, and is gone again.
type Trial struct {
	Kernel  Kernel
	Guest   string   // path of the static lab-guest binary
	Modules []string // modules of the kernel to load at boot
	// MemoryMB of the guest; 0 takes the lab's default.
	MemoryMB int
	// Files are put into the guest first, by path there; all are executable.
	Files map[string][]byte
	// Script is run by sh -e.
	Script string
}

// TrialResult is what a trial showed. Console is all that the kernel said,
// also when the trial ended in an error.
type TrialResult struct {
	Result
	Console string
}

// Run boots the guest, puts the files there, runs the script and powers the
// guest off. A script that fails is no error: see the result's Code. A kernel
// that crashes is ErrRebooted.
func (t Trial) Run(ctx context.Context) (result TrialResult, err error) {
	h, end, err := t.Boot(ctx)
	if h == nil {
		return result, err
	}
	defer func() {
		if log, e := h.ConsoleLog(); e == nil { // none before the first boot
			result.Console = log
		}
		err = errors.Join(err, end(ctx))
	}()
	if err != nil {
		return result, err
	}
	for _, path := range slices.Sorted(maps.Keys(t.Files)) {
		if err := h.Put(ctx, path, 0o755, t.Files[path]); err != nil {
			return result, err
		}
	}
	result.Result, err = h.Exec(ctx, "sh", "-ec", t.Script)
	return result, err
}

// Boot boots the guest and returns it when it answers, for more than one
// script; end powers it off and removes it. A host that comes with an error did
// not boot: its console says why, and end is still to be called.
func (t Trial) Boot(ctx context.Context) (h *Host, end func(context.Context) error, err error) {
	dir, err := os.MkdirTemp("", "afloat-trial-")
	if err != nil {
		return nil, nil, fmt.Errorf("boot trial: %w", err)
	}
	l, err := New(dir, Config{Hosts: Hosts(1, t.Kernel), Guest: t.Guest, Modules: t.Modules, MemoryMB: t.MemoryMB})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	h = l.Hosts()[0]
	end = func(ctx context.Context) error { return l.Remove(context.WithoutCancel(ctx)) }
	if err := l.prepare(ctx); err != nil {
		return h, end, err
	}
	if err := h.Start(); err != nil {
		return h, end, err
	}
	return h, end, l.waitAll(ctx)
}
