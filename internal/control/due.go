package control

import "time"

// Due is when something next follows by itself, after now: a batch settles, a
// soak is over, a budget frees, a host counts as silent or stuck. It holds
// until the next Decide; false if nothing does.
func Due(s *State, v *View, now time.Time) (time.Time, bool) {
	var next time.Time
	sooner := func(t time.Time) {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
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
	for _, r := range s.active() {
		if i, opened := r.Current(); opened && !r.Waves[i].Soaking.IsZero() {
			sooner(r.Waves[i].Soaking.Add(r.Policy.Waves[i].Soak))
		}
	}
	return next, !next.IsZero()
}
