package control

import (
	"fmt"
	"time"

	"afloat/internal/plan"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// Rest is what a rollout has still to do, ready to be played ahead. It shares
// nothing with the State.
type Rest struct {
	pol   *policy.Policy // with the waves that are left
	work  []plan.Work
	delay time.Duration // until the first host of them may start
	waits string        // why nobody is let start now, "" for no such thing
}

// ETA is when a running rollout will be through, if nothing goes wrong from now on.
type ETA struct {
	// Done is when the last host has the target, Over when the last soak is over.
	Done time.Time `json:"done"`
	Over time.Time `json:"over"`
	// Least is the earliest that any schedule could have them done, Binds why.
	Least time.Time `json:"least,omitzero"`
	Binds string    `json:"binds,omitempty"`
	// Stuck says why Left hosts can never start as things are.
	Stuck string `json:"stuck,omitempty"`
	Left  int    `json:"left,omitempty"`
	// Waits is why nobody is let start now: then the times are as if that ended now.
	Waits string `json:"waits,omitempty"`
}

// RestOf is what is left of a rollout, false if that is nothing or nobody's to do.
func RestOf(s *State, v *View, id string, now time.Time) (Rest, bool) {
	r := s.rollouts[id]
	if r == nil || r.Phase != rollout.PhaseRunning && r.Phase != rollout.PhasePaused {
		return Rest{}, false
	}
	t := newTurn(s, v, now)
	p := t.planner(r)
	rest := Rest{pol: t.rest(r, p)}
	if rest.delay = t.soakLeft(r); len(rest.pol.Waves) == 0 && rest.delay == 0 && !r.AnyActing() {
		return Rest{}, false
	}
	switch {
	case r.Phase == rollout.PhasePaused:
		rest.waits = "it is paused: " + r.Reason
	case r.Hold != "":
		rest.waits = "it holds: " + r.Hold
	}
	for i := range t.m.hosts {
		x := &t.m.hosts[i]
		state := p.State(int32(i))
		if state == plan.Absent {
			continue
		}
		rest.work = append(rest.work, plan.Work{Labels: p.labels(x.seen), Order: order(r.ID, x.seen.ID), Takes: s.outFor(r, x.seen),
			Out: p.Out(int32(i)) && !x.acting, Done: state != plan.Fit})
	}
	return rest, true
}

// Like says that two are about the same moment of a rollout: the same is in the
// way, and as many waves are left.
func (x Rest) Like(y Rest) bool { return x.waits == y.waits && len(x.pol.Waves) == len(y.pol.Waves) }

// outFor is how long a host is out for the rollout's target.
func (s *State) outFor(r *rollout.Rollout, seen *Seen) time.Duration {
	const live = 1500 * time.Millisecond
	if !r.Policy.Target.Disrupts() {
		return live
	}
	if d := s.takes(r, seen); d > 0 {
		return d
	}
	return usualBoot
}

// rest is the rollout's policy with the waves that have hosts to take, by what
// they still lack. The gate is left out: it is not known what it will see.
func (t *turn) rest(r *rollout.Rollout, p *planner) *policy.Policy {
	out := *r.Policy
	out.Gate.OnInconclusive, out.Waves = policy.InconclusiveContinue, nil
	current, _ := r.Current()
	for i := current; i < len(r.Waves); i++ {
		w := r.Policy.Waves[i]
		lacks := p.Goal(i)
		if i == current {
			lacks = room(r, p, i)
		}
		if lacks == 0 {
			continue
		}
		if w.Select == nil && w.Size.Share < 1 {
			w.Size = policy.Amount{N: lacks}
		}
		if w.Control {
			out.Gate.Control.By = max(0, t.controlUntil(r, i).Sub(t.now))
		}
		out.Waves = append(out.Waves, w)
	}
	return &out
}

// soakLeft is how long the open wave still takes, if it has all its hosts.
func (t *turn) soakLeft(r *rollout.Rollout) time.Duration {
	i, opened := r.Current()
	if !opened || r.Taken(i) == 0 || room(r, t.planner(r), i) > 0 {
		return 0
	}
	soak := r.Policy.Waves[i].Soak
	if began := r.Waves[i].Soaking; !began.IsZero() {
		return max(0, soak-t.now.Sub(began))
	}
	return soak + t.comesBack(r, i)
}

// room is how many hosts a wave still takes.
func room(r *rollout.Rollout, p *planner, i int) int {
	if r.Shut(i) {
		return 0
	}
	return p.Room(i)
}

// comesBack is until the last host under way in a wave is through, by what its class takes.
func (t *turn) comesBack(r *rollout.Rollout, wave int) (left time.Duration) {
	for i := range t.m.hosts {
		if x := &t.m.hosts[i]; x.acting && x.host.Rollout == r.ID && x.host.Wave == wave {
			left = max(left, x.host.Started.Add(t.s.outFor(r, x.seen)).Sub(t.now))
		}
	}
	return left
}

// ETA plays the rest ahead. For a big fleet that takes seconds: not for the
// owner of a State to wait for.
func (x Rest) ETA(now time.Time) ETA {
	from := now.Add(x.delay)
	out := ETA{Done: from, Over: from, Waits: x.waits}
	if len(x.pol.Waves) == 0 {
		return out
	}
	f := plan.Ahead(x.pol, x.work, from)
	out.Done, out.Over, out.Stuck, out.Left = from.Add(f.Done), from.Add(f.Over), f.Stuck, f.Left
	if len(f.Bounds) > 0 {
		out.Least, out.Binds = from.Add(f.Bounds[0].Least), f.Bounds[0].Name+": "+f.Bounds[0].Why
	}
	return out
}

// Text is the ETA in a sentence.
func (e ETA) Text() string {
	text := fmt.Sprintf("last host done about %s, over about %s", stamp(e.Done), stamp(e.Over))
	if e.Stuck != "" {
		text = fmt.Sprintf("never, as things are: %s cannot start: %s", count(e.Left), e.Stuck)
	}
	if e.Binds != "" && e.Stuck == "" {
		text += fmt.Sprintf("; no schedule beats %s (%s)", stamp(e.Least), e.Binds)
	}
	if e.Waits != "" {
		text += "; as if it went on now: " + e.Waits
	}
	return text
}
