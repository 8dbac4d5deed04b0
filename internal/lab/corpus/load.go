package corpus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"afloat/internal/lab"
)

// guestMemoryMB lets a guest hold some tens of loaded drivers.
const guestMemoryMB = 1024

// loadLimit is how long one module may take in the guest, under TCG on a busy machine.
const loadLimit = 4 * time.Minute

// loadBatch loads built modules one after the other in one guest. Where one
// takes the guest down, the others go on in a new one.
func (r *run) loadBatch(ctx context.Context, results []Result) error {
	var g *guest
	defer func() {
		if g != nil {
			_ = g.end(ctx)
		}
	}()
	for _, result := range results {
		if g == nil {
			var err error
			if g, err = r.boot(ctx); err != nil {
				return err
			}
		}
		start := time.Now()
		load, err := r.load(ctx, g, result)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil { // the guest is not to be trusted any more
			load = Load{Detail: err.Error()}
			if log, e := g.host.ConsoleLog(); e == nil {
				load.Detail += "\n" + tail(log, 3000)
			}
			err, g = g.end(ctx), nil
			if err != nil {
				return err
			}
		}
		load.MS = time.Since(start).Milliseconds()
		result.Load = &load
		r.tell(result)
		if err := r.store.put(result, nil); err != nil {
			return err
		}
	}
	return nil
}

// guest is a booted guest and what is known about its modules.
type guest struct {
	host *lab.Host
	end  func(context.Context) error
	// broken modules took a guest down or did not load, with the reason.
	broken map[string]string
}

func (r *run) boot(ctx context.Context) (*guest, error) {
	h, end, err := lab.Trial{Kernel: lab.KernelOf(r.Kit), Guest: r.Guest, MemoryMB: guestMemoryMB}.Boot(ctx)
	if err != nil {
		if end != nil {
			err = errors.Join(err, end(ctx))
		}
		return nil, err
	}
	return &guest{host: h, end: end, broken: r.broken}, nil
}

// load takes one live patch through its whole life. An error means that the
// guest is gone, or hangs.
func (r *run) load(ctx context.Context, g *guest, result Result) (Load, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, loadLimit, fmt.Errorf("no end after %v", loadLimit))
	defer cancel()
	var load Load
	load.Patching = true
	life := lab.Life{Name: result.Module, Leave: len(result.Threads) > 0}
	for _, target := range result.Targets {
		if target == "vmlinux" {
			continue
		}
		why, err := r.loadTarget(ctx, g, target)
		if err != nil {
			return load, err
		}
		if why != "" {
			load.Patching, load.Detail = false, why
		} else if life.Leave {
			life.Late = append(life.Late, target)
		}
	}
	var err error
	if life.Patch, err = r.store.module(result); err != nil {
		return load, err
	}
	if life.Late, err = g.host.Remove(ctx, life.Late); err != nil {
		return load, err
	}
	lived, err := life.Run(ctx, g.host)
	if err != nil {
		return load, err
	}
	if load.Redirected = lived.Redirected; load.Patching && load.Redirected != result.Functions {
		return load, fmt.Errorf("the kernel redirected %d of %d functions", load.Redirected, result.Functions)
	}
	load.OK = true
	return load, nil
}

// loadTarget loads a module of the kernel and what it needs, and says why the
// guest cannot where it cannot, mostly for want of the hardware.
func (r *run) loadTarget(ctx context.Context, g *guest, target string) (why string, err error) {
	if why := g.broken[target]; why != "" {
		return why, nil
	}
	err = g.host.Insert(ctx, target)
	if unusable, ok := errors.AsType[*lab.InsertError](err); ok {
		g.broken[target] = unusable.Error()
		return unusable.Error(), nil
	}
	if err != nil {
		g.broken[target] = "loading it, or what it needs, takes the guest down"
	}
	return "", err
}

// tail is the end of a text, at most n bytes.
func tail(s string, n int) string { return s[max(0, len(s)-n):] }
