package control

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// deed is how far a guest is with an action.
type deed struct {
	nonce string
	until time.Time
	down  bool
	boots int
	did   map[string]bool // nonces acted on
	// lost never comes back, stubborn boots into the kernel it ran, sick does
	// not pass its checks after a boot.
	lost, stubborn, sick bool
	slow                 time.Duration // longer than the others to boot
}

const (
	drains = 2 * time.Minute
	boots  = 3 * time.Minute
)

var kernelNew = kernel.ID{Release: "6.1.0-56-amd64", Version: "#1 Debian 6.1.192-2", BuildID: "cc"}

// act lets a guest carry out an action one phase at a time. It says whether
// the guest is busy with it.
func (l *lab) act(g *guest, d wire.Desired) bool {
	r, a := &g.report, &g.deed
	if r.Phase == wire.PhaseDraining && d.Nonce == "" { // called off
		r.Out, r.Phase, a.until = false, wire.PhaseIdle, time.Time{}
	}
	if a.nonce == "" && (d.Action == wire.ActionLive || d.Nonce == r.Nonce) {
		r.Out = r.Out && a.sick // back in rotation when its probes pass
		return false
	}
	if a.nonce == "" && d.Kernel != "" && r.Kernel.Named(d.Kernel) { // it runs that already
		r.Generation, r.Phase, r.Out, r.Live, a.until = d.Generation, wire.PhaseApplied, false, nil, time.Time{}
		if d.Live != "" {
			r.Live = []wire.LivePatch{{Name: "afloat", Enabled: true, Bundle: d.Live}}
		}
		return true
	}
	if a.nonce == "" && r.Phase != wire.PhaseDraining && !l.s.Permits(d.Rollout) {
		return false
	}
	r.Seq++
	r.Generation = d.Generation
	switch {
	case r.Phase != wire.PhaseDraining && a.nonce == "":
		r.Phase, r.Out, a.until = wire.PhaseDraining, true, l.now.Add(drains)
	case l.now.Before(a.until):
	case a.nonce == "":
		if a.did[d.Nonce] {
			l.t.Fatalf("host %s: told to act twice on nonce %s", d.Host, d.Nonce)
		}
		if a.did == nil {
			a.did = map[string]bool{}
		}
		a.did[d.Nonce] = true
		r.Phase, a.nonce, a.until = wire.PhaseRebooting, d.Nonce, l.now.Add(boots+a.slow)
	case !a.down && r.Phase == wire.PhaseRebooting:
		a.down = true
	case a.lost:
	default:
		l.back(g, d)
	}
	return true
}

func (l *lab) back(g *guest, d wire.Desired) {
	r, a := &g.report, &g.deed
	a.down = false
	a.boots++
	r.Boot, r.Nonce, a.nonce, r.Phase, r.Live = r.Boot+"+", a.nonce, "", wire.PhaseApplied, nil
	if d.Action == wire.ActionReboot && d.Kernel != "" && !a.stubborn {
		for _, k := range []kernel.ID{kernelA, kernelB, kernelNew} {
			if k.Named(d.Kernel) {
				r.Kernel = k
			}
		}
	}
	if d.Live != "" {
		r.Live = []wire.LivePatch{{Name: "afloat", Enabled: true, Bundle: d.Live}}
	}
	if r.Out = false; a.sick {
		r.Out, r.Phase, r.Reason = true, wire.PhaseFailed, "unit app.service is not active"
	}
}

// newRebootLab is a lab whose hosts can do everything.
func newRebootLab(t tester, n int) *lab {
	l := newLab(t, n)
	for _, g := range l.hosts {
		g.report.Abilities = wire.Actions()
	}
	l.tick(0)
	return l
}

func (l *lab) begin(policy string) string {
	l.t.Helper()
	if !strings.Contains(policy, "waves:") {
		policy += "\nwaves: [{size: 100%}]"
	}
	id, err := l.do(Command{Verb: Start, By: "op", Policy: policy})
	if err != nil {
		l.t.Fatal(err)
	}
	return id
}

const toNewKernel = "name: k\ntarget: {kernel: 6.1.192-2}\n"

func (l *lab) onKernel(name string) (out []fleet.HostID) {
	for _, id := range l.ids {
		if l.hosts[id].report.Kernel.Named(name) {
			out = append(out, id)
		}
	}
	return out
}

// down is how many hosts are out of rotation.
func (l *lab) down() int {
	n := 0
	for _, g := range l.hosts {
		if g.report.Out {
			n++
		}
	}
	return n
}

func TestKernelTargetReachesAllInsideTheBudget(t *testing.T) {
	l := newRebootLab(t, 6)
	id := l.begin(toNewKernel + "budgets: [{name: two, unavailable: 2}]\nwaves: [{name: canary, size: 1, soak: 10m}, {size: 100%}]")
	most := 0
	for range 60 {
		l.tick(time.Minute)
		most = max(most, l.down())
		if n := len(l.onKernel("6.1.192-2")); n > 1 && l.s.Rollout(id).Waves[0].Closed.IsZero() {
			t.Fatalf("%d hosts run the new kernel before the canary wave is over", n)
		}
	}
	l.wantPhase(id, rollout.PhaseComplete)
	if got := l.onKernel("6.1.192-2"); len(got) != 6 || most != 2 {
		t.Errorf("%v run the new kernel, at most %d were out; want all and 2", got, most)
	}
	for _, h := range l.ids {
		d := l.s.Desired(h)
		if d.Action != wire.ActionReboot || d.Kernel != "6.1.192-2" || d.Nonce != l.hosts[h].report.Nonce || l.hosts[h].deed.boots != 1 {
			t.Errorf("%s is told %+v and booted %d times", h, d, l.hosts[h].deed.boots)
		}
	}
	l.checkReplay()
}

func TestRebootDropsTheLivePatchOfTheOldKernel(t *testing.T) {
	l := newRebootLab(t, 3)
	l.start("good", "waves: [{size: 100%}]")
	l.tick(time.Minute)
	id := l.begin(toNewKernel + "unavailable: 3")
	for range 15 {
		l.tick(time.Minute)
	}
	l.wantPhase(id, rollout.PhaseComplete)
	if d := l.s.Desired("h1"); d.Live != "" || len(l.onKernel("6.1.192-2")) != 3 {
		t.Errorf("told %+v", d)
	}
}

func TestRevertBootsTheOldKernelInsideTheBudget(t *testing.T) {
	l := newRebootLab(t, 6)
	l.start("good", "waves: [{size: 100%}]")
	l.tick(time.Minute)
	id := l.begin(toNewKernel + "budgets: [{name: two, unavailable: 2}]")
	for range 60 {
		l.tick(time.Minute)
	}
	l.wantPhase(id, rollout.PhaseComplete)
	if _, err := l.do(Command{Verb: Revert, By: "op", Rollout: id}); err != nil {
		t.Fatal(err)
	}
	most := 0
	for range 60 {
		l.tick(time.Minute)
		most = max(most, l.down())
	}
	l.wantPhase(id, rollout.PhaseReverted)
	if got := l.onKernel("6.1.192-1"); len(got) != 6 || most != 2 {
		t.Errorf("%v run the old kernel, at most %d were out", got, most)
	}
	if got := l.running(digest('a')); len(got) != 6 {
		t.Errorf("%v run the live patch of before", got)
	}
	if _, err := l.do(Command{Verb: Start, Policy: toNewKernel + "waves: [{size: 100%}]"}); err == nil || !strings.Contains(err.Error(), "was reverted by rollout "+id) {
		t.Errorf("start of a reverted kernel: %v", err)
	}
	l.checkReplay()
}

func TestAbortLetsHostsBeyondTheReturnFinish(t *testing.T) {
	l := newRebootLab(t, 4)
	id := l.begin(toNewKernel + "unavailable: 4\nrate: 2 per 2m")
	l.tick(2*time.Minute + 31*time.Second) // two are down, two drain
	phases := l.s.Rollout(id).Waves[0].Hosts
	if phases[rollout.Rebooting] != 2 || phases[rollout.Draining] != 2 {
		t.Fatalf("phases are %v, want 2 rebooting and 2 draining", phases)
	}
	if _, err := l.do(Command{Verb: Abort, By: "op", Rollout: id}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		l.tick(time.Minute)
	}
	l.wantPhase(id, rollout.PhaseAborted)
	if got := l.onKernel("6.1.192-2"); len(got) != 2 || l.down() != 0 || l.s.Rollout(id).AnyActing() {
		t.Errorf("%v run the new kernel, %d are out, phases %v; want the two that were down", got, l.down(), l.s.Rollout(id).Waves[0].Hosts)
	}
	l.checkReplay()
}

func TestNeverReturnedReverts(t *testing.T) {
	l := newRebootLab(t, 6)
	for _, h := range l.ids {
		l.hosts[h].deed.lost = h == "h2"
	}
	id := l.begin(toNewKernel + "budgets: [{name: one, unavailable: 1}]")
	for range 240 {
		l.tick(time.Minute)
	}
	r := l.s.Rollout(id)
	if r.Phase != rollout.PhaseReverted || len(r.Crashed) != 1 || r.Crashed[0].Kind != CrashLost || r.Crashed[0].Host != "h2" {
		t.Errorf("phase %s (%s, hold %q), crashed %+v", r.Phase, r.Reason, r.Hold, r.Crashed)
	}
	if got := l.onKernel("6.1.192-2"); len(got) != 0 {
		t.Errorf("%v still run the new kernel", got)
	}
	l.checkReplay()
}

func TestBootFallbackAndSickHostsFail(t *testing.T) {
	for name, tt := range map[string]struct {
		make func(*deed)
		why  string
	}{
		"boot fallback": {func(d *deed) { d.stubborn = true }, "it runs kernel 6.1.0-55-amd64"},
		"sick":          {func(d *deed) { d.sick = true }, "app.service"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newRebootLab(t, 3)
			for _, g := range l.hosts {
				tt.make(&g.deed)
			}
			id := l.begin(toNewKernel + "waves: [{name: canary, size: 1}, {size: 100%}]\nunavailable: 1")
			for range 30 {
				l.tick(time.Minute)
			}
			r := l.s.Rollout(id)
			if !strings.HasPrefix(r.Hold, "failures: ") || r.Count(rollout.Failed) != 1 {
				t.Fatalf("hold %q, phases %v", r.Hold, r.Waves[0].Hosts)
			}
			for _, h := range l.ids {
				if e := Explain(l.s, l.v, h, l.now); e.Phase == rollout.Failed && !strings.Contains(e.Reason, tt.why) {
					t.Errorf("%s: %+v, told %+v", h, e, l.s.Desired(h))
				}
			}
			l.checkReplay()
		})
	}
}

func TestAgentOfTodayIsNotRebooted(t *testing.T) {
	l := newLab(t, 2)
	if _, err := l.do(Command{Verb: Start, Policy: toNewKernel + "waves: [{size: 100%}]"}); err == nil || !strings.Contains(err.Error(), "can reboot") {
		t.Errorf("start: %v", err)
	}
	l.hosts["h1"].report.Abilities = wire.Actions()
	l.tick(0)
	l.begin(toNewKernel + "unavailable: 2")
	for range 10 {
		l.tick(time.Minute)
	}
	if e := Explain(l.s, l.v, "h2", l.now); e.Kind != KindAbility || len(l.onKernel("6.1.192-2")) != 1 {
		t.Errorf("%+v", e)
	}
}

func TestFallbackRebootsWhatNoBundleFits(t *testing.T) {
	l := newRebootLab(t, 4)
	l.hosts["h3"].report.Kernel = kernelB
	l.tick(0)
	id := l.begin("name: f\ntarget: {live: good}\nfallback: reboot\nfallbackKernel: 6.1.192-2\nunavailable: 4\n")
	for range 15 {
		l.tick(time.Minute)
	}
	l.wantPhase(id, rollout.PhaseComplete)
	if got := l.running(digest('a')); len(got) != 3 {
		t.Errorf("%v run the patch, want three", got)
	}
	if got := l.onKernel("6.1.192-2"); len(got) != 1 || got[0] != "h3" {
		t.Errorf("%v run the new kernel, want h3", got)
	}
	if _, err := l.do(Command{Verb: Revert, By: "op", Rollout: id}); err != nil {
		t.Fatal(err)
	}
	for range 15 {
		l.tick(time.Minute)
	}
	l.wantPhase(id, rollout.PhaseReverted)
	if got := l.running(digest('a')); len(got) != 0 || len(l.onKernel("6.1.192-2")) != 0 {
		t.Errorf("%v run the patch, %v the new kernel", got, l.onKernel("6.1.192-2"))
	}
	l.checkReplay()
}

// TestManyLostAtOnce: hosts that were ordered down say nothing about their
// neighbours; and when nobody is left to be heard, the rollout says so.
func TestManyLostAtOnce(t *testing.T) {
	for _, tt := range []struct {
		down  string
		phase rollout.Phase
		hold  string
	}{
		{"75%", rollout.PhaseReverted, ""},
		{"100%", rollout.PhaseRunning, "silence: "},
	} {
		t.Run(tt.down, func(t *testing.T) {
			l := newRebootLab(t, 4)
			for _, g := range l.hosts {
				g.deed.lost = true
			}
			id := l.begin(toNewKernel + "unavailable: " + tt.down)
			l.minutes(90)
			l.wantPhase(id, tt.phase)
			if r := l.s.Rollout(id); !strings.HasPrefix(r.Hold, tt.hold) {
				t.Errorf("hold %q, want %q", r.Hold, tt.hold)
			}
			l.checkReplay()
		})
	}
}

// TestLostOnTheWayBack: the revert ends, and says of whom it does not know.
func TestLostOnTheWayBack(t *testing.T) {
	l := newRebootLab(t, 3)
	id := l.begin(toNewKernel + "unavailable: 2")
	l.minutes(30)
	l.wantPhase(id, rollout.PhaseComplete)
	l.hosts["h2"].deed.lost = true
	if _, err := l.do(Command{Verb: Revert, By: "op", Rollout: id}); err != nil {
		t.Fatal(err)
	}
	l.minutes(90)
	l.wantPhase(id, rollout.PhaseReverted)
	if e := Explain(l.s, l.v, "h2", l.now); e.Phase != rollout.Failed || !strings.Contains(e.Reason, "could not be taken back: it did not come back within 30m") {
		t.Errorf("%+v", e)
	}
	l.checkReplay()
}
