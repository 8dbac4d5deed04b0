package control

import (
	"slices"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/plan"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// unwind takes hosts back: all of them after a revert, those under way after
// an abort, unless they are past the point of no return.
func (t *turn) unwind() {
	for _, r := range t.s.Rollouts() {
		if r.Phase != rollout.PhaseReverting && (r.Phase != rollout.PhaseAborted || !r.AnyActing()) {
			continue
		}
		left := t.unwindAll(r)
		if r.Policy.Disrupts() && r.Phase == rollout.PhaseReverting {
			t.bringBack(r)
		}
		if r.Phase == rollout.PhaseReverting && !left && !t.full() {
			t.change(r, rollout.Change{Phase: rollout.PhaseReverted, Reason: r.Reason})
		}
	}
}

// unwindAll takes back the hosts that need not wait for a budget. It says
// whether hosts are left that are not back.
func (t *turn) unwindAll(r *rollout.Rollout) (left bool) {
	for _, id := range t.v.Hosts() {
		if t.full() {
			return true
		}
		h := t.s.hosts[id]
		if h == nil || h.Rollout != r.ID {
			left = t.drop(r, id, h) || left
			continue
		}
		phase := r.HostPhase(h.Phase, h.Wave)
		switch {
		case phase == rollout.Reverting:
			left = true
		case !goesBack(r.Phase, phase, h, t.v.hosts[id].Report):
		case r.Phase == rollout.PhaseReverting && h.needsBack(phase, t.v.hosts[id].Report):
			left = true // bringBack has it
		default:
			t.move(t.v.hosts[id], Move{Rollout: r.ID, Wave: h.Wave, To: rollout.Reverting, Live: t.restores(h)})
			left = true
		}
	}
	return left
}

// drop takes the rollout's live patch off a host that another rollout has by
// now, for a boot or a restart, or because it went back to that patch. It says
// whether the host has it yet.
func (t *turn) drop(r *rollout.Rollout, id fleet.HostID, h *Host) bool {
	if h == nil || h.Live == "" || r.Phase != rollout.PhaseReverting || !slices.Contains(r.Bundles, h.Live) {
		return false
	}
	if other := t.s.rollouts[h.Rollout]; !h.Phase.Acting() && (other == nil || other.Phase != rollout.PhaseReverting) {
		t.hosts++
		t.rec.Drops = append(t.rec.Drops, id)
	}
	return true
}

// goesBack says whether a host must be taken back.
func goesBack(r rollout.Phase, phase rollout.HostPhase, h *Host, report wire.Report) bool {
	switch {
	case phase == rollout.Reverting, h.staysActed(phase, report):
		return false
	case r == rollout.PhaseReverting:
		return phase.Acting() || phase.Exposed() || phase == rollout.Failed && h.needsBack(phase, report)
	}
	return phase.Acting() && !h.acted(phase, report)
}

// staysActed says that the host has acted and there is no way back from that: a
// restart, or a module of which the policy does not say what came before it. A
// boot of the same kernel is different: its live patch can be taken off.
func (h *Host) staysActed(phase rollout.HostPhase, r wire.Report) bool {
	return h.acted(phase, r) && !h.Act.Back && h.Act.Was == "" && (h.Act.Action != wire.ActionReboot || h.Act.Name != "")
}

// needsBack says that the host goes back by an action that disrupts it again.
func (h *Host) needsBack(phase rollout.HostPhase, r wire.Report) bool {
	act := h.Act
	if act == nil || act.Back || act.Was == "" {
		return false
	}
	if phase == rollout.Failed || phase == rollout.Admitted || phase == rollout.Draining {
		return r.Nonce == act.Nonce && (act.Action != wire.ActionReboot || !r.Kernel.Named(act.Was))
	}
	return true
}

// bringBack lets hosts start on their way back as the budgets allow.
func (t *turn) bringBack(r *rollout.Rollout) {
	p := t.m.back(r, t.now)
	for _, i := range p.Next(0, t.now, maxHosts-t.hosts) {
		t.m.given = t.rec.Seq
		h := t.m.hosts[i].host
		act := &Act{Action: h.Act.Action, Name: h.Act.Was, Was: h.Act.Name, Back: true}
		t.move(t.m.hosts[i].seen, Move{Rollout: r.ID, Wave: h.Wave, To: rollout.Reverting, Live: t.restores(h), Act: act})
	}
}

// backwards is the policy of the way back: all hosts in one wave inside the
// budgets of how many may be out. Windows and rest periods do not keep a host on
// what was found to be bad, and an emergency waits for nothing but the budgets
// that guard data: both halves of a pair never go together.
func backwards(p *policy.Policy) *policy.Policy {
	out := *p
	out.Waves = []policy.Wave{{Name: "back", Size: policy.Amount{Share: 1}}}
	out.Windows, out.Freezes, out.MinInterval = nil, nil, 0
	out.Budgets = nil
	if p.Urgency == policy.Emergency {
		out.Down, out.Rate = policy.Amount{}, policy.Rate{}
	}
	for _, b := range p.Budgets {
		if p.Urgency == policy.Emergency && !b.Guards() {
			continue
		}
		b.Disruptions = policy.Rate{}
		out.Budgets = append(out.Budgets, b)
	}
	return &out
}

// placeBack is what host i is to the way back of a rollout.
func (m *memo) placeBack(p *planner, i int32, silent bool) plan.State {
	seen, h, r := m.hosts[i].seen, m.hosts[i].host, p.rollout
	if h != nil && h.Gone != "" {
		return plan.Absent
	}
	if h == nil || h.Rollout != r.ID {
		if r.Policy.Select.Matches(seen.Labels) {
			return plan.Unfit
		}
		return plan.Other
	}
	phase := r.HostPhase(h.Phase, h.Wave)
	switch {
	case phase == rollout.Reverting || phase == rollout.Reverted:
		return plan.Taken
	case !silent && !seen.unheard && goesBack(rollout.PhaseReverting, phase, h, seen.Report) && h.needsBack(phase, seen.Report):
		return plan.Fit
	}
	return plan.Unfit
}

// restores is the live patch that a host goes back to: the one before, unless
// that may not be used any more.
func (t *turn) restores(h *Host) bundle.Digest {
	if h.Prev == "" || t.s.unusable(t.v, h.Prev) != "" {
		return ""
	}
	return h.Prev
}
