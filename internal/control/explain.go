package control

import (
	"fmt"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/rollout"
)

// Explanation says where one host stands and what it waits for.
type Explanation struct {
	Host    fleet.HostID      `json:"host"`
	Rollout string            `json:"rollout,omitempty"` // the newest that concerns it
	Phase   rollout.HostPhase `json:"phase,omitempty"`
	Wave    string            `json:"wave,omitempty"`
	Since   time.Time         `json:"since,omitzero"`
	Live    bundle.Digest     `json:"live,omitempty"` // what it is told to run
	Blocker
}

// Explain says for one host which one thing keeps it from starting, or how far it is.
func Explain(s *State, v *View, id fleet.HostID, now time.Time) Explanation {
	e := Explanation{Host: id, Live: s.Host(id).Live}
	seen := v.hosts[id]
	if seen == nil {
		e.Blocker = *blocked(KindUnselected, "when it is enrolled", "it is not enrolled")
		if r := s.rollouts[s.Host(id).Rollout]; r != nil {
			s.gone(&e, r)
		}
		return e
	}
	if by := s.Host(id).Gone; by != "" {
		e.Blocker = *blocked(KindGone, "", "host %s stands in for it since it was replaced", by)
		return e
	}
	r := s.concerns(seen)
	if r == nil {
		e.Blocker = *blocked(KindUnselected, "a rollout that selects it", "no open rollout selects it")
		return e
	}
	e.Rollout, e.Phase = r.ID, rollout.Waiting
	t := newTurn(s, v, now)
	if h := s.Host(id); h.Rollout == r.ID && h.Phase != rollout.Waiting {
		e.Phase, e.Since, e.Wave = r.HostPhase(h.Phase, h.Wave), h.Since, r.Waves[h.Wave].Name
		e.Blocker = *t.underway(r, seen, h, e.Phase)
		return e
	}
	p := t.planner(r)
	i := t.m.index[id]
	if w := p.WaveOf(i); w >= 0 {
		e.Wave = r.Waves[w].Name
	}
	e.Blocker = *t.waits(r, p, i)
	return e
}

// gone describes a host that is enrolled no more, and what its rollout made of it.
func (s *State) gone(e *Explanation, r *rollout.Rollout) {
	h := s.Host(e.Host)
	e.Rollout, e.Phase, e.Since, e.Wave = r.ID, r.HostPhase(h.Phase, h.Wave), h.Since, r.Waves[h.Wave].Name
	if e.Phase == rollout.Failed {
		e.Reason += ", and failed: " + h.Reason
	}
}

// concerns is the newest rollout that has the host or wants it.
func (s *State) concerns(seen *Seen) *rollout.Rollout {
	for i := len(s.order) - 1; i >= 0; i-- {
		r := s.rollouts[s.order[i]]
		if s.Host(seen.ID).Rollout == r.ID || !r.Phase.Over() && r.Policy.Select.Matches(seen.Labels) {
			return r
		}
	}
	return nil
}

// waits names the one thing that a host not taken yet waits for.
func (t *turn) waits(r *rollout.Rollout, p *planner, i int32) *Blocker {
	if b := p.blocks[i]; b != nil {
		return b
	}
	switch {
	case r.Phase == rollout.PhasePaused:
		return blocked(KindPaused, "afloat rollout resume "+r.ID, "rollout %s is paused: %s", r.ID, r.Reason)
	case !r.Phase.Open():
		return blocked(KindOver, "a new rollout", "rollout %s is %s: %s", r.ID, r.Phase, r.Reason)
	case r.Hold != "":
		return blocked(KindHold, "when that ends, or afloat rollout resume "+r.ID, "rollout %s holds: %s", r.ID, r.Hold)
	}
	w := p.WaveOf(i)
	if w < 0 {
		return blocked(KindWave, "", "no wave of rollout %s takes it", r.ID)
	}
	if until := t.controlUntil(r, w); t.now.Before(until) && r.Waves[w].Opened.IsZero() {
		b := blocked(KindWave, "when the evidence is enough, or the time is up", "it is kept without the patch, as the arm to compare with")
		b.Until = until
		return b
	}
	if current, opened := r.Current(); w > current || w == current && !opened {
		return t.wavesBefore(r, w, min(current, len(r.Waves)-1))
	}
	if r.Shut(w) {
		b := blocked(KindWave, "when that wave is over", "wave %s soaks and takes nobody more: a later one will", r.Waves[w].Name)
		b.Until = r.Waves[w].Soaking.Add(r.Policy.Waves[w].Soak)
		return b
	}
	if b := p.Blocked(i, t.now); b != nil {
		return t.held(r, b)
	}
	if t.batchRoom(r, p, w) == 0 {
		what, until := t.m.batch(r, t.now).waits(t.m, r, t.now)
		return &Blocker{Kind: KindBatch, Reason: what, Frees: "when all of it was heard from, or counts as crashed", Until: until}
	}
	return blocked(KindNone, "at the next turn", "nothing keeps it from starting")
}

func (t *turn) wavesBefore(r *rollout.Rollout, w, current int) *Blocker {
	open := r.Waves[current]
	b := blocked(KindWave, fmt.Sprintf("when wave %s is over", open.Name), "its wave %s is not open yet: wave %s is", r.Waves[w].Name, open.Name)
	if !open.Soaking.IsZero() {
		b.Until = open.Soaking.Add(r.Policy.Waves[current].Soak)
	}
	return b
}

// Status is one rollout with its progress, for people.
type Status struct {
	ID      string        `json:"id"`
	Name    string        `json:"name"`
	Target  string        `json:"target"`
	By      string        `json:"by"`
	Started time.Time     `json:"started"`
	Phase   rollout.Phase `json:"phase"`
	Reason  string        `json:"reason,omitempty"`
	Hold    string        `json:"hold,omitempty"`
	// Gate is the verdict at this moment.
	Gate gate.Verdict `json:"gate"`
	// Selected hosts, those of them that cannot be admitted, and those that ever had the patch.
	Selected int            `json:"selected"`
	Unfit    map[Kind]int   `json:"unfit,omitempty"`
	Exposed  int            `json:"exposed"`
	Crashed  []fleet.HostID `json:"crashed,omitempty"`
	// Reboot is how soon one must follow by the word of the target's publisher.
	Reboot bundle.Reboot `json:"reboot,omitempty"`
	// ETA says when it will be through, in words, "" if nothing is left. StatusOf
	// leaves it out: it takes a forecast.
	ETA string `json:"eta,omitempty"`
	// Debt says that reboots it owes, or pays off, will not be in time; "" while
	// they will. StatusOf leaves it out: it takes a forecast.
	Debt  string       `json:"debt,omitempty"`
	Waves []WaveStatus `json:"waves"`
	// Unbound says which hosts its budgets do not bound, as they lack a label.
	Unbound []string `json:"unbound,omitempty"`
}

// WaveStatus is one wave with its progress.
type WaveStatus struct {
	Name    string     `json:"name"`
	State   string     `json:"state"` // waiting, open, soaking or over
	Verdict gate.Level `json:"verdict,omitempty"`
	Why     string     `json:"why,omitempty"`
	// Goal is how many hosts it has when it is full, as things stand.
	Goal  int                       `json:"goal"`
	Hosts map[rollout.HostPhase]int `json:"hosts,omitempty"`
	// SoakUntil is when its soak is over, zero before it soaks.
	SoakUntil time.Time `json:"soak_until,omitzero"`
}

// StatusOf describes one rollout, and false if there is none of that id.
func StatusOf(s *State, v *View, id string, now time.Time) (Status, bool) {
	r := s.rollouts[id]
	if r == nil {
		return Status{}, false
	}
	t := newTurn(s, v, now)
	p := t.planner(r)
	facts := t.facts(r)
	st := Status{ID: r.ID, Name: r.Policy.Name, Target: r.Policy.Target.String(), By: r.By, Started: r.Started, Phase: r.Phase,
		Reason: r.Reason, Hold: r.Hold, Gate: gate.Decide(r.Policy.Gate, facts), Selected: p.Selected(), Exposed: r.Exposure.Exposed, Crashed: facts.Crashed, Reboot: r.Reboot, Unbound: t.m.loose(p)}
	for _, b := range p.blocks {
		if st.Unfit == nil {
			st.Unfit = map[Kind]int{}
		}
		st.Unfit[b.Kind]++
	}
	for i := range r.Waves {
		st.Waves = append(st.Waves, waveStatus(r, p, i))
	}
	return st, true
}

func waveStatus(r *rollout.Rollout, p *planner, i int) WaveStatus {
	w := r.Waves[i]
	st := WaveStatus{Name: w.Name, State: "waiting", Verdict: w.Verdict, Why: w.Why, Goal: max(p.Goal(i), r.Taken(i))}
	switch {
	case !w.Closed.IsZero():
		st.State = "over"
	case !w.Soaking.IsZero():
		st.State, st.SoakUntil = "soaking", w.Soaking.Add(r.Policy.Waves[i].Soak)
	case !w.Opened.IsZero():
		st.State = "open"
	}
	for _, phase := range rollout.HostPhases() {
		if n := r.CountIn(i, phase); n > 0 {
			if st.Hosts == nil {
				st.Hosts = map[rollout.HostPhase]int{}
			}
			st.Hosts[phase] = n
		}
	}
	return st
}
