package control

import (
	"fmt"
	"slices"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// Decide is one turn: what follows from what is known at now. It changes
// nothing; the caller appends the record, applies it, and asks again until the
// record is empty. Crashes come before verdicts and verdicts before
// admissions, so nobody is admitted on evidence that was there to be seen.
func Decide(s *State, v *View, now time.Time) Record {
	t := newTurn(s, v, now)
	for _, step := range []func(){t.fold, t.silence, t.losses, t.verdicts, t.unwind, t.waves, t.payoffs, t.admit} {
		if step(); !t.rec.Empty() {
			return t.rec
		}
	}
	return t.rec
}

type turn struct {
	s     *State
	v     *View
	m     *memo
	now   time.Time
	rec   Record
	hosts int // in the record
	arms  map[compared]counts
}

func newTurn(s *State, v *View, now time.Time) *turn {
	t := &turn{s: s, v: v, rec: s.record(now)}
	t.now = t.rec.At
	t.m = v.follow(s, t.now)
	return t
}

func (t *turn) planner(r *rollout.Rollout) *planner { return t.m.planner(r, t.now) }

func (t *turn) full() bool { return t.hosts >= maxHosts }

// move puts a host into the record.
func (t *turn) move(seen *Seen, m Move) {
	t.hosts++
	i := slices.IndexFunc(t.rec.Moves, m.like)
	if i < 0 {
		i, t.rec.Moves = len(t.rec.Moves), append(t.rec.Moves, m)
	}
	t.rec.Moves[i].Hosts = append(t.rec.Moves[i].Hosts, seen.ID)
	if m.To == rollout.Soaking {
		t.rec.Moves[i].Boots = append(t.rec.Moves[i].Boots, bootSum(seen.Report.Boot))
	}
}

func (t *turn) change(r *rollout.Rollout, c rollout.Change) {
	t.rec.Changes = append(t.rec.Changes, Change{Rollout: r.ID, Change: c})
}

// attention lists the hosts of a rollout that hold it: silent or stuck on the
// way or in their soak, unless they have been counted as crashed.
func (t *turn) attention(r *rollout.Rollout) (silent, stuck []fleet.HostID) {
	w := t.m.watch[r.ID]
	if w == nil {
		return nil, nil
	}
	for _, id := range w.silent {
		h := t.s.hosts[id]
		if phase := r.HostPhase(h.Phase, h.Wave); phase != rollout.Done && !r.CrashedHost(id) {
			silent = append(silent, id)
		}
	}
	for _, id := range w.lost {
		if !r.CrashedHost(id) { // not counted yet, as nobody else is heard
			silent = append(silent, id)
		}
	}
	return silent, w.stuck
}

// verdicts lets the gate speak and holds what must not go on.
func (t *turn) verdicts() {
	for _, r := range t.s.active() {
		if r.Phase == rollout.PhaseReverting {
			continue
		}
		if why := t.withdrawn(r); why != "" {
			t.change(r, rollout.Change{Phase: rollout.PhaseReverting, Reason: why})
			continue
		}
		if t.kin(r) {
			continue
		}
		facts := t.facts(r)
		facts.Terse = true
		verdict := gate.Decide(r.Policy.Gate, facts)
		if !t.pull(r, verdict) && r.Phase.Open() {
			t.hold(r, verdict)
		}
	}
}

func (t *turn) withdrawn(r *rollout.Rollout) string {
	for _, d := range r.Bundles {
		if t.v.catalog[d].Withdrawn {
			return fmt.Sprintf("bundle %s was withdrawn", d.Short())
		}
	}
	return ""
}

// pull acts on a revert verdict, and says whether it did: where a person said to
// go on past it, the other rules still count.
func (t *turn) pull(r *rollout.Rollout, verdict gate.Verdict) bool {
	reverts := r.Policy.Gate.OnRevert == policy.RevertRevert
	i := slices.IndexFunc(verdict.Findings, func(f gate.Finding) bool {
		return f.Level == gate.LevelRevert && (reverts || !r.Passes(f.Rule))
	})
	if i < 0 || !reverts && r.Phase == rollout.PhasePaused {
		return false
	}
	f := verdict.Findings[i]
	c := rollout.Change{Phase: rollout.PhasePaused, Reason: fmt.Sprintf("%s: %s", f.Rule, f.Text), By: f.Rule}
	if reverts {
		c.Phase, c.By = rollout.PhaseReverting, ""
	}
	t.change(r, c)
	return true
}

const (
	ruleSilent       gate.Rule = "silence"
	ruleStuck        gate.Rule = "stuck"
	ruleInconclusive gate.Rule = "inconclusive"
)

// hold stops or releases admissions. A hold keeps its first words: only
// another rule, or none, changes it.
func (t *turn) hold(r *rollout.Rollout, verdict gate.Verdict) {
	rule, text := t.holds(r, verdict)
	if rule == heldBy(r) {
		return
	}
	hold := ""
	if rule != "" {
		hold = fmt.Sprintf("%s: %s", rule, text)
	}
	t.change(r, rollout.Change{Phase: r.Phase, Hold: hold})
}

func (t *turn) holds(r *rollout.Rollout, verdict gate.Verdict) (gate.Rule, string) {
	level := gate.LevelInconclusive
	if i := slices.IndexFunc(verdict.Findings, func(f gate.Finding) bool { return !r.Passes(f.Rule) }); i >= 0 {
		f := verdict.Findings[i] // the worst
		if level = f.Level; level == gate.LevelHold {
			return f.Rule, f.Text
		}
	}
	silent, stuck := t.attention(r)
	silent, stuck, blind := t.beyond(r, silent), t.beyond(r, stuck), t.beyond(r, t.blind(r))
	switch {
	case len(silent) > 0 && !r.Passes(ruleSilent):
		return ruleSilent, fmt.Sprintf("%s not heard for %s: %s", count(len(silent)), policy.Span(r.Policy.Timeouts.Silent), t.some(silent))
	case len(blind) > 0 && !r.Passes(gate.RuleNoData):
		return gate.RuleNoData, fmt.Sprintf("crash evidence of %s cannot be seen: %s", count(len(blind)), t.some(blind))
	case len(stuck) > 0 && !r.Passes(ruleStuck) && (r.Hold == "" || heldBy(r) == ruleStuck): // after another hold they first get a permit
		return ruleStuck, fmt.Sprintf("%s under way for over %s: %s", count(len(stuck)), policy.Span(r.Policy.Timeouts.Stuck), t.some(stuck))
	case level == gate.LevelInconclusive && r.Policy.Gate.OnInconclusive == policy.InconclusiveHold && t.soaked(r) && !r.Passes(ruleInconclusive):
		if heldBy(r) == ruleInconclusive { // its words are known
			return ruleInconclusive, ""
		}
		return ruleInconclusive, gate.Decide(r.Policy.Gate, t.facts(r)).Why()
	}
	return "", ""
}

// beyond are those of the hosts whose wave has more of them than may lag behind.
func (t *turn) beyond(r *rollout.Rollout, ids []fleet.HostID) []fleet.HostID {
	in := map[int]int{}
	for _, id := range ids {
		in[t.s.hosts[id].Wave]++
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id fleet.HostID) bool {
		w := t.s.hosts[id].Wave
		return in[w] <= r.Policy.Waves[w].Stragglers.Of0(r.Taken(w))
	})
}

// soaked says that the open wave's soak is over.
func (t *turn) soaked(r *rollout.Rollout) bool {
	i, opened := r.Current()
	return opened && !r.Waves[i].Soaking.IsZero() && t.now.Sub(r.Waves[i].Soaking) >= r.Policy.Waves[i].Soak
}

// waves opens, soaks and closes waves.
func (t *turn) waves() {
	for _, r := range t.s.active() {
		if r.Phase != rollout.PhaseRunning || r.Hold != "" || t.unheard(r) {
			continue
		}
		i, opened := r.Current()
		switch {
		case i == len(r.Waves):
			t.change(r, rollout.Change{Phase: rollout.PhaseComplete, Reason: t.complete(r)})
		case !opened:
			t.open(r, i)
		case r.Waves[i].Soaking.IsZero():
			if why := t.idle(r, i); why != "" {
				t.wave(r, rollout.WaveEvent{Wave: i, What: rollout.WaveCloses, Why: why})
			} else if t.settled(r, i) {
				t.wave(r, rollout.WaveEvent{Wave: i, What: rollout.WaveSoaks})
			}
		case t.soaked(r):
			verdict := gate.Decide(r.Policy.Gate, t.facts(r))
			t.wave(r, rollout.WaveEvent{Wave: i, What: rollout.WaveCloses, Verdict: verdict.Level, Why: verdict.Why()})
		}
	}
}

// unheard says that a host of the rollout has not been heard since the caller
// listens and is not silent yet: what became of it there nobody can say.
func (t *turn) unheard(r *rollout.Rollout) bool {
	if t.v.listens.IsZero() || t.now.Sub(t.v.listens) > r.Policy.Timeouts.Silent {
		return false
	}
	for i := range t.m.hosts {
		if x := &t.m.hosts[i]; x.unheard && x.host != nil && x.host.Rollout == r.ID && !quiet(r, x.seen, t.now) {
			if phase := r.HostPhase(x.host.Phase, x.host.Wave); phase.Acting() || phase.Exposed() {
				return true
			}
		}
	}
	return false
}

func (t *turn) wave(r *rollout.Rollout, e rollout.WaveEvent) {
	t.rec.Waves = append(t.rec.Waves, WaveEvent{Rollout: r.ID, WaveEvent: e})
}

// open opens a wave; one that has nobody to take is over at once.
func (t *turn) open(r *rollout.Rollout, i int) {
	why := t.idle(r, i)
	if why == "" && t.now.Before(t.controlUntil(r, i)) {
		return
	}
	t.wave(r, rollout.WaveEvent{Wave: i, What: rollout.WaveOpens})
	if why != "" {
		t.wave(r, rollout.WaveEvent{Wave: i, What: rollout.WaveCloses, Why: why})
	}
}

// idle says why a wave that took nobody has nobody to take, "" if that is not so.
func (t *turn) idle(r *rollout.Rollout, i int) string {
	p := t.planner(r)
	had, idle := p.Idle(i)
	switch {
	case r.Taken(i) > 0:
		return ""
	case r.Policy.Waves[i].Select != nil && p.Matching(i) == 0:
		return "no host matches"
	case !idle:
		return ""
	case had > 0:
		return "nobody is left to do: " + count(had) + " had it already"
	}
	return "nobody is left to do"
}

// complete says what a rollout came to whose waves are over.
func (t *turn) complete(r *rollout.Rollout) string {
	for i := range r.Waves {
		if r.Taken(i) > 0 {
			return "every wave is over"
		}
	}
	return "nothing to do: " + count(t.planner(r).Had()) + " had it already"
}

// controlUntil is until when wave i is kept back as the arm to compare with:
// the zero time if it is no such wave, or the evidence is enough.
func (t *turn) controlUntil(r *rollout.Rollout, i int) time.Time {
	if !r.Policy.Waves[i].Control || gate.Decide(r.Policy.Gate, t.facts(r)).Level == gate.LevelGo {
		return time.Time{}
	}
	return r.Started.Add(r.Policy.Gate.Control.By)
}

// settled says that the wave has all its hosts and they are through.
func (t *turn) settled(r *rollout.Rollout, i int) bool {
	p := t.planner(r)
	taken := r.Taken(i)
	if p.Room(i) > 0 {
		return false
	}
	if taken == 0 { // earlier waves may have taken all that are fit
		return i > 0 && r.Policy.Waves[i].Select == nil && p.Fit() > 0
	}
	return r.ActingIn(i) <= r.Policy.Waves[i].Stragglers.Of0(taken)
}

// admit lets hosts start.
func (t *turn) admit() {
	for _, r := range t.s.active() {
		if !r.Phase.Open() || r.Hold != "" {
			continue
		}
		last, opened := r.Current()
		if last == len(r.Waves) {
			last, opened = last-1, true
		}
		if !opened {
			continue
		}
		for w := 0; w <= last; w++ {
			if w == last && !r.Shut(w) || r.Policy.Waves[w].Select != nil {
				t.admitWave(r, w)
			}
		}
		if !t.rec.Empty() {
			return // the next rollout plans on what this one took
		}
	}
}

func (t *turn) admitWave(r *rollout.Rollout, w int) {
	p := t.planner(r)
	for _, i := range p.Next(w, t.now, min(maxHosts-t.hosts, t.batchRoom(r, p, w))) {
		t.m.given = t.rec.Seq
		t.move(t.m.hosts[i].seen, p.tasks[i].admission(r, w, t.m.hosts[i].host))
	}
}

// admission is the move of a host that starts.
func (o *task) admission(r *rollout.Rollout, w int, h *Host) Move {
	m := Move{Rollout: r.ID, Wave: w, To: rollout.Admitted, Live: o.live, Act: o.act}
	if o.keep && h != nil {
		m.Live = h.Live
	}
	return m
}

// batchRoom is how many hosts of wave w may start before those under way have
// shown what the patch does to them.
func (t *turn) batchRoom(r *rollout.Rollout, p *planner, w int) int {
	if r.Policy.Target.Disrupts() {
		return maxHosts // what is out of service is for the budgets
	}
	return t.m.batch(r, t.now).room(r.Taken(w)+p.Room(w), t.now)
}

func count(n int) string {
	if n == 1 {
		return "1 host"
	}
	return fmt.Sprintf("%d hosts", n)
}

// facts are what the gate judges, with hosts by their names.
func (t *turn) facts(r *rollout.Rollout) gate.Facts {
	f := r.Facts(t.now)
	f.Name = t.v.name
	return f
}

// some names a few of the hosts.
func (t *turn) some(ids []fleet.HostID) string { return gate.Some(ids, t.v.name) }
