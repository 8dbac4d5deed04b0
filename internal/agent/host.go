package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/converge"
	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/livepatch"
	"afloat/internal/wire"
)

// Kernel is what the agent looks at and changes. *livepatch.Kernel is the real
// one; agenttest has one that pretends.
type Kernel interface {
	Patches() ([]livepatch.Patch, error)
	Modules() ([]string, error)
	Stalled(name string) ([]livepatch.Task, error)
	Settle(ctx context.Context, name string) (livepatch.Patch, error)
	Changer
}

// Changer is the part of a Kernel that acts.
type Changer interface {
	Load(name string, module []byte) error
	SetEnabled(name string, on bool) error
	Unload(name string) error
}

// Machine tells boots apart and what is booted.
type Machine interface {
	Boot() (id string, err error)
	Uptime() (time.Duration, error) // CLOCK_BOOTTIME
	Kernel() (kernel.ID, error)
}

// fetcher gets a bundle file by digest; nil where there is no server to ask.
type fetcher func(ctx context.Context, d bundle.Digest) ([]byte, error)

// host carries out converge's actions, one at a time. Daemon and local
// commands each have their own; the journal's lock keeps them apart.
type host struct {
	kernel  Kernel
	machine Machine
	journal journal
	bundles bundles
	stop    string // path of the stop file
	ceiling fleet.Mode
	limits  converge.Limits
	byHand  bool
	fetch   fetcher
	log     *slog.Logger

	blind   func() string    // why crash evidence cannot be seen; nil where nobody looks for any
	offered *wire.Desired    // verified, not yet accepted or refused
	permit  *converge.Permit // dies with the process, so with the boot
	looked  map[bundle.Digest]look
	trouble string // of the last action that failed
}

// look is what is known about a bundle, for a while.
type look struct {
	converge.Bundle
	until time.Duration // CLOCK_BOOTTIME at which a refusal is looked at again, 0 for never
}

const (
	refusalHolds = time.Minute // before a refused bundle is verified again: a key may have been added
	fetchAgain   = 10 * time.Second
	actAgain     = 500 * time.Millisecond
)

// step asks converge for the next action and carries out what is short. The
// rest, fetching and watching, is for finish, without the journal's lock.
func (h *host) step(ctx context.Context) (converge.Action, error) {
	var a converge.Action
	err := h.journal.do(ctx, func(t *tx) error {
		o, now := h.observe(t.state())
		a = converge.Next(h.offered, t.state(), o, now)
		return h.act(t, a)
	})
	return a, err
}

// finish carries out the part of an action that takes long.
func (h *host) finish(ctx context.Context, a converge.Action) {
	switch a.Kind {
	case converge.Fetch:
		h.fetchBundle(ctx, a.Digest)
	case converge.Watch:
		h.watch(ctx, a)
	}
}

// observe reads the host. What cannot be read becomes a Problem, which holds everything.
func (h *host) observe(j converge.Journal) (converge.Observed, time.Duration) {
	o := converge.Observed{Ceiling: h.ceiling, ByHand: h.byHand, Limits: h.limits, Permit: h.permit}
	if h.blind != nil {
		o.Blind = h.blind()
	}
	var now time.Duration
	err := errors.Join(
		read(&o.Boot, h.machine.Boot),
		read(&o.Kernel, h.machine.Kernel),
		read(&now, h.machine.Uptime),
		read(&o.Patches, h.patches),
		read(&o.Modules, h.kernel.Modules),
		read(&o.Stopped, h.stopped),
	)
	if err == nil && converge.NeedTasks(j, o, now) {
		err = read(&o.Tasks, func() ([]converge.Task, error) { return h.tasks(o.Patches) })
	}
	if err != nil {
		o.Problem = err.Error()
		return o, now
	}
	if _, target := j.Target(); target != "" {
		o.Bundles = map[bundle.Digest]converge.Bundle{target: h.look(target, now)}
	}
	return o, now
}

func read[T any](into *T, from func() (T, error)) error {
	v, err := from()
	if err == nil {
		*into = v
	}
	return err
}

func (h *host) patches() ([]converge.Patch, error) {
	patches, err := h.kernel.Patches()
	if err != nil {
		return nil, err
	}
	out := make([]converge.Patch, 0, len(patches))
	for _, p := range patches {
		out = append(out, converge.Patch{Name: p.Name, Enabled: p.Enabled, Transition: p.Transition})
	}
	return out, nil
}

func (h *host) tasks(patches []converge.Patch) ([]converge.Task, error) {
	var out []converge.Task
	for _, p := range patches {
		if !p.Transition {
			continue
		}
		tasks, err := h.kernel.Stalled(p.Name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, t := range tasks {
			out = append(out, converge.Task{PID: t.PID, Comm: t.Comm})
		}
	}
	return out, nil
}

// stopped says whether the owner halts the agent. Doubt counts as yes (law 3).
func (h *host) stopped() (bool, error) {
	_, err := os.Lstat(h.stop)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// look says what the local disk has for a digest.
func (h *host) look(d bundle.Digest, now time.Duration) converge.Bundle {
	if l, ok := h.looked[d]; ok && (l.until == 0 || now < l.until) {
		return l.Bundle
	}
	b, err := h.bundles.get(d)
	if errors.Is(err, fs.ErrNotExist) {
		return converge.Bundle{}
	}
	return h.saw(d, b, err, now)
}

func (h *host) saw(d bundle.Digest, b *bundle.Bundle, err error, now time.Duration) converge.Bundle {
	var l look
	switch {
	case err == nil:
		l.Manifest = &b.Manifest
	case errors.Is(err, bundle.ErrDamaged), errors.Is(err, bundle.ErrUnknownPublisher):
		l.Refused, l.until = err.Error(), now+refusalHolds
	default:
		l.Failing, l.Retry, l.until = err.Error(), now+fetchAgain, now+fetchAgain
	}
	if h.looked == nil {
		h.looked = map[bundle.Digest]look{}
	}
	h.looked[d] = l
	return l.Bundle
}

// act carries out what is short. An act that fails is not an error of step:
// the next observation shows where that left the host.
func (h *host) act(t *tx, a converge.Action) error {
	h.trouble = ""
	if a.Kind == converge.Refuse {
		h.offered = nil
		return nil
	}
	if a.Record.Kind != "" {
		if err := t.append(a.Record); err != nil {
			return err
		}
		if a.Record.Kind != converge.RecordIntent {
			h.log.Info("journal", "record", a.Record.Kind, "generation", a.Record.Order.Generation,
				"module", a.Module, "reason", a.Reason)
		}
	}
	var err error
	switch a.Kind {
	case converge.Load:
		return h.load(t, a)
	case converge.Disable:
		err = h.kernel.SetEnabled(a.Module, false)
	case converge.Unload:
		err = h.kernel.Unload(a.Module)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.trouble = err.Error()
		h.log.Warn("kernel refused", "action", a.Kind, "module", a.Module, "err", err)
	}
	return nil
}

// load is the one place that puts code into the kernel. The file is read and
// verified again, so that what is loaded is what was signed.
func (h *host) load(t *tx, a converge.Action) error {
	r := converge.Record{Kind: converge.RecordFailed, Boot: a.Record.Boot, Order: a.Record.Order, Digest: a.Digest, Module: a.Module}
	b, err := h.bundles.get(a.Digest)
	if err == nil {
		h.log.Info("loading live patch", "module", a.Module, "bundle", a.Digest.Short(), "generation", r.Order.Generation)
		err = h.kernel.Load(a.Module, b.Payload)
	}
	if err == nil {
		r.Kind = converge.RecordLoaded
		return t.append(r)
	}
	h.looked = nil
	e, ok := errors.AsType[*livepatch.KernelError](err)
	r.Retry, r.Reason = ok && e.Temporary() || errors.Is(err, fs.ErrNotExist), err.Error()
	h.trouble = err.Error()
	h.log.Error("live patch not loaded", "module", a.Module, "bundle", a.Digest.Short(), "err", err)
	return t.append(r)
}

func (h *host) fetchBundle(ctx context.Context, d bundle.Digest) {
	now, err := h.machine.Uptime()
	if err != nil {
		h.trouble = err.Error()
		return
	}
	if h.fetch == nil {
		h.saw(d, nil, errors.New("no server to fetch it from"), now)
		return
	}
	file, err := h.fetch(ctx, d)
	if err == nil {
		var b *bundle.Bundle
		b, err = h.bundles.put(d, file)
		h.saw(d, b, err, now)
	} else {
		h.saw(d, nil, fmt.Errorf("fetch bundle: %w", err), now)
	}
	if err != nil {
		h.log.Warn("bundle not fetched", "bundle", d.Short(), "err", err)
		return
	}
	h.log.Info("bundle fetched", "bundle", d.Short(), "bytes", len(file))
	if err := h.journal.do(ctx, func(t *tx) error { return h.tidy(t.state(), d) }); err != nil {
		h.log.Warn("bundles not tidied", "err", err)
	}
}

// tidy keeps the bundle that is coming, what the host runs and what it ran before.
func (h *host) tidy(j converge.Journal, coming bundle.Digest) error {
	_, target := j.Target()
	keep := []bundle.Digest{coming, target}
	if j.Kept != nil {
		keep = append(keep, j.Kept.Digest)
	}
	for _, own := range j.Own {
		keep = append(keep, own.Digest)
	}
	if n := len(j.Ran); n > 0 {
		for _, p := range j.Ran[max(0, n-2):] {
			keep = append(keep, p.Digest)
		}
	}
	return h.bundles.keep(keep)
}

// watchFor is how long a transition is watched before orders are looked at again.
const watchFor = time.Second

// watch returns when the transition ends, or after a while, or when ctx ends;
// the next step looks for itself.
func (h *host) watch(ctx context.Context, a converge.Action) {
	ctx, cancel := context.WithTimeout(ctx, min(a.After, watchFor))
	defer cancel()
	if _, err := h.kernel.Settle(ctx, a.Module); err != nil && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
		h.trouble = err.Error()
	}
}

// settle steps until there is nothing to do but wait, and returns that.
// progress is called with each action, if it is not nil.
func (h *host) settle(ctx context.Context, progress func(converge.Action)) (converge.Action, error) {
	for {
		a, err := h.step(ctx)
		if err != nil || ctx.Err() != nil {
			return a, errors.Join(err, context.Cause(ctx))
		}
		if progress != nil {
			progress(a)
		}
		h.finish(ctx, a)
		switch {
		case a.Kind == converge.Wait && a.After == 0, a.Kind == converge.Wait && a.After > 2*time.Second:
			return a, nil
		case a.Kind == converge.Wait:
			err = sleep(ctx, a.After)
		case h.trouble != "":
			err = sleep(ctx, actAgain)
		}
		if err != nil {
			return a, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Folder is where a host keeps what is its own, and where its owner configures it.
type Folder struct {
	State  string // DefaultState unless said otherwise
	Config string // DefaultConfig unless said otherwise
}

// Defaults of Folder.
const (
	DefaultState  = "/var/lib/afloat"
	DefaultConfig = "/etc/afloat"
)

func (f Folder) stop() string       { return filepath.Join(f.Config, "stop") }
func (f Folder) publishers() string { return filepath.Join(f.Config, "publishers.d") }
func (f Folder) bundles() string    { return filepath.Join(f.State, "bundles") }
