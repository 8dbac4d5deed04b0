package plan

import (
	"slices"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/policy"
)

// TestWhoGoesFirst: a wave that takes only some is a sample by the hosts' own
// order; one that takes all begins with those whose budgets make it last longest.
func TestWhoGoesFirst(t *testing.T) {
	const rules = `waves: [{size: 2}, {size: 100%}]
budgets: [{name: db, select: service=db, unavailable: 1}, {name: web, select: service=web, unavailable: 4}]
unavailable: 100%
`
	hosts := []Host{
		0: {Order: 7, Labels: fleet.Labels{"service": "db"}},
		1: {Order: 6, Labels: fleet.Labels{"service": "db"}},
		2: {Order: 1, Labels: fleet.Labels{"service": "web"}},
		3: {Order: 2, Labels: fleet.Labels{"service": "web"}},
		4: {Order: 3, Labels: fleet.Labels{"service": "web"}},
		5: {Order: 4, Labels: fleet.Labels{"service": "web"}, Takes: 30 * time.Minute},
		6: {Order: 5, Labels: fleet.Labels{"service": "web"}},
		7: {Order: 9, Labels: fleet.Labels{"service": "db"}, Takes: 15 * time.Minute},
	}
	for name, tt := range map[string]struct {
		target        policy.Target
		canary, first []int32
	}{
		"reboot": {policy.Target{Action: policy.Kernel, Name: "6.1.192-2"}, []int32{2, 3}, []int32{7, 5, 4, 6}},
		"live":   {policy.Target{Action: policy.Live, Name: "fix"}, []int32{2, 3}, []int32{4, 5, 6, 1}},
	} {
		pol := mustPolicy(t, rules)
		pol.Target = tt.target
		p := New(pol)
		for i, h := range hosts {
			h.State = Fit
			p.Set(int32(i), h)
		}
		now := time.Unix(1e9, 0)
		if got := p.Next(0, now, 10); !slices.Equal(got, tt.canary) {
			t.Errorf("%s: the canaries are %v, want the first of all by their order, %v", name, got, tt.canary)
		}
		for _, i := range tt.canary {
			p.Update(i, Taken, false)
		}
		if got := p.Next(1, now, 4); !slices.Equal(got, tt.first) {
			t.Errorf("%s: %v go first then, want %v", name, got, tt.first)
		}
	}
}

// TestOneHostMoreChangesNothing: who goes first follows from rough times, so
// that a big fleet is not put in order anew for each host that comes or goes.
func TestOneHostMoreChangesNothing(t *testing.T) {
	for _, d := range []time.Duration{time.Minute, 17 * time.Hour, 45 * 24 * time.Hour} {
		same := 0
		for step := range time.Duration(100) {
			if level(d+step*d/1000) == level(d+(step+1)*d/1000) {
				same++
			}
		}
		if same < 90 || level(d) >= level(d+d/10) {
			t.Errorf("around %s, %d of 100 steps of a thousandth change nothing; a tenth more is level %d after %d", d, same, level(d+d/10), level(d))
		}
	}
}
