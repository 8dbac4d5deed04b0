package sim

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/converge"
	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/wire"
)

// host is one virtual host: the agent's brain over a pretended kernel.
type host struct {
	id      fleet.HostID
	i       int32 // its index
	service int32 // in world.services
	chance  draws
	group   *Group
	labels  fleet.Labels
	kernel  *kernel.ID // that runs
	j       converge.Journal
	boots   int
	name    string // of boot number named
	named   int
	since   time.Duration // when it booted
	offered *wire.Desired
	permit  *converge.Permit
	patches []patch
	modules []string
	have    []bundle.Digest
	seq     uint64
	last    converge.Action
	told    told
	down    bool
	gone    bool          // for ever
	mute    bool          // its messages do not arrive
	away    bool          // has not joined yet
	quiet   bool          // sends nothing of its own
	given   bool          // the server takes its heartbeats as given
	heard   uint64        // the newest report that the server has
	skew    time.Duration // of its wall clock
	loads   map[converge.Key]int
	idle    bool // as accounted
	// standard is the kernel that boots by default.
	standard string
	blind    string // why it cannot see crash evidence
	m        *machine
}

// told is what the last report said, so that only news is sent.
type told struct {
	phase      wire.Phase
	generation uint64
	boots      int
	crashes    int
	live       bundle.Digest
	mode       fleet.Mode
	nonce      string
	out        bool
	blind      bool
}

// patch is a live patch in the pretended kernel.
type patch struct {
	converge.Patch
	digest bundle.Digest
	until  time.Duration // when its transition ends
	stall  bool
}

func (h *host) bootID() string {
	if h.named != h.boots || h.name == "" {
		h.name, h.named = string(h.id)+"/"+strconv.Itoa(h.boots), h.boots
	}
	return h.name
}

// clock is the host's CLOCK_BOOTTIME.
func (h *host) clock(now time.Duration) time.Duration { return now - h.since + time.Second }

// wall is the host's wall clock, which may be wrong.
func (h *host) wall(s *shard, now time.Duration) time.Time { return s.at(now).Add(h.skew) }

// settle is what the kernel does by itself: a transition ends, and a live
// patch that replaced the others is alone.
func (h *host) settle(now time.Duration) {
	top := -1
	for i := range h.patches {
		p := &h.patches[i]
		p.Transition = p.stall || now < p.until
		if p.Enabled && !p.Transition {
			top = i
		}
	}
	kept := h.patches[:0]
	for i, p := range h.patches {
		if i >= top && (p.Enabled || p.Transition) {
			kept = append(kept, p)
		}
	}
	h.patches = kept
}

func (h *host) observe(s *shard, now time.Duration) converge.Observed {
	h.settle(now)
	o := converge.Observed{Boot: h.bootID(), Kernel: *h.kernel, Modules: h.modules, Ceiling: fleet.ModeAct,
		Permit: h.permit, Limits: converge.DefaultLimits(), Blind: h.blind}
	if h.group.Observe {
		o.Ceiling = fleet.ModeObserve
	}
	for _, p := range h.patches {
		o.Patches = append(o.Patches, p.Patch)
	}
	if h.group.Foreign != "" {
		o.Patches = append(o.Patches, converge.Patch{Name: h.group.Foreign, Enabled: true})
	}
	h.observeMachine(&o, now)
	if _, want := h.target(); slices.Contains(h.have, want) {
		o.Bundles = s.w.bundles[want]
	}
	return o
}

func (h *host) target() (converge.Order, bundle.Digest) {
	if d := h.offered; d != nil && d.Generation > h.j.Desired.Generation {
		return converge.Order{Generation: d.Generation}, d.Live
	}
	return h.j.Target()
}

// maxSteps bounds what one host does at one moment; more is a loop.
const maxSteps = 200

// run lets the agent act until it waits, and says when to ask it again.
func (h *host) run(s *shard, now time.Duration) {
	if h.m != nil && h.m.acting != nil {
		return // the agent is busy
	}
	for range maxSteps {
		a := converge.Next(h.offered, h.j, h.observe(s, now), h.clock(now))
		if a.Phase != "" {
			h.last = a
		}
		if a.Kind == converge.Refuse {
			h.offered = nil
			continue
		}
		if a.Record.Kind != "" {
			a.Record.Time = h.wall(s, now)
			h.write(s, a.Record)
		}
		if h.effect(s, a, now) {
			continue
		}
		if a.After > 0 && (a.Kind == converge.Wait || a.Kind == converge.Watch) {
			s.schedule(now+a.After, h, evWake)
		}
		h.account(s)
		h.tell(s, now)
		return
	}
	s.fail("host %s: the agent does not come to rest at %s: %+v", h.id, now, h.last)
}

// enrol is the first start of the host's agent, which reports at once.
func (h *host) enrol(s *shard) {
	h.since = s.w.now - time.Hour
	h.skew = s.skew(h)
	h.boots++
	d := s.w.state.Desired(h.id)
	d.Epoch, d.Mode = s.w.epoch, fleet.ModeAct
	h.offered = &d
	h.quiet = true
	h.run(s, s.w.now)
	h.quiet = false
	h.seq++
	s.arrive(h, s.letter(h.report(s, s.w.now)), s.w.now)
}

func (h *host) write(s *shard, r converge.Record) {
	next, err := h.j.Fold(r)
	if err != nil {
		s.fail("host %s: %v", h.id, err)
		return
	}
	h.j = next
}

// effect does what the action asks of the world. It says whether to go on at once.
func (h *host) effect(s *shard, a converge.Action, now time.Duration) bool {
	switch a.Kind {
	case converge.Fetch:
		h.have = append(h.have, a.Digest)
	case converge.Load:
		h.load(s, a, now)
	case converge.Disable:
		for i := range h.patches {
			if p := &h.patches[i]; p.Name == a.Module {
				p.Enabled, p.stall, p.until = false, false, now+time.Second
			}
		}
	case converge.Unload:
		h.modules = slices.DeleteFunc(h.modules, func(m string) bool { return m == a.Module })
	case converge.Watch:
		at := now + a.After
		for _, p := range h.patches {
			if p.until > now {
				at = min(at, p.until)
			}
		}
		s.schedule(at, h, evWake)
		return false
	case converge.Leave, converge.Perform, converge.Probe, converge.Commit, converge.Enter:
		return h.ordered(s, a, now)
	case converge.Note:
		if a.Record.Kind == converge.RecordApplied {
			s.patched(h, a.Record.Digest, now)
		}
	default:
		return false
	}
	return true
}

func (h *host) load(s *shard, a converge.Action, now time.Duration) {
	key := converge.Key{Boot: h.bootID(), Order: a.Record.Order}
	if h.loads == nil {
		h.loads = map[converge.Key]int{}
	}
	if h.loads[key]++; h.loads[key] > 1 {
		s.fail("host %s: loaded twice in boot %s for %+v", h.id, key.Boot, key.Order)
	}
	takes := time.Second + time.Duration(s.random(h)*float64(time.Second))
	h.modules = append(slices.Clone(h.modules), a.Module)
	h.patches = append(h.patches, patch{Patch: converge.Patch{Name: a.Module, Enabled: true, Transition: true},
		digest: a.Digest, until: now + takes, stall: s.random(h) < s.chance("apply-fails", h)})
	h.write(s, converge.Record{Kind: converge.RecordLoaded, Boot: h.bootID(), Order: a.Record.Order, Digest: a.Digest, Module: a.Module, Uptime: h.clock(now)})
}

// tell sends a report if there is news.
func (h *host) tell(s *shard, now time.Duration) {
	live := bundle.Digest("")
	for _, p := range h.patches {
		if p.Enabled && !p.Transition {
			live = p.digest
		}
	}
	news := told{h.last.Phase, h.j.Desired.Generation, h.boots, len(h.j.Crashes), live, converge.Mode(h.j.Desired, fleet.ModeAct),
		h.j.Did, h.out(now), h.blind != ""}
	if news == h.told || h.quiet {
		return
	}
	h.told = news
	h.seq++
	s.send(h, h.report(s, now), now)
}

// report is what the host says of itself.
func (h *host) report(s *shard, now time.Duration) wire.Report {
	ceiling := fleet.ModeAct
	if h.group.Observe {
		ceiling = fleet.ModeObserve
	}
	r := wire.Report{Version: wire.Version, Host: h.id, Seq: h.seq, Name: string(h.id), Kernel: *h.kernel, Boot: h.bootID(),
		Nonce: h.j.Did, Out: h.out(now), Blind: h.blind, Abilities: h.group.able, UptimeS: h.clock(now).Seconds(), Labels: h.labels, Mode: converge.Mode(h.j.Desired, ceiling), Epoch: h.j.Epoch,
		Generation: h.j.Desired.Generation, Phase: h.last.Phase, Reason: h.last.Reason, Crashes: h.j.Recent(h.wall(s, now).Add(-7 * 24 * time.Hour))}
	if r.Phase == "" {
		r.Phase = wire.PhaseIdle
	}
	for _, p := range h.patches {
		r.Live = append(r.Live, wire.LivePatch{Name: p.Name, Enabled: p.Enabled, Transition: p.Transition, Bundle: p.digest})
	}
	if h.group.Foreign != "" {
		r.Live = append(r.Live, wire.LivePatch{Name: h.group.Foreign, Enabled: true})
	}
	return r
}

// oops is crash evidence that does not take the host down.
func (h *host) oops(s *shard, e event) {
	if h.blind != "" {
		return // nobody sees it
	}
	c := wire.Crash{ID: fmt.Sprintf("oops-%s-%d", h.bootID(), e.at), Kind: wire.CrashOops, Boot: h.bootID(), Live: e.digest, Signature: "simulated"}
	h.write(s, converge.Record{Kind: converge.RecordCrash, Boot: h.bootID(), Time: h.wall(s, e.at), Crash: &c})
	h.run(s, e.at)
}

// runs says whether the host runs the bundle.
func (h *host) runs(d bundle.Digest) bool {
	for _, p := range h.patches {
		if p.digest == d && p.Enabled {
			return !h.down && !h.gone
		}
	}
	return false
}

// die ends the boot without anybody asking for it, for some time at least.
func (h *host) die(s *shard, now, atLeast time.Duration) {
	if !h.down && !h.gone {
		if h.m != nil {
			h.m.sent = false
		}
		h.goDown(s, now, max(atLeast, h.about(s, h.group.takes.boot)))
	}
}

// back is the end of a boot.
func (h *host) back(s *shard, now time.Duration) {
	h.down, h.since = false, now
	h.boots++
	if release := h.bootKernel(); release != h.kernel.Release {
		id := kernelOf(release)
		h.kernel = &id
	}
	s.reached(h, now)
	h.run(s, now)
	s.ask(h, now)
}
