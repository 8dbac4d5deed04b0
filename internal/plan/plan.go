// Package plan decides which hosts may start next. A Planner is told what each
// host is and does, one delta at a time, and keeps a count per budget and
// group; Next admits greedily as long as every budget holds. It knows hosts
// only by a dense index, so that a million of them fit into little memory.
package plan

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/policy"
)

// State is what a host is to one rollout.
type State uint8

const (
	Absent State = iota // not selected, or gone
	Unfit               // selected, but cannot be admitted now; does not count towards shares
	Fit                 // may be admitted when its wave and the budgets allow
	Taken               // was admitted
)

// Host is one host as a rollout sees it.
type Host struct {
	Labels fleet.Labels
	// Order breaks ties among hosts: a hash, so that a canary is a sample.
	Order uint64
	State State
	// Out: not in service now, for whatever reason.
	Out bool
}

// rest is the wave of the hosts that no wave selector takes.
const rest = -1

type host struct {
	order  uint64
	groups []int32 // of Planner.groups
	wave   int16   // index of a selector wave, or rest
	state  State
	out    bool
}

// Planner plans one rollout.
type Planner struct {
	policy *policy.Policy
	hosts  []host
	groups []group
	byKey  map[groupKey]int32
	queues map[int][]int32 // by wave selector or rest, in order
	sorted bool
	fit    map[int]int // hosts by wave that are Fit or Taken
	taken  map[int]int
	out    int
	chosen int // hosts selected at all
	starts []start
}

type groupKey struct {
	budget int
	value  string
}

// group is the hosts of one budget that share the value of its label.
type group struct {
	budget int
	value  string
	total  int
	out    int
	starts []start
	back   []start // warming: since when they are back
}

type start struct {
	at time.Time
	n  int
}

// New plans for a policy, with no hosts yet.
func New(p *policy.Policy) *Planner {
	return &Planner{policy: p, byKey: map[groupKey]int32{}, queues: map[int][]int32{}, fit: map[int]int{}, taken: map[int]int{}}
}

// Set tells what host i is now.
func (p *Planner) Set(i int32, h Host) {
	for int(i) >= len(p.hosts) {
		p.hosts = append(p.hosts, host{})
	}
	p.drop(i)
	if h.State == Absent {
		return
	}
	x := &p.hosts[i]
	*x = host{order: h.Order, state: h.State, out: h.Out, wave: p.selectorWave(h.Labels), groups: p.groupsOf(h.Labels)}
	p.chosen++
	p.count(x, 1)
	if h.State == Fit {
		p.queues[int(x.wave)] = append(p.queues[int(x.wave)], i)
		p.sorted = false
	}
}

func (p *Planner) drop(i int32) {
	x := &p.hosts[i]
	if x.state == Absent {
		return
	}
	p.chosen--
	p.count(x, -1)
	if x.state == Fit {
		q := p.queues[int(x.wave)]
		if at := slices.Index(q, i); at >= 0 {
			p.queues[int(x.wave)] = slices.Delete(q, at, at+1)
		}
	}
	*x = host{}
}

func (p *Planner) count(x *host, d int) {
	if x.state == Fit || x.state == Taken {
		p.fit[int(x.wave)] += d
	}
	if x.state == Taken {
		p.taken[int(x.wave)] += d
	}
	if x.out {
		p.out += d
	}
	for _, g := range x.groups {
		p.groups[g].total += d
		if x.out {
			p.groups[g].out += d
		}
	}
}

func (p *Planner) selectorWave(l fleet.Labels) int16 {
	for i, w := range p.policy.Waves {
		if w.Select != nil && w.Select.Matches(l) {
			return int16(i)
		}
	}
	return rest
}

func (p *Planner) groupsOf(l fleet.Labels) []int32 {
	var out []int32
	for b, budget := range p.policy.Budgets {
		if !budget.Select.Matches(l) {
			continue
		}
		value := ""
		if budget.GroupBy != "" {
			v, ok := l[budget.GroupBy]
			if !ok {
				continue
			}
			value = v
		}
		out = append(out, p.group(groupKey{b, value}))
	}
	return out
}

func (p *Planner) group(k groupKey) int32 {
	if g, ok := p.byKey[k]; ok {
		return g
	}
	g := int32(len(p.groups))
	p.groups = append(p.groups, group{budget: k.budget, value: k.value})
	p.byKey[k] = g
	return g
}

// Selected is how many hosts the policy selects, fit or not.
func (p *Planner) Selected() int { return p.chosen }

// Fit is how many hosts are fit or taken.
func (p *Planner) Fit() int {
	n := 0
	for _, c := range p.fit {
		n += c
	}
	return n
}

// Goal is how many hosts wave w has when it is full, as things stand: those
// already taken and those fit.
func (p *Planner) Goal(w int) int {
	if p.policy.Waves[w].Select != nil {
		return p.fit[w]
	}
	return max(0, p.reach(w)-p.reachBefore(w))
}

// reach is how many hosts outside the selector waves have been taken when wave w is over.
func (p *Planner) reach(w int) int {
	n, all := 0, p.fit[rest]
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

func (p *Planner) reachBefore(w int) int {
	if w == 0 {
		return 0
	}
	return p.reach(w - 1)
}

// Room is how many more hosts wave w takes.
func (p *Planner) Room(w int) int {
	if p.policy.Waves[w].Select != nil {
		return len(p.queues[w])
	}
	return max(0, min(p.reach(w)-p.taken[rest], len(p.queues[rest])))
}

// Matching is how many selected hosts a selector wave could ever take, fit or not.
func (p *Planner) Matching(w int) int {
	n := 0
	for i := range p.hosts {
		if p.hosts[i].state != Absent && int(p.hosts[i].wave) == w {
			n++
		}
	}
	return n
}

// Next admits hosts of wave w, at most limit, and returns them in order. It
// changes nothing: the caller tells of the admissions by Set and Started.
func (p *Planner) Next(w int, now time.Time, limit int) []int32 {
	if open, _, _ := p.policy.Open(now); !open {
		return nil
	}
	p.sort()
	t := p.try(now)
	var out []int32
	room := min(limit, p.Room(w))
	for _, i := range p.queues[p.queueOf(w)] {
		if len(out) >= room {
			break
		}
		if t.take(&p.hosts[i]) == nil {
			out = append(out, i)
		}
	}
	return out
}

func (p *Planner) queueOf(w int) int {
	if p.policy.Waves[w].Select != nil {
		return w
	}
	return rest
}

func (p *Planner) sort() {
	if p.sorted {
		return
	}
	for _, q := range p.queues {
		slices.SortFunc(q, func(a, b int32) int { return cmp.Compare(p.hosts[a].order, p.hosts[b].order) })
	}
	p.sorted = true
}

// attempt is a set of admissions on top of the Planner's counts.
type attempt struct {
	p     *Planner
	now   time.Time
	out   int
	begun int
	more  map[int32]int
}

func (p *Planner) try(now time.Time) *attempt {
	return &attempt{p: p, now: now, more: map[int32]int{}}
}

// take admits one more host if every budget allows, or names what blocks it.
func (t *attempt) take(x *host) *Block {
	if b := t.blocks(x); b != nil {
		return b
	}
	t.begun++
	if x.out {
		return nil
	}
	t.out++
	for _, g := range x.groups {
		t.more[g]++
	}
	return nil
}

// Block is the one budget that keeps a host from starting.
type Block struct {
	Budget string // its name
	Group  string // value of its label, "" when it has one group
	Text   string
	Until  time.Time // when it frees by itself, zero when a host must come back first
}

func (t *attempt) blocks(x *host) *Block {
	pol := t.p.policy
	if !pol.Rate.Zero() {
		n, until := inside(t.p.starts, t.now, pol.Rate.Per)
		if n+t.begun >= pol.Rate.N {
			return &Block{Budget: "rate", Until: until, Text: fmt.Sprintf("%d hosts started in the last %s, at most %s", n+t.begun, pol.Rate.Per, pol.Rate)}
		}
	}
	if x.out { // a host that is out already costs nothing more
		return nil
	}
	if limit := pol.Down.Of(t.p.chosen); !pol.Down.Zero() && t.p.out+t.out >= limit {
		return &Block{Budget: "unavailable", Text: fmt.Sprintf("%d of %d hosts are out, at most %d may be", t.p.out+t.out, t.p.chosen, limit)}
	}
	for _, g := range x.groups {
		if b := t.groupBlocks(g); b != nil {
			return b
		}
	}
	return nil
}

func (t *attempt) groupBlocks(g int32) *Block {
	gr := &t.p.groups[g]
	b := &t.p.policy.Budgets[gr.budget]
	out := gr.out + t.more[g]
	block := func(until time.Time, format string, args ...any) *Block {
		return &Block{Budget: b.Name, Group: gr.value, Until: until, Text: fmt.Sprintf(format, args...)}
	}
	name := b.Name
	if gr.value != "" {
		name += " " + gr.value
	}
	if !b.Unavailable.Zero() {
		warm, until := inside(gr.back, t.now, b.Warm)
		if limit := b.Unavailable.Of(gr.total); out+warm >= limit {
			return block(until, "budget %s: %d of %d hosts are out, at most %s (%d) may be", name, out+warm, gr.total, b.Unavailable, limit)
		}
	}
	if b.Domains > 0 && out == 0 && t.domains(gr.budget) >= b.Domains {
		return block(time.Time{}, "budget %s: hosts of %d other %ss are out, at most %d may be", name, t.domains(gr.budget), b.GroupBy, b.Domains)
	}
	if !b.Starts.Zero() {
		n, until := inside(gr.starts, t.now, b.Starts.Per)
		if n+t.more[g] >= b.Starts.N {
			return block(until, "budget %s: %d hosts started in the last %s, at most %d may", name, n+t.more[g], b.Starts.Per, b.Starts.N)
		}
	}
	return nil
}

// domains is how many groups of the budget have a host out.
func (t *attempt) domains(budget int) int {
	n := 0
	for g := range t.p.groups {
		if t.p.groups[g].budget == budget && t.p.groups[g].out+t.more[int32(g)] > 0 {
			n++
		}
	}
	return n
}

// inside counts the starts of the last span, and says when the oldest of them leaves it.
func inside(starts []start, now time.Time, span time.Duration) (n int, until time.Time) {
	for _, s := range starts {
		if now.Sub(s.at) < span {
			if n == 0 {
				until = s.at.Add(span)
			}
			n += s.n
		}
	}
	return n, until
}

// Started notes that the hosts were admitted, for the bounds over time.
func (p *Planner) Started(now time.Time, hosts ...int32) {
	p.starts = noted(p.starts, now, len(hosts), p.policy.Rate.Per)
	for _, i := range hosts {
		for _, g := range p.hosts[i].groups {
			gr := &p.groups[g]
			gr.starts = noted(gr.starts, now, 1, p.policy.Budgets[gr.budget].Starts.Per)
		}
	}
}

// Returned notes that a host is back in service and warms up.
func (p *Planner) Returned(now time.Time, i int32) {
	for _, g := range p.hosts[i].groups {
		gr := &p.groups[g]
		gr.back = noted(gr.back, now, 1, p.policy.Budgets[gr.budget].Warm)
	}
}

func noted(starts []start, now time.Time, n int, span time.Duration) []start {
	if span == 0 {
		return nil
	}
	starts = slices.DeleteFunc(starts, func(s start) bool { return now.Sub(s.at) >= span })
	if last := len(starts) - 1; last >= 0 && starts[last].at.Equal(now) {
		starts[last].n += n
		return starts
	}
	return append(starts, start{now, n})
}

// WaveOf is the wave that host i is in or will be taken by, as things stand,
// or -1 when no wave takes it.
func (p *Planner) WaveOf(i int32) int {
	x := &p.hosts[i]
	if x.wave != rest {
		return int(x.wave)
	}
	p.sort()
	at := p.taken[rest] + max(0, slices.Index(p.queues[rest], i))
	for w := range p.policy.Waves {
		if p.policy.Waves[w].Select == nil && at < p.reach(w) {
			return w
		}
	}
	return -1
}

// Blocked says which budget keeps host i from starting now, nil when none does.
func (p *Planner) Blocked(i int32, now time.Time) *Block {
	if open, why, until := p.policy.Open(now); !open {
		return &Block{Budget: "window", Text: why, Until: until}
	}
	return p.try(now).blocks(&p.hosts[i])
}
