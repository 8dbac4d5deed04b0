package control

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"afloat/internal/fleet"
	"afloat/internal/plan"
	"afloat/internal/policy"
)

// checkBudgets refuses a budget that could bound no host that it selects, as
// none of them has the label that it groups by: a slip of the pen.
func checkBudgets(s *State, v *View, p *policy.Policy) error {
	if !slices.ContainsFunc(p.Budgets, func(b policy.Budget) bool { return b.GroupBy != "" }) {
		return nil
	}
	for _, u := range plan.UnboundBy(p, labelled(s, v)) {
		if u.Hosts == u.Of {
			return refuse(Start, AboutBudget, "no host that budget %s selects has the label %s: they have %s", u.Budget, u.Label, labelsOf(labelled(s, v), u.Spec(p).Select))
		}
	}
	return nil
}

// labelled are the labels of all hosts that have not been replaced.
func labelled(s *State, v *View) iter.Seq[fleet.Labels] {
	return func(yield func(fleet.Labels) bool) {
		for id, seen := range v.hosts {
			if h := s.hosts[id]; (h == nil || h.Gone == "") && !yield(seen.Labels) {
				return
			}
		}
	}
}

// labelsOf names the labels of the selected hosts.
func labelsOf(hosts iter.Seq[fleet.Labels], of fleet.Selector) string {
	keys := map[string]bool{}
	for l := range hosts {
		if of.Matches(l) {
			for k := range l {
				keys[k] = true
			}
		}
	}
	if len(keys) == 0 {
		return "no labels"
	}
	return strings.Join(slices.Sorted(maps.Keys(keys)), ", ")
}

// loose says which hosts the budgets of a planner's policy do not bound, until
// a host gets other labels.
func (m *memo) loose(p *planner) []string {
	if p.unbound == nil {
		p.unbound = []string{}
		for _, u := range plan.UnboundBy(p.rollout.Policy, labelled(m.state, m.view)) {
			p.unbound = append(p.unbound, u.String())
		}
	}
	return p.unbound
}
