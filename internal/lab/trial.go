package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Trial is one guest that boots, is tried things with, and is gone again.
type Trial struct {
	Kernel  Kernel
	Guest   string   // path of the static lab-guest binary
	Modules []string // modules of the kernel to load at boot
	// MemoryMB of the guest; 0 takes the lab's default.
	MemoryMB int
}

// Boot boots the guest and returns it when it answers; end powers it off and
// removes it. A host that comes with an error did not boot: its console says
// why, and end is still to be called.
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
