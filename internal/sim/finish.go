package sim

import (
	"afloat/internal/control"
	"afloat/internal/gate"
	"afloat/internal/rollout"
)

// finish draws up what the run came to.
func (w *world) finish() {
	w.sample(true)
	w.out.Budgets, w.out.Services = w.capacity()
	w.out.Levels, _ = gate.LevelsOf(w.state.Rollout("r1").Policy.Gate) // of a policy that was read
	switch r := w.state.Rollout("r1"); {
	case r.Phase == rollout.PhaseReverting || r.Phase == rollout.PhaseReverted:
		w.out.Verdict = gate.LevelRevert
	case r.Hold != "":
		w.out.Verdict = gate.LevelHold
	}
	r := w.state.Rollout("r1")
	w.out.Phase, w.out.Reason, w.out.Hold, w.out.Took = r.Phase, r.Reason, r.Hold, w.now
	w.out.Exposed, w.out.Counted, w.out.Records = r.Exposure.Exposed, len(r.Crashed), w.state.Seq()
	w.out.Waits = w.waits()
	w.out.Later = make([]int, len(w.orders)-1)
	for i := range w.hosts {
		for n := range w.orders {
			if !w.hosts[i].onTarget(&w.orders[n]) {
				continue
			}
			if n == 0 {
				w.out.Running++
			} else {
				w.out.Later[n-1]++
			}
		}
	}
	if w.check != nil {
		w.check.end()
	}
}

// mostWaits is up to how many hosts are asked what they wait for.
const mostWaits = 2000

func (w *world) waits() map[string]int {
	if w.over() || len(w.hosts) > mostWaits {
		return nil
	}
	out := map[string]int{}
	for i := range w.hosts {
		e := control.Explain(w.state, w.view, w.hosts[i].id, w.at(w.now))
		if r := w.state.Rollout(e.Rollout); r != nil && r.Phase == rollout.PhaseRunning && e.Phase == rollout.Waiting {
			out[e.Reason]++
		}
	}
	return out
}
