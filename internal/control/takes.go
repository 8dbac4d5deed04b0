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
	// Expect is what planners count with, 0 for not known yet: P90 as it was
	// when it last moved by a quarter, so that they need not plan anew for each host.
	Expect time.Duration `json:"expect_ns,omitempty"`
}

// enough is how many hosts a usual time rests on at least.
const enough = 5

// expect follows P90.
func (t *Took) expect() (changed bool) {
	p90 := t.P90()
	if len(t.Times) < enough || 4*p90 > 3*t.Expect && 4*p90 < 5*t.Expect {
		return false
	}
	t.Expect = p90
	return true
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
	key := class(h.Act.Action, m.Booted.Hardware)
	t := s.times[key]
	t.Action, t.Hardware = h.Act.Action, m.Booted.Hardware
	if t.Times = append(t.Times, at.Sub(h.Started)); len(t.Times) > lasted {
		t.Times = slices.Delete(t.Times, 0, len(t.Times)-lasted)
	}
	if t.expect() {
		s.expected++
	}
	s.times[key] = t
}

func class(a wire.Action, hardware string) string { return string(a) + " on " + hardware }

// takes is how long a rollout's action keeps a host out, 0 for not known. Of a
// live patch it is the reboot that comes of it: the other is over in seconds.
func (s *State) takes(r *rollout.Rollout, seen *Seen) time.Duration {
	action := Action(r.Policy.Target.Action)
	if action == wire.ActionLive {
		action = wire.ActionReboot
	}
	return s.times[class(action, seen.Labels["hardware"])].Expect
}

// Took lists how long actions have taken, by action and class.
func (s *State) Took() []Took {
	return slices.SortedFunc(maps.Values(s.times), func(a, b Took) int {
		return cmp.Or(cmp.Compare(a.Action, b.Action), cmp.Compare(a.Hardware, b.Hardware))
	})
}
