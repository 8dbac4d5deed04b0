package control

import (
	"maps"
	"slices"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/plan"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// memo is what Decide remembers from one turn to the next, so that a turn
// costs what has changed and not the fleet: it decides nothing that a fresh
// one would not. It belongs to one State and follows its records.
type memo struct {
	state *State
	view  *View
	seq   uint64 // of the state when it was last followed
	// expected is that of the state for which the planners were filled.
	expected int
	// given is the record with the last admissions: were it not applied, the
	// planners would have admitted hosts that nobody told.
	given  uint64
	setup  setup
	hosts  []memoHost
	index  map[fleet.HostID]int32
	unread []int32 // hosts to fold: something about them changed
	// planners by rollout, for those that are not over.
	planners map[string]*planner
	watch    map[string]*watch
	earliest time.Time // when a host may next go silent or get stuck
	stale    bool      // a host came back that was silent
	checked  mark      // when watch was last gone through
	batches  map[string]*batch
	labelled map[string]map[string][]int32 // see members
	// moved grows when something about a host changed.
	moved   uint64
	pace    *plan.Pace
	revoked []fleet.HostID // under way when the memo was made
	// required are the rollouts of kernels that hosts must boot.
	required []*rollout.Rollout
}

// setup is what makes all planners stale when it changes.
type setup struct {
	catalog, roster, bad, badNames, rollouts int
	requiring                                int // it only falls, but for another rollout
	rate                                     policy.Rate
}

type memoHost struct {
	seen *Seen
	host *Host // nil while nothing was decided for it
	// heard is the last sign of life in Unix nanoseconds, 0 before the first
	// report: a scan of a big fleet should not have to look any further.
	heard int64
	// batch is the one that it counts in, nil for none: it was admitted at
	// since, and counts until then at the latest, in Unix nanoseconds.
	batch        *batch
	since, until int64
	unread       bool
	silent       bool // to a rollout, at the last scan
	acting, gone bool
	out, blind   bool // as it says itself
	unheard      bool // see Seen
	// started is its last admission that the planners know of.
	started time.Time
}

// watch is what needs attention in one rollout, as of the last scan.
type watch struct {
	silent, stuck []fleet.HostID
	lost          []fleet.HostID // did not come back from what they were ordered to do
	blind         []fleet.HostID // cannot see their crash evidence
	all, heard    int
}

// follow brings the memo up to date with state and view.
func (v *View) follow(s *State, now time.Time) *memo {
	set := setup{v.changes, v.roster, len(s.bad), len(s.badName), len(s.order), len(s.requiring()), v.rate}
	m := v.memo
	if m == nil || m.state != s || m.seq > s.seq || m.given > s.seq || m.setup != set {
		m = v.remember(s, set, now)
	}
	if m.expected != s.expected { // who takes long is another now
		m.expected = s.expected
		maps.DeleteFunc(m.planners, func(_ string, p *planner) bool {
			return p.rollout.Policy.Target.Disrupts() || p.rollout.Policy.Debt.Reboot > 0
		})
	}
	for _, t := range s.touched {
		if i, ok := m.find(t); ok {
			m.decided(i, t.host)
			m.touch(i)
			m.start(i)
			m.refit(i, now)
			m.count(i, now)
			m.stale = m.stale || m.hosts[i].silent
		}
	}
	s.touched = s.touched[:0]
	for _, seen := range v.dirty {
		if i := seen.at - 1; i >= 0 && int(i) < len(m.hosts) && m.hosts[i].seen == seen {
			m.noted(i, now)
			m.touch(i)
			m.refit(i, now)
		}
	}
	v.dirty = v.dirty[:0]
	m.seq = s.seq
	m.scan(now)
	return m
}

func (v *View) remember(s *State, set setup, now time.Time) *memo {
	ids := v.Hosts()
	m := &memo{state: s, view: v, setup: set, index: make(map[fleet.HostID]int32, len(ids)), planners: map[string]*planner{}, batches: map[string]*batch{}, pace: plan.NewPace(set.rate), expected: s.expected, required: s.requiring(), revoked: v.underwayRevoked(s)}
	m.hosts = make([]memoHost, len(ids))
	for i, id := range ids {
		m.index[id] = int32(i)
		seen := v.hosts[id]
		seen.at, seen.relabelled = int32(i)+1, false // the planners are yet to be told
		m.hosts[i] = memoHost{seen: seen, unread: true}
		m.hosts[i].saw()
		m.decided(int32(i), s.hosts[id])
		m.count(int32(i), now)
		m.unread = append(m.unread, int32(i))
		for _, a := range s.hosts[id].admissions() {
			m.hosts[i].started = a.At
			if now.Sub(a.At) < set.rate.Per {
				m.pace.Started(a.At)
			}
		}
	}
	s.touched, v.dirty = nil, nil
	v.memo = m
	return m
}

// start tells the planners of other rollouts that host i was admitted: its own
// has done that. Budgets over time count disruptions, whoever causes them.
func (m *memo) start(i int32) {
	x := &m.hosts[i]
	if x.host == nil || !x.host.Started.After(x.started) {
		return
	}
	x.started = x.host.Started
	for id, p := range m.planners {
		if id != x.host.Rollout {
			p.Disrupted(x.started, i)
		}
	}
}

// saw takes over what the host said last.
func (x *memoHost) saw() {
	x.heard, x.out, x.unheard = x.seen.heard(), x.seen.outs(), x.seen.unheard
	x.blind = x.seen.Report.Blind != ""
}

// noted follows a sign of life of host i, or its loss.
func (m *memo) noted(i int32, now time.Time) {
	x := &m.hosts[i]
	before, blind := x.heard, x.blind
	x.saw()
	m.stale = m.stale || x.blind != blind || x.silent || x.seen.relabelled || x.heard < before
	if x.batch != nil || x.unheard {
		m.count(i, now)
	}
}

// find is the place of a host that a record was about.
func (m *memo) find(t touched) (int32, bool) {
	if i := t.host.at - 1; i >= 0 && int(i) < len(m.hosts) && m.hosts[i].host == t.host {
		return i, true
	}
	i, ok := m.index[t.id]
	return i, ok
}

// decided notes what was decided for host i.
func (m *memo) decided(i int32, h *Host) {
	m.hosts[i].host = h
	if h != nil {
		h.at, m.hosts[i].acting, m.hosts[i].gone = i+1, h.Phase.Acting(), h.Gone != ""
	}
}

func (m *memo) touch(i int32) {
	m.moved++
	if !m.hosts[i].unread {
		m.hosts[i].unread = true
		m.unread = append(m.unread, i)
	}
}

// planner is a plan.Planner with what it does not know about its hosts.
type planner struct {
	*plan.Planner
	rollout *rollout.Rollout
	back    bool // plans the way back
	sample  map[fleet.HostID]bool
	tasks   []*task
	blocks  map[int32]*Blocker
	choices map[kernel.ID]*choice
	// unbound says which hosts the budgets do not bound, nil for not known.
	unbound []string
	alike   map[peers][]int32 // see alike
}

// choice is what hosts of one kernel get, or why they get nothing.
type choice struct {
	task
	block *Blocker
}

// planner is the planner of a rollout.
func (m *memo) planner(r *rollout.Rollout, now time.Time) *planner {
	if p := m.planners[r.ID]; p != nil {
		return p
	}
	return m.fill(r.ID, &planner{Planner: plan.New(r.Policy), rollout: r}, now)
}

// back is the planner of a rollout's way back.
func (m *memo) back(r *rollout.Rollout, now time.Time) *planner {
	key := backKey(r)
	if p := m.planners[key]; p != nil {
		return p
	}
	return m.fill(key, &planner{Planner: plan.New(backwards(r.Policy)), rollout: r, back: true}, now)
}

func backKey(r *rollout.Rollout) string { return r.ID + back }

const back = " back"

// fill tells a new planner of all hosts.
func (m *memo) fill(key string, p *planner, now time.Time) *planner {
	r := p.rollout
	p.Keep(m.pace)
	p.Grow(len(m.hosts))
	p.sample = map[fleet.HostID]bool{}
	for _, id := range r.Sample {
		p.sample[id] = true
	}
	p.blocks, p.choices = map[int32]*Blocker{}, map[kernel.ID]*choice{}
	p.tasks = make([]*task, len(m.hosts))
	for i := range m.hosts {
		seen := m.hosts[i].seen
		h := m.entry(p, seen)
		h.State, h.Out = m.place(p, int32(i), now)
		p.Set(int32(i), h)
		m.recall(p, int32(i))
	}
	m.planners[key] = p
	return p
}

// entry is what a planner knows of a host for good.
func (m *memo) entry(p *planner, seen *Seen) plan.Host {
	return plan.Host{Labels: p.labels(seen), Order: order(p.rollout.ID, seen.ID), Takes: m.state.takes(p.rollout, seen)}
}

// labels are what the planner selects a host by.
func (p *planner) labels(seen *Seen) fleet.Labels {
	if !p.sample[seen.ID] {
		return seen.Labels
	}
	out := maps.Clone(seen.Labels)
	if out == nil {
		out = fleet.Labels{}
	}
	out[policy.SampleLabel] = "yes"
	return out
}

// place is what host i is to a rollout.
func (m *memo) place(p *planner, i int32, now time.Time) (plan.State, bool) {
	seen, r := m.hosts[i].seen, p.rollout
	h := m.hosts[i].host
	silent := quiet(r, seen, now)
	out := m.hosts[i].away(silent)
	if p.back {
		return m.placeBack(p, i, silent), out
	}
	p.tasks[i] = nil
	if len(p.blocks) > 0 {
		delete(p.blocks, i)
	}
	switch {
	case h != nil && h.Gone != "":
		return plan.Absent, false
	case h != nil && h.Rollout == r.ID && h.Phase != rollout.Waiting:
		return plan.Taken, out
	case !r.Policy.Select.Matches(seen.Labels):
		return plan.Other, out
	}
	o, b := m.fit(p, seen, now)
	if b != nil {
		if p.blocks[i] = b; b.Kind == KindHas {
			return plan.Had, out
		}
		return plan.Unfit, out
	}
	p.tasks[i] = o
	if seen.unheard {
		p.blocks[i] = blocked(KindSilent, "when it is heard", "not heard yet since this server listens, %s", seen.Heard.UTC().Format(time.RFC3339))
		return plan.Unsure, out
	}
	return plan.Fit, out
}

// away says that a host is not in service, as far as is known, whoever took it out.
func (x *memoHost) away(silent bool) bool { return silent || x.unheard || x.out || x.acting }

// quiet says that nothing was heard of a host for the rollout's limit.
func quiet(r *rollout.Rollout, seen *Seen, now time.Time) bool {
	return seen.Report.Boot == "" || now.Sub(seen.Heard) > r.Policy.Timeouts.Silent
}

// refit tells every planner what host i is now.
func (m *memo) refit(i int32, now time.Time) {
	for _, p := range m.planners {
		state, out := m.place(p, i, now)
		if m.hosts[i].seen.relabelled {
			p.unbound, p.alike = nil, nil
		}
		if seen := m.hosts[i].seen; seen.relabelled || p.State(i) == plan.Absent {
			h := m.entry(p, seen)
			h.State, h.Out = state, out
			p.Set(i, h)
		} else {
			p.Update(i, state, out)
		}
		m.warms(p, i)
	}
	if m.hosts[i].seen.relabelled {
		m.labelled = nil
	}
	m.hosts[i].seen.relabelled = false
}

// scan looks for hosts that went silent or got stuck: time alone does that, no
// message tells of it, but when it may next be so is known.
func (m *memo) scan(now time.Time) {
	active := m.state.watched()
	if m.watch != nil && len(m.watch) == len(active) && !m.stale && now.Before(m.earliest) {
		m.recheck(now)
		return
	}
	m.stale, m.earliest, m.watch = false, now.Add(always), map[string]*watch{}
	for i := range m.hosts {
		m.hosts[i].silent = false
	}
	for _, r := range active {
		t := r.Policy.Timeouts
		m.soon(now.Add(min(t.Stuck, t.Drain, t.Boot))) // who is admitted after this scan
		m.watch[r.ID] = m.look(r, now)
	}
	m.checked = mark{m.moved, m.state.seq}
}

// mark is a point in what the memo has followed.
type mark struct{ moved, seq uint64 }

// always is longer than any rollout.
const always = 100 * 365 * 24 * time.Hour

// soon sees to it that the next scan is not after t.
func (m *memo) soon(t time.Time) {
	if t.Before(m.earliest) {
		m.earliest = t
	}
}

func (m *memo) look(r *rollout.Rollout, now time.Time) *watch {
	w := &watch{}
	p, back := m.planners[r.ID], m.planners[backKey(r)]
	if p == nil {
		p, back = back, nil
	}
	limit := now.Add(-r.Policy.Timeouts.Silent).UnixNano()
	oldest := now.UnixNano() // of those that are heard
	for i := range m.hosts {
		x := &m.hosts[i]
		silent := x.heard == 0 || x.heard < limit
		if silent {
			x.silent = true
		} else {
			oldest = min(oldest, x.heard)
		}
		known := p != nil && p.State(int32(i)) != plan.Absent
		if known && (p.Out(int32(i)) != x.away(silent) || silent && (p.fits(int32(i)) || back.fits(int32(i)))) {
			m.refit(int32(i), now)
		}
		if x.heard != 0 && !x.excluded(silent) && (p != nil && p.State(int32(i)).Selected() || r.Policy.Select.Matches(x.seen.Labels)) {
			w.all++
			if !silent {
				w.heard++
			}
		}
		if m.unseen(r, int32(i)) {
			w.blind = append(w.blind, x.seen.ID)
		}
		if silent || x.acting {
			m.attend(w, r, int32(i), silent, now)
		}
	}
	m.soon(time.Unix(0, oldest).Add(r.Policy.Timeouts.Silent))
	return w
}

// fits says that a planner, if there is one, would let host i start, or would
// once it is heard. One that was out already is no more out for its silence, but
// not fit any longer.
func (p *planner) fits(i int32) bool {
	return p != nil && (p.State(i) == plan.Fit || p.State(i) == plan.Unsure)
}

// excluded says that the host's silence tells nothing of its neighbours': it is
// gone, or was ordered to go down.
func (x *memoHost) excluded(silent bool) bool {
	return x.gone || silent && x.host != nil && x.host.mayBeDown(x.host.Phase)
}

// attend notes a host of the rollout that is silent or stuck.
func (m *memo) attend(w *watch, r *rollout.Rollout, i int32, silent bool, now time.Time) {
	seen, h := m.hosts[i].seen, m.hosts[i].host
	if h == nil || h.Rollout != r.ID {
		return
	}
	phase := r.HostPhase(h.Phase, h.Wave)
	switch back := later(seen.Heard, h.Since).Add(r.Policy.Timeouts.Boot); {
	case silent && h.mayBeDown(phase) && !now.After(back):
		m.soon(back)
	case silent && h.mayBeDown(phase):
		w.lost = append(w.lost, seen.ID)
	case silent && (phase.Acting() || phase.Exposed()):
		w.silent = append(w.silent, seen.ID)
	case phase.Acting():
		if stuck := later(h.Since, r.Freed).Add(patience(r.Policy.Timeouts, phase)); now.After(stuck) {
			w.stuck = append(w.stuck, seen.ID)
		} else {
			m.soon(stuck)
		}
	}
}

// recheck drops from the last scan what is no longer so.
func (m *memo) recheck(now time.Time) {
	if m.checked == (mark{m.moved, m.state.seq}) {
		return
	}
	m.checked = mark{m.moved, m.state.seq}
	for id, w := range m.watch {
		r := m.state.rollouts[id]
		again := &watch{}
		for _, host := range slices.Concat(w.silent, w.stuck, w.lost) {
			if i, ok := m.index[host]; ok {
				m.attend(again, r, i, quiet(r, m.hosts[i].seen, now), now)
			}
		}
		m.sighted(r, w)
		w.silent, w.stuck, w.lost = again.silent, again.stuck, again.lost
	}
}
