package control

import "time"

// Due is when something next follows by itself, now or later: a batch settles, a
// soak is over, a budget frees, a host counts as silent, stuck or crashed, a
// control arm has waited for long enough, a debt must be paid. It holds until
// the next Decide, unless something is heard before; false if nothing does.
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
