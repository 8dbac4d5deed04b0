package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/rollout"
)

// A host out of rotation passes every budget, as taking it costs nothing: once
// it is silent too it must still not be admitted, however it left rotation.
func TestSilentHostOutOfRotationIsNotAdmitted(t *testing.T) {
	l := newLab(t, 4)
	id := l.start("good", "waves: [{name: canary, size: 1, soak: 20m}, {size: 100%}]\nbudgets: [{name: few, unavailable: 2}]")
	l.tick(time.Minute)
	var waiting *guest
	for host, g := range l.hosts {
		if l.s.Host(host).Rollout == "" {
			waiting = g
		}
	}
	waiting.report.Out, waiting.deed.sick = true, true // by its owner, for its own reasons
	l.tick(time.Minute)
	waiting.silent = true
	l.tick(time.Hour)
	h := l.s.Host(waiting.report.Host)
	if h.Rollout != "" || l.s.Rollout(id).Count(rollout.Done)+l.s.Rollout(id).Count(rollout.Soaking) != 3 {
		t.Errorf("%s is %q of rollout %q, silent for an hour; want the 3 others only", waiting.report.Host, h.Phase, h.Rollout)
	}
	if e := Explain(l.s, l.v, waiting.report.Host, l.now); e.Kind != KindSilent {
		t.Errorf("explained as %+v", e)
	}
	l.checkReplay()
}

// A host that goes down on its way is not told to go back by an action before
// it is heard again, also if a bound over time had kept it waiting until it was
// silent.
func TestSilentHostUnderWayIsNotTakenBack(t *testing.T) {
	l := newRebootLab(t, 4)
	for _, g := range l.hosts {
		g.deed.lost = true
	}
	id := l.begin("name: k\ntarget: {replace: img-2, from: img-1}\nunavailable: 3\nrate: 1 per 10m\ntimeouts: {boot: 2h}")
	l.tick(13 * time.Minute)
	if _, err := l.do(Command{Verb: Revert, By: "op", Rollout: id}); err != nil {
		t.Fatal(err)
	}
	l.tick(30 * time.Minute)
	down := 0
	for _, host := range l.ids {
		if !l.hosts[host].deed.down {
			continue
		}
		down++
		if h := l.s.Host(host); h.Phase != rollout.Rebooting || h.Act.Back {
			t.Errorf("%s is silent, and %s: %+v", host, h.Phase, h.Act)
		}
	}
	if down != 2 {
		t.Errorf("%d hosts are down, want 2", down)
	}
	l.checkReplay()
}

// A new leader takes nobody for alive whom it has not heard: not to admit it,
// not to spend a budget beside it, and not to make a wave smaller.
func TestNewLeaderWaitsToHear(t *testing.T) {
	for _, tt := range []struct {
		name  string
		begin func(*lab)
	}{
		{"failover", func(l *lab) { l.restart() }},
		{"stopped for a while", func(l *lab) { l.v.Listen(l.now) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, 20)
			id := l.start("good", "waves: [{name: most, size: 50%, soak: 10m}, {size: 100%}]\nbudgets: [{name: few, unavailable: 1}]")
			dead := l.hosts["h7"]
			dead.silent = true
			tt.begin(l)
			l.turn()
			if n := len(l.admissions(0)[id]); n != 0 {
				t.Fatalf("%d hosts were admitted unheard", n)
			}
			if st, _ := StatusOf(l.s, l.v, id, l.now); st.Waves[0].Goal != 10 || st.Waves[0].State != "open" {
				t.Errorf("the first wave is %+v, want it open for 10 hosts", st.Waves[0])
			}
			if e := Explain(l.s, l.v, "h7", l.now); e.Kind != KindSilent || !strings.Contains(e.Reason, "not heard yet") {
				t.Errorf("explained as %+v", e)
			}
			l.beat(time.Second)
			if n := len(l.running(digest('a'))); n != 0 {
				t.Errorf("%d hosts started while nobody knew of one if it is out", n)
			}
			dead.silent = false
			l.beat(time.Second)
			if n := len(l.running(digest('a'))); n == 0 {
				t.Error("all are heard, and nobody starts")
			}
			l.checkReplay()
		})
	}
}

// A host that the patch took down while no server listened is no evidence for
// it: neither the next batch nor the end of the wave may rest on the new
// leader's not having missed it yet.
func TestNewLeaderTakesNoSilenceForProof(t *testing.T) {
	l := newLab(t, 20)
	id := l.start("bad", "waves: [{size: 50%, soak: 10m}, {size: 100%, soak: 10m}]")
	l.beat(time.Second)
	first := l.running(digest('b'))
	if len(first) != 2 {
		t.Fatalf("%v got it first, want 2", first)
	}
	for _, host := range first {
		l.hosts[host].silent = true
	}
	l.now = l.now.Add(3 * time.Minute)
	l.restart()
	for range 8 {
		l.beat(30 * time.Second)
	}
	if got := l.running(digest('b')); len(got) != 2 {
		t.Errorf("%d hosts have it, and the first 2 have not been heard since they got it", len(got))
	}
	for range 30 {
		l.beat(30 * time.Second)
	}
	l.wantPhase(id, rollout.PhaseReverting) // they are still to be heard
	if n := l.s.Rollout(id).Exposure.Exposed; n != 2 {
		t.Errorf("%d hosts were exposed, want 2", n)
	}
	l.checkReplay()
}

// A soak that ends while no server listens ends no wave: first its hosts are
// heard, or hold it by their silence.
func TestNewLeaderEndsNoWaveUnheard(t *testing.T) {
	l := newLab(t, 4)
	id := l.start("good", canaryThenAll)
	l.tick(time.Minute)
	canary := l.running(digest('a'))
	l.hosts[canary[0]].silent = true
	l.now = l.now.Add(time.Hour)
	l.restart()
	l.tick(10 * time.Minute)
	if r := l.s.Rollout(id); !r.Waves[0].Closed.IsZero() || !strings.Contains(r.Hold, "not heard") {
		t.Errorf("wave %+v, hold %q", r.Waves[0], r.Hold)
	}
	l.hosts[canary[0]].silent = false
	l.tick(time.Minute)
	if r := l.s.Rollout(id); r.Waves[0].Closed.IsZero() || r.Hold != "" {
		t.Errorf("it was heard: wave %+v, hold %q", r.Waves[0], r.Hold)
	}
	l.checkReplay()
}

// The reboots that press when a new leader begins wait until it knows who can
// boot: the sample would hold a dead host, the only one of its class.
func TestNewLeaderSamplesNobodyUnheard(t *testing.T) {
	l := newRebootLab(t, 12)
	l.begin("name: f\ntarget: {live: good}\nwaves: [{size: 50%}, {size: 100%}]\nunavailable: 1\ngate: {control: {size: 10%, by: 72h}}\ndebt: {reboot: within 6h}")
	l.minutes(5)
	var dead fleet.HostID
	for _, id := range l.ids {
		if l.s.Host(id).Debt != nil {
			dead = id
		}
	}
	l.v.Enrol(dead, string(dead), fleet.Labels{"hardware": "old"}, fleet.ModeAct)
	l.hosts[dead].silent = true
	l.now = l.now.Add(5 * time.Hour)
	l.restart()
	l.minutes(10)
	r := l.s.Rollout("r2")
	if r == nil || len(r.Sample) == 0 || slices.Contains(r.Sample, dead) {
		t.Errorf("the payoff is %+v, want one with a sample of hosts that live", r)
	}
	l.checkReplay()
}
