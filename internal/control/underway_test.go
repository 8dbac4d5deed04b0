package control

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/rollout"
)

// TestExplainsAnAction follows one host through a reboot and back.
func TestExplainsAnAction(t *testing.T) {
	l := newRebootLab(t, 3)
	id := l.begin(toNewKernel + "budgets: [{name: one, unavailable: 1}]")
	l.tick(time.Minute)
	said := func(phase rollout.HostPhase) (e Explanation) {
		for _, h := range l.ids {
			if e = Explain(l.s, l.v, h, l.now); e.Phase == phase {
				return e
			}
		}
		t.Fatalf("no host is %s", phase)
		return e
	}
	if e := said(rollout.Draining); e.Reason != "it leaves rotation" || e.Until.IsZero() {
		t.Errorf("draining: %+v", e)
	}
	if e := said(rollout.Waiting); e.Kind != KindBudget || !strings.Contains(e.Reason, "held by h") || !strings.Contains(e.Reason, "(draining, rollout r1)") {
		t.Errorf("behind the budget: %+v", e)
	}
	l.tick(2 * time.Minute)
	if e := said(rollout.Rebooting); !strings.HasPrefix(e.Reason, "reboot into 6.1.192-2: under way") || e.Until.IsZero() {
		t.Errorf("rebooting: %+v", e)
	}
	l.minutes(25)
	l.wantPhase(id, rollout.PhaseComplete)
	if _, err := l.do(Command{Verb: Revert, By: "op", Rollout: id}); err != nil {
		t.Fatal(err)
	}
	l.tick(time.Minute)
	if e := said(rollout.Reverting); e.Reason != "on its way back: reboot into 6.1.0-55-amd64" {
		t.Errorf("on its way back: %+v", e)
	}
	if e := said(rollout.Done); e.Kind != KindBudget || !strings.HasPrefix(e.Reason, "it must go back to 6.1.0-55-amd64: budget one: ") || !strings.Contains(e.Reason, "held by") {
		t.Errorf("waits for its way back: %+v", e)
	}
}
