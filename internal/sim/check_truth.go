package sim

import (
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// truth tests the budgets against the hosts themselves, whatever the server
// believes of them: how many of a group are out of service by its order. A
// rollout can answer only for its own orders: others have other budgets, and a
// host that they left out of service costs it nothing.
func (c *checker) truth() {
	for _, r := range c.w.state.Rollouts() {
		if !r.Policy.Disrupts() || !r.AnyActing() { // nobody goes out without an order
			continue
		}
		hurries := r.Policy.Urgency == policy.Emergency && r.Phase == rollout.PhaseReverting // what only bounds the work does not count then
		for _, b := range r.Policy.Budgets {
			if (!b.Unavailable.Zero() || b.Order != "") && (!hurries || b.Guards()) {
				c.trueBudget(r, b)
			}
		}
		if !r.Policy.Down.Zero() && !hurries {
			c.trueBudget(r, policy.Budget{Name: "unavailable", Select: r.Policy.Select, Unavailable: r.Policy.Down})
		}
	}
}

func (c *checker) trueBudget(r *rollout.Rollout, b policy.Budget) {
	total, out := map[string]int{}, map[string]int{}
	for i := range c.w.hosts {
		h := &c.w.hosts[i]
		value, ok := h.labels[b.GroupBy]
		if h.away || b.GroupBy != "" && !ok || !b.Select.Matches(h.labels) {
			continue
		}
		total[value]++
		if h.outByOrder() && c.w.state.Host(h.id).Rollout == r.ID && !c.host(h.id).wasOut {
			out[value]++
		}
	}
	for value, n := range out {
		limit := b.Unavailable.Of(total[value])
		if b.Order != "" {
			limit = min(1, total[value])
		}
		if n > limit {
			c.w.fail("budget %s %s: %d of %d hosts are out by order at %s, at most %d may be", b.Name, value, n, total[value], c.w.now, limit)
		}
	}
}
