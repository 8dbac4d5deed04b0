// Package plan decides which hosts may start next. A Planner is told what each
// host is and does, one delta at a time; Next admits greedily, in order, as
// long as every budget holds. It knows hosts only by a dense index, so that a
// million of them fit into little memory.
//
// A host that a budget keeps from starting is parked at that budget's gate and
// looked at again only when the gate opens, so that a turn costs what has
// changed, not what is waiting. The admissions are the same as if every host
// were tried in order each time.
package plan

import (
	"slices"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/policy"
)

// State is what a host is to one rollout.
type State uint8

const (
	Absent State = iota // gone, or neither selected nor in a budget
	Unfit               // selected, but cannot be admitted as it is; does not count towards shares
	Unsure              // would be Fit, but nobody knows yet if it is alive: it keeps its place in its wave and is not admitted
	Fit                 // may be admitted when its wave and the budgets allow
	Taken               // was admitted
	Had                 // selected, and had what the rollout brings before
	Other               // not selected: it counts in the groups of its budgets, and nowhere else
)

// Selected says that the rollout's policy selects the host.
func (s State) Selected() bool { return s != Absent && s != Other }

// Host is one host as a rollout sees it.
type Host struct {
	Labels fleet.Labels
	// Order is its place among equals: lower ones go first. A hash makes a canary a sample.
	Order uint64
	// Takes is how long it is out when it starts, 0 for unknown: the 90 % point
	// of its class.
	Takes time.Duration
	State State
	// Out: not in service now, for whatever reason.
	Out bool
}

// rest is the wave of the hosts that no wave selector takes.
const rest = -1

// none is no gate.
const none = -1

type host struct {
	order  uint64
	next   int64 // unix nanoseconds before which it may not start again
	back   int64 // since when it is back in service, cold; 0 for a host that is not cold
	groups uint32
	at     int32  // gate or queue that has it: see Planner.queue
	rank   uint32 // in its queue
	takes  int32  // seconds
	n      uint8  // groups, from groups on in Planner.members
	wave   int16  // index of a selector wave, or rest
	state  State
	out    bool
	later  bool // an order budget puts it behind others of its group
}

// Planner plans one rollout.
type Planner struct {
	policy  *policy.Policy
	index   budgetIndex
	hosts   []host
	members []int32 // groups of all hosts, end to end
	loads   loads
	groups  []group
	byKey   map[groupKey]int32
	domains []domainCount // by budget
	touched []int32       // groups whose level must be looked at
	inRank  bool          // the rest is in order of rank: see arrange
	ready   []queue       // by wave selector; the last one is the rest
	parked  []queue       // by gate
	open    gateHeap      // gates that may have room
	timers  timerHeap     // gates that get room with time
	fit     []int         // by wave as ready: hosts that are Unsure, Fit or Taken
	taken   []int
	had     []int
	matched []int
	out     int
	chosen  int
	allWork int64 // seconds
	starts  window
	pace    *Pace // of the fleet, nil for none
	now     time.Time
}

type groupKey struct {
	budget int32
	value  string
}

// New plans for a policy, with no hosts yet.
func New(p *policy.Policy) *Planner {
	n := len(p.Waves) + 1
	return &Planner{policy: p, index: newBudgetIndex(p.Budgets), byKey: map[groupKey]int32{}, loads: newLoads(p.Budgets),
		domains: make([]domainCount, len(p.Budgets)), ready: make([]queue, n),
		fit: make([]int, n), taken: make([]int, n), had: make([]int, n), matched: make([]int, n)}
}

// Grow makes room for n hosts.
func (p *Planner) Grow(n int) {
	p.hosts = slices.Grow(p.hosts, n)
	p.members = slices.Grow(p.members, n*len(p.policy.Budgets))
	p.loads.grow(n)
}

// slot is the place of a wave in ready, fit and taken.
func (p *Planner) slot(wave int16) int {
	if wave == rest {
		return len(p.ready) - 1
	}
	return int(wave)
}

// Set tells what host i is now.
func (p *Planner) Set(i int32, h Host) {
	for int(i) >= len(p.hosts) {
		p.hosts = append(p.hosts, host{at: none})
	}
	if p.hosts[i].state.Selected() {
		p.work(&p.hosts[i], -1)
	}
	p.count(i, -1)
	next, back := p.hosts[i].next, p.hosts[i].back
	p.cool(&p.hosts[i], 0)
	p.hosts[i] = host{at: none, next: next}
	if h.State == Absent {
		return
	}
	x := &p.hosts[i]
	x.order, x.takes, x.state, x.out, x.wave = h.Order, takes(h.Takes), h.State, h.Out, p.selectorWave(h.Labels)
	p.join(i, h.Labels)
	if h.State == Other && x.n == 0 {
		x.state = Absent
		return
	}
	if h.State.Selected() {
		p.work(x, 1)
	}
	p.count(i, 1)
	p.cool(x, back)
	p.enqueue(i)
}

// Update tells that host i, of unchanged labels, changed its state.
func (p *Planner) Update(i int32, state State, out bool) {
	x := &p.hosts[i]
	if x.state == state && x.out == out {
		return
	}
	was := x.state.Selected()
	p.count(i, -1)
	x.state, x.out = state, out
	p.count(i, 1)
	p.cool(x, x.back)
	switch is := state.Selected(); {
	case is && !was:
		p.work(x, 1)
	case was && !is:
		p.work(x, -1)
	}
	p.enqueue(i) // also one that was waiting: a host that is out passes other gates
}

func (p *Planner) enqueue(i int32) {
	if x := &p.hosts[i]; x.state == Fit {
		x.at, x.rank = none, p.rank(x)
		p.ready[p.slot(x.wave)].push(entry{x.order, i, x.rank})
	}
}

// work adds or takes away what a selected host that comes or goes has its groups do.
func (p *Planner) work(x *host, d int) {
	p.allWork += int64(x.takes) * int64(d)
	for _, g := range p.groupsOf(x) {
		p.groups[g].own += int32(d)
		p.groups[g].work += int64(x.takes) * int64(d)
		p.touch(g)
	}
}

// count adds or takes away a host from every sum it is in, and opens the gates
// that this gives room.
func (p *Planner) count(i int32, d int) {
	x := &p.hosts[i]
	if x.state.Selected() {
		p.countOwn(x, d)
	}
	if x.state != Absent {
		for _, g := range p.groupsOf(x) {
			p.countIn(g, i, d)
		}
	}
}

// countOwn counts a selected host in the rollout as a whole and in its wave.
func (p *Planner) countOwn(x *host, d int) {
	p.chosen += d
	slot := p.slot(x.wave)
	p.matched[slot] += d
	switch x.state {
	case Taken:
		p.taken[slot] += d
		p.fit[slot] += d
	case Unsure, Fit:
		p.fit[slot] += d
	case Had:
		p.had[slot] += d
	}
	if x.out {
		p.out += d
	}
}

func (p *Planner) groupsOf(x *host) []int32 { return p.members[x.groups : x.groups+uint32(x.n)] }

func (p *Planner) countIn(g, i int32, d int) {
	gr, x := &p.groups[g], &p.hosts[i]
	gr.total += int32(d)
	gr.load += p.loads.of(gr.budget, i) * float64(d)
	if x.out {
		p.outIn(g, d)
	}
	if (x.state == Fit || x.state == Unsure) && !x.later {
		gr.first += int32(d)
	}
	if gr.total != 0 {
		p.wake(g)
	}
}

// outIn changes how many hosts of a group are out.
func (p *Planner) outIn(g int32, d int) {
	gr := &p.groups[g]
	was := gr.out > 0
	gr.out += int32(d)
	if is := gr.out > 0; is != was {
		p.domainChanged(gr.budget, is)
	}
}

// join finds the host's groups, and what their budgets read from its labels.
func (p *Planner) join(i int32, l fleet.Labels) {
	x := &p.hosts[i]
	x.groups = uint32(len(p.members))
	p.index.each(l, func(b int32) {
		budget := &p.policy.Budgets[b]
		value := ""
		if budget.GroupBy != "" {
			v, ok := l[budget.GroupBy]
			if !ok {
				return
			}
			value = v
		}
		if budget.Load != "" {
			p.loads.set(b, i, load(l[budget.Load]))
		}
		if budget.Order != "" && l[budget.Order] == "active" {
			x.later = true
		}
		p.members = append(p.members, p.group(groupKey{b, value}))
		x.n++
	})
}

func (p *Planner) selectorWave(l fleet.Labels) int16 {
	for i, w := range p.policy.Waves {
		if w.Select != nil && w.Select.Matches(l) {
			return int16(i)
		}
	}
	return rest
}

// Selected is how many hosts the policy selects, fit or not.
func (p *Planner) Selected() int { return p.chosen }

// Fit is how many hosts are fit or taken, or would be if they were heard.
func (p *Planner) Fit() int {
	n := 0
	for _, c := range p.fit {
		n += c
	}
	return n
}

// Matching is how many selected hosts a selector wave could ever take, fit or not.
func (p *Planner) Matching(w int) int { return p.matched[w] }

// Goal is how many hosts wave w has when it is full, as things stand.
func (p *Planner) Goal(w int) int {
	if p.policy.Waves[w].Select != nil {
		return p.fit[w]
	}
	before := 0
	if w > 0 {
		before = p.reach(w - 1)
	}
	return max(0, p.reach(w)-before)
}

// reach is how many hosts outside the selector waves have been taken when wave w is over.
func (p *Planner) reach(w int) int {
	n, all := 0, p.fit[p.slot(rest)]
	for i := 0; i <= w; i++ {
		wave := p.policy.Waves[i]
		switch {
		case wave.Select != nil:
		case wave.Size.Share > 0:
			n = max(n, wave.Size.Up(all))
		default:
			n = min(all, n+wave.Size.N)
		}
	}
	return n
}

// Room is how many more hosts wave w takes.
func (p *Planner) Room(w int) int {
	slot := p.waveSlot(w)
	waiting := p.fit[slot] - p.taken[slot]
	if p.policy.Waves[w].Select != nil {
		return waiting
	}
	return max(0, min(p.reach(w)-p.taken[slot], waiting))
}

// Had is how many selected hosts had what the rollout brings before it.
func (p *Planner) Had() int {
	n := 0
	for _, c := range p.had {
		n += c
	}
	return n
}

// Idle says that nobody is left for wave w to take, and how many of the hosts
// that it could take had it all. It is not while a host may yet get fit, nor
// before any host is known.
func (p *Planner) Idle(w int) (had int, idle bool) {
	slot := p.waveSlot(w)
	known := p.had[slot] + p.fit[slot]
	return p.had[slot], p.Room(w) == 0 && known == p.matched[slot] && p.chosen > 0
}

func (p *Planner) waveSlot(w int) int {
	if p.policy.Waves[w].Select != nil {
		return w
	}
	return p.slot(rest)
}

// WaveOf is the wave that host i is in or will be taken by, as things stand,
// or -1 when no wave takes it. It looks at every host.
func (p *Planner) WaveOf(i int32) int {
	x := &p.hosts[i]
	if x.wave != rest {
		return int(x.wave)
	}
	at := p.taken[p.slot(rest)]
	for j := range p.hosts {
		if y := &p.hosts[j]; y.wave == rest && (y.state == Fit || y.state == Unsure) && (y.order < x.order || y.order == x.order && int32(j) < i) {
			at++
		}
	}
	for w := range p.policy.Waves {
		if p.policy.Waves[w].Select == nil && at < p.reach(w) {
			return w
		}
	}
	return -1
}

// State is what host i is now.
func (p *Planner) State(i int32) State {
	if int(i) >= len(p.hosts) {
		return Absent
	}
	return p.hosts[i].state
}

// Out says whether host i counts as out of service.
func (p *Planner) Out(i int32) bool { return int(i) < len(p.hosts) && p.hosts[i].out }
