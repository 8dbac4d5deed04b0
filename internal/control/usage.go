package control

import (
	"time"

	"afloat/internal/plan"
)

// Usage is what a rollout's budgets have given out, as of the last Decide; nil
// for a rollout that plans nothing.
func Usage(v *View, rollout string, now time.Time) []plan.Usage {
	if v.memo == nil || v.memo.planners[rollout] == nil {
		return nil
	}
	return v.memo.planners[rollout].Usage(now)
}
