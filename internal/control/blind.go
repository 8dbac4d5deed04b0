package control

import (
	"slices"

	"afloat/internal/fleet"
	"afloat/internal/rollout"
)

// blind says that a crash of the host might go unseen: no data is no good news.
func blind(h *Seen) *Blocker {
	if h.Report.Blind == "" {
		return nil
	}
	return blocked(KindNoData, "when its agent can see it again", "its crash evidence cannot be seen: %s", clip(h.Report.Blind))
}

// unseen says that a host on its way in the rollout, or in its soak, cannot see
// its crash evidence.
func (m *memo) unseen(r *rollout.Rollout, i int32) bool {
	x := &m.hosts[i]
	if !x.blind || x.host == nil || x.host.Rollout != r.ID {
		return false
	}
	phase := r.HostPhase(x.host.Phase, x.host.Wave)
	return phase.Acting() && phase != rollout.Reverting || phase == rollout.Soaking
}

// sighted drops from a watch the hosts that see again.
func (m *memo) sighted(r *rollout.Rollout, w *watch) {
	w.blind = slices.DeleteFunc(w.blind, func(id fleet.HostID) bool {
		i, ok := m.index[id]
		return !ok || !m.unseen(r, i)
	})
}

// blind are the hosts that have a rollout's target, or are about to, and cannot
// see their crash evidence.
func (t *turn) blind(r *rollout.Rollout) []fleet.HostID {
	if w := t.m.watch[r.ID]; w != nil {
		return w.blind
	}
	return nil
}
