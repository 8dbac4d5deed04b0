package control

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/rollout"
)

// Hosts that a wave may leave behind hold no later one, nor the rollout when it
// is complete.
func TestToleratedStragglersHoldNothing(t *testing.T) {
	l := newLab(t, 20)
	id := l.start("good", "waves: [{name: first, size: 10, soak: 30m, stragglers: 20%}, {size: 100%, soak: 30m, stragglers: 20%}]")
	l.beat(time.Second)
	var stuck []fleet.HostID
	for _, h := range l.ids {
		if l.s.Host(h).Rollout == "" && len(stuck) < 2 {
			stuck, l.hosts[h].asleep = append(stuck, h), true
		}
	}
	held := ""
	for range 240 {
		l.beat(time.Minute)
		held = cmp.Or(held, l.s.Rollout(id).Hold)
	}
	l.wantPhase(id, rollout.PhaseComplete)
	if n := len(l.running(digest('a'))); held != "" || n != 18 {
		t.Errorf("it held %q, and %d hosts run it, want all but the 2 stragglers", held, n)
	}
	l.checkReplay()
}

// More stragglers than a wave allows hold it, however many another one has.
func TestStragglersCountInTheirOwnWave(t *testing.T) {
	l := newLab(t, 20)
	id := l.start("good", "waves: [{name: first, size: 10, soak: 30m, stragglers: 20%}, {size: 100%, soak: 30m}]")
	l.tick(5 * time.Minute)
	for _, h := range l.ids {
		l.hosts[h].asleep = l.s.Host(h).Rollout == ""
	}
	l.tick(3 * time.Hour)
	r := l.s.Rollout(id)
	if !strings.HasPrefix(r.Hold, "stuck: ") || r.Waves[1].Opened.IsZero() {
		t.Errorf("hold %q, waves %+v, want the second wave held by its stragglers", r.Hold, r.Waves)
	}
	l.checkReplay()
}

// Hosts that come to a rollout which is complete have the failure budget of its
// last wave, and a new one when a person lets it go on.
func TestLateFailuresHold(t *testing.T) {
	l := newLab(t, 10)
	id := l.start("good", "waves: [{size: 100%, soak: 1m, failures: 2}]")
	l.tick(10 * time.Minute)
	l.wantPhase(id, rollout.PhaseComplete)
	join := func(from, to int) {
		for n := from; n < to; n++ {
			l.join(fleet.HostID(fmt.Sprintf("late%02d", n)), fleet.Labels{"env": "prod"}).fails = true
			l.tick(5 * time.Minute)
		}
	}
	failed := func() int { return l.s.Rollout(id).Count(rollout.Failed) }
	join(0, 8)
	if hold := l.s.Rollout(id).Hold; !strings.HasPrefix(hold, "failures: ") || failed() != 3 {
		t.Errorf("hold %q after %d failed late hosts, want it after 3", hold, failed())
	}
	l.resume(id)
	l.tick(time.Hour)
	if hold := l.s.Rollout(id).Hold; !strings.HasPrefix(hold, "failures: ") || failed() > 8 {
		t.Errorf("hold %q after %d failed late hosts, want it again", hold, failed())
	}
	l.checkReplay()
}
