package plan

import (
	"cmp"
	"math"
	"math/bits"
	"time"

	"afloat/internal/policy"
)

// usualTake is what a host of unknown length is taken to need.
const usualTake = 10 * time.Minute

// A wave that takes all its hosts in the end lets the most constrained start
// first: those of the group whose budget makes its work last longest, and of
// them the ones that take longest. Equal ones go by Host.Order. So do all hosts
// of a wave that takes only some of those there are: who they are must stay a
// fair sample. And so do those of a live rollout: each batch of a wave is a
// sample too, and none of its hosts is out for long.
//
// The rank of a host follows from labels, policy and times alone, not from
// what hosts do: it stays what it is while hosts are admitted and come back.

// whole says that wave w lets the most constrained start first.
func (p *Planner) whole(w int) bool {
	wave := p.policy.Waves[w]
	return p.policy.Target.Disrupts() && (wave.Select != nil || wave.Size.Share >= 1)
}

// ranked says that the hosts of a slot are in order of their rank.
func (p *Planner) ranked(slot int) bool {
	if slot == p.slot(rest) {
		return p.inRank
	}
	return p.policy.Target.Disrupts()
}

// arrange brings the queues into the order that wave w wants.
func (p *Planner) arrange(w int) {
	again := p.relevel()
	if whole := p.whole(w); p.policy.Waves[w].Select == nil && whole != p.inRank {
		p.inRank, again = whole, true
	}
	if again && p.policy.Target.Disrupts() {
		p.requeue()
	}
}

// relevel finds the new levels of the groups whose hosts have changed. It says
// whether there are any.
func (p *Planner) relevel() (changed bool) {
	for _, g := range p.touched {
		gr := &p.groups[g]
		gr.touched = false
		if l := level(gr.least(&p.policy.Budgets[gr.budget])); l != gr.level {
			gr.level, changed = l, true
		}
	}
	p.touched = p.touched[:0]
	return changed
}

// touch notes that a group has other hosts than before.
func (p *Planner) touch(g int32) {
	if gr := &p.groups[g]; !gr.touched {
		gr.touched = true
		p.touched = append(p.touched, g)
	}
}

// requeue puts every waiting host into its queue anew.
func (p *Planner) requeue() {
	for i := range p.ready {
		p.ready[i] = queue{}
	}
	for i := range p.parked {
		p.parked[i] = queue{}
	}
	for i := range p.hosts {
		if x := &p.hosts[i]; x.state == Fit && x.at != resting {
			p.enqueue(int32(i))
		}
	}
}

// rank is the place of a host among those of its slot, the lower the sooner.
func (p *Planner) rank(x *host) uint32 {
	if !p.ranked(p.slot(x.wave)) {
		return 0
	}
	var most uint16
	for _, g := range p.groupsOf(x) {
		most = max(most, p.groups[g].level)
	}
	return ^(uint32(most)<<16 | uint32(level(time.Duration(x.takes)*time.Second)))
}

// level tells durations apart that differ by a twentieth: a sixteenth of a
// doubling. Smaller differences do not change who goes first, so that one host
// more or less hardly ever does.
func level(d time.Duration) uint16 {
	const steps = 16
	ms := uint64(max(0, d.Milliseconds()))
	if ms == 0 {
		return 0
	}
	whole := bits.Len64(ms) - 1
	return uint16(1 + whole*steps + int(steps*math.Log2(float64(ms)/float64(uint64(1)<<whole))))
}

// least is how long the work of the group lasts at least under its own budget.
func (b *group) least(spec *policy.Budget) time.Duration {
	if b.own == 0 {
		return 0
	}
	s := sum{hosts: int(b.total), n: int(b.own), total: time.Duration(b.work) * time.Second, load: b.load}
	s.least = s.total / time.Duration(s.n)
	return s.cap(spec)
}

// Least is how long the work of all hosts lasts at least from a time on: what
// the fullest budget, the fleet's own bounds and the windows cost. Hosts that
// are through or have nothing to do count as if they had it all before them.
func (p *Planner) Least(from time.Time) time.Duration {
	if p.chosen == 0 {
		return 0
	}
	all := sum{hosts: p.chosen, n: p.chosen, total: time.Duration(p.allWork) * time.Second}
	all.least = all.total / time.Duration(all.n)
	least := all.least
	if !p.policy.Down.Zero() {
		least = max(least, all.slots(p.policy.Down.Of(p.chosen), 0))
	}
	if !p.policy.Rate.Zero() {
		least = max(least, all.sliding(p.policy.Rate))
	}
	for g := range p.groups {
		gr := &p.groups[g]
		least = max(least, gr.least(&p.policy.Budgets[gr.budget]))
	}
	return inWindows(p.policy, from, least-all.least, all.least)
}

// takes is what a host needs, in seconds.
func takes(d time.Duration) int32 {
	d = cmp.Or(d, usualTake)
	return int32(min(max(1, (d+time.Second/2)/time.Second), math.MaxInt32))
}
