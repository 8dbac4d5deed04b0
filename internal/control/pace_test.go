package control

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// admitted are the times of all admissions in the log.
func (l *lab) admitted() []time.Time {
	var out []time.Time
	for _, id := range l.ids {
		h := l.s.Host(id)
		for _, a := range h.admissions() {
			out = append(out, a.At)
		}
	}
	return out
}

// The change rate of the fleet holds over all rollouts together, and a new
// leader knows of the starts before it.
func TestFleetRateOverAllRollouts(t *testing.T) {
	l := newLab(t, 40)
	l.v.Limit(policy.Rate{N: 3, Per: time.Minute})
	first := l.start("good", "select: rack in (r0,r1)\nwaves: [{size: 100%}]")
	second := l.start("bad", "select: rack in (r2,r3)\nwaves: [{size: 100%}]")
	l.tick(time.Second)
	e := Explain(l.s, l.v, "h1", l.now)
	for _, id := range l.ids {
		if x := Explain(l.s, l.v, id, l.now); x.Kind == KindBudget {
			e = x
		}
	}
	const want = "fleet rate: 3 hosts started in the last 1m in all rollouts together, at most 3 may"
	if !strings.HasPrefix(e.Reason, want+"; held by h") || !e.Until.After(l.now) {
		t.Errorf("explained as %+v, want %q", e, want)
	}
	for range 4 {
		l.tick(10 * time.Second)
		l.restart()
		l.v.Limit(policy.Rate{N: 3, Per: time.Minute})
	}
	l.tick(15 * time.Minute)
	starts := l.admitted()
	for _, from := range starts {
		n := 0
		for _, at := range starts {
			if !at.Before(from) && at.Sub(from) < time.Minute {
				n++
			}
		}
		if n > 3 {
			t.Errorf("%d hosts started within a minute from %s", n, from)
		}
	}
	if len(starts) != 40 {
		t.Errorf("%d of 40 hosts started; %s and %s", len(starts), l.s.Rollout(first).Phase, l.s.Rollout(second).Phase)
	}
	l.checkReplay()
}

// restart is another leader that knows the log, and is told the rest again.
func (l *lab) restart() {
	l.t.Helper()
	old := l.v
	l.v = NewView()
	for d, e := range old.catalog {
		l.v.Bundle(d, e.Manifest, e.Withdrawn)
	}
	snap, err := l.s.Snapshot()
	if err != nil {
		l.t.Fatal(err)
	}
	if l.s, err = Restore(snap); err != nil {
		l.t.Fatal(err)
	}
	for _, id := range old.Hosts() {
		h := old.Host(id)
		l.v.Enrol(id, h.Name, h.Labels, h.Mode)
		l.v.Report(h.Report, l.now)
	}
	l.v.Listen(l.now)
}

// A service's disruptions count whichever rollout causes them, the second one
// of a host too, and a new leader counts them all.
func TestDisruptionsCountOverRollouts(t *testing.T) {
	l := newLab(t, 3)
	l.start("good", "waves: [{size: 100%}]")
	l.tick(time.Minute)
	second := l.start("bad", "waves: [{size: 100%}]\nbudgets: [{name: slo, disruptions: 5 per 1w}]")
	l.tick(time.Minute)
	if n := len(l.running(digest('b'))); n != 2 {
		t.Fatalf("%d hosts got the second patch after 3 disruptions of at most 5, want 2", n)
	}
	l.restart()
	l.tick(time.Minute)
	if n := len(l.running(digest('b'))); n != 2 {
		t.Errorf("after a failover %d hosts have it, want 2 still", n)
	}
	var waiting fleet.HostID
	for _, id := range l.ids {
		if l.s.Host(id).Rollout != second {
			waiting = id
		}
	}
	if e := Explain(l.s, l.v, waiting, l.now); !strings.Contains(e.Reason, "5 disruptions in the last 7d, at most 5 may be") {
		t.Errorf("explained as %+v", e)
	}
}

// A host that came to another rollout with a live patch loses it when the
// rollout that put it there is reverted.
func TestRevertReachesHostsOfOtherRollouts(t *testing.T) {
	l := newLab(t, 3)
	first := l.start("good", "waves: [{size: 100%}]")
	l.tick(time.Minute)
	second := l.start("bad", "waves: [{size: 100%}]")
	l.tick(time.Minute)
	for _, id := range []string{second, first} {
		if _, err := l.do(Command{Verb: Revert, By: "op", Rollout: id}); err != nil {
			t.Fatal(err)
		}
		if id == first {
			l.restart()
		}
		l.tick(time.Minute)
		l.wantPhase(id, rollout.PhaseReverted)
		if n := len(l.running(digest('a'))); id == second && n != 3 {
			t.Errorf("%d hosts went back to the first patch, want 3", n)
		}
	}
	if hosts := append(l.running(digest('a')), l.running(digest('b'))...); len(hosts) != 0 {
		t.Errorf("%v still run a reverted patch", hosts)
	}
	l.checkReplay()
}
