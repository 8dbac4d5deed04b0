package control

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// lasted is how many of the latest times of a class are kept.
const lasted = 64

// Took is how long an action has taken on hosts of one class of hardware, from
// admission to being in rotation and warm, newest last.
type Took struct {
	Action   wire.Action     `json:"action"`
	Hardware string          `json:"hardware,omitempty"`
	Times    []time.Duration `json:"times_ns"`
}

// P90 is the time within which nine of ten were through. A forecast takes that
// and not the mean: to expect too little costs more than to expect too much.
func (t Took) P90() time.Duration {
	if len(t.Times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(t.Times))
	return sorted[(len(sorted)*9-1)/10]
}

// took notes a host that has reached what it was ordered to be.
func (s *State) took(h *Host, m Move, at time.Time) {
	if m.To != rollout.Soaking || m.Booted == nil || h.Act == nil || h.Started.IsZero() {
		return
	}
	key := string(h.Act.Action) + " on " + m.Booted.Hardware
	t := s.times[key]
	t.Action, t.Hardware = h.Act.Action, m.Booted.Hardware
	if t.Times = append(t.Times, at.Sub(h.Started)); len(t.Times) > lasted {
		t.Times = slices.Delete(t.Times, 0, len(t.Times)-lasted)
	}
	s.times[key] = t
}

// Took lists how long actions have taken, by action and class.
func (s *State) Took() []Took {
	return slices.SortedFunc(maps.Values(s.times), func(a, b Took) int {
		return cmp.Or(cmp.Compare(a.Action, b.Action), cmp.Compare(a.Hardware, b.Hardware))
	})
}
