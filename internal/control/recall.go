package control

import (
	"time"

	"afloat/internal/rollout"
)

// recall tells the planner of the starts that bounds over time still count, and
// of the return of hosts that may be cold yet.
func (m *memo) recall(p *planner, i int32) {
	for _, a := range m.hosts[i].host.admissions() {
		if a.Rollout == p.rollout.ID {
			p.Started(a.At, i)
		} else {
			p.Disrupted(a.At, i)
		}
	}
	m.warms(p, i)
}

// warms tells the planner since when host i is back in service, if it ever was not.
func (m *memo) warms(p *planner, i int32) {
	if at := m.hosts[i].back(); !at.IsZero() {
		p.Returned(at, i)
	}
}

// back is when the host last came back into service: by order, whatever came of
// that, or by itself.
func (x *memoHost) back() time.Time {
	at := x.seen.back
	if h := x.host; h != nil {
		if at = later(at, h.Applied); h.Phase == rollout.Failed || h.Phase == rollout.Reverted {
			at = later(at, h.Since)
		}
	}
	return at
}
