package converge

import (
	"slices"

	"afloat/internal/wire"
)

// remove takes off everything that afloat loaded, newest first, and then says so.
func (t *turn) remove() bool {
	if own := t.current(); own != nil {
		return t.takeOff(*own)
	}
	if t.ended() {
		return t.wait(t.j.Ending.Phase, 0, "")
	}
	r := t.record(RecordReached)
	r.Order, r.Phase = t.order, wire.PhaseIdle
	if t.j.Kept != nil || t.j.Undone == t.order {
		r.Phase = wire.PhaseReverted
	}
	return t.note(r, "no live patch of ours is left")
}

// takeOff begins to remove one of ours.
func (t *turn) takeOff(own Own) bool {
	r := t.record(RecordRemoving)
	r.Order, r.Digest, r.Module = t.order, own.Digest, own.Module
	return t.do(Action{Kind: Disable, Phase: wire.PhaseReverting, Module: own.Module, Digest: own.Digest, Record: r,
		Reason: "disabling " + own.Module})
}

// clean carries on with what is on its way out already: reversed, disabled or
// replaced. It comes before anything new.
func (t *turn) clean() bool {
	for _, own := range t.j.Own {
		if own.Removing {
			return t.cleanOne(own)
		}
	}
	return false
}

func (t *turn) cleanOne(own Own) bool {
	a := Action{Phase: t.cleanPhase(), Module: own.Module, Digest: own.Digest}
	switch p := t.patch(own.Module); {
	case p != nil && p.Enabled:
		a.Kind, a.Reason = Disable, "disabling "+own.Module
	case p != nil && p.Transition:
		a.Kind, a.After, a.Reason = Watch, soon*5, own.Module+" is in transition out"
		if len(t.o.Tasks) > 0 {
			a.Reason += ", held up by " + names(t.o.Tasks)
		}
	case slices.Contains(t.o.Modules, own.Module):
		a.Kind, a.Reason = Unload, "unloading "+own.Module
	default: // the kernel is about to drop the directory
		a.Kind, a.After, a.Reason = Wait, soon, own.Module+" is going"
	}
	return t.do(a)
}

// cleanPhase: tidying up after a replace is not a revert, and neither is making way.
func (t *turn) cleanPhase() wire.Phase {
	own := t.current()
	switch {
	case own != nil && own.Digest == t.target && own.Applied != 0:
		return wire.PhaseApplied
	case t.target != "" && !t.ended():
		return wire.PhaseApplying
	}
	return wire.PhaseReverting
}
