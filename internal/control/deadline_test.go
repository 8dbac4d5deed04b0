package control

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/rollout"
)

func (l *lab) outlook(id string) Outlook {
	l.t.Helper()
	o, ok := Deadlines(l.s, l.v, id, l.now)
	if !ok {
		l.t.Fatalf("nobody owes a reboot for rollout %s", id)
	}
	return o.Outlook(l.now)
}

// TestDeadlineBeginsThePayoffEarly: a live rollout that takes its time does not
// make its reboots late: they begin when they would no longer fit.
func TestDeadlineBeginsThePayoffEarly(t *testing.T) {
	l := newRebootLab(t, 12)
	l.begin("name: f\ntarget: {live: good}\nwaves: [{size: 50%}, {size: 100%}]\nunavailable: 1\ngate: {control: {size: 10%, by: 72h}}\n" +
		"debt: {reboot: within 6h, kernel: 6.1.192-2}")
	l.minutes(5)
	since := l.now
	if len(l.s.Rollouts()) != 1 {
		t.Fatal("the payoff begins at once, there is time")
	}
	for l.s.Rollout("r2") == nil {
		if l.minutes(1); l.now.Sub(since) > 6*time.Hour {
			t.Fatal("the payoff has not begun")
		}
	}
	l.wantPhase("r1", rollout.PhaseRunning)
	// Twelve one after the other, half as much again, the sample and its soak.
	if wait := l.now.Sub(since); wait < time.Hour || wait > 3*time.Hour {
		t.Errorf("it begins after %s", wait)
	}
	if o := l.outlook("r1"); o.Late != 0 || o.Payoff != "r2" || o.Text() != "" {
		t.Errorf("the outlook is %+v: %s", o, o.Text())
	}
	for l.now.Sub(since) < 6*time.Hour {
		l.minutes(1)
		if n := l.busy(); n > 1 {
			t.Fatalf("%d hosts are out, one may be", n)
		}
	}
	if n := len(l.onKernel("6.1.192-2")); n < 11 || len(Ledger(l.s, l.v)) > 0 {
		t.Errorf("%d of 12 have booted, these owe it still: %+v", n, Ledger(l.s, l.v))
	}
	l.checkReplay()
}

// TestDeadlineThatCannotBeMet: it is said which constraint is in the way, and
// no budget is broken.
func TestDeadlineThatCannotBeMet(t *testing.T) {
	for name, tt := range map[string]struct {
		rest  string
		spoil func(l *lab)
		after time.Duration
		want  []string
		late  int
	}{
		"too much to do": {"unavailable: 1\ndebt: {reboot: within 90m, kernel: 6.1.192-2}", nil, 10 * time.Minute,
			[]string{"LATE: ", " that owe a reboot will miss their deadline", "What binds is unavailable: ", "1 out at once"}, 1},
		"paused": {"unavailable: 12\ndebt: {reboot: within 90m, kernel: 6.1.192-2}", func(l *lab) {
			if _, err := l.do(Command{Verb: Pause, Rollout: "r2", By: "op", Reason: "lunch"}); err != nil {
				l.t.Fatal(err)
			}
		}, 2 * time.Hour, []string{"OVERDUE: ", "past their deadline", "Rollout r2, which pays them off, is paused: by op: lunch"}, 11},
		"agents that cannot": {"unavailable: 12\ndebt: {reboot: within 30d}", func(l *lab) {
			for _, id := range l.ids[:3] {
				l.hosts[id].report.Abilities = nil
			}
		}, 10 * time.Minute, []string{"LATE: 3 hosts of ", "3 hosts must be booted by hand: its agent cannot reboot it"}, 3},
		"aborted": {"unavailable: 12\ngate: {control: {size: 10%, by: 72h}}\ndebt: {reboot: within 90m}", func(l *lab) {
			if _, err := l.do(Command{Verb: Abort, Rollout: "r1", By: "op", Reason: "no"}); err != nil {
				l.t.Fatal(err)
			}
		}, 2 * time.Hour, []string{"OVERDUE: ", "Rollout r1 is aborted, so that no rollout pays its reboots off"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := newRebootLab(t, 12)
			l.begin("name: f\ntarget: {live: good}\nwaves: [{size: 100%}]\n" + tt.rest)
			for n := 0; len(Ledger(l.s, l.v)) < 10 && n < 5; n++ {
				l.minutes(1)
			}
			if tt.spoil != nil {
				tt.spoil(l)
			}
			l.tick(tt.after)
			o := l.outlook("r1")
			for _, want := range append(tt.want, "No budget is broken for it") {
				if !strings.Contains(o.Text(), want) {
					t.Errorf("%q does not say %q", o.Text(), want)
				}
			}
			if o.Late < tt.late {
				t.Errorf("%d are late, want at least %d", o.Late, tt.late)
			}
			late := 0
			for _, id := range l.ids {
				if o.IsLate(id) {
					late++
				}
			}
			if late != o.Late {
				t.Errorf("%d hosts are late, and %d of them by name", o.Late, late)
			}
		})
	}
}

// TestNoDeadlineNoOutlook: without a rule, and once all have booted, nothing is said.
func TestNoDeadlineNoOutlook(t *testing.T) {
	l := newRebootLab(t, 4)
	l.begin(owing)
	l.minutes(3)
	if got := Debts(l.s, l.v, l.now); len(got) != 0 || len(Ledger(l.s, l.v)) != 4 {
		t.Errorf("without a rule: %+v", got)
	}
	if got := l.s.due(l.s.hosts[fleet.HostID("h1")]); !got.IsZero() {
		t.Errorf("due %s", got)
	}
	if _, ok := Deadlines(l.s, l.v, "r9", l.now); ok {
		t.Error("there is no rollout r9")
	}
}
