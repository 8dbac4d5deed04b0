package plan

import (
	"fmt"
	"iter"

	"afloat/internal/fleet"
	"afloat/internal/policy"
)

// Unbound are hosts that a budget selects and does not bound: they lack the
// label by which it makes groups.
type Unbound struct {
	Budget string `json:"budget"`
	Label  string `json:"label"`
	Hosts  int    `json:"hosts"` // without the label
	Of     int    `json:"of"`    // that the budget selects
	at     int    // of the budget in its policy
}

func (u Unbound) String() string {
	return fmt.Sprintf("budget %s does not bound %d of its %d hosts: they have no label %s", u.Budget, u.Hosts, u.Of, u.Label)
}

// Spec is the budget in its policy.
func (u Unbound) Spec(p *policy.Policy) *policy.Budget { return &p.Budgets[u.at] }

// UnboundBy lists the budgets that do not bound all the hosts that they select.
// It looks at every host once.
func UnboundBy(p *policy.Policy, hosts iter.Seq[fleet.Labels]) (out []Unbound) {
	index := newBudgetIndex(p.Budgets)
	counts := make([]Unbound, len(p.Budgets))
	for l := range hosts {
		index.each(l, func(b int32) {
			counts[b].Of++
			if _, has := l[p.Budgets[b].GroupBy]; !has {
				counts[b].Hosts++
			}
		})
	}
	for i, u := range counts {
		if b := &p.Budgets[i]; b.GroupBy != "" && u.Hosts > 0 {
			u.Budget, u.Label, u.at = b.Name, b.GroupBy, i
			out = append(out, u)
		}
	}
	return out
}
