// Package agent is the daemon on each host. It keeps the host's journal, asks
// the server what the host should be, carries out what converge decides, and
// reports. Without a server it goes on with what the journal says.
//
// One goroutine, Run's, owns the host: it alone steps. Others bring it what
// came from outside (orders, crash evidence) and take its reports away.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"afloat/internal/converge"
	"afloat/internal/crash"
	"afloat/internal/wire"
)

// Version is what `afloat-agent version` prints; the Makefile sets it at link time.
var Version = "dev"

// CrashSource delivers the kernel log line by line until ctx ends.
type CrashSource interface {
	Follow(ctx context.Context, each func(crash.Line)) error
}

// Options are what an Agent is made of. Kernel, Machine and Log are needed;
// the rest has a zero value that works.
type Options struct {
	Folder
	Kernel  Kernel
	Machine Machine
	Crash   CrashSource // nil: no kernel log
	Log     *slog.Logger
	Version string
	Limits  converge.Limits
	Timing  Timing
}

// Timing is how often the agent does what it does unasked. Zero means default.
type Timing struct {
	Orders time.Duration // 60 s
	Beat   time.Duration // 30 s
	Look   time.Duration // 5 s: at the host itself, for what changed without the agent
	Ack    time.Duration // 5 s: how long a report or a request may go unanswered
}

func (t Timing) withDefaults() Timing {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{{&t.Orders, time.Minute}, {&t.Beat, 30 * time.Second}, {&t.Look, 5 * time.Second}, {&t.Ack, 5 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.usual
		}
	}
	return t
}

// Agent is a host's daemon.
type Agent struct {
	o        Options
	id       Identity
	settings Settings
	host     *host
	link     *link
	faults   chan crash.Fault

	blind atomic.Pointer[string] // why the kernel log cannot be followed, nil if it can

	last     converge.Action // the last that says where the host stands
	refusals []wire.Refusal  // not acknowledged yet
}

// New opens an agent of a host that has joined. It wraps ErrNotJoined otherwise.
func New(o Options) (*Agent, error) {
	id, err := LoadIdentity(o.State)
	if err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	settings, err := loadSettings(o.Config)
	if err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	o.Timing = o.Timing.withDefaults()
	if o.Limits == (converge.Limits{}) {
		o.Limits = converge.DefaultLimits()
	}
	a := &Agent{o: o, id: id, settings: settings, host: newHost(o, settings), faults: make(chan crash.Fault)}
	if a.link, err = newLink(o, id); err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	a.host.fetch = a.link.bundle
	a.host.blind = func() string {
		if why := a.blind.Load(); why != nil {
			return *why
		}
		return ""
	}
	return a, nil
}

func newHost(o Options, s Settings) *host {
	return &host{
		kernel: o.Kernel, machine: o.Machine, journal: journal{dir: o.State},
		bundles: bundles{dir: o.bundles(), publishers: o.publishers()},
		stop:    o.stop(), ceiling: s.Ceiling, limits: o.Limits, log: o.Log,
	}
}

// Run converges until ctx ends. It returns an error only if it cannot even
// begin; whatever happens later is reported and tried again.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.begin(ctx); err != nil {
		return fmt.Errorf("run agent: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var children sync.WaitGroup
	children.Go(func() { a.link.run(ctx) })
	children.Go(func() { a.followLog(ctx) })
	defer children.Wait()
	defer cancel()
	for ctx.Err() == nil {
		a.turn(ctx)
	}
	return nil
}

// begin takes back a shutdown mark of this boot: the host is up after all.
func (a *Agent) begin(ctx context.Context) error {
	boot, err := a.o.Machine.Boot()
	if err != nil {
		return err
	}
	err = a.host.journal.do(ctx, func(t *tx) error {
		if j := t.state(); j.Boot == boot && j.Ended {
			return t.append(converge.Record{Kind: converge.RecordResumed, Boot: boot})
		}
		return nil
	})
	if errors.Is(err, ErrJournal) { // Run reports it
		return nil
	}
	return err
}

// turn takes one step, reports, and waits if there is nothing to do.
func (a *Agent) turn(ctx context.Context) {
	action, err := a.host.step(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.o.Log.Error("step not taken", "err", err)
		action = converge.Action{Kind: converge.Wait, Phase: wire.PhaseWaiting, Reason: err.Error()}
	}
	a.note(action)
	if action.Phase != "" { // a mere note does not say where the host stands
		a.publish()
	}
	a.host.finish(ctx, action)
	a.events(ctx, a.pause(action))
}

// pause is how long to wait for events before the next step.
func (a *Agent) pause(action converge.Action) time.Duration {
	switch {
	case action.Kind == converge.Wait && action.After > 0:
		return min(a.o.Timing.Look, action.After)
	case action.Kind == converge.Wait:
		return a.o.Timing.Look
	case a.host.trouble != "":
		return actAgain
	}
	return 0
}

// note keeps where the host stands, and what it refused.
func (a *Agent) note(action converge.Action) {
	if action.Phase != "" {
		if action.Phase != a.last.Phase || action.Reason != a.last.Reason {
			a.o.Log.Debug("host stands", "phase", action.Phase, "reason", action.Reason)
		}
		a.last = action
	}
	if action.Refusal != nil {
		a.refuse(*action.Refusal)
	}
}

const maxRefusals = 32

// refuse remembers a refusal until the server has acknowledged it.
func (a *Agent) refuse(r wire.Refusal) {
	if !a.link.told(r.ID) {
		for _, have := range a.refusals {
			if have.ID == r.ID {
				return
			}
		}
		a.o.Log.Warn("refused", "what", r.What, "bundle", r.Digest.Short(), "reason", r.Reason)
		a.refusals = append(a.refusals, r)
		a.refusals = a.refusals[max(0, len(a.refusals)-maxRefusals):]
	}
}

// events takes what has come in, waiting for the first for at most d.
func (a *Agent) events(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case got := <-a.link.orders:
		a.take(got)
	case f := <-a.faults:
		a.crash(ctx, f)
	}
}

// take verifies orders. What does not verify is refused and reported.
func (a *Agent) take(got received) {
	d, err := wire.OpenDesired(a.id.ServerKey, got.orders.Desired, a.id.Host)
	if err != nil {
		a.refuse(*converge.RefuseOrder(err.Error()))
		return
	}
	a.host.offered = &d
	if got.orders.Permit == nil {
		return // what is held runs out by itself
	}
	p, err := wire.OpenPermit(a.id.ServerKey, *got.orders.Permit)
	if err == nil {
		a.host.permit, err = converge.Admit(a.host.permit, p, got.sent)
	}
	if err != nil {
		a.refuse(*converge.RefuseOrder(err.Error()))
	}
}

// hostname is the name for people, if the owner gave none.
func (s Settings) hostname() string {
	if s.Name != "" {
		return s.Name
	}
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}
