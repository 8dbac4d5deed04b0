package sim

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"afloat/internal/control"
	"afloat/internal/fleet"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// tally is what is out in one group of hosts, counted by hand.
type tally struct {
	total, out, cold, starts, slow int
	load                           float64
	first                          []fleet.HostID // passive hosts that could still go before the active ones
	touched, active                bool           // by the move: any host, an active one
}

// budgets counts by hand how many hosts are out in each group that a host of m
// belongs to. Whoever is down counts, for whatever reason, selected or not.
func (c *checker) budgets(r *rollout.Rollout, m control.Move) {
	moved := map[fleet.HostID]bool{}
	for _, id := range m.Hosts {
		moved[id] = !c.host(id).wasOut
	}
	for _, b := range r.Policy.Budgets {
		groups := map[string]*tally{}
		for _, id := range c.w.view.Hosts() {
			seen := c.w.view.Host(id)
			value, ok := seen.Labels[b.GroupBy]
			if !b.Select.Matches(seen.Labels) || b.GroupBy != "" && !ok {
				continue
			}
			if groups[value] == nil {
				groups[value] = &tally{}
			}
			c.tally(groups[value], r, b, id, moved[id])
		}
		c.compare(b, groups)
	}
	c.whole(r, slices.Contains(slices.Collect(maps.Values(moved)), true))
}

// concerns says that the host counts in the bounds of the rollout as a whole.
func (c *checker) concerns(r *rollout.Rollout, id fleet.HostID) bool {
	return r.Policy.Select.Matches(c.w.view.Host(id).Labels) || c.host(id).rollout == r.ID
}

// isOut says that the host is not in service, as far as the server can know.
func (c *checker) isOut(r *rollout.Rollout, id fleet.HostID) bool {
	seen := c.w.view.Host(id)
	if seen == nil || r == nil {
		return true
	}
	switch seen.Report.Phase {
	case wire.PhaseDraining, wire.PhaseRebooting, wire.PhaseVerifying, wire.PhaseWarming:
		return true
	}
	return c.host(id).phase.Acting() || seen.Report.Boot == "" || seen.Report.Out || c.w.at(c.w.now).Sub(seen.Heard) > r.Policy.Timeouts.Silent
}

func (c *checker) tally(t *tally, r *rollout.Rollout, b policy.Budget, id fleet.HostID, moved bool) {
	h, seen, now := c.host(id), c.w.view.Host(id), c.w.at(c.w.now)
	t.total++
	switch { // one host is out or cold, not both
	case c.isOut(r, id) || c.unheard(id):
		t.out++
	case b.Warm > 0 && !h.applied.IsZero() && now.Sub(h.applied) < b.Warm:
		t.cold++
	}
	t.starts += within(h.starts, b.Starts.Per, now, "")
	t.slow += within(h.starts, b.Disruptions.Per, now, "")
	if b.Load != "" {
		t.load += loadOf(seen.Labels[b.Load])
	}
	t.touched = t.touched || moved
	if b.Order == "" {
		return
	}
	active := seen.Labels[b.Order] == "active"
	t.active = t.active || moved && active
	if !active && c.idle(r, id) {
		t.first = append(t.first, id)
	}
}

// loadOf is the load that a label tells of, full if it tells none.
func loadOf(s string) float64 {
	number, percent := strings.CutSuffix(s, "%")
	l, err := strconv.ParseFloat(number, 64)
	switch {
	case err != nil:
		return 1
	case percent:
		return l / 100
	}
	return l
}

// idle says that nothing at all but a budget can keep the host from starting,
// and nothing has happened to it yet. Such a host owes no reboot, so that one
// which pays reboots off has nothing for it.
func (c *checker) idle(r *rollout.Rollout, id fleet.HostID) bool {
	seen := c.w.view.Host(id)
	return r.Of == "" && c.host(id).phase == rollout.Waiting && c.host(id).rollout == "" && !c.isOut(r, id) && r.Policy.Select.Matches(seen.Labels) &&
		seen.Report.Mode == fleet.ModeAct && !seen.Report.Stopped && seen.Report.Blind == "" && len(seen.Report.Live) == 0 && seen.Report.Kernel == c.w.built()
}

func (c *checker) compare(b policy.Budget, groups map[string]*tally) {
	busy, touched := 0, false
	for value, t := range groups {
		if t.out > 0 {
			busy++
		}
		if !t.touched {
			continue
		}
		touched = true
		limit := b.Unavailable.Of(t.total)
		if b.Order != "" {
			limit = 1
		}
		if (!b.Unavailable.Zero() || b.Order != "") && t.out+t.cold > limit {
			c.w.fail("budget %s %s: %d of %d are out and %d cold, at most %d may be", b.Name, value, t.out, t.total, t.cold, limit)
		}
		if left := float64(t.total - t.out - t.cold); b.Headroom > 0 && t.load > left*b.Headroom+1e-6 {
			c.w.fail("budget %s %s: %v hosts carry a load of %v, at most %v each", b.Name, value, left, t.load, b.Headroom)
		}
		if !b.Starts.Zero() && t.starts > b.Starts.N {
			c.w.fail("budget %s %s: %d started in %s, at most %d may", b.Name, value, t.starts, b.Starts.Per, b.Starts.N)
		}
		if !b.Disruptions.Zero() && t.slow > b.Disruptions.N {
			c.w.fail("budget %s %s: %d disruptions in %s, at most %d may be", b.Name, value, t.slow, b.Disruptions.Per, b.Disruptions.N)
		}
		if t.active && len(t.first) > 0 {
			c.w.fail("budget %s %s: an active host goes before %s", b.Name, value, t.first[0])
		}
	}
	if b.Domains > 0 && touched && busy > b.Domains {
		c.w.fail("budget %s: %d domains are out, at most %d may be", b.Name, busy, b.Domains)
	}
}

// whole tests what bounds the rollout as a whole. took says that a host in
// service was taken.
func (c *checker) whole(r *rollout.Rollout, took bool) {
	if rate := r.Policy.Rate; !rate.Zero() {
		if n := within(c.starts, rate.Per, c.w.at(c.w.now), r.ID); n > rate.N {
			c.w.fail("rollout %s: %d hosts started in %s, at most %d may", r.ID, n, rate.Per, rate.N)
		}
	}
	if r.Policy.Down.Zero() {
		return
	}
	total, out := 0, 0
	for _, id := range c.w.view.Hosts() {
		if c.concerns(r, id) {
			total++
			if c.isOut(r, id) || c.unheard(id) {
				out++
			}
		}
	}
	if limit := r.Policy.Down.Of(total); took && out > limit {
		c.w.fail("rollout %s: %d of %d hosts are out, at most %d may be", r.ID, out, total, limit)
	}
}
