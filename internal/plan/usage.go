package plan

import "time"

// Usage is how much of one budget is used in one group.
type Usage struct {
	Budget string
	Group  string // value of its label, "" for the whole
	Hosts  int    // in the group; for a budget of domains, the domains
	Out    int    // of them, warming up included
	Limit  int    // that may be
}

// Usage is what is used of each budget that bounds how many may be out.
func (p *Planner) Usage(now time.Time) []Usage {
	var out []Usage
	if !p.policy.Down.Zero() {
		out = append(out, Usage{"unavailable", "", p.chosen, p.out, p.policy.Down.Of(p.chosen)})
	}
	domains := make([]int, len(p.policy.Budgets))
	for i := range p.groups {
		g := &p.groups[i]
		spec := &p.policy.Budgets[g.budget]
		domains[g.budget]++
		if g.own == 0 { // it has nothing to wait for there
			continue
		}
		if !spec.Caps() {
			continue
		}
		cold := 0
		if spec.Warm > 0 {
			cold, _ = g.warm.expire(now, spec.Warm)
		}
		out = append(out, Usage{spec.Name, g.value, int(g.total), int(g.out) + cold, g.limit(spec)})
	}
	for i, spec := range p.policy.Budgets {
		if spec.Domains > 0 {
			out = append(out, Usage{spec.Name, "", domains[i], p.domains[i].active, spec.Domains})
		}
	}
	return out
}
