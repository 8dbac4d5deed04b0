package control

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

const owing = "name: f\ntarget: {live: good}\nwaves: [{size: 100%}]\nunavailable: 3\n"

// newDebtLab is a lab of 12 hosts in three classes of hardware.
func newDebtLab(t *testing.T) *lab {
	l := newRebootLab(t, 12)
	for i, id := range l.ids {
		l.v.Enrol(id, string(id), map[string]string{"hardware": fmt.Sprintf("hw%d", i%3)}, "act")
	}
	l.tick(0)
	return l
}

func (l *lab) minutes(n int) {
	for range n {
		l.tick(time.Minute)
	}
}

func TestDebtIsPaidSampleFirst(t *testing.T) {
	l := newDebtLab(t)
	l.begin(owing + "debt: {reboot: within 30d, bootSample: 1% within 24h, kernel: 6.1.192-2}")
	l.minutes(3)
	l.wantPhase("r1", rollout.PhaseComplete)
	pays := l.s.Rollout("r2")
	if pays == nil || pays.Of != "r1" || len(pays.Sample) != 3 {
		t.Fatalf("the payoff is %+v, want one with a sample of 3", pays)
	}
	if got := Ledger(l.s, l.v); len(got) != 12 || got[0].Patches != 1 || got[0].Proven || got[0].Due.Sub(got[0].Since) != 30*24*time.Hour {
		t.Errorf("ledger: %d entries, first %+v", len(got), got[0])
	}
	classes := map[string]bool{}
	l.minutes(20)
	for _, id := range l.onKernel("6.1.192-2") {
		classes[l.v.Host(id).Labels["hardware"]] = true
	}
	if got := l.onKernel("6.1.192-2"); len(got) != 3 || len(classes) != 3 {
		t.Errorf("%v have booted, of classes %v: want one of each", got, classes)
	}
	for _, h := range l.ids {
		if e := Explain(l.s, l.v, h, l.now); e.Phase == rollout.Waiting && (e.Kind != KindWave || !strings.Contains(e.Reason, "boot sample")) {
			t.Errorf("%s: %+v", h, e)
		}
	}
	l.minutes(120)
	l.wantPhase("r2", rollout.PhaseComplete)
	if got := l.onKernel("6.1.192-2"); len(got) != 12 || len(Ledger(l.s, l.v)) != 0 {
		t.Errorf("%v have booted, the ledger is %+v", got, Ledger(l.s, l.v))
	}
	if got := l.s.Proofs(); len(got) != 3 || got[0].OK != 4 || got[0].Kernel != "6.1.192-2" {
		t.Errorf("proofs are %+v", got)
	}
	l.checkReplay()
}

func TestBootThatFailsTakesThePatchBack(t *testing.T) {
	for name, break_ := range map[string]func(*deed){
		"never back": func(d *deed) { d.lost = true },
		"not well":   func(d *deed) { d.sick = true },
	} {
		t.Run(name, func(t *testing.T) {
			l := newDebtLab(t)
			l.begin(owing + "debt: {reboot: within 30d}")
			l.minutes(3)
			for _, g := range l.hosts {
				break_(&g.deed)
			}
			l.minutes(120)
			r, pays := l.s.Rollout("r1"), l.s.Rollout("r2")
			if pays == nil || pays.Phase != rollout.PhaseReverted && pays.Phase != rollout.PhaseReverting {
				t.Fatalf("the payoff is %+v", pays)
			}
			if r.Phase != rollout.PhaseReverted || !strings.Contains(r.Reason, "do not survive a boot") {
				t.Errorf("the live rollout is %s: %s", r.Phase, r.Reason)
			}
			booted := 0
			for _, g := range l.hosts {
				booted += g.deed.boots
				if g.deed.nonce == "" && g.deed.boots == 0 && len(g.report.Live) > 0 {
					t.Errorf("host %s still runs the patch", g.report.Host)
				}
			}
			if booted > 3 {
				t.Errorf("%d hosts were booted, the sample is 3", booted)
			}
			_, err := l.do(Command{Verb: Start, By: "op", Policy: policyFor("good", "waves: [{size: 100%}]")})
			if err == nil || !strings.Contains(err.Error(), "does not survive a boot") {
				t.Errorf("start of the patch again: %v", err)
			}
			l.checkReplay()
		})
	}
}

func TestRevertOfALiveRolloutReachesItsPayoff(t *testing.T) {
	l := newDebtLab(t)
	l.begin(owing + "debt: {reboot: within 30d}")
	l.minutes(100)
	l.wantPhase("r2", rollout.PhaseComplete)
	for _, d := range Ledger(l.s, l.v) { // the patch was put on again after the boot
		if !d.Proven || !d.Since.After(l.s.Rollout("r2").Started) {
			t.Errorf("%+v", d)
		}
	}
	if _, err := l.do(Command{Verb: Revert, By: "op", Rollout: "r1"}); err != nil {
		t.Fatal(err)
	}
	l.minutes(5)
	l.wantPhase("r1", rollout.PhaseReverted)
	l.wantPhase("r2", rollout.PhaseReverted)
	if got := l.running(digest('a')); len(got) != 0 || len(Ledger(l.s, l.v)) != 0 {
		t.Errorf("%v run the patch, the ledger is %+v", got, Ledger(l.s, l.v))
	}
	l.checkReplay()
}

func TestOwnBootPays(t *testing.T) {
	l := newDebtLab(t)
	l.start("good", "waves: [{size: 100%}]")
	l.minutes(2)
	g := l.hosts["h1"]
	g.report.Boot, g.report.Live, g.report.Kernel, g.report.Phase = "by hand", nil, kernelNew, wire.PhaseIdle
	l.minutes(2)
	if got := Ledger(l.s, l.v); len(got) != 11 {
		t.Errorf("%d owe, want all but the one that booted", len(got))
	}
	g.report.Live = []wire.LivePatch{{Name: "afloat", Enabled: true, Bundle: digest('a')}}
	l.minutes(2)
	if got := Ledger(l.s, l.v); len(got) != 12 || got[11].Host != "h1" || got[11].Patches != 1 {
		t.Errorf("%d owe, last %+v: want the one whose patch came back too", len(got), got[len(got)-1])
	}
	l.checkReplay()
}

func TestRequiredRebootComesBeforeLivePatches(t *testing.T) {
	l := newDebtLab(t)
	for _, h := range l.ids[:6] {
		l.hosts[h].report.Abilities = nil // cannot be rebooted yet
	}
	l.tick(0)
	l.begin(toNewKernel + "reboot: required\nunavailable: 6")
	l.minutes(20)
	id := l.start("good", "waves: [{size: 100%}]")
	l.minutes(5)
	e := Explain(l.s, l.v, "h1", l.now)
	if e.Kind != KindDebt || !strings.Contains(e.Reason, "must boot into kernel 6.1.192-2 first") || e.Rollout != id || len(l.running(digest('a'))) != 0 {
		t.Errorf("%+v, %v run the patch", e, l.running(digest('a')))
	}
}

// A rollout that requires a boot and is aborted frees its hosts at once, though
// they say nothing new.
func TestAbortLiftsTheRequiredReboot(t *testing.T) {
	l := newDebtLab(t)
	for _, h := range l.ids {
		l.hosts[h].report.Abilities = []wire.Action{wire.ActionLive}
	}
	l.hosts["h1"].report.Abilities = wire.Actions()
	l.tick(0)
	id := l.begin(toNewKernel + "reboot: required\nunavailable: 1")
	l.start("good", "waves: [{size: 100%}]")
	l.minutes(1)
	if rec := l.decide(); len(rec.Moves) > 0 {
		t.Fatalf("admitted before they have booted: %+v", rec.Moves)
	}
	if _, err := l.do(Command{Verb: Abort, By: "op", Rollout: id}); err != nil {
		t.Fatal(err)
	}
	l.turn() // in which a memo that followed decides what a fresh one does
	if e := Explain(l.s, l.v, "h5", l.now); e.Kind == KindDebt {
		t.Errorf("explained as %+v", e)
	}
	l.tick(0)
	l.minutes(5)
	if got := l.running(digest('a')); len(got) < 11 {
		t.Errorf("%v run the patch", got)
	}
}

func TestTimesOfAClass(t *testing.T) {
	l := newDebtLab(t)
	l.begin(toNewKernel + "unavailable: 3")
	l.minutes(60)
	got := l.s.Took()
	if len(got) != 3 || got[0].Action != wire.ActionReboot || got[0].Hardware != "hw0" || len(got[0].Times) != 4 {
		t.Fatalf("took %+v, want three classes with four hosts each", got)
	}
	if p := got[0].P90(); p < drains+boots || p > drains+boots+2*time.Minute {
		t.Errorf("P90 is %s, a reboot takes %s", p, drains+boots)
	}
	if p := (Took{Times: []time.Duration{9, 1, 2, 3, 4, 5, 6, 7, 8, 100}}).P90(); p != 9 {
		t.Errorf("P90 of ten is %d, want the ninth", p)
	}
	l.checkReplay()
}

// TestLongestFirst: once enough hosts have shown how long their class takes,
// the slow ones go before the others; each decision is that of a planner that
// never knew better.
func TestLongestFirst(t *testing.T) {
	l := newRebootLab(t, 40)
	slow := func(id fleet.HostID) bool { return l.v.Host(id).Labels["hardware"] == "old" }
	for i, id := range l.ids {
		l.v.Enrol(id, string(id), map[string]string{"hardware": []string{"new", "new", "new", "old"}[i%4]}, "act")
		if i%4 == 3 {
			l.hosts[id].deed.slow = 10 * time.Minute
		}
	}
	l.begin(toNewKernel + "unavailable: 4")
	var late []fleet.HostID
	for l.s.expected < 2 || l.s.times["reboot on old"].Expect == 0 {
		if l.minutes(1); l.now.Sub(l.s.Rollout("r1").Started) > 5*time.Hour {
			t.Fatalf("took %+v", l.s.Took())
		}
	}
	known := l.now
	l.minutes(180)
	for _, id := range l.ids {
		if l.s.Host(id).Started.After(known) {
			late = append(late, id)
		}
	}
	slices.SortFunc(late, func(a, b fleet.HostID) int { return l.s.Host(a).Started.Compare(l.s.Host(b).Started) })
	n := 0
	for n < len(late) && slow(late[n]) {
		n++
	}
	if rest := late[n:]; n == 0 || slices.ContainsFunc(rest, slow) {
		t.Errorf("%d slow hosts go first, then %v, of which some are slow", n, rest)
	}
	l.checkReplay()
}

// TestExpectFollowsInSteps: planners count with the P90 of a class once enough
// hosts have shown it, and again when it has moved by a quarter.
func TestExpectFollowsInSteps(t *testing.T) {
	var took Took
	var got []time.Duration
	for _, d := range []time.Duration{100, 100, 100, 100, 100, 110, 110, 120, 130, 130, 90, 90, 90} {
		took.Times = append(took.Times, d*time.Second)
		took.expect()
		got = append(got, took.Expect/time.Second)
	}
	if want := []time.Duration{0, 0, 0, 0, 100, 100, 100, 100, 130, 130, 130, 130, 130}; !slices.Equal(got, want) {
		t.Errorf("expected %v, want %v", got, want)
	}
}
