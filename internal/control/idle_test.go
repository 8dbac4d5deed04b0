package control

import (
	"testing"
	"time"

	"afloat/internal/rollout"
)

// TestNothingToDo: a rollout whose hosts all had its target is complete at
// once, and says so; a host of which nothing is known keeps it waiting.
func TestNothingToDo(t *testing.T) {
	l := newLab(t, 6)
	l.tick(0)
	l.start("good", "waves: [{size: 100%}]")
	l.tick(time.Minute)
	l.tick(time.Minute)
	l.wantPhase("r1", rollout.PhaseComplete)

	id := l.start("good", "waves: [{name: rc, select: 'tier=rc', soak: 1h}, {name: canary, size: 1, soak: 1h}, {size: 100%, soak: 1h}]\ngate: {control: {size: 10%, by: 72h}}")
	began := l.now
	l.tick(0)
	l.wantPhase(id, rollout.PhaseComplete)
	r := l.s.Rollout(id)
	if want := "nothing to do: 6 hosts had it already"; r.Reason != want || l.now.Sub(began) > time.Second {
		t.Errorf("after %s: %q, want %q", l.now.Sub(began), r.Reason, want)
	}
	for i, want := range []string{"no host matches", "nobody is left to do: 6 hosts had it already"} {
		if r.Waves[i].Why != want {
			t.Errorf("wave %s: %q, want %q", r.Waves[i].Name, r.Waves[i].Why, want)
		}
	}
	l.checkReplay()
}

func TestNothingToDoWaitsForTheSilent(t *testing.T) {
	l := newLab(t, 6)
	l.tick(0)
	l.hosts["h3"].silent = true
	l.tick(10 * time.Minute)
	l.start("good", "waves: [{size: 100%}]")
	l.tick(10 * time.Minute)
	l.wantPhase("r1", rollout.PhaseComplete)
	id := l.start("good", canaryThenAll)
	l.tick(time.Hour)
	l.wantPhase(id, rollout.PhaseRunning)
	if i, opened := l.s.Rollout(id).Current(); i != 0 || !opened {
		t.Errorf("wave %d is open (%v), want the first: a host is silent", i, opened)
	}
	l.hosts["h3"].silent = false // the first rollout takes it
	l.tick(time.Minute)
	l.tick(time.Hour)
	l.wantPhase(id, rollout.PhaseComplete)
	if n := len(l.running(digest('a'))); n != 6 {
		t.Errorf("%d hosts run it", n)
	}
	l.checkReplay()
}

// TestEmptyWavePasses: a wave that finds its hosts taken does not soak.
func TestEmptyWavePasses(t *testing.T) {
	l := newLab(t, 3)
	l.tick(0)
	id := l.start("good", "waves: [{name: canary, size: 1, soak: 10m}, {name: tenth, size: 10%, soak: 5h}, {size: 100%, soak: 10m}]")
	l.tick(time.Minute)
	l.tick(11 * time.Minute)
	if w := l.s.Rollout(id).Waves[1]; w.Closed.IsZero() || w.Why != "nobody is left to do" {
		t.Errorf("the wave that has no host: %+v", w)
	}
	l.tick(2 * time.Minute)
	l.tick(11 * time.Minute)
	l.wantPhase(id, rollout.PhaseComplete)
}
