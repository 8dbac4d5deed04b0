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

// TestExplainSaysWhoAndWhen: each wait for a budget names who uses it up, and
// when the first of them lets go of it.
func TestExplainSaysWhoAndWhen(t *testing.T) {
	for name, tt := range map[string]struct {
		rest   string
		after  int // minutes
		spoil  func(*lab)
		reason []string
		ends   string
	}{
		"out by order": {"budgets: [{name: one, unavailable: 1}]", 1, nil,
			[]string{"budget one: 1 of 3 hosts are out", "held by h", "(draining, rollout r1)"}, "when a host of it is back, about 2026-11-21T09:1"},
		"warming up": {"budgets: [{name: one, unavailable: 1, warm: 30m}]", 10, nil,
			[]string{"(1 of them warming up)", "(warming up)"}, "with time, at 2026-11-21T09:"},
		"starts": {"unavailable: 3\nbudgets: [{name: slow, starts: 1 per 20m}]", 12, nil,
			[]string{"budget slow: 1 hosts started in the last 20m", "(started at 2026-11-21T09:00:"}, "with time, at 2026-11-21T09:20:"},
		"its own rate": {"unavailable: 3\nrate: 1 per 40m", 12, nil,
			[]string{"1 hosts started in the last 40m", "(started at 2026-11-21T09:00:"}, "with time, at 2026-11-21T09:40:"},
		"disruptions": {"unavailable: 3\nbudgets: [{name: slo, disruptions: 1 per 7d}]", 12, nil,
			[]string{"1 disruptions in the last 7d", "(started at 2026-11-21T09:00:"}, "with time, at 2026-11-28T09:00:"},
		"out by its owner": {"unavailable: 1", 1, func(l *lab) { g := l.hosts["h1"]; g.deed.sick, g.report.Out, g.report.Stopped = true, true, true },
			[]string{"1 of 3 hosts are out", "held by h1 (out of rotation)"}, "when a host of it is back"},
		"silent": {"unavailable: 1", 1, func(l *lab) { l.hosts["h1"].silent = true; l.tick(10 * time.Minute) },
			[]string{"1 of 3 hosts are out", "held by h1 (silent)"}, "when a host of it is back"},
		"a window": {"unavailable: 1\nwindows: ['Sun 02:00-03:00 Europe/Paris']", 1, nil, []string{"window"}, "at 2026-11-22T01:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newRebootLab(t, 3)
			if tt.spoil != nil {
				tt.spoil(l)
				l.tick(0)
			}
			l.begin(toNewKernel + tt.rest)
			l.minutes(tt.after)
			for _, h := range l.ids {
				e := Explain(l.s, l.v, h, l.now)
				if e.Kind != KindBudget {
					continue
				}
				for _, want := range tt.reason {
					if !strings.Contains(e.Reason, want) {
						t.Errorf("%q does not say %q", e.Reason, want)
					}
				}
				if !strings.Contains(e.Ends(), tt.ends) {
					t.Errorf("it ends %q, want %q", e.Ends(), tt.ends)
				}
				return
			}
			t.Error("no host waits for a budget")
		})
	}
}

// TestExplainNamesThePassive: the active one of a pair waits for the other, by name.
func TestExplainNamesThePassive(t *testing.T) {
	l := newRebootLab(t, 2)
	for i, id := range l.ids {
		l.v.Enrol(id, string(id), map[string]string{"pair": "fw", "role": []string{"active", "passive"}[i]}, "act")
	}
	l.tick(0)
	r := l.s.Rollout(l.begin(toNewKernel + "unavailable: 2\nbudgets: [{name: ha, groupBy: pair, unavailable: 1, order: role}]"))
	turn := newTurn(l.s, l.v, l.now)
	b := turn.planner(r).Blocked(turn.m.index["h1"], l.now)
	if b == nil || !b.First {
		t.Fatalf("h1 is blocked by %+v, want the order of its pair", b)
	}
	if got := turn.held(r, b); !strings.Contains(got.Reason, "held by h2 (goes first)") || got.Ends() != "when they are through" {
		t.Errorf("%+v", got)
	}
}
