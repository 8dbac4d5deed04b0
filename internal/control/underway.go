package control

import (
	"fmt"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/plan"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// underway describes a host that the rollout has taken.
func (t *turn) underway(r *rollout.Rollout, seen *Seen, h Host, phase rollout.HostPhase) *Blocker {
	said := ""
	if seen.Report.Reason != "" {
		said = "; it says: " + clip(seen.Report.Reason)
	}
	if b := t.acts(r, seen, &h, phase, said); b != nil {
		return b
	}
	quiet := t.now.Sub(seen.Heard) > r.Policy.Timeouts.Silent
	switch {
	case quiet && phase.Acting():
		return blocked(KindSilent, "when it is heard again", "%s, and silent since %s", phase, seen.Heard.UTC().Format(time.RFC3339))
	case phase == rollout.Failed:
		return blocked(KindFailed, "a new rollout", "it failed: %s", h.Reason)
	case phase == rollout.Admitted && !t.s.Permits(r.ID):
		return blocked(KindHold, "afloat rollout resume "+r.ID, "told to start, but rollout %s has no permit now: %s", r.ID, r.Hold+r.Reason)
	case phase == rollout.Soaking:
		return t.soaking(r, h)
	case phase.Acting():
		return blocked(KindNone, "when it reports", "%s%s", phase, said)
	}
	return blocked(KindNone, "", "%s", phase)
}

func (t *turn) soaking(r *rollout.Rollout, h Host) *Blocker {
	w := r.Waves[h.Wave]
	if w.Soaking.IsZero() {
		return blocked(KindNone, "when all hosts of the wave have settled", "it has the patch; wave %s is not full yet", w.Name)
	}
	b := blocked(KindNone, "when the soak is over and the gate agrees", "it has the patch; wave %s soaks", w.Name)
	b.Until = w.Soaking.Add(r.Policy.Waves[h.Wave].Soak)
	return b
}

// acts describes a host that was ordered to act, nil when there is nothing more
// to say than of any other.
func (t *turn) acts(r *rollout.Rollout, seen *Seen, h *Host, phase rollout.HostPhase, said string) *Blocker {
	if h.Act == nil {
		return nil
	}
	limits := r.Policy.Timeouts
	b := blocked(KindNone, "when it reports", "")
	switch {
	case r.Phase == rollout.PhaseReverting && phase != rollout.Reverting && h.needsBack(phase, seen.Report):
		return t.waitsForBack(r, h, seen)
	case phase == rollout.Draining:
		b.Reason, b.Frees, b.Until = "it leaves rotation"+said, "when it is drained", h.Since.Add(limits.Drain)
	case h.mayBeDown(phase) && t.now.Sub(seen.Heard) > limits.Silent:
		b.Reason, b.Frees = h.Act.String()+": it is down since "+seen.Heard.UTC().Format(time.RFC3339), "when it is back, or counts as lost"
		b.Until = later(seen.Heard, h.Since).Add(limits.Boot)
	case phase == rollout.Rebooting:
		b.Reason, b.Frees, b.Until = h.Act.String()+": under way"+said, "when it is back, or counts as lost", later(seen.Heard, h.Since).Add(limits.Boot)
	case phase == rollout.Verifying:
		b.Reason, b.Frees, b.Until = "it has acted and is being checked"+said, "when its probes pass", h.Since.Add(limits.Stuck)
	case phase == rollout.Warming:
		b.Reason, b.Frees = "it is back in rotation and warms up"+said, "when it is at full strength"
	case phase == rollout.Reverting && !h.Act.Off:
		b.Reason = "on its way back: " + h.Act.String() + said
	case phase == rollout.Failed && h.Act.Back:
		return blocked(KindFailed, "a person", "it could not be taken back: %s", h.Reason)
	default:
		return nil
	}
	return b
}

// waitsForBack says what keeps a host from starting on its way back.
func (t *turn) waitsForBack(r *rollout.Rollout, h *Host, seen *Seen) *Blocker {
	i := t.m.index[seen.ID]
	if b := t.m.back(r, t.now).Blocked(i, t.now); b != nil {
		out := t.held(r, b)
		out.Reason = fmt.Sprintf("it must go back to %s: %s", h.Act.Was, out.Reason)
		return out
	}
	return blocked(KindNone, "at the next turn", "it must go back to %s", h.Act.Was)
}

// held puts a budget's word with the hosts that use it up.
func (t *turn) held(r *rollout.Rollout, b *plan.Block) *Blocker {
	out := &Blocker{Kind: KindBudget, Reason: b.Text, Frees: "when a host of it is back", Until: b.Until}
	var holders []fleet.HostID
	for i := range t.m.hosts {
		x := &t.m.hosts[i]
		if !r.Policy.Select.Matches(x.seen.Labels) || !x.away(quiet(r, x.seen, t.now)) || !uses(r.Policy, b, x.seen) {
			continue
		}
		holders = append(holders, x.seen.ID)
	}
	if len(holders) > 0 {
		out.Reason += "; held by " + gate.Some(holders, t.holder)
	} else if !b.Until.IsZero() {
		out.Frees = "with time"
	}
	return out
}

// holder is a host that is out, and for whom.
func (t *turn) holder(id fleet.HostID) string {
	x, name := &t.m.hosts[t.m.index[id]], t.v.name(id)
	switch {
	case x.acting && x.host.Rollout != "":
		return fmt.Sprintf("%s (%s, rollout %s)", name, x.host.Phase, x.host.Rollout)
	case x.out:
		return name + " (out of rotation)"
	case x.unheard:
		return name + " (not heard yet)"
	}
	return name + " (silent)"
}

// uses says that a host counts in what blocks.
func uses(p *policy.Policy, b *plan.Block, seen *Seen) bool {
	if b.Budget == "unavailable" {
		return true
	}
	for _, budget := range p.Budgets {
		if budget.Name == b.Budget {
			return budget.Select.Matches(seen.Labels) && (budget.GroupBy == "" || budget.Domains > 0 || seen.Labels[budget.GroupBy] == b.Group)
		}
	}
	return false
}

// String says what is ordered, for people.
func (d *Act) String() string {
	switch {
	case d.Action == wire.ActionReboot && d.Name == "":
		return "reboot"
	case d.Action == wire.ActionReboot:
		return "reboot into " + d.Name
	case d.Action == wire.ActionReplace:
		return "replacement by " + d.Name
	case d.Action == wire.ActionModule:
		return "exchange of module " + d.Name
	}
	return "restart of " + d.Name
}
