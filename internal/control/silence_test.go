package control

import (
	"testing"
	"time"

	"afloat/internal/rollout"
)

// A host out of rotation passes every budget, as taking it costs nothing: once
// it is silent too it must still not be admitted, however it left rotation.
func TestSilentHostOutOfRotationIsNotAdmitted(t *testing.T) {
	l := newLab(t, 4)
	id := l.start("good", "waves: [{name: canary, size: 1, soak: 20m}, {size: 100%}]\nbudgets: [{name: few, unavailable: 2}]")
	l.tick(time.Minute)
	var waiting *guest
	for host, g := range l.hosts {
		if l.s.Host(host).Rollout == "" {
			waiting = g
		}
	}
	waiting.report.Out, waiting.deed.sick = true, true // by its owner, for its own reasons
	l.tick(time.Minute)
	waiting.silent = true
	l.tick(time.Hour)
	h := l.s.Host(waiting.report.Host)
	if h.Rollout != "" || l.s.Rollout(id).Count(rollout.Done)+l.s.Rollout(id).Count(rollout.Soaking) != 3 {
		t.Errorf("%s is %q of rollout %q, silent for an hour; want the 3 others only", waiting.report.Host, h.Phase, h.Rollout)
	}
	if e := Explain(l.s, l.v, waiting.report.Host, l.now); e.Kind != KindSilent {
		t.Errorf("explained as %+v", e)
	}
	l.checkReplay()
}

// A host that goes down on its way is not told to go back by an action before
// it is heard again, also if a bound over time had kept it waiting until it was
// silent.
func TestSilentHostUnderWayIsNotTakenBack(t *testing.T) {
	l := newRebootLab(t, 4)
	for _, g := range l.hosts {
		g.deed.lost = true
	}
	id := l.begin("name: k\ntarget: {replace: img-2, from: img-1}\nunavailable: 3\nrate: 1 per 10m\ntimeouts: {boot: 2h}")
	l.tick(13 * time.Minute)
	if _, err := l.do(Command{Verb: Revert, By: "op", Rollout: id}); err != nil {
		t.Fatal(err)
	}
	l.tick(30 * time.Minute)
	down := 0
	for _, host := range l.ids {
		if !l.hosts[host].deed.down {
			continue
		}
		down++
		if h := l.s.Host(host); h.Phase != rollout.Rebooting || h.Act.Back {
			t.Errorf("%s is silent, and %s: %+v", host, h.Phase, h.Act)
		}
	}
	if down != 2 {
		t.Errorf("%d hosts are down, want 2", down)
	}
	l.checkReplay()
}
