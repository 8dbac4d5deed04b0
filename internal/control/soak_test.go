package control

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/rollout"
)

// newWatchers is a fleet of 2 hosts that act and 40 that only watch.
func newWatchers(t *testing.T, labels fleet.Labels) *lab {
	l := newLab(t, 2)
	for i := range 40 {
		g := l.join(fleet.HostID(fmt.Sprintf("w%02d", i)), labels)
		g.report.Mode = fleet.ModeObserve
	}
	l.beat(0)
	return l
}

// Hosts that are raised to act while a wave soaks get no place in it that they
// do not soak for: a later wave takes them, or the soak begins again.
func TestLateHostsSoakLikeTheOthers(t *testing.T) {
	prod := fleet.Labels{"env": "prod"}
	for _, tt := range []struct {
		name, waves string
		labels      fleet.Labels
		late        int // hosts that the soaking wave takes
	}{
		{"a later wave takes them", "[{name: canary, size: 10%, soak: 60m}, {size: 100%, soak: 60m}]", prod, 0},
		{"a later wave is a selector's", "[{name: most, size: 100%, soak: 60m}, {name: x, select: env=x, soak: 60m}]", prod, 40},
		{"the last wave", "[{size: 100%, soak: 60m}]", prod, 40},
		{"a wave of its own", "[{name: rc, select: 'env in (prod,rc)', soak: 60m}, {size: 100%, soak: 60m}]", fleet.Labels{"env": "rc"}, 40},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newWatchers(t, tt.labels)
			id := l.start("good", "waves: "+tt.waves)
			for range 59 {
				l.beat(time.Minute)
			}
			first := l.s.Rollout(id).Taken(0)
			for _, g := range l.hosts {
				g.report.Mode = fleet.ModeAct
			}
			l.beat(time.Second)
			told := slices.ContainsFunc(l.ids, func(h fleet.HostID) bool {
				e := Explain(l.s, l.v, h, l.now)
				return e.Kind == KindWave && strings.Contains(e.Reason, "soaks and takes nobody more") && !e.Until.IsZero()
			})
			if told != (tt.late == 0) {
				t.Errorf("late hosts are told that the wave is shut: %v", told)
			}
			var last time.Time
			for r := l.s.Rollout(id); r.Waves[0].Closed.IsZero(); l.beat(time.Minute) {
				for _, h := range l.ids {
					if x := l.s.Host(h); x.Rollout == id && x.Wave == 0 {
						last = later(last, x.Applied)
					}
				}
			}
			w := l.s.Rollout(id).Waves[0]
			if soaked := w.Closed.Sub(last); soaked < time.Hour-time.Minute || l.s.Rollout(id).Taken(0) != first+tt.late {
				t.Errorf("the wave closed %s after its last host got it, with %d hosts, want %d and %d", soaked, l.s.Rollout(id).Taken(0), first, tt.late)
			}
			for range 180 {
				l.beat(time.Minute)
			}
			l.wantPhase(id, rollout.PhaseComplete)
			if n := len(l.running(digest('a'))); n != 42 {
				t.Errorf("%d hosts run it in the end, want all 42", n)
			}
			l.checkReplay()
		})
	}
}
