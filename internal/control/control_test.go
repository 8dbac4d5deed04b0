package control

import (
	"errors"
	"strings"
	"testing"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

func TestGoodPatchReachesAll(t *testing.T) {
	l := newLab(t, 3)
	id := l.start("good", canaryThenAll)
	l.tick(time.Second)
	if got := l.running(digest('a')); len(got) != 1 {
		t.Fatalf("after the start %v run it, want one canary", got)
	}
	l.tick(9 * time.Minute)
	if got := l.running(digest('a')); len(got) != 1 {
		t.Fatalf("before the soak is over %v run it", got)
	}
	l.tick(2 * time.Minute)
	if got := l.running(digest('a')); len(got) != 3 {
		t.Fatalf("after the soak %v run it, want all", got)
	}
	l.tick(11 * time.Minute)
	l.wantPhase(id, rollout.PhaseComplete)
	if w := l.s.Rollout(id).Waves[0]; w.Verdict != gate.LevelInconclusive {
		t.Errorf("one host's wave is called %q, want inconclusive", w.Verdict)
	}
	if n := l.s.Rollout(id).Count(rollout.Done); n != 3 {
		t.Errorf("%d hosts are done, want 3", n)
	}
	l.checkReplay()
}

func TestOopsOnCanaryReverts(t *testing.T) {
	l := newLab(t, 3)
	l.start("good", "waves: [{size: 100%}]")
	l.tick(time.Second)
	l.tick(time.Second)
	id := l.start("bad", canaryThenAll)
	l.tick(time.Second)
	canary := l.running(digest('b'))
	if len(canary) != 1 {
		t.Fatalf("%v run the bad patch, want one canary", canary)
	}
	before := l.s.Desired(canary[0]).Generation
	l.crash(canary[0], wire.Crash{ID: "oops-1", Kind: wire.CrashOops, Live: digest('b'), Signature: "sig"})
	l.tick(time.Second)
	l.wantPhase(id, rollout.PhaseReverted)
	if got := l.running(digest('b')); len(got) != 0 {
		t.Errorf("%v still run the bad patch", got)
	}
	if got := l.running(digest('a')); len(got) != 3 {
		t.Errorf("%v run the earlier patch again, want all three", got)
	}
	if r := l.s.Rollout(id); r.Exposure.Exposed != 1 || !strings.Contains(r.Reason, string(canary[0])) {
		t.Errorf("exposed %d, reason %q", r.Exposure.Exposed, r.Reason)
	}
	if after := l.s.Desired(canary[0]).Generation; after <= before {
		t.Errorf("generation %d after %d: a revert is a higher one", after, before)
	}
	_, err := l.do(Command{Verb: Start, By: "op", Policy: policyFor("bad", canaryThenAll)})
	if e, ok := errors.AsType[*RefusedError](err); !ok || !strings.Contains(e.Reason, "was reverted by rollout "+id) {
		t.Errorf("start of a reverted version: %v", err)
	}
	l.tick(time.Hour) // the crash is reported again and again
	if got := l.running(digest('a')); len(got) != 3 {
		t.Errorf("an hour later %v run the good patch", got)
	}
	l.checkReplay()
}

func TestUnorderedBootRevertsAndWarningDoesNot(t *testing.T) {
	l := newLab(t, 3)
	id := l.start("good", canaryThenAll)
	l.tick(time.Second)
	canary := l.running(digest('a'))[0]
	l.crash(canary, wire.Crash{ID: "w", Kind: wire.CrashWarning, Live: digest('a')})
	l.tick(time.Second)
	l.wantPhase(id, rollout.PhaseRunning)
	g := l.hosts[canary]
	g.report.Boot, g.report.Live = "boot-2", nil
	g.report.Phase, g.report.Reason = wire.PhaseFailed, "went down before it was proven"
	l.crash(canary, wire.Crash{ID: "boot-1", Kind: wire.CrashUnorderedBoot, Live: digest('a')})
	l.tick(time.Second)
	l.wantPhase(id, rollout.PhaseReverted)
	l.checkReplay()
}

func TestCrashWithoutThePatchIsNotItsFault(t *testing.T) {
	l := newLab(t, 3)
	id := l.start("good", canaryThenAll)
	l.tick(time.Second)
	for _, h := range l.ids {
		l.crash(h, wire.Crash{ID: "x" + string(h), Kind: wire.CrashOops})
	}
	l.tick(time.Second)
	l.wantPhase(id, rollout.PhaseRunning)
}

func TestNotFit(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(*lab, *guest)
		kind Kind
		want string
	}{
		{"kernel", func(_ *lab, g *guest) { g.report.Kernel = kernelB }, KindKernel, "it runs 6.1.0-55-cloud-amd64 (#1 Debian 6.1.192-1), and good has bundles only for 6.1.0-55-amd64 (#1 Debian 6.1.192-1)"},
		{"foreign", func(_ *lab, g *guest) { g.report.Live = []wire.LivePatch{{Name: "kpatch_x", Enabled: true}} }, KindForeign, "kpatch_x"},
		{"stop", func(_ *lab, g *guest) { g.report.Stopped = true }, KindStopped, "stop file"},
		{"ceiling", func(_ *lab, g *guest) { g.report.Mode = fleet.ModeObserve }, KindObserve, "observe"},
		{"server mode", func(l *lab, g *guest) { l.v.Enrol("h2", "h2", nil, fleet.ModeObserve) }, KindObserve, "server"},
		{"silent", func(l *lab, g *guest) { g.silent = true; l.tick(6 * time.Minute) }, KindSilent, "silent since"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, 3)
			tt.make(l, l.hosts["h2"])
			l.start("good", "waves: [{size: 100%}]")
			l.tick(time.Second)
			if got := l.running(digest('a')); len(got) != 2 {
				t.Errorf("%v run it, want h1 and h3", got)
			}
			e := Explain(l.s, l.v, "h2", l.now)
			if e.Kind != tt.kind || !strings.Contains(e.Reason, tt.want) || e.Frees == "" {
				t.Errorf("explained as %+v", e)
			}
			if d := l.s.Desired("h2"); d.Live != "" {
				t.Errorf("h2 is told to run %s", d.Live)
			}
		})
	}
}

func TestExplainWaveBudgetPauseHold(t *testing.T) {
	l := newLab(t, 6)
	for _, g := range l.hosts {
		g.silent = true // nobody acts on orders
	}
	id := l.start("good", "waves: [{name: canary, size: 3, soak: 10m}, {size: 100%}]\nbudgets: [{name: few, unavailable: 1}]")
	l.tick(time.Second)
	count := map[Kind]int{}
	var waiting fleet.HostID
	for _, h := range l.ids {
		e := Explain(l.s, l.v, h, l.now)
		count[e.Kind]++
		if e.Kind == KindBudget {
			waiting = h
		}
	}
	if count[KindNone] != 1 || count[KindBudget] != 2 || count[KindWave] != 3 {
		t.Errorf("kinds are %v, want 1 under way, 2 behind the budget, 3 behind the wave", count)
	}
	if _, err := l.do(Command{Verb: Pause, By: "op", Rollout: id}); err != nil {
		t.Fatal(err)
	}
	if e := Explain(l.s, l.v, waiting, l.now); e.Kind != KindPaused || l.s.Permits(id) {
		t.Errorf("paused: %+v, permits %v", e, l.s.Permits(id))
	}
}

func TestAbortStopsAtOnceAndKeepsThePatched(t *testing.T) {
	l := newLab(t, 4)
	id := l.start("good", "waves: [{name: canary, size: 1}, {size: 100%}]\nbudgets: [{name: few, unavailable: 1}]")
	l.tick(time.Second)
	had := len(l.running(digest('a')))
	if _, err := l.do(Command{Verb: Abort, By: "op", Rollout: id, Reason: "second thoughts"}); err != nil {
		t.Fatal(err)
	}
	l.tick(time.Hour)
	l.wantPhase(id, rollout.PhaseAborted)
	if got := len(l.running(digest('a'))); got != had {
		t.Errorf("%d hosts run it, %d did before the abort", got, had)
	}
	if _, err := l.do(Command{Verb: Revert, By: "op", Rollout: id}); err != nil {
		t.Fatal(err)
	}
	l.tick(time.Second)
	l.wantPhase(id, rollout.PhaseReverted)
	if got := l.running(digest('a')); len(got) != 0 {
		t.Errorf("%v still run it", got)
	}
	l.checkReplay()
}

func TestFailedHostHolds(t *testing.T) {
	l := newLab(t, 3)
	for _, g := range l.hosts {
		g.fails = true
	}
	id := l.start("good", canaryThenAll)
	l.tick(time.Second)
	l.tick(time.Hour)
	r := l.s.Rollout(id)
	if r.Phase != rollout.PhaseRunning || !strings.HasPrefix(r.Hold, "failures: ") || r.Count(rollout.Failed) != 1 {
		t.Errorf("phase %s, hold %q, %d failed", r.Phase, r.Hold, r.Count(rollout.Failed))
	}
	for _, g := range l.hosts {
		g.fails = false
	}
	if _, err := l.do(Command{Verb: Resume, By: "op", Rollout: id}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.tick(time.Hour)
	}
	l.wantPhase(id, rollout.PhaseComplete)
	if got := l.running(digest('a')); len(got) != 2 {
		t.Errorf("%v run it, want the two that did not fail", got)
	}
	l.checkReplay()
}

func TestSilenceHoldsThenCounts(t *testing.T) {
	l := newLab(t, 3)
	id := l.start("good", "waves: [{name: canary, size: 1, soak: 2h}, {size: 100%}]")
	l.tick(time.Second)
	canary := l.running(digest('a'))[0]
	l.hosts[canary].silent = true
	l.tick(6 * time.Minute)
	if r := l.s.Rollout(id); !strings.HasPrefix(r.Hold, "silence: ") || l.s.Permits(id) {
		t.Errorf("hold is %q", r.Hold)
	}
	l.hosts[canary].silent = false
	l.tick(time.Minute)
	if r := l.s.Rollout(id); r.Hold != "" {
		t.Errorf("it is back, and the hold is %q", r.Hold)
	}
	l.hosts[canary].silent = true
	l.tick(16 * time.Minute)
	l.wantPhase(id, rollout.PhaseReverting) // it is not back to take it off
	if got := len(l.running(digest('a'))); got != 1 {
		t.Errorf("%d hosts run it, want only the silent canary", got)
	}
	l.hosts[canary].silent = false
	l.tick(time.Minute)
	l.wantPhase(id, rollout.PhaseReverted)
	l.checkReplay()
}

// People read names, not ids.
func TestHoldNamesHosts(t *testing.T) {
	l := newLab(t, 3)
	id := l.start("good", "waves: [{name: canary, size: 1, soak: 2h}, {size: 100%}]")
	l.tick(time.Second)
	canary := l.running(digest('a'))[0]
	l.v.Enrol(canary, "db-3.example", l.v.Host(canary).Labels, fleet.ModeAct)
	l.hosts[canary].silent = true
	l.tick(6 * time.Minute)
	const want = "silence: 1 host not heard for 5m: db-3.example"
	if r := l.s.Rollout(id); r.Hold != want {
		t.Errorf("it holds %q, want %q", r.Hold, want)
	}
}

func TestSilentFleetIsNoCrash(t *testing.T) {
	l := newLab(t, 3)
	id := l.start("good", canaryThenAll)
	l.tick(time.Second)
	for _, g := range l.hosts {
		g.silent = true
	}
	l.tick(24 * time.Hour)
	l.wantPhase(id, rollout.PhaseRunning)
	if r := l.s.Rollout(id); r.Hold == "" || len(r.Crashed) != 0 {
		t.Errorf("hold %q, crashed %v", r.Hold, r.Crashed)
	}
}

func TestWithdrawalReverts(t *testing.T) {
	l := newLab(t, 3)
	id := l.start("good", "waves: [{size: 100%}]")
	l.tick(time.Second)
	l.tick(time.Second)
	l.v.Bundle(digest('a'), bundle.Manifest{Name: "good", Kernel: kernelA}, true)
	l.tick(time.Second)
	l.wantPhase(id, rollout.PhaseReverted)
	if got := l.running(digest('a')); len(got) != 0 {
		t.Errorf("%v still run it", got)
	}
}

func TestIdleServerNeverUnpatches(t *testing.T) {
	l := newLab(t, 3)
	l.start("good", "waves: [{size: 100%}]")
	l.tick(time.Second)
	snap, err := l.s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if l.s, err = Restore(snap); err != nil {
		t.Fatal(err)
	}
	l.tick(1000 * time.Hour)
	if got := l.running(digest('a')); len(got) != 3 {
		t.Errorf("%v run it after a restart", got)
	}
	l.s = New() // the store is lost altogether
	for _, g := range l.hosts {
		g.asked = 0
	}
	l.tick(time.Hour)
	if got := l.running(digest('a')); len(got) != 3 {
		t.Errorf("%v run it after the store was lost", got)
	}
	for _, h := range l.ids {
		if d := l.s.Desired(h); d.Live != digest('a') || d.Generation < 2 {
			t.Errorf("host %s is told %+v", h, d)
		}
	}
}

func TestLateHostGetsIt(t *testing.T) {
	l := newLab(t, 3)
	id := l.start("good", "waves: [{size: 100%}]")
	l.tick(time.Second)
	l.tick(time.Second)
	l.wantPhase(id, rollout.PhaseComplete)
	l.join("h9", fleet.Labels{"env": "prod"})
	l.tick(time.Second)
	if got := l.running(digest('a')); len(got) != 4 {
		t.Errorf("%v run it, want the late host too", got)
	}
	l.checkReplay()
}

func TestPermitsAndSelectorWaves(t *testing.T) {
	l := newLab(t, 4)
	l.join("rc1", fleet.Labels{"tier": "rc"})
	id := l.start("good", "waves: [{name: rc, select: tier=rc, soak: 10m}, {name: none, select: tier=none}, {size: 50%, soak: 10m}, {size: 100%}]")
	l.tick(time.Second)
	if got := l.running(digest('a')); len(got) != 1 || got[0] != "rc1" || !l.s.Permits(id) {
		t.Errorf("%v run it, want rc1; permits %v", got, l.s.Permits(id))
	}
	l.tick(11 * time.Minute)
	if got := l.running(digest('a')); len(got) != 3 {
		t.Errorf("%v run it, want rc1 and half of the rest", got)
	}
	l.tick(11 * time.Minute)
	if got := l.running(digest('a')); len(got) != 5 {
		t.Errorf("%v run it, want all", got)
	}
}

func TestRefusals(t *testing.T) {
	l := newLab(t, 2)
	for _, tt := range []struct {
		c    Command
		want string
	}{
		{Command{Verb: Start, Policy: policyFor("nothing", "waves: [{size: 100%}]\n")}, "no bundle named nothing"},
		{Command{Verb: Start, Policy: "name: x\n"}, "target is missing"},
		{Command{Verb: Abort, Rollout: "r7"}, `no rollout "r7"`},
		{Command{Verb: "explode", Rollout: "r1"}, "no rollout"},
	} {
		if _, err := l.do(tt.c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.c, err, tt.want)
		}
	}
	id := l.start("good", canaryThenAll)
	if _, err := l.do(Command{Verb: Start, Policy: policyFor("good", "")}); err == nil {
		t.Error("a second rollout of the same target started")
	}
	if _, err := l.do(Command{Verb: Resume, Rollout: id}); err == nil {
		t.Error("resumed what was not paused")
	}
}

func TestControlArmIsPatchedLast(t *testing.T) {
	l := newLab(t, 20)
	id := l.start("good", "waves: [{size: 100%, soak: 10m}]\ngate: {control: {size: 10%, by: 24h}}")
	for range 30 {
		l.tick(time.Minute)
	}
	if got := l.running(digest('a')); len(got) != 18 {
		t.Fatalf("%d hosts run it after half an hour, want all but the control arm", len(got))
	}
	for _, h := range l.ids {
		if e := Explain(l.s, l.v, h, l.now); e.Phase == rollout.Waiting && (e.Kind != KindWave || !strings.Contains(e.Reason, "arm to compare with") || e.Until.IsZero()) {
			t.Errorf("control host: %+v", e)
		}
	}
	l.tick(24 * time.Hour)
	for range 30 {
		l.tick(time.Minute)
	}
	l.wantPhase(id, rollout.PhaseComplete)
	if got := l.running(digest('a')); len(got) != 20 {
		t.Errorf("%d hosts run it after a day, want all", len(got))
	}
	l.checkReplay()
}
