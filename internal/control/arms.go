package control

import (
	"slices"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/health"
	"afloat/internal/plan"
	"afloat/internal/rollout"
)

// peers are hosts that a rollout can compare with each other: of one hardware,
// and of the same waves. Waves take a sample of what they select, so within a
// class chance alone says who has the patch; between classes the crash rates
// may differ many times over, and with them the arms.
type peers struct {
	hardware string
	waves    uint64 // those with a selector that takes them, as bits
}

func (p *planner) peers(seen *Seen) peers {
	c := peers{hardware: seen.Labels["hardware"]}
	var labels fleet.Labels
	for i, w := range p.rollout.Policy.Waves {
		if w.Select == nil {
			continue
		}
		if labels == nil {
			labels = p.labels(seen)
		}
		if w.Select.Matches(labels) {
			c.waves |= 1 << (i % 64)
		}
	}
	return c
}

// arm is where a host is counted when another of its peers crashes.
type arm int

const (
	inNone    arm = iota
	inPatched     // runs it, and longer than the apply window
	inControl     // does not run it, is in service and tells of its crashes
)

// counts are hosts by arm.
type counts [inControl + 1]int

// compared names a count of peers at a time.
type compared struct {
	rollout string
	peers   peers
	at      time.Time // to the minute
}

// bystander is what a rollout compares a crash with: the crashed host's peers
// at the time, itself among them. Where an arm has none there is
// nothing to compare with.
func (t *turn) bystander(r *rollout.Rollout, seen *Seen, c health.Crash, held bool) Bystander {
	p, i := t.planner(r), seen.at-1
	b := Bystander{Rollout: r.ID}
	if !held && p.State(i) == plan.Had {
		return b
	}
	at := c.At.Truncate(time.Minute)
	n := t.compared(p, p.peers(seen), at)
	n[t.arm(p, i, at)]--
	if held {
		n[inPatched]++
	} else {
		n[inControl]++
	}
	if n[inPatched] > 0 && n[inControl] > 0 {
		b.Patched, b.Hosts = n[inPatched], n[inControl]
	}
	return b
}

// compared counts once a turn: a record may have many crashes of one moment.
func (t *turn) compared(p *planner, c peers, at time.Time) counts {
	key := compared{p.rollout.ID, c, at}
	n, ok := t.arms[key]
	if ok {
		return n
	}
	for _, i := range t.m.alike(p, c) {
		n[t.arm(p, i, at)]++
	}
	if t.arms == nil {
		t.arms = map[compared]counts{}
	}
	t.arms[key] = n
	return n
}

// alike are the hosts that are each other's peers, found out once as members are.
func (m *memo) alike(p *planner, c peers) []int32 {
	if p.alike == nil {
		p.alike = map[peers][]int32{}
		for i := range m.hosts {
			its := p.peers(m.hosts[i].seen)
			p.alike[its] = append(p.alike[its], int32(i))
		}
	}
	return p.alike[c]
}

func (t *turn) arm(p *planner, i int32, at time.Time) arm {
	x, r := &t.m.hosts[i], p.rollout
	if applied, ok := x.host.runs(r); ok {
		if at.Sub(applied) > gate.ApplyWindow {
			return inPatched
		}
		return inNone
	}
	state := p.State(i)
	if state == plan.Absent || state == plan.Had || x.blind || x.away(quiet(r, x.seen, t.now)) {
		return inNone
	}
	if live := loaded(x.seen.Report); live != "" && slices.Contains(r.Bundles, live) {
		return inNone
	}
	return inControl
}

// runs says since when a host has what the rollout brought it.
func (h *Host) runs(r *rollout.Rollout) (since time.Time, ok bool) {
	switch {
	case h == nil:
	case h.Rollout == r.ID:
		return h.Applied, r.HostPhase(h.Phase, h.Wave).Exposed()
	case h.Kept != nil && h.Kept.Rollout == r.ID:
		return h.Kept.Applied, true
	}
	return time.Time{}, false
}
