package converge

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// soon is when to look again at something that changes by itself.
const soon = 200 * time.Millisecond

// Next returns the one next action. desired is the order offered last, its
// signature verified; nil means none beyond what the journal has accepted. now
// is CLOCK_BOOTTIME. Next is total: it returns Wait when there is nothing to do.
func Next(desired *wire.Desired, j Journal, o Observed, now time.Duration) Action {
	t := turn{desired: desired, j: j, o: o, now: now}
	t.order, t.target = j.Target()
	for _, step := range []func() bool{
		t.unknown, t.boot, t.incoming, t.unfinishedLoad, t.unfinishedDeed, t.vanished, t.transitionOver, t.proven, t.entered,
	} {
		if step() {
			return t.out
		}
	}
	t.act()
	t.allow()
	return t.out
}

// turn is one question to Next. Its steps say whether they have found what to
// do, and leave it in out.
type turn struct {
	desired *wire.Desired
	j       Journal
	o       Observed
	now     time.Duration
	order   Order
	target  bundle.Digest
	out     Action
}

// unknown holds everything when the host could not be read (law 3).
func (t *turn) unknown() bool {
	switch {
	case t.o.Problem != "":
		return t.wait(wire.PhaseWaiting, soon*25, "cannot read this host: %s", t.o.Problem)
	case t.o.Boot == "":
		return t.wait(wire.PhaseWaiting, soon*25, "cannot read this host: no boot id")
	}
	return false
}

// boot notes a boot that the journal has not seen, with the crash if the last
// one ended without anybody asking for it.
func (t *turn) boot() bool {
	if t.o.Boot == t.j.Boot {
		return false
	}
	r := t.record(RecordBoot)
	r.Clean = t.j.Boot == "" || t.j.Ended || t.j.bootOrdered()
	if t.j.Boot == "" {
		r.Nonce, r.Order.Generation = t.o.Made.Nonce, t.o.Made.Generation
	}
	if !r.Clean {
		live, _, _ := t.j.suspect()
		if n := len(t.j.Own); live == "" && n > 0 {
			live = t.j.Own[n-1].Digest
		}
		r.Reason = "the host went down before the live patch was proven, and nobody had asked for that"
		r.Crash = &wire.Crash{
			ID: "boot-" + t.j.Boot, Kind: wire.CrashUnorderedBoot, Boot: t.j.Boot, Live: live,
			Text: "boot " + t.j.Boot + " ended without a shutdown record",
		}
	}
	return t.note(r, "new boot")
}

// incoming accepts or refuses the offered order.
func (t *turn) incoming() bool {
	if t.desired == nil {
		return false
	}
	d := t.desired
	if reason := refuseDesired(t.j, *d); reason != "" {
		return t.do(Action{Kind: Refuse, Reason: reason, Refusal: refusal("desired", d.Live, d.Generation, reason)})
	}
	if !news(t.j, *d) {
		return false
	}
	r := t.record(RecordDesired)
	r.Desired = d
	return t.note(r, "order accepted")
}

// unfinishedLoad finds out what became of a load whose outcome is not
// journalled: by looking at the kernel, never by loading again.
func (t *turn) unfinishedLoad() bool {
	open := t.j.Open
	if open == nil {
		return false
	}
	kind := RecordFailed
	if t.patch(open.Module) != nil {
		kind = RecordLoaded
	}
	r := t.record(kind)
	r.Order, r.Digest, r.Module = open.Order, open.Digest, open.Module
	if kind == RecordFailed {
		r.Retry, r.Reason = true, "interrupted before the kernel took it"
	}
	return t.note(r, "outcome of an interrupted load found in the kernel")
}

// vanished notes live patches of ours that the kernel no longer has.
func (t *turn) vanished() bool {
	for _, own := range t.j.Own {
		if t.patch(own.Module) != nil || slices.Contains(t.o.Modules, own.Module) {
			continue
		}
		r := t.record(RecordRemoved)
		r.Order, r.Digest, r.Module = own.Order, own.Digest, own.Module
		if !own.Removing {
			r.Reason = "live patch " + own.Module + " was taken off by somebody else"
		}
		return t.note(r, "live patch is off")
	}
	return false
}

// transitionOver notes that one of ours is applied.
func (t *turn) transitionOver() bool {
	for _, own := range t.j.Own {
		p := t.patch(own.Module)
		if own.Applied != 0 || own.Removing || p == nil || p.Transition || !p.Enabled {
			continue
		}
		r := t.record(RecordApplied)
		r.Order, r.Digest, r.Module = own.Order, own.Digest, own.Module
		r.MS = max(1, (t.now - own.Started).Milliseconds())
		return t.note(r, "live patch applied")
	}
	return false
}

// proven notes that the current live patch has been up for long enough
// without a counted crash in this boot.
func (t *turn) proven() bool {
	own := t.current()
	if t.o.Blind != "" || own == nil || own.Applied == 0 || own.Proven || t.untilProven(*own) > 0 || t.crashed(own.Digest) {
		return false
	}
	r := t.record(RecordProven)
	r.Order, r.Digest, r.Module = own.Order, own.Digest, own.Module
	return t.note(r, "live patch proven")
}

func (t *turn) untilProven(own Own) time.Duration { return own.Applied + t.o.Limits.Proven - t.now }

func (t *turn) crashed(d bundle.Digest) bool {
	return slices.ContainsFunc(t.j.Crashes, func(e Evidence) bool {
		return e.Crash.Boot == t.o.Boot && e.Crash.Live == d && e.Crash.Kind != wire.CrashWarning
	})
}

// act is what to do about the order, were there nothing to hold it: the
// ordered action first, then the live patch, then the way back into rotation.
func (t *turn) act() bool {
	for _, step := range []func() bool{t.ordered, t.standOut, t.clean} {
		if step() {
			return true
		}
	}
	if t.order == (Order{}) {
		return t.wait(wire.PhaseIdle, 0, "nothing asked of this host yet")
	}
	t.live()
	t.back()
	return true
}

// live is the way to the live patch that the order names.
func (t *turn) live() bool {
	switch {
	case t.target == "":
		return t.remove()
	case t.ended() && t.j.Ending.Phase == wire.PhaseFailed:
		return t.wait(wire.PhaseFailed, 0, "%s", t.j.Ending.Reason)
	}
	own := t.current()
	switch {
	case own != nil && own.Digest == t.target:
		return t.keep(*own)
	case own != nil && own.Applied == 0: // no longer wanted: reverse its transition now
		return t.takeOff(*own)
	}
	return t.load()
}

// allow holds back an action that the host's owner does not let happen (law 9).
func (t *turn) allow() {
	would := t.out.Phase
	switch {
	case !t.out.Acts():
	case t.o.Stopped && (!t.o.ByHand || t.out.Kind != Disable && t.out.Kind != Unload):
		t.wait(wire.PhaseWaiting, 0, "the stop file is there: not %s", would)
	case !t.o.ByHand && Mode(t.j.Desired, t.o.Ceiling) != fleet.ModeAct:
		t.wait(wire.PhaseWaiting, 0, "observe mode: not %s", would)
	}
}

// keep is the steady state: the host runs what it should.
func (t *turn) keep(own Own) bool {
	p := t.patch(own.Module)
	switch {
	case p == nil || !p.Enabled:
		return t.wait(wire.PhaseFailed, soon, "live patch %s was disabled by somebody else", own.Module)
	case p.Transition && own.Applied == 0:
		return t.watch(own)
	case !t.ended():
		r := t.record(RecordReached)
		r.Order, r.Digest, r.Phase = t.order, own.Digest, wire.PhaseApplied
		return t.note(r, "order names what is applied already")
	}
	t.wait(wire.PhaseApplied, 0, "")
	a := &t.out
	switch {
	case own.Proven:
		a.Reason = "proven"
	case t.o.Blind != "":
		a.Reason = "applied, not proven: crash evidence cannot be seen: " + t.o.Blind
	case t.crashed(own.Digest):
		a.Reason = "applied, not proven: crash evidence in this boot"
	default:
		a.Reason, a.After = "applied, not yet proven", t.untilProven(own)
	}
	if ms := t.j.Ending.UnpatchedMS; ms > 0 {
		a.Reason += fmt.Sprintf("; unpatched for %d ms, because it could not replace the one before in one step", ms)
	}
	return true
}

// watch waits for a transition to our live patch, and reverses it when it takes too long.
func (t *turn) watch(own Own) bool {
	left := own.Started + t.o.Limits.Stall - t.now
	if left > 0 {
		return t.do(Action{Kind: Watch, Phase: wire.PhaseApplying, Module: own.Module, Digest: own.Digest, After: left,
			Reason: "in transition"})
	}
	load := Action{Kind: Load, Module: own.Module, Digest: own.Digest}
	a, _ := load.Undo()
	r := t.record(RecordStalled)
	r.Order, r.Digest, r.Module = own.Order, own.Digest, own.Module
	r.Reason = fmt.Sprintf("transition not over after %s, reversed; held up by %s", t.o.Limits.Stall, names(t.o.Tasks))
	a.Record, a.Reason = r, r.Reason
	return t.do(a)
}

// NeedTasks says whether Next will want to know what holds up a transition.
func NeedTasks(j Journal, o Observed, now time.Duration) bool {
	t := turn{j: j, o: o, now: now}
	return slices.ContainsFunc(j.Own, func(own Own) bool {
		p := t.patch(own.Module)
		return p != nil && p.Transition && now-own.Started >= o.Limits.Stall
	})
}

func names(tasks []Task) string {
	if len(tasks) == 0 {
		return "no task that /proc shows"
	}
	out := make([]string, 0, len(tasks))
	for _, task := range tasks[:min(len(tasks), 8)] {
		out = append(out, fmt.Sprintf("%s (pid %d)", task.Comm, task.PID))
	}
	if more := len(tasks) - len(out); more > 0 {
		out = append(out, fmt.Sprintf("%d more", more))
	}
	return strings.Join(out, ", ")
}

// current is the newest live patch of ours that is not on its way out.
func (t *turn) current() *Own {
	for i := len(t.j.Own) - 1; i >= 0; i-- {
		if own := &t.j.Own[i]; !own.Removing {
			return own
		}
	}
	return nil
}

// ended says whether the present order has come to its end.
func (t *turn) ended() bool { return t.j.Ending != nil && t.j.Ending.Order == t.order }

func (t *turn) patch(name string) *Patch {
	i := slices.IndexFunc(t.o.Patches, func(p Patch) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &t.o.Patches[i]
}

func (t *turn) record(kind RecordKind) Record {
	return Record{Kind: kind, Boot: t.o.Boot, Uptime: t.now}
}

// do ends the turn with an action.
func (t *turn) do(a Action) bool {
	t.out = a
	return true
}

func (t *turn) note(r Record, reason string) bool {
	return t.do(Action{Kind: Note, Record: r, Reason: reason, Digest: r.Digest, Module: r.Module})
}

func (t *turn) wait(phase wire.Phase, after time.Duration, format string, args ...any) bool {
	return t.do(Action{Kind: Wait, Phase: phase, After: after, Reason: fmt.Sprintf(format, args...)})
}
