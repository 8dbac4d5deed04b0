package control

import (
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// stand enrols a new machine for each host that was deleted to be replaced.
func (l *lab) stand() {
	for _, old := range l.ids {
		h := l.s.Host(old)
		if h.Act == nil || h.Act.Met || h.Act.Action != wire.ActionReplace || !l.hosts[old].deed.down {
			continue
		}
		g := l.join("n"+old, fleet.Labels{"env": "prod", LabelReplaces: string(old)})
		g.report.Abilities, l.hosts[old].silent = wire.Actions(), true
	}
}

// TestNewMachineTakesThePlaceOfTheReplaced: the old identity never comes back,
// another one enrols in its stead, and the wave goes on with that.
func TestNewMachineTakesThePlaceOfTheReplaced(t *testing.T) {
	l := newRebootLab(t, 4)
	for _, g := range l.hosts {
		g.deed.lost = true // deleted, not rebooted
	}
	id := l.begin("name: b\ntarget: {replace: img-2, from: img-1}\nwaves: [{name: trial, size: 25%, soak: 20m}, {size: 100%}]\nunavailable: 1")
	for n := range 70 {
		l.tick(time.Minute)
		l.stand()
		if n == 20 && l.s.Rollout(id).Taken(1) != 0 {
			t.Fatalf("the second wave began before the trial had soaked: %+v", l.s.Rollout(id).Waves)
		}
	}
	l.wantPhase(id, rollout.PhaseComplete)
	if r := l.s.Rollout(id); r.Count(rollout.Done) != 4 || len(r.Crashed) != 0 {
		t.Errorf("%d are done, crashed %v", r.Count(rollout.Done), r.Crashed)
	}
	for _, host := range l.ids[:4] {
		e, d := Explain(l.s, l.v, host, l.now), l.s.Desired("n"+host)
		if e.Kind != KindGone || d.Action != wire.ActionLive || l.s.Host("n"+host).Phase != rollout.Soaking {
			t.Errorf("%s: %+v, its successor is told %+v", host, e, d)
		}
	}
	l.checkReplay()
}

// TestNobodyStandsInUnasked: the label alone gives no host another's place.
func TestNobodyStandsInUnasked(t *testing.T) {
	l := newRebootLab(t, 2)
	l.join("n1", fleet.Labels{LabelReplaces: "h1"})
	l.begin(toNewKernel + "unavailable: 3")
	l.tick(3 * time.Minute)
	if l.s.Host("h1").Gone != "" || l.s.Host("h1").Phase == rollout.Waiting {
		t.Errorf("h1 is %+v", l.s.Host("h1"))
	}
}
