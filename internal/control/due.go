package control

import (
	"time"

	"afloat/internal/gate"
	"afloat/internal/rollout"
)

// Due is when something next follows by itself, now or later: a batch settles, a
// soak is over, a budget frees, a host counts as silent, stuck or crashed, a
// control arm has waited for long enough, a debt must be paid, or evidence, which
// grows with time, is enough to let a rollout go on. It holds until the next
// Decide, unless something is heard before; false if nothing does.
func Due(s *State, v *View, now time.Time) (time.Time, bool) {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.Before(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	m := v.memo
	if m == nil || m.state != s {
		return now, true
	}
	sooner(m.earliest)
	for _, b := range m.batches {
		for at := range b.due {
			sooner(time.Unix(0, at))
		}
	}
	for _, p := range m.planners {
		if at, ok := p.Later(now); ok {
			sooner(at)
		}
	}
	if at, ok := m.pace.Later(now); ok {
		sooner(at)
	}
	for _, r := range s.active() {
		switch i, opened := r.Current(); {
		case opened && !r.Waves[i].Soaking.IsZero():
			sooner(r.Waves[i].Soaking.Add(r.Policy.Waves[i].Soak))
		case !opened && i < len(r.Waves) && r.Policy.Waves[i].Control:
			sooner(r.Started.Add(r.Policy.Gate.Control.By))
		}
		if learns(r) {
			sooner(learned(r, now))
		}
	}
	for id, w := range m.watch {
		for _, host := range w.silent {
			sooner(v.hosts[host].crashedAt(s.rollouts[id], s.hosts[host]))
		}
	}
	t := &turn{s: s, v: v, m: m, now: now}
	for _, r := range s.Rollouts() {
		if !t.mayOwe(r) {
			continue
		}
		if at := t.presses(r); at.IsZero() || len(r.Policy.Windows) == 0 {
			sooner(at)
		} else { // what windows leave of the time changes with the hour
			sooner(now)
		}
	}
	return next, !next.IsZero()
}

// learns says that evidence alone may let the rollout go on: it is held for want
// of it, or by it, or its control arm waits.
func learns(r *rollout.Rollout) bool {
	switch heldBy(r) {
	case ruleInconclusive, gate.RuleEvidence, gate.RuleCap:
		return r.Phase.Open()
	case "":
		i, opened := r.Current()
		return r.Phase == rollout.PhaseRunning && !opened && i < len(r.Waves) && r.Policy.Waves[i].Control
	}
	return false
}

// learned is until when the gate says the same of a rollout of which nothing new
// is heard, to the second; the zero time if it does for a year. As evidence only
// grows, what has changed does not change back.
func learned(r *rollout.Rollout, now time.Time) time.Time {
	const year = 365 * 24 * time.Hour
	said, from, to := says(r, now), now, now.Add(year)
	if says(r, to) == said {
		return time.Time{}
	}
	for to.Sub(from) > time.Second {
		if at := from.Add(to.Sub(from) / 2); says(r, at) == said {
			from = at
		} else {
			to = at
		}
	}
	return from
}

// says is what the gate will find at the given time.
func says(r *rollout.Rollout, at time.Time) (all string) {
	facts := r.Facts(at)
	facts.Terse = true
	for _, f := range gate.Decide(r.Policy.Gate, facts).Findings {
		all += string(f.Rule) + string(f.Level)
	}
	return all
}
