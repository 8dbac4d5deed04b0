package control

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// newPairLab is a lab of two pairs: 1a and 1b, 2a and 2b.
func newPairLab(t tester) *lab {
	l := newRebootLab(t, 0)
	for _, x := range []string{"1a", "1b", "2a", "2b"} {
		role := map[byte]string{'a': "active", 'b': "passive"}[x[1]]
		l.join(fleet.HostID(x), fleet.Labels{"pair": x[:1], "zone": x[1:], "role": role}).report.Abilities = wire.Actions()
	}
	l.tick(0)
	return l
}

// halves is how many hosts of a pair are down at most.
func (l *lab) halves() int {
	out := map[string]int{}
	for id, g := range l.hosts {
		if g.report.Out || g.deed.down {
			out[string(id)[:1]]++
		}
	}
	return max(out["1"], out["2"])
}

const onePerPair = "budgets: [{name: ha, groupBy: pair, unavailable: 1}]"

func TestBudgetsCountTheHostsOfOtherRollouts(t *testing.T) {
	l := newPairLab(t)
	one := l.begin(toNewKernel + "select: zone=a\n" + onePerPair)
	two := l.begin("name: r\ntarget: {restart: app.service}\nselect: zone=b\n" + onePerPair)
	l.beat(time.Second)
	const want = "budget ha (pair 1): 1 of 2 hosts are out (0 of them warming up), at most 1 (1) may be; held by 1a (admitted, rollout r1)"
	if e := Explain(l.s, l.v, "1b", l.now); e.Kind != KindBudget || !strings.Contains(strings.ReplaceAll(e.Reason, "draining", "admitted"), want) {
		t.Errorf("1b waits for %+v, want %q", e.Blocker, want)
	}
	for range 40 {
		l.tick(time.Minute)
		if n := l.halves(); n > 1 {
			t.Fatalf("%d hosts of a pair are out", n)
		}
	}
	l.wantPhase(one, "complete")
	l.wantPhase(two, "complete")
	l.checkReplay()
}

func TestBudgetsCountHostsThatAreDownAndNotSelected(t *testing.T) {
	l := newPairLab(t)
	l.hosts["1b"].silent = true
	l.tick(10 * time.Minute)
	id := l.begin(toNewKernel + "select: zone=a\n" + onePerPair)
	l.tick(10 * time.Minute)
	if st, _ := StatusOf(l.s, l.v, id, l.now); st.Selected != 2 || l.s.Host("1a").Rollout != "" || l.s.Host("2a").Rollout != id {
		t.Errorf("%d are selected; 1a, whose other half is silent, is %+v; 2a is %+v", st.Selected, l.s.Host("1a"), l.s.Host("2a"))
	}
	rest, _ := RestOf(l.s, l.v, id, l.now)
	if eta := rest.ETA(l.now); eta.Left != 1 || !strings.Contains(eta.Stuck, "budget ha (pair 1)") {
		t.Errorf("the forecast is %+v", eta)
	}
	l.hosts["1b"].silent = false
	l.tick(time.Minute)
	if l.s.Host("1a").Rollout != id {
		t.Error("1a does not start when its other half is heard again")
	}
	l.hosts["2b"].silent = true // it goes silent while the rollout runs
	l.tick(10 * time.Minute)
	if p := l.v.memo.planner(l.s.Rollout(id), l.now); !p.Out(l.v.memo.index["2b"]) {
		t.Error("2b is silent and does not count as out")
	}
}

func TestAnEmergencyLeavesOneHalfOfEachPair(t *testing.T) {
	for _, budget := range []string{"unavailable: 1", "unavailable: 50%", "unavailable: 2, order: role", "unavailable: quorum", "order: role"} {
		l := newPairLab(t)
		if budget == "unavailable: quorum" { // three can lose one
			for _, x := range []string{"1c", "2c"} {
				l.join(fleet.HostID(x), fleet.Labels{"pair": x[:1]}).report.Abilities = wire.Actions()
			}
			l.tick(0)
		}
		id := l.begin(toNewKernel + "urgency: emergency\nreason: KEV\nbudgets: [{name: ha, groupBy: pair, " + budget + "}]")
		for range 40 {
			l.tick(time.Minute)
			if n := l.halves(); n > 1 {
				t.Fatalf("%s: %d hosts of a group are out", budget, n)
			}
		}
		l.wantPhase(id, "complete")
		if budget == "unavailable: 50%" { // a share bounds work: the way back does not wait for it
			continue
		}
		if _, err := l.do(Command{Verb: Revert, By: "op", Rollout: id}); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			l.tick(time.Minute)
			if n := l.halves(); n > 1 {
				t.Fatalf("%s: %d hosts of a group are out on the way back", budget, n)
			}
		}
		l.wantPhase(id, "reverted")
	}
}

func TestBudgetsWithALabelThatNobodyHasAreRefused(t *testing.T) {
	l := newPairLab(t)
	_, err := l.do(Command{Verb: Start, By: "op", Policy: toNewKernel + "waves: [{size: 100%}]\nbudgets: [{name: racks, select: zone=a, groupBy: pare, domains: 1}]"})
	const want = "cannot start rollout: no host that budget racks selects has the label pare: they have pair, role, zone"
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Subject != AboutBudget || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestStatusSaysWhomABudgetDoesNotBound(t *testing.T) {
	l := newPairLab(t)
	l.join("lone", fleet.Labels{"zone": "c"}).report.Abilities = wire.Actions()
	l.tick(0)
	id := l.begin(toNewKernel + onePerPair)
	l.beat(time.Second)
	st, _ := StatusOf(l.s, l.v, id, l.now)
	if want := []string{"budget ha does not bound 1 of its 5 hosts: they have no label pair"}; !slices.Equal(st.Unbound, want) || l.s.Host("lone").Rollout != id {
		t.Errorf("status says %q, want %q; the host in no pair is %+v", st.Unbound, want, l.s.Host("lone"))
	}
	l.v.Enrol("lone", "lone", fleet.Labels{"pair": "3"}, fleet.ModeAct)
	l.beat(time.Second)
	if st, _ := StatusOf(l.s, l.v, id, l.now); len(st.Unbound) != 0 {
		t.Errorf("status says %q of a host that has got the label", st.Unbound)
	}
}

func TestHostsThatComeBackByThemselvesAreCold(t *testing.T) {
	for name, out := range map[string]func(*guest, bool){
		"out of rotation": func(g *guest, is bool) { g.report.Out = is },
		"silent":          func(g *guest, is bool) { g.silent = is },
		"booted":          func(g *guest, is bool) { g.report.Boot += "+" },
	} {
		t.Run(name, func(t *testing.T) {
			l := newRebootLab(t, 6)
			cold := []fleet.HostID{"h1", "h2"}
			for _, h := range cold {
				l.hosts[h].report.Mode, l.hosts[h].deed.sick = fleet.ModeObserve, true // it is not to start itself
				out(l.hosts[h], true)
			}
			l.tick(10 * time.Minute)
			id := l.begin(toNewKernel + "budgets: [{name: cache, unavailable: 2, warm: 30m}]")
			for _, h := range cold {
				out(l.hosts[h], false)
			}
			l.beat(time.Second)
			l.join("new", fleet.Labels{}).report.Mode = fleet.ModeObserve
			l.beat(time.Second)
			const want = "budget cache: 2 of 7 hosts are out (2 of them warming up), at most 2 (2) may be; held by h1 (warming up), h2 (warming up)"
			if e := Explain(l.s, l.v, "h4", l.now); l.s.Rollout(id).AnyActing() || !strings.HasPrefix(e.Reason, want) {
				t.Errorf("h4 waits for %+v, want %q", e.Blocker, want)
			}
			l.tick(31 * time.Minute)
			if !l.s.Rollout(id).AnyActing() {
				t.Error("nobody starts when they are warm")
			}
		})
	}
}
