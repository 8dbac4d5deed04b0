package control

import (
	"time"

	"afloat/internal/plan"
)

// Usage is what a rollout's budgets have given out, as of the last Decide; nil
// while it plans nothing, neither its way nor the way back.
func Usage(v *View, rollout string, now time.Time) []plan.Usage {
	if v.memo == nil {
		return nil
	}
	for _, key := range []string{rollout, rollout + back} {
		if p := v.memo.planners[key]; p != nil {
			return p.Usage(now)
		}
	}
	return nil
}
