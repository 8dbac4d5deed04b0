package plan

import (
	"fmt"
	"time"

	"afloat/internal/policy"
)

// Next admits hosts of wave w at now, at most limit, and returns them in the
// order of admission. Admitted hosts are Taken and out from then on, until
// Update or Set says otherwise.
func (p *Planner) Next(w int, now time.Time, limit int) []int32 {
	p.tick(now)
	if open, _, _ := p.policy.Open(now); !open {
		return nil
	}
	p.arrange(w)
	slot := p.waveSlot(w)
	room := min(limit, p.Room(w))
	var out []int32
	heads := p.heads(slot)
	for len(out) < room && p.global() == nil {
		id, e, ok := heads.next(p)
		if !ok {
			break
		}
		switch g, k, until := p.try(&p.hosts[e.host]); {
		case k == none:
			p.take(e.host)
			out = append(out, e.host)
			heads.freed(p, e.host)
		default:
			p.park(e, gateOf(g, k), until)
			heads.freed(p, none)
		}
		heads.refresh(p, id)
	}
	p.keep(heads)
	return out
}

// tick opens the gates whose time has come.
func (p *Planner) tick(now time.Time) {
	p.now = now
	for len(p.timers) > 0 && p.timers[0].at <= now.UnixNano() {
		t := p.timers.pop()
		if !t.host {
			p.groups[t.group].due = 0
			p.wake(t.group)
			continue
		}
		if x := &p.hosts[t.group]; x.state == Fit && x.at == resting {
			p.enqueue(t.group)
		}
	}
}

// resting marks a host that waits for its own minimum interval.
const resting = -2

// global says what keeps every host from starting.
func (p *Planner) global() *Block {
	if b := p.pace.blocked(p.now); b != nil {
		return b
	}
	pol := p.policy
	if !pol.Rate.Zero() {
		if n, until := p.starts.expire(p.now, pol.Rate.Per); n >= pol.Rate.N {
			return &Block{Budget: "rate", Until: time.Unix(0, until).UTC(), Over: pol.Rate.Per,
				Text: fmt.Sprintf("%d hosts started in the last %s, at most %d may", n, policy.Span(pol.Rate.Per), pol.Rate.N)}
		}
	}
	if limit := pol.Down.Of(p.chosen); !pol.Down.Zero() && p.out >= limit {
		return &Block{Budget: "unavailable", Text: fmt.Sprintf("%d of %d hosts are out, at most %s (%d) may be", p.out, p.chosen, pol.Down, limit)}
	}
	return nil
}

// try is the first gate that has no room for the host.
func (p *Planner) try(x *host) (g int32, k kind, until int64) {
	if x.next > p.now.UnixNano() {
		return resting, gates, x.next
	}
	for _, g := range p.groupsOf(x) {
		if k, until := p.shut(g, x); k != none {
			return g, k, until
		}
	}
	return none, none, 0
}

// take admits a host.
func (p *Planner) take(i int32) {
	p.Update(i, Taken, true)
	p.hosts[i].at = none
	p.Started(p.now, i)
	if p.pace != nil {
		p.pace.Started(p.now)
	}
}

// park puts a host behind a gate.
func (p *Planner) park(e entry, id int32, until int64) {
	x := &p.hosts[e.host]
	if x.next > p.now.UnixNano() {
		x.at = resting
		p.timers.add(timer{x.next, e.host, true})
		return
	}
	x.at = id
	p.parked[id].push(e)
	p.remind(id/int32(gates), until)
}

// remind sees to it that a group is looked at again at a time.
func (p *Planner) remind(g int32, until int64) {
	if gr := &p.groups[g]; until > 0 && (gr.due == 0 || until < gr.due) {
		gr.due = until
		p.timers.add(timer{at: until, group: g})
	}
}

// Started notes that the host started at the given time, for the bounds over time.
func (p *Planner) Started(at time.Time, i int32) {
	if !p.policy.Rate.Zero() {
		p.starts.add(at, 1)
	}
	p.Disrupted(at, i)
}

// Disrupted notes that another rollout let the host start: that counts for the
// host and its budgets, not for this rollout's own rate.
func (p *Planner) Disrupted(at time.Time, i int32) {
	x := &p.hosts[i]
	if p.policy.MinInterval > 0 {
		x.next = max(x.next, at.Add(p.policy.MinInterval).UnixNano())
	}
	for _, g := range p.groupsOf(x) {
		gr := &p.groups[g]
		spec := &p.policy.Budgets[gr.budget]
		if !spec.Starts.Zero() {
			gr.starts.add(at, 1)
		}
		if !spec.Disruptions.Zero() {
			gr.slow.add(at, 1)
		}
	}
}

// Returned notes that the host came back into service at the given time, cold.
// Its last return counts, and only while it is not out again. To tell of one
// twice changes nothing.
func (p *Planner) Returned(at time.Time, i int32) {
	x := &p.hosts[i]
	p.cool(x, max(x.back, at.UnixNano()))
}

// cool says that the host is cold since a time, 0 for not cold. One that is out
// costs its budgets enough as it is.
func (p *Planner) cool(x *host, since int64) {
	if x.out || x.state == Absent {
		since = 0
	}
	if x.back == since {
		return
	}
	for _, g := range p.groupsOf(x) {
		gr := &p.groups[g]
		warm := p.policy.Budgets[gr.budget].Warm
		if warm == 0 {
			continue
		}
		if x.back > 0 {
			gr.warm.remove(x.back)
			p.wake(g)
		}
		if since > 0 {
			gr.warm.add(time.Unix(0, since), 1)
			p.remind(g, since+int64(warm))
		}
	}
	x.back = since
}

// heads merges the queue of a wave with the gates that may have room.
type heads struct {
	slot  int
	gates []int32 // a heap by the first valid entry of each gate
	first []entry
	at    map[int32]bool
}

func (p *Planner) heads(slot int) *heads {
	h := &heads{slot: slot, at: map[int32]bool{}}
	h.freed(p, none)
	return h
}

// valid is the first entry of a gate whose host still waits there.
func (p *Planner) valid(id int32) (entry, bool) {
	q := &p.parked[id]
	for {
		e, ok := q.peek()
		if !ok {
			return e, false
		}
		if x := &p.hosts[e.host]; x.state == Fit && x.at == id && e == (entry{x.order, e.host, x.rank}) {
			return e, true
		}
		q.pop()
	}
}

// passes says that a gate has room for the host at its head.
func (p *Planner) passes(id int32, e entry) bool {
	g := id / int32(gates)
	k, until := p.shut(g, &p.hosts[e.host])
	if k != kind(id%int32(gates)) {
		return true
	}
	p.remind(g, until)
	return false
}

// freed takes up the gates that were opened since.
func (h *heads) freed(p *Planner, _ int32) {
	for _, id := range p.open.gates {
		delete(p.open.in, id)
		if !h.at[id] {
			if e, ok := p.valid(id); ok && p.passes(id, e) {
				h.push(id, e)
			}
		}
	}
	p.open.gates = p.open.gates[:0]
}

func (h *heads) push(id int32, e entry) {
	h.at[id] = true
	h.gates, h.first = append(h.gates, id), append(h.first, e)
	for i := len(h.gates) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.first[i].less(h.first[up]) {
			return
		}
		h.swap(i, up)
		i = up
	}
}

func (h *heads) swap(i, j int) {
	h.gates[i], h.gates[j] = h.gates[j], h.gates[i]
	h.first[i], h.first[j] = h.first[j], h.first[i]
}

func (h *heads) drop() {
	delete(h.at, h.gates[0])
	last := len(h.gates) - 1
	h.swap(0, last)
	h.gates, h.first = h.gates[:last], h.first[:last]
	for i := 0; ; {
		least := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < last && h.first[c].less(h.first[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}

// next removes and returns the first host of all: from the wave's queue
// (id none) or from a gate that has room for it.
func (h *heads) next(p *Planner) (id int32, e entry, ok bool) {
	for len(h.gates) > 0 {
		id, e = h.gates[0], h.first[0]
		now, still := p.valid(id)
		if !still || !p.passes(id, now) {
			h.drop()
			continue
		}
		if now != e {
			h.drop()
			h.push(id, now)
			continue
		}
		break
	}
	q := &p.ready[h.slot]
	for {
		r, has := q.peek()
		if !has {
			break
		}
		if x := &p.hosts[r.host]; x.state != Fit || x.at != none || p.slot(x.wave) != h.slot || r != (entry{x.order, r.host, x.rank}) {
			q.pop()
			continue
		}
		if len(h.gates) == 0 || r.less(h.first[0]) {
			q.pop()
			return none, r, true
		}
		break
	}
	if len(h.gates) == 0 {
		return none, entry{}, false
	}
	id, e = h.gates[0], h.first[0]
	p.parked[id].pop()
	if p.slot(p.hosts[e.host].wave) != h.slot {
		// It waits for another wave: back to that wave's queue.
		p.hosts[e.host].at = none
		p.ready[p.slot(p.hosts[e.host].wave)].push(e)
		return h.next(p)
	}
	return id, e, true
}

// refresh puts a gate back that gave a host and may have room for another.
func (h *heads) refresh(p *Planner, id int32) {
	if id == none || len(h.gates) == 0 || h.gates[0] != id {
		return
	}
	h.drop()
	if e, ok := p.valid(id); ok && p.passes(id, e) {
		h.push(id, e)
	}
}

// keep remembers the gates that still had room when the turn ended.
func (p *Planner) keep(h *heads) {
	for _, id := range h.gates {
		p.open.add(id)
	}
}

// Blocked says which budget keeps host i from starting now, nil when none does.
func (p *Planner) Blocked(i int32, now time.Time) *Block {
	p.now = now
	if open, why, until := p.policy.Open(now); !open {
		return &Block{Budget: "window", Text: why, Until: until}
	}
	if b := p.global(); b != nil {
		return b
	}
	g, k, until := p.try(&p.hosts[i])
	switch {
	case k == none:
		return nil
	case g == resting:
		return &Block{Budget: "minInterval", Text: fmt.Sprintf("it was disrupted less than %s ago", policy.Span(p.policy.MinInterval)), Until: time.Unix(0, until).UTC()}
	}
	return p.block(g, k, until)
}
