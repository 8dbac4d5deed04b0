package control

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// publish puts a live patch into the catalog; later ones are younger.
func (l *lab) publish(c byte, name string, age time.Duration, r bundle.Reboot) {
	l.v.Bundle(digest(c), bundle.Manifest{Name: name, Kernel: kernelA, Reboot: r, Created: l.now.Add(-age)}, false)
}

// TestStricterOfPolicyAndManifest: a publisher that wants reboots promptly gets
// them within 72 hours, or as soon as the policy says if that is sooner.
func TestStricterOfPolicyAndManifest(t *testing.T) {
	for name, tt := range map[string]struct {
		reboot bundle.Reboot
		debt   string
		want   time.Duration
	}{
		"nobody wants one":      {"", "", 0},
		"only the policy":       {"", "unavailable: 3\ndebt: {reboot: within 30d}", 30 * 24 * time.Hour},
		"only the publisher":    {bundle.RebootPromptly, "", policy.DefaultPromptly},
		"publisher is stricter": {bundle.RebootPromptly, "unavailable: 3\ndebt: {reboot: within 30d, bootSample: 20% within 10d, kernel: 6.1.192-2}", policy.DefaultPromptly},
		"policy is stricter":    {bundle.RebootPromptly, "unavailable: 3\ndebt: {reboot: within 24h}", 24 * time.Hour},
		"required is promptly":  {bundle.RebootRequired, "unavailable: 3", policy.DefaultPromptly},
	} {
		t.Run(name, func(t *testing.T) {
			l := newRebootLab(t, 12)
			l.publish('c', "fix", time.Hour, tt.reboot)
			id := l.begin("name: f\ntarget: {live: fix}\nwaves: [{size: 100%}]\n" + tt.debt)
			if r := l.s.Rollout(id); r.Policy.Debt.Reboot != tt.want || r.Reboot != tt.reboot {
				t.Errorf("reboots within %s (%q), want %s", r.Policy.Debt.Reboot, r.Reboot, tt.want)
			}
			out := 0
			for range 200 {
				l.minutes(1)
				out = max(out, l.busy())
			}
			pays := l.s.payoff(id)
			if (pays != nil) != (tt.want > 0) {
				t.Fatalf("the payoff is %+v", pays)
			}
			if pays != nil && (out == 0 || out > 3 || tt.debt == "" && out > 1) {
				t.Errorf("%d hosts were out at once", out)
			}
			l.checkReplay()
		})
	}
}

// TestRequiredByThePublisher: once a live patch was published as not enough,
// its kernel takes no later ones. Hosts that boot another kernel do.
func TestRequiredByThePublisher(t *testing.T) {
	const mustBoot = "must boot into a fixed kernel first: the publisher of meltdown says that no live patch for 6.1.0-55-amd64"
	l := newRebootLab(t, 6)
	l.publish('c', "earlier", 3*time.Hour, "")
	l.publish('d', "meltdown", 2*time.Hour, bundle.RebootRequired)
	l.publish('e', "later", time.Hour, "")
	for set, want := range map[string]string{"earlier": "", "meltdown": "", "later": mustBoot} {
		b := l.s.choose(l.v, rollout.New("x", "op", "", &policy.Policy{Target: policy.Target{Action: policy.Live, Name: set}}, l.now), kernelA).block
		if set == "meltdown" {
			continue // needs a rollout that knew: below
		}
		if (b == nil) != (want == "") || b != nil && (b.Kind != KindDebt || !strings.Contains(b.Reason, want)) {
			t.Errorf("%s: %+v, want %q", set, b, want)
		}
	}
	id := l.begin("name: m\ntarget: {live: meltdown}\nwaves: [{size: 100%}]\nunavailable: 2\ndebt: {reboot: within 30d, kernel: 6.1.192-2}")
	l.minutes(3)
	if n := len(l.running(digest('d'))); n != 6 {
		t.Fatalf("%d hosts run the mitigation, want 6", n)
	}
	next := l.begin("name: n\ntarget: {live: later}\nwaves: [{size: 100%}]")
	l.minutes(2)
	e := Explain(l.s, l.v, "h1", l.now)
	if e.Rollout != next || e.Kind != KindDebt || !strings.Contains(e.Reason, mustBoot) || len(l.running(digest('e'))) != 0 {
		t.Errorf("%+v; %v run the later one", e, l.running(digest('e')))
	}
	l.v.Bundle(digest('f'), bundle.Manifest{Name: "later", Kernel: kernelNew, Created: l.now}, false)
	l.minutes(300)
	l.wantPhase(id, rollout.PhaseComplete)
	if n := len(l.running(digest('f'))); n != 6 || len(l.onKernel("6.1.192-2")) != 6 {
		t.Errorf("%d run the later one for the new kernel, %v have booted it", n, l.onKernel("6.1.192-2"))
	}
	l.checkReplay()
}

// TestRequiredAndFallback: with fallback: reboot hosts that must boot first are
// booted by the rollout itself. A publisher who takes the word back by
// withdrawing the bundle frees them.
func TestRequiredAndFallback(t *testing.T) {
	l := newRebootLab(t, 4)
	l.publish('d', "meltdown", 2*time.Hour, bundle.RebootRequired)
	l.publish('e', "later", time.Hour, "")
	l.begin("name: n\ntarget: {live: later}\nfallback: reboot\nfallbackKernel: 6.1.192-2\nunavailable: 2\nwaves: [{size: 100%}]")
	l.minutes(60)
	if n := len(l.onKernel("6.1.192-2")); n != 4 || len(l.running(digest('e'))) != 0 {
		t.Errorf("%d have booted, %v run the live patch", n, l.running(digest('e')))
	}

	l = newRebootLab(t, 4)
	l.publish('d', "meltdown", 2*time.Hour, bundle.RebootRequired)
	l.publish('e', "later", time.Hour, "")
	l.begin("name: n\ntarget: {live: later}\nwaves: [{size: 100%}]")
	l.minutes(2)
	if n := len(l.running(digest('e'))); n != 0 {
		t.Errorf("%d run it", n)
	}
	l.v.Bundle(digest('d'), bundle.Manifest{Name: "meltdown", Kernel: kernelA, Reboot: bundle.RebootRequired}, true)
	l.minutes(3)
	if n := len(l.running(digest('e'))); n != 4 {
		t.Errorf("%d run it once the other is withdrawn, want 4", n)
	}
}

// TestUrgeThatComesLater: a bundle that is added to a running rollout and wants
// its reboot sooner than that knew is not given out by it.
func TestUrgeThatComesLater(t *testing.T) {
	l := newRebootLab(t, 2)
	l.hosts["h2"].report.Kernel = kernelB
	l.publish('c', "fix", time.Hour, "")
	id := l.begin("name: f\ntarget: {live: fix}\nwaves: [{size: 100%}]")
	l.v.Bundle(digest('d'), bundle.Manifest{Name: "fix", Kernel: kernelB, Reboot: bundle.RebootPromptly, Created: l.now}, false)
	l.minutes(3)
	e := Explain(l.s, l.v, "h2", l.now)
	if e.Rollout != id || e.Kind != KindBad || !strings.Contains(e.Reason, "says that a reboot is promptly") || len(l.running(digest('d'))) != 0 {
		t.Errorf("%+v", e)
	}
}
