package plan

import (
	"fmt"
	"math"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/policy"
)

// group is the hosts of one budget that share the value of its label.
type group struct {
	budget  int32
	total   int32 // hosts, selected or not
	own     int32 // selected
	out     int32
	first   int32  // hosts waiting that go before the later ones
	work    int64  // seconds that its selected hosts take together
	level   uint16 // of the time that it needs at least: see Planner.rank
	touched bool   // the level may be another
	load    float64
	value   string
	starts  window // sliding starts
	slow    window // disruptions over a long time
	warm    window // back, but cold
	due     int64  // when its timer goes off, 0 for none
}

// kind is one of the gates of a group.
type kind int32

const (
	gateCap    kind = iota // unavailable, warm-up, headroom
	gateDomain             // distinct domains
	gateStarts             // sliding starts
	gateSlow               // disruptions over a long time
	gateOrder              // passive before active
	gates
)

// gateOf numbers the gates of all groups; they index Planner.parked.
func gateOf(g int32, k kind) int32 { return g*int32(gates) + int32(k) }

// domainCount is how many groups of one budget have a host out.
type domainCount struct{ active int }

// budgetIndex finds the budgets of a host without trying each: by one label
// value that the budget's selector asks for.
type budgetIndex struct {
	budgets []policy.Budget
	always  []int32
	keys    []string
	byLabel map[string]map[string][]int32
}

func newBudgetIndex(budgets []policy.Budget) budgetIndex {
	x := budgetIndex{budgets: budgets, byLabel: map[string]map[string][]int32{}}
	for i, b := range budgets {
		if !x.byTerm(int32(i), b.Select) {
			x.always = append(x.always, int32(i))
		}
	}
	return x
}

func (x *budgetIndex) byTerm(i int32, s fleet.Selector) bool {
	for _, t := range s.Terms() {
		if t.Op != fleet.OpIn {
			continue
		}
		values := x.byLabel[t.Key]
		if values == nil {
			values = map[string][]int32{}
			x.byLabel[t.Key] = values
			x.keys = append(x.keys, t.Key)
		}
		for _, v := range t.Values {
			values[v] = append(values[v], i)
		}
		return true
	}
	return false
}

// each calls fn for every budget that selects the labels.
func (x *budgetIndex) each(l fleet.Labels, fn func(int32)) {
	for _, i := range x.always {
		if x.budgets[i].Select.Matches(l) {
			fn(i)
		}
	}
	for _, k := range x.keys {
		v, ok := l[k]
		if !ok {
			continue
		}
		for _, i := range x.byLabel[k][v] {
			if x.budgets[i].Select.Matches(l) {
				fn(i)
			}
		}
	}
}

func (p *Planner) group(k groupKey) int32 {
	if g, ok := p.byKey[k]; ok {
		return g
	}
	g := int32(len(p.groups))
	p.groups = append(p.groups, group{budget: k.budget, value: k.value})
	for range gates {
		p.parked = append(p.parked, queue{})
	}
	p.byKey[k] = g
	return g
}

// wake opens the gates of a group that hosts wait at.
func (p *Planner) wake(g int32) {
	for k := range gates {
		p.wakeGate(gateOf(g, k))
	}
}

func (p *Planner) wakeGate(id int32) {
	q := &p.parked[id]
	if q.head < len(q.sorted) || len(q.heap) > 0 {
		p.open.add(id)
	}
}

// domainChanged keeps count of the domains with a host out; when one is free
// again, all domains of the budget may have room.
func (p *Planner) domainChanged(budget int32, active bool) {
	d := &p.domains[budget]
	if active {
		d.active++
		return
	}
	d.active--
	if p.policy.Budgets[budget].Domains == 0 {
		return
	}
	for g := range p.groups {
		if p.groups[g].budget == budget {
			p.wakeGate(gateOf(int32(g), gateDomain))
		}
	}
}

// Block is the one budget that keeps a host from starting.
type Block struct {
	Budget string    `json:"budget"`
	Group  string    `json:"group,omitempty"` // value of its label
	Text   string    `json:"text"`
	Until  time.Time `json:"until,omitzero"` // when it frees by itself, zero when a host must come back first
	// Over is the time in which starts count, 0 for a bound on who is out.
	Over time.Duration `json:"over_ns,omitempty"`
	// First: hosts of the group go before it that have not started either.
	First bool `json:"first,omitempty"`
}

// limit is how many hosts of a group may be out.
func (b *group) limit(spec *policy.Budget) int {
	limit := math.MaxInt32
	if spec.Order != "" {
		limit = 1
	}
	if !spec.Unavailable.Zero() {
		limit = min(limit, spec.Unavailable.Of(int(b.total)))
	}
	if spec.Headroom > 0 {
		// The rest carries the whole load: load/(total-out) <= headroom.
		limit = min(limit, int(math.Floor(float64(b.total)-b.load/spec.Headroom+1e-6)))
	}
	return max(0, limit)
}

// shut is the first gate of group g that has no room for host x now, or -1,
// and when it gets room by itself, 0 for never.
func (p *Planner) shut(g int32, x *host) (kind, int64) {
	gr := &p.groups[g]
	spec := &p.policy.Budgets[gr.budget]
	if spec.Order != "" && x.later && gr.first > 0 {
		return gateOrder, 0
	}
	if !spec.Starts.Zero() {
		if n, until := gr.starts.expire(p.now, spec.Starts.Per); n >= spec.Starts.N {
			return gateStarts, until
		}
	}
	if !spec.Disruptions.Zero() {
		if n, until := gr.slow.expire(p.now, spec.Disruptions.Per); n >= spec.Disruptions.N {
			return gateSlow, until
		}
	}
	if x.out { // out already: it costs nothing more
		return none, 0
	}
	if active := p.domains[gr.budget].active; spec.Domains > 0 && (active > spec.Domains || active == spec.Domains && gr.out == 0) {
		return gateDomain, 0
	}
	if !spec.Caps() {
		return none, 0
	}
	cold, until := 0, int64(0)
	if spec.Warm > 0 {
		cold, until = gr.warm.expire(p.now, spec.Warm)
	}
	if int(gr.out)+cold >= gr.limit(spec) {
		return gateCap, until
	}
	return none, 0
}

// block puts a shut gate into words.
func (p *Planner) block(g int32, k kind, until int64) *Block {
	gr := &p.groups[g]
	spec := &p.policy.Budgets[gr.budget]
	name := spec.Name
	if gr.value != "" {
		name += " (" + spec.GroupBy + " " + gr.value + ")"
	}
	b := &Block{Budget: spec.Name, Group: gr.value, Text: "budget " + name + ": " + p.words(gr, spec, k)}
	switch k {
	case gateStarts:
		b.Over = spec.Starts.Per
	case gateSlow:
		b.Over = spec.Disruptions.Per
	case gateOrder:
		b.First = true
	}
	if until > 0 {
		b.Until = time.Unix(0, until).UTC()
	}
	return b
}

func (p *Planner) words(gr *group, spec *policy.Budget, k kind) string {
	switch k {
	case gateDomain:
		return fmt.Sprintf("hosts of %d %ss are out, at most %d may be", p.domains[gr.budget].active, spec.GroupBy, spec.Domains)
	case gateStarts:
		return fmt.Sprintf("%d hosts started in the last %s, at most %d may", gr.starts.n, policy.Span(spec.Starts.Per), spec.Starts.N)
	case gateSlow:
		return fmt.Sprintf("%d disruptions in the last %s, at most %d may be", gr.slow.n, policy.Span(spec.Disruptions.Per), spec.Disruptions.N)
	case gateOrder:
		return fmt.Sprintf("%d of the group go first", gr.first)
	}
	left := int(gr.total) - int(gr.out) - 1
	if spec.Headroom > 0 && (left <= 0 || gr.load/float64(left) > spec.Headroom) {
		if left <= 0 {
			return "nobody would be left to carry its load"
		}
		return fmt.Sprintf("with one more out, %d hosts would carry %.0f %% of their capacity, at most %.0f %% is allowed",
			left, 100*gr.load/float64(left), 100*spec.Headroom)
	}
	most := spec.Unavailable.String()
	if spec.Order != "" && spec.Unavailable != (policy.Amount{N: 1}) {
		most = "1 at a time in order"
	}
	return fmt.Sprintf("%d of %d hosts are out (%d of them warming up), at most %s (%d) may be",
		int(gr.out)+gr.warm.n, gr.total, gr.warm.n, most, gr.limit(spec))
}
