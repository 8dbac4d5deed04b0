package control

import (
	"cmp"

	"afloat/internal/health"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// follows is the phase that a host of this phase has reached by its report.
func follows(phase rollout.HostPhase, h *Host, r wire.Report) (rollout.HostPhase, string) {
	runs := h.Live != "" && health.Runs(r, h.Live)
	lost := r.Phase == wire.PhaseFailed || r.Phase == wire.PhaseRefused
	switch phase {
	case rollout.Failed:
		if h.Excused {
			return rollout.Waiting, "another try: it went down with its failure domain"
		}
		return phase, ""
	case rollout.Waiting, rollout.Reverted:
		return phase, ""
	case rollout.Reverting:
		if h.Act != nil {
			return followsBack(h, r)
		}
		if runs || h.Live == "" && loaded(r) == "" || lost && loaded(r) == "" {
			return rollout.Reverted, clip(r.Reason)
		}
		return phase, ""
	}
	if h.Act != nil {
		return followsDo(phase, h, r)
	}
	switch phase {
	case rollout.Admitted, rollout.Applying:
		switch {
		case r.Phase == wire.PhaseApplied && runs:
			return rollout.Soaking, ""
		case lost:
			return rollout.Failed, clip(r.Reason)
		case r.Phase == wire.PhaseApplying:
			return rollout.Applying, ""
		}
	case rollout.Soaking, rollout.Done:
		switch {
		case lost && !runs:
			return rollout.Failed, clip(r.Reason)
		case !runs && (r.Phase == wire.PhaseReverted || r.Phase == wire.PhaseIdle):
			return rollout.Failed, "taken off at the host"
		}
	}
	return phase, ""
}

// way is the phases of an action that disrupts, in order, as hosts report them.
func way(p wire.Phase) (rollout.HostPhase, bool) {
	switch p {
	case wire.PhaseDraining:
		return rollout.Draining, true
	case wire.PhaseRebooting:
		return rollout.Rebooting, true
	case wire.PhaseVerifying:
		return rollout.Verifying, true
	case wire.PhaseWarming:
		return rollout.Warming, true
	}
	return "", false
}

// settled says that the host does nothing at the moment, and is back in rotation
// if it was afloat that took it out.
func settled(p wire.Phase) bool {
	return p == wire.PhaseApplied || p == wire.PhaseIdle || p == wire.PhaseReverted
}

// followsDo is follows for a host that was ordered to act.
func followsDo(phase rollout.HostPhase, h *Host, r wire.Report) (rollout.HostPhase, string) {
	if phase.Exposed() {
		if why := h.Act.astray(r); why != "" {
			return rollout.Failed, why
		}
		return phase, ""
	}
	to, acting := way(r.Phase)
	switch {
	case r.Phase == wire.PhaseFailed || r.Phase == wire.PhaseRefused:
		return rollout.Failed, clip(r.Reason)
	case settled(r.Phase) && h.Act.done(r) && (h.Live == "" || health.Runs(r, h.Live)):
		return rollout.Soaking, ""
	case settled(r.Phase) && r.Nonce == h.Act.Nonce && h.Act.astray(r) != "":
		return rollout.Failed, h.Act.astray(r)
	case acting && rollout.CanMove(phase, to):
		return to, ""
	}
	return phase, ""
}

// followsBack is follows for a host on its way back from an action.
func followsBack(h *Host, r wire.Report) (rollout.HostPhase, string) {
	lost := r.Phase == wire.PhaseFailed || r.Phase == wire.PhaseRefused
	back := h.Live == "" && loaded(r) == "" || h.Live != "" && health.Runs(r, h.Live)
	switch {
	case h.Act.Off && h.Act.Was == "" && r.Nonce == h.Act.Nonce && (settled(r.Phase) && back || lost && !r.Out): // nothing to go back to
		return rollout.Reverted, clip(r.Reason)
	case h.Act.Off && h.Act.Was == "" && r.Nonce == h.Act.Nonce:
	case !h.Act.Off && settled(r.Phase) && h.Act.done(r):
		return rollout.Reverted, clip(r.Reason)
	case !h.Act.Off && (lost || settled(r.Phase) && r.Nonce == h.Act.Nonce && h.Act.astray(r) != ""):
		return rollout.Failed, clip("on the way back: " + cmp.Or(r.Reason, h.Act.astray(r)))
	case h.Act.Off && r.Nonce == h.Act.Nonce && settled(r.Phase):
		return rollout.Soaking, "it had acted before it was called off"
	case h.Act.Off && r.Nonce != h.Act.Nonce && (lost || settled(r.Phase)):
		return rollout.Reverted, clip(r.Reason)
	}
	return rollout.Reverting, ""
}

// astray says that a host which has acted is not what it was ordered to be.
func (d *Act) astray(r wire.Report) string {
	if d.Action == wire.ActionReboot && d.Name != "" && !r.Kernel.Named(d.Name) {
		return "it runs kernel " + kernelName(r.Kernel.Release, r.Kernel.Version) + ", not " + d.Name
	}
	return ""
}

// failing is the order for a host that failed: to be what it was, as far as
// that takes no further action. Whether it is fit to serve is for its own probes
// to say: until they pass it stays out of rotation.
func (t *turn) failing(m Move, h *Host, r wire.Report) Move {
	m.Live = t.restores(h)
	if h.Act == nil {
		return m
	}
	if e, ok := t.v.catalog[m.Live]; ok && r.Nonce == h.Act.Nonce && e.Manifest.Kernel.Mismatch(r.Kernel) != "" {
		m.Live = ""
	}
	return m
}
