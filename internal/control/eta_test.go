package control

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/rollout"
)

func (l *lab) eta(id string) ETA {
	l.t.Helper()
	rest, ok := RestOf(l.s, l.v, id, l.now)
	if !ok {
		l.t.Fatalf("rollout %s has nothing left", id)
	}
	return rest.ETA(l.now)
}

// TestETAHolds: at any time of a rollout in which nothing goes wrong, the ETA is
// when it ends, within what one host takes and the steps of the test.
func TestETAHolds(t *testing.T) {
	for name, policy := range map[string]string{
		"reboot": toNewKernel + "waves: [{name: canary, size: 2, soak: 30m}, {size: 50%, soak: 20m}, {size: 100%, soak: 10m}]\nunavailable: 2",
		"live":   "name: l\ntarget: {live: good}\nwaves: [{name: canary, size: 1, soak: 30m}, {size: 100%, soak: 1h}]",
		"rc":     toNewKernel + "waves: [{name: rc, select: 'rack=r1', soak: 30m}, {size: 100%}]\nbudgets: [{name: one, groupBy: rack, unavailable: 1}]",
	} {
		t.Run(name, func(t *testing.T) {
			l := newRebootLab(t, 12)
			for _, g := range l.hosts {
				g.deed.slow = usualBoot - drains - boots // as is taken while nothing is known
			}
			id := l.begin(policy)
			l.tick(0)
			said := map[time.Time]ETA{}
			for l.s.Rollout(id).Phase == rollout.PhaseRunning {
				said[l.now] = l.eta(id)
				if l.minutes(5); len(said) > 100 {
					t.Fatal("it does not end")
				}
			}
			end := l.s.Rollout(id).Since
			for at, e := range said {
				if off := e.Over.Sub(end).Abs(); off > 15*time.Minute || e.Stuck != "" {
					t.Errorf("at %s it is said to be over %s, it was %s: %s", at, e.Over, end, e.Text())
				}
				if e.Least.After(e.Done) {
					t.Errorf("at %s: done %s, before the bound %s", at, e.Done, e.Least)
				}
			}
			if _, ok := RestOf(l.s, l.v, id, l.now); ok {
				t.Error("a rollout that is complete has something left")
			}
		})
	}
}

// TestETASaysWhatIsInTheWay: a pause, a hold and hosts that can never start.
func TestETASaysWhatIsInTheWay(t *testing.T) {
	l := newRebootLab(t, 3)
	id := l.begin(toNewKernel + "budgets: [{name: q, unavailable: quorum-1}]")
	l.minutes(1)
	if e := l.eta(id); e.Left != 3 || !strings.HasPrefix(e.Text(), "never, as things are: 3 hosts cannot start: budget q") {
		t.Errorf("%s", e.Text())
	}
	if _, err := l.do(Command{Verb: Pause, Rollout: id, By: "op"}); err != nil {
		t.Fatal(err)
	}
	if e := l.eta(id); !strings.HasSuffix(e.Text(), "as if it went on now: it is paused: by op") {
		t.Errorf("%s", e.Text())
	}
}
