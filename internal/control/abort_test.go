package control

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/rollout"
)

// Hosts that soaked in a rollout when that was aborted keep what they have, and
// are free for others at once.
func TestAbortFreesThoseThatSoak(t *testing.T) {
	l := newLab(t, 4)
	one := l.start("good", "waves: [{name: canary, size: 2, soak: 10m}, {size: 100%}]")
	l.tick(time.Minute)
	soaks := l.running(digest('a'))
	two := l.start("bad", "waves: [{size: 100%}]")
	l.beat(time.Second)
	for _, h := range soaks {
		if l.s.Host(h).Rollout != one {
			t.Fatalf("%s was taken in its soak", h)
		}
	}
	if _, err := l.do(Command{Verb: Abort, By: "op", Rollout: one, Reason: "not now"}); err != nil {
		t.Fatal(err)
	}
	if e := Explain(l.s, l.v, soaks[0], l.now); e.Rollout != two || e.Kind == KindBusy {
		t.Errorf("explained as %+v", e)
	}
	l.decide()
	for range 5 {
		l.tick(10 * time.Minute)
	}
	if got := l.running(digest('b')); len(got) != 4 {
		t.Errorf("%v run the second patch, want all", got)
	}
	l.wantPhase(two, rollout.PhaseComplete)
	l.checkReplay()
}

func TestAbortedSaysSo(t *testing.T) {
	l := newLab(t, 4)
	id := l.start("good", "waves: [{name: canary, size: 2, soak: 10m}, {size: 100%}]")
	l.tick(time.Minute)
	if _, err := l.do(Command{Verb: Abort, By: "op", Rollout: id, Reason: "not now"}); err != nil {
		t.Fatal(err)
	}
	e := Explain(l.s, l.v, l.running(digest('a'))[0], l.now)
	if e.Phase != rollout.Done || e.Kind != KindOver || !strings.HasSuffix(e.Reason, "which is aborted: by op: not now") {
		t.Errorf("explained as %+v", e)
	}
	if r := l.s.Rollout(id); r.Count(rollout.Done) != 1 || r.Count(rollout.Soaking) != 0 {
		t.Errorf("%d are done, %d soak", r.Count(rollout.Done), r.Count(rollout.Soaking))
	}
}

// Who is on the way when a rollout is aborted stays with it until it is through.
func TestAbortKeepsThoseUnderWay(t *testing.T) {
	l := newRebootLab(t, 6)
	one := l.begin(toNewKernel + "unavailable: 6\nwaves: [{name: c, size: 3, soak: 1h}, {size: 100%}]")
	for range 5 {
		l.tick(time.Minute)
	}
	acting := l.s.Rollout(one).ActingIn(0)
	if _, err := l.do(Command{Verb: Abort, By: "op", Rollout: one}); err != nil {
		t.Fatal(err)
	}
	two := l.begin("name: r\ntarget: {restart: app.service}\nunavailable: 6")
	l.beat(time.Second)
	if r := l.s.Rollout(one); acting != 3 || r.ActingIn(0) != 3 || l.s.Rollout(two).ActingIn(0) != 3 {
		t.Fatalf("%d were under way, now %d, and %d in the second rollout; want 3 each", acting, r.ActingIn(0), l.s.Rollout(two).ActingIn(0))
	}
	for range 40 {
		l.tick(time.Minute)
		l.decide()
	}
	l.wantPhase(two, rollout.PhaseComplete)
	if n := l.s.Rollout(two).Count(rollout.Done); n != 6 || len(l.onKernel("6.1.192-2")) != 3 {
		t.Errorf("%d were restarted, %v run the new kernel", n, l.onKernel("6.1.192-2"))
	}
	l.checkReplay()
}

// A restart is no version: what one rollout of it came to says nothing of the next.
func TestRestartIsNeverABadVersion(t *testing.T) {
	const restart = "name: r\ntarget: {restart: app.service}\nunavailable: 4\n"
	l := newRebootLab(t, 4)
	id := l.begin(restart)
	l.tick(time.Minute)
	if _, err := l.do(Command{Verb: Revert, By: "op", Rollout: id, Reason: "wrong day"}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		l.tick(time.Minute)
	}
	l.wantPhase(id, rollout.PhaseReverted)
	if len(l.s.badName) > 0 {
		t.Errorf("remembered: %v", l.s.badName)
	}
	l.s.badName["restart app.service"] = Bad{Rollout: id, Reason: "said by an old snapshot"}
	again := l.begin(restart)
	for range 20 {
		l.tick(time.Minute)
	}
	l.wantPhase(again, rollout.PhaseComplete)
}
