package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/rollout"
)

// newDeadLab is a wave of ten of which one host has gone quiet the moment it
// was told to start.
func newDeadLab(t *testing.T) (l *lab, id string, dead fleet.HostID) {
	l = newLab(t, 20)
	id = l.start("good", "waves: [{name: first, size: 10, soak: 10m}, {size: 100%}]\ngate: {crashes: {cap: {excess: 50%}, falseRevert: 1%}}")
	for l.s.Rollout(id).Count(rollout.Soaking) < 8 {
		l.beat(5 * time.Second)
	}
	for _, g := range l.hosts {
		g.asleep = true
	}
	for dead == "" {
		l.beat(5 * time.Second)
		for _, h := range l.ids {
			if l.s.Host(h).Phase == rollout.Admitted {
				dead = h
			}
		}
	}
	for _, g := range l.hosts {
		g.asleep = false
	}
	l.hosts[dead].silent = true
	return l, id, dead
}

// A live host that dies on its way counts as crashed, and as failed: its wave
// ends without it. When it turns up again it is told to be what it was.
func TestDeadLiveHostFails(t *testing.T) {
	l, id, dead := newDeadLab(t)
	l.tick(30 * time.Minute)
	h := l.s.Host(dead)
	if r := l.s.Rollout(id); h.Phase != rollout.Failed || !strings.HasPrefix(h.Reason, "not heard since") || len(r.Crashed) != 1 {
		t.Errorf("it is %s (%s), and counted are %v; want it failed and counted", h.Phase, h.Reason, r.Crashed)
	}
	for _, rule := range []gate.Rule{gate.RuleEvidence, gate.RuleFailures} {
		if r := l.s.Rollout(id); heldBy(r) != rule {
			t.Errorf("it holds %q, want it held by %s", r.Hold, rule)
		}
		l.resume(id)
		l.beat(time.Second)
	}
	l.tick(time.Hour)
	l.wantPhase(id, rollout.PhaseComplete)
	l.hosts[dead].silent = false
	l.tick(time.Hour)
	if got := l.running(digest('a')); len(got) != 19 || slices.Contains(got, dead) {
		t.Errorf("%v run it, want all but %s", got, dead)
	}
	l.checkReplay()
}

// A wave does not wait for a host whose enrolment was revoked, and nobody has
// failed by that. What became of it is said.
func TestRevokedHostLeavesItsWave(t *testing.T) {
	l, id, dead := newDeadLab(t)
	l.v.Forget(dead)
	delete(l.hosts, dead)
	l.ids = slices.DeleteFunc(l.ids, func(h fleet.HostID) bool { return h == dead })
	l.beat(time.Second)
	e := Explain(l.s, l.v, dead, l.now)
	if e.Phase != rollout.Failed || e.Rollout != id || e.Wave != "first" || !strings.Contains(e.Reason, "its enrolment was revoked") {
		t.Errorf("explained as %+v", e)
	}
	l.tick(time.Hour)
	l.wantPhase(id, rollout.PhaseComplete)
	if r := l.s.Rollout(id); r.Hold != "" || r.ActingIn(0) != 0 || len(r.Crashed) != 0 {
		t.Errorf("hold %q, %d under way, crashed %v", r.Hold, r.ActingIn(0), r.Crashed)
	}
	l.checkReplay()
}

// A machine that is to be replaced may be revoked before the new one is there.
func TestRevokedForReplacementIsSucceeded(t *testing.T) {
	l := newRebootLab(t, 4)
	for _, g := range l.hosts {
		g.deed.lost = true
	}
	l.begin("name: k\ntarget: {replace: img-2}\nunavailable: 1\ntimeouts: {boot: 2h}")
	l.tick(10 * time.Minute)
	var gone fleet.HostID
	for _, h := range l.ids {
		if l.s.Host(h).Phase.Acting() {
			gone = h
		}
	}
	l.v.Forget(gone)
	delete(l.hosts, gone)
	l.ids = slices.DeleteFunc(l.ids, func(h fleet.HostID) bool { return h == gone })
	l.beat(time.Minute)
	if p := l.s.Host(gone).Phase; !p.Acting() {
		t.Errorf("it is %s while its successor may come", p)
	}
	l.tick(3 * time.Hour)
	if h := l.s.Host(gone); h.Phase != rollout.Failed || h.Reason != "its enrolment was revoked" {
		t.Errorf("it is %s (%s) after nobody came, want it failed", h.Phase, h.Reason)
	}
	l.checkReplay()
}

// A host that is adopted anew is in its wave once.
func TestAdoptedHostLeavesItsWave(t *testing.T) {
	l := newLab(t, 6)
	id := l.start("good", "waves: [{name: first, size: 100%, soak: 10m}]")
	for _, g := range l.hosts {
		g.asleep = true
	}
	l.beat(time.Second)
	for h, g := range l.hosts {
		if l.s.Host(h).Rollout != "" {
			g.report.Generation = 9 // the store was restored from an older backup
			break
		}
	}
	for _, g := range l.hosts {
		g.asleep = false
	}
	l.tick(2 * time.Hour)
	l.wantPhase(id, rollout.PhaseComplete)
	if n := l.s.Rollout(id).Taken(0); n != 6 || len(l.running(digest('a'))) != 6 {
		t.Errorf("the wave has %d hosts, and %d run it, want 6", n, len(l.running(digest('a'))))
	}
	l.checkReplay()
}
