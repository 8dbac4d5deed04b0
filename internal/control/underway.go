package control

import (
	"cmp"
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
	case phase == rollout.Done && r.Phase == rollout.PhaseAborted:
		return blocked(KindOver, "a new rollout", "it keeps what rollout %s brought, which is aborted: %s", r.ID, r.Reason)
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

// held puts a budget's word with the hosts that use it up, and when the first
// of them lets go of it.
func (t *turn) held(r *rollout.Rollout, b *plan.Block) *Blocker {
	out := &Blocker{Kind: KindBudget, Reason: b.Text, Until: b.Until}
	var holders []fleet.HostID
	said := map[fleet.HostID]string{}
	p := t.planner(r)
	for i := range t.m.hosts {
		x := &t.m.hosts[i]
		why, until := t.holding(r, b, x)
		if b.First && p.State(int32(i)) == plan.Fit && why == "" {
			why = t.goesFirst(r, b, x)
		}
		if why == "" {
			continue
		}
		holders, said[x.seen.ID] = append(holders, x.seen.ID), why
		if b.Until.IsZero() && until.After(t.now) && (out.Until.IsZero() || until.Before(out.Until)) {
			out.Until, out.About = until, true
		}
	}
	if len(holders) > 0 {
		out.Reason += "; held by " + gate.Some(holders, func(id fleet.HostID) string { return t.v.name(id) + " (" + said[id] + ")" })
	}
	switch {
	case b.First:
		out.Frees, out.Until, out.About = "when they are through", time.Time{}, false
	case len(holders) == 0 && b.Until.IsZero():
		out.Frees = "when its group has more to spare"
	case b.Until.IsZero():
		out.Frees = "when a host of it is back"
	default:
		out.Frees = "with time"
	}
	return out
}

// holding says how a host uses up what blocks, "" if it does not, and when that
// is over by what its class takes, the zero time for not known.
func (t *turn) holding(r *rollout.Rollout, b *plan.Block, x *memoHost) (why string, until time.Time) {
	spec, counts := counted(r, b, x)
	if !counts {
		return "", time.Time{}
	}
	if b.Over > 0 {
		if x.host == nil || t.now.Sub(x.host.Started) >= b.Over {
			return "", time.Time{}
		}
		return "started at " + stamp(x.host.Started), time.Time{}
	}
	switch {
	case x.acting && x.host.Rollout != "":
		other := t.s.rollouts[x.host.Rollout]
		if x.host.Act != nil && !x.host.Act.Off {
			until = x.host.Started.Add(cmp.Or(t.s.takes(other, x.seen), usualBoot) + spec.Warm)
		}
		return fmt.Sprintf("%s, rollout %s", x.host.Phase, other.ID), until
	case x.out:
		return "out of rotation", time.Time{}
	case x.away(quiet(r, x.seen, t.now)):
		return "silent", time.Time{}
	case t.now.Sub(x.back()) < spec.Warm:
		return "warming up", x.back().Add(spec.Warm)
	}
	return "", time.Time{}
}

// goesFirst says that a host that waits too goes before the others of its group.
func (t *turn) goesFirst(r *rollout.Rollout, b *plan.Block, x *memoHost) string {
	spec, counts := counted(r, b, x)
	if !counts || x.seen.Labels[spec.Order] == "active" {
		return ""
	}
	return "goes first"
}

// counted says that a host counts in what blocks, and by which budget; the zero
// Budget for a bound of the whole rollout or fleet.
func counted(r *rollout.Rollout, b *plan.Block, x *memoHost) (policy.Budget, bool) {
	p, labels := r.Policy, x.seen.Labels
	switch b.Budget {
	case "fleet rate":
		return policy.Budget{}, true
	case "rate":
		return policy.Budget{}, x.host != nil && x.host.Rollout == r.ID
	case "unavailable":
		return policy.Budget{}, p.Select.Matches(labels)
	}
	for _, budget := range p.Budgets {
		if budget.Name == b.Budget {
			return budget, !x.gone && budget.Select.Matches(labels) &&
				(budget.GroupBy == "" || budget.Domains > 0 || labels[budget.GroupBy] == b.Group)
		}
	}
	return policy.Budget{}, false
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
