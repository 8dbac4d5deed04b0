package rollout

import (
	"slices"

	"afloat/internal/gate"
)

// Passes says that a person let the rollout go on past the rule, and that it is
// still what the person saw: the wave is the same, or nothing was added to what
// the rule counts.
func (r *Rollout) Passes(rule gate.Rule) bool {
	if n, counts := r.toll(rule); counts {
		at, waved := r.WavedAt[rule]
		return waved && n <= at
	}
	return slices.Contains(r.Waved, rule)
}

// waive lets the rollout go on past a rule. Who passes a verdict on crashes
// passes the other one on the same crashes.
func (r *Rollout) waive(rule gate.Rule) {
	n, counts := r.toll(rule)
	if rule == gate.RuleFailures {
		for i := range r.Waves {
			r.Waves[i].Late = 0
		}
		if _, opened := r.Current(); !opened { // nothing else was counted
			return
		}
	}
	if !counts {
		if rule != "" && !slices.Contains(r.Waved, rule) {
			r.Waved = append(r.Waved, rule)
		}
		return
	}
	if r.WavedAt == nil {
		r.WavedAt = map[gate.Rule]int{}
	}
	r.WavedAt[rule] = n
	if onCrashes(rule) {
		r.WavedAt[gate.RuleCap], r.WavedAt[gate.RuleEvidence] = n, n
	}
}

// toll is what a rule has counted so far, false for one that is about the
// moment and not about a number that only grows.
func (r *Rollout) toll(rule gate.Rule) (n int, counts bool) {
	switch {
	case onCrashes(rule):
		return len(r.Crashed), true
	case rule == gate.RuleSignature:
		for _, s := range r.Signatures {
			n += len(s.Hosts)
		}
		return n, true
	}
	return 0, false
}

func onCrashes(rule gate.Rule) bool { return rule == gate.RuleCap || rule == gate.RuleEvidence }
