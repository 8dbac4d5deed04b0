package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// pausedByCap is a rollout that two crashes of four canaries have paused.
func pausedByCap(t *testing.T) (l *lab, id string, canaries []fleet.HostID) {
	l = newLab(t, 40)
	id = l.start("good", "waves: [{name: canary, size: 4, soak: 10m}, {name: some, size: 20, soak: 10m}, {size: 100%, soak: 10m}]\ngate: {onRevert: pause}")
	l.tick(6 * time.Minute)
	canaries = l.running(digest('a'))
	for _, h := range canaries[:2] {
		l.oops(h)
	}
	l.beat(time.Second)
	l.wantPhase(id, rollout.PhasePaused)
	return l, id, canaries
}

func (l *lab) oops(h fleet.HostID) {
	l.crash(h, wire.Crash{ID: fmt.Sprint("oops", len(l.hosts[h].report.Crashes)), Kind: wire.CrashOops, Live: digest('a')})
}

func (l *lab) resume(id string) {
	l.t.Helper()
	if _, err := l.do(Command{Verb: Resume, By: "op", Rollout: id}); err != nil {
		l.t.Fatal(err)
	}
}

// Who resumes past a verdict has not waived the other rules: what else goes
// wrong still holds.
func TestResumePastVerdictLeavesTheOtherRules(t *testing.T) {
	for _, tt := range []struct {
		rule  gate.Rule
		wrong func(*lab, []fleet.HostID)
	}{
		{gate.RuleFailures, func(l *lab, _ []fleet.HostID) {
			for _, g := range l.hosts {
				g.fails = true
			}
		}},
		{gate.RuleNoData, func(l *lab, canaries []fleet.HostID) { l.hosts[canaries[2]].report.Blind = "no pstore" }},
		{ruleSilent, func(l *lab, canaries []fleet.HostID) { l.hosts[canaries[3]].silent = true }},
	} {
		t.Run(string(tt.rule), func(t *testing.T) {
			l, id, canaries := pausedByCap(t)
			l.resume(id)
			l.beat(time.Second)
			l.wantPhase(id, rollout.PhaseRunning)
			tt.wrong(l, canaries)
			l.tick(13 * time.Minute)
			if r := l.s.Rollout(id); heldBy(r) != tt.rule || r.Count(rollout.Failed) > 4 {
				t.Errorf("it is %s, hold %q, %d failed; want it held by %s", r.Phase, r.Hold, r.Count(rollout.Failed), tt.rule)
			}
			l.checkReplay()
		})
	}
}

// A verdict that a person passed does not stop the rollout again on the same
// crashes, in no wave; one crash more does.
func TestFurtherCrashStopsAgain(t *testing.T) {
	l, id, canaries := pausedByCap(t)
	l.resume(id)
	l.tick(9 * time.Minute)
	l.wantPhase(id, rollout.PhaseRunning)
	if r := l.s.Rollout(id); r.Hold != "" || r.Waves[1].Opened.IsZero() {
		t.Fatalf("hold %q, waves %+v, want the second one open", r.Hold, r.Waves)
	}
	l.oops(canaries[2])
	l.beat(time.Second)
	l.wantPhase(id, rollout.PhasePaused)
	l.checkReplay()
}

// A resume past a hold is good for what holds now: the next wave holds by itself.
func TestWaiverEndsWithItsWave(t *testing.T) {
	l := newLab(t, 30)
	id := l.start("good", "waves: [{name: canary, size: 4, soak: 10m}, {name: some, size: 20, soak: 10m}, {size: 100%, soak: 10m}]")
	for _, g := range l.hosts {
		g.fails = true
	}
	l.tick(5 * time.Minute)
	l.resume(id)
	l.tick(5 * time.Minute)
	if r := l.s.Rollout(id); r.Hold != "" || r.Count(rollout.Failed) != 4 {
		t.Fatalf("after the resume: hold %q, %d failed, want the other canaries to go on", r.Hold, r.Count(rollout.Failed))
	}
	l.tick(30 * time.Minute)
	r := l.s.Rollout(id)
	if !strings.HasPrefix(r.Hold, "failures: ") || r.Waves[1].Opened.IsZero() || !r.Waves[1].Closed.IsZero() {
		t.Errorf("hold %q, waves %+v, want the second wave held", r.Hold, r.Waves)
	}
	l.checkReplay()
}
