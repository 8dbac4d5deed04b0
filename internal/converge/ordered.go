package converge

import (
	"fmt"
	"slices"
	"time"

	"afloat/internal/wire"
)

// ordered is the way to an ordered action that is carried out: out of
// rotation, then the action, once. It returns false when there is none, or when
// the live patch's turn has come.
func (t *turn) ordered() bool {
	d := t.j.Desired
	switch {
	case t.order.Local != 0: // the owner's decision says what the host is to be
		return false
	case d.Action == wire.ActionLive:
		return false
	case t.j.Met == d.Nonce:
		return t.stillMet()
	case t.ended() && t.j.Ending.Phase == wire.PhaseFailed:
		return t.wait(wire.PhaseFailed, 0, "%s", t.j.Ending.Reason)
	case slices.Contains(t.j.Nonces, d.Nonce):
		return t.underWay()
	case !slices.Contains(t.o.Abilities, d.Action):
		return t.refuseOrder("cannot %s: this agent is not able to", t.what())
	case t.isOrdered():
		return false
	}
	return t.begin()
}

// what is the ordered action in words.
func (t *turn) what() string {
	d := t.j.Desired
	switch object := d.Object(); {
	case d.Action == wire.ActionReboot && object == "":
		return "reboot this host"
	case d.Action == wire.ActionReboot:
		return "reboot this host into " + object
	case d.Action == wire.ActionReplace:
		return "replace this host by " + object
	case d.Action == wire.ActionModule:
		return "exchange module " + object
	default:
		return string(d.Action) + " " + object
	}
}

// isOrdered says whether the host is what is ordered, without doing anything.
func (t *turn) isOrdered() bool {
	switch d := t.j.Desired; d.Action {
	case wire.ActionReboot:
		return t.o.Kernel.Named(d.Kernel)
	case wire.ActionReplace:
		return t.o.Image == d.Replace
	}
	return false
}

// begin takes the host out of rotation and then carries the action out.
func (t *turn) begin() bool {
	d := t.j.Desired
	phase := wire.PhaseWaiting
	if t.disrupts() {
		if t.leave() {
			return true
		}
		phase = wire.PhaseDraining
	}
	r := t.record(RecordBegun)
	r.Order, r.Nonce, r.Action, r.Object = t.order, d.Nonce, d.Action, d.Object()
	if d.Rollout != "" {
		if t.holdsPermit(phase) {
			return true
		}
		r.Permit = t.o.Permit
	}
	t.perform()
	t.out.Record = r
	return true
}

// disrupts says whether the host's work would suffer from the action.
func (t *turn) disrupts() bool {
	d := t.j.Desired
	return d.Out || d.Action != wire.ActionModule || !slices.Contains(t.o.Hot, d.Module)
}

func (t *turn) perform() bool {
	d := t.j.Desired
	return t.do(Action{Kind: Perform, Phase: wire.PhaseRebooting, Does: d.Action, Object: d.Object(), Nonce: d.Nonce, Reason: "about to " + t.what()})
}

// Acted is the record of what came of a Perform that does not end the boot.
func Acted(a Action, o Observed, err error) Record {
	r := Record{Kind: RecordActed, Boot: o.Boot, Nonce: a.Nonce}
	if err != nil {
		r.Reason = err.Error()
	}
	return r
}

// underWay follows up on an action that was begun.
func (t *turn) underWay() bool {
	d, deed := t.j.Desired, t.j.Deed
	switch {
	case deed == nil || deed.Nonce != d.Nonce:
		return t.wait(wire.PhaseFailed, 0, "cannot %s: nonce %s was used before", t.what(), d.Nonce)
	case deed.Failed != "":
		return t.wait(wire.PhaseFailed, 0, "cannot %s: %s", t.what(), deed.Failed)
	case !deed.Done: // the boot has not ended yet, so asking again cannot boot twice
		return t.perform()
	}
	switch got := t.got(); {
	case d.Action == wire.ActionReboot && d.Kernel == "", t.isOrdered(), got == "":
		return false
	default:
		return t.unmet("the host came back with %s, %s was ordered", got, d.Object())
	}
}

// got is what the host came back with, "" if the action is none that shows.
func (t *turn) got() string {
	switch t.j.Desired.Action {
	case wire.ActionReboot:
		return "kernel " + t.o.Kernel.Release
	case wire.ActionReplace:
		return fmt.Sprintf("image %q", t.o.Image)
	}
	return ""
}

// stillMet: the host was brought to what was ordered, and may have lost it
// since. A nonce is not acted on twice.
func (t *turn) stillMet() bool {
	if d := t.j.Desired; d.Action == wire.ActionReboot && d.Kernel != "" && !t.isOrdered() {
		return t.wait(wire.PhaseFailed, 0, "runs kernel %s again, though it was booted into %s", t.o.Kernel.Release, d.Kernel)
	}
	return false
}

// goingDown is how long after it was asked for a boot may take to end. Until
// then, an end is put down to the order, even to one that was replaced since.
const goingDown = 5 * time.Minute

// unfinishedDeed closes an action of which it is not known how it went. One
// that shows in no boot id is not done again. One that ends the boot is asked
// for again (see underWay), unless it was replaced by another order: then the
// end of this boot is at some time no longer its doing.
func (t *turn) unfinishedDeed() bool {
	deed := t.j.Deed
	if deed == nil || !deed.open() {
		return false
	}
	reason := "interrupted; whether it was carried out is not known, so it is not done again"
	if deed.endsBoot() {
		if t.j.Desired.Nonce == deed.Nonce || t.now < deed.Began+goingDown {
			return false
		}
		reason = "replaced by another order before it was carried out"
	}
	r := t.record(RecordActed)
	r.Nonce, r.Reason = deed.Nonce, reason
	return t.note(r, "an action was not carried out, as far as is known")
}

// standOut keeps a host out of rotation that is ordered to be.
func (t *turn) standOut() bool {
	switch {
	case !t.staysOut():
		return false
	case len(t.o.Abilities) == 0:
		return t.refuseOrder("cannot leave rotation: this agent only loads live patches")
	}
	return t.leave()
}

// leave takes the host out of rotation. It returns false once it is out, by
// whomever: what somebody else took out stays out (law 8).
func (t *turn) leave() bool {
	if t.o.Out && t.j.Turning != TurningIn {
		return false
	}
	a := Action{Kind: Leave, Phase: wire.PhaseDraining, After: soon * 5, Reason: "leaving rotation"}
	if t.j.Turning == TurningOut {
		return t.do(a)
	}
	if t.j.Desired.Rollout != "" {
		if t.holdsPermit(wire.PhaseWaiting) {
			return true
		}
	}
	a.Record = t.record(RecordLeaving)
	a.Record.Order = t.order
	return t.do(a)
}

// entered notes that the host is back in rotation, as far as that is afloat's
// to bring about (law 8).
func (t *turn) entered() bool {
	if t.j.Turning != TurningIn || t.o.Out && t.o.OutBy == "" {
		return false
	}
	return t.note(t.record(RecordEntered), "back in rotation")
}

// back is the way from being done to being of use: probes, rotation, warm-up.
// While what the host would do otherwise is more than waiting, there is no way
// back yet.
func (t *turn) back() bool {
	d, steady := t.j.Desired, &t.out
	if steady.Kind != Wait || steady.Phase != wire.PhaseApplied && steady.Phase != wire.PhaseReverted && steady.Phase != wire.PhaseIdle {
		return false
	}
	open := t.order.Local == 0 && d.Action != wire.ActionLive && t.j.Met != d.Nonce
	for _, step := range []func(open bool) bool{t.verify, t.commit, t.enter, t.warm, t.reach} {
		if step(open) {
			return true
		}
	}
	return false
}

func (t *turn) staysOut() bool { return t.order.Local == 0 && t.j.Desired.Out }

// acted says that the open order's action was carried out here.
func (t *turn) acted() bool {
	return t.j.Deed != nil && t.j.Deed.Done && t.j.Deed.Nonce == t.j.Desired.Nonce
}

func (t *turn) verify(open bool) bool {
	after := open && t.acted()
	switch {
	case !after && (t.j.Turning != TurningOut || t.staysOut()):
		return false
	case !t.o.Probes.Known:
		return t.do(Action{Kind: Probe, Phase: wire.PhaseVerifying, After: soon * 5, Reason: "probing"})
	case t.o.Probes.Failed == "":
		return false
	case after:
		return t.unmet("probe failed: %s", t.o.Probes.Failed)
	}
	phase := wire.PhaseVerifying
	if open {
		phase = wire.PhaseFailed
	}
	return t.wait(phase, time.Minute, "cannot go back into rotation: probe failed: %s", t.o.Probes.Failed)
}

func (t *turn) commit(open bool) bool {
	if !open || !t.acted() || t.j.Desired.Action != wire.ActionReboot || t.o.Default == "" || t.o.Default == t.o.Kernel.Release {
		return false
	}
	return t.do(Action{Kind: Commit, Phase: wire.PhaseVerifying, Object: t.o.Kernel.Release, Reason: "kernel " + t.o.Kernel.Release + " becomes the default"})
}

func (t *turn) enter(bool) bool {
	if t.j.Turning == TurningNot || t.staysOut() {
		return false
	}
	a := Action{Kind: Enter, Phase: wire.PhaseVerifying, After: soon * 5, Reason: "going back into rotation"}
	if t.j.Turning == TurningOut {
		a.Record = t.record(RecordEntering)
		a.Record.Order = t.order
	}
	return t.do(a)
}

func (t *turn) warm(bool) bool {
	left := t.j.Entered + t.o.Limits.Warm - t.now
	if t.j.Entered == 0 || left <= 0 {
		return false
	}
	return t.wait(wire.PhaseWarming, left, "warming up")
}

func (t *turn) reach(open bool) bool {
	if !open {
		return false
	}
	r := t.record(RecordReached)
	r.Order, r.Digest, r.Phase, r.Nonce = t.order, t.target, wire.PhaseApplied, t.j.Desired.Nonce
	return t.note(r, "the host is what was ordered")
}

// unmet ends the order: it was carried out, and not for the good.
func (t *turn) unmet(format string, args ...any) bool {
	r := t.record(RecordUnmet)
	r.Order, r.Nonce = t.order, t.j.Desired.Nonce
	r.Reason = fmt.Sprintf(format, args...)
	return t.note(r, "the order is not met")
}

func (t *turn) refuseOrder(format string, args ...any) bool {
	t.wait(wire.PhaseRefused, time.Minute, format, args...)
	t.out.Refusal = refusal("desired", "", t.order.Generation, t.out.Reason)
	return true
}
