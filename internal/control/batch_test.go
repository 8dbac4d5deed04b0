package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// A wave is let in by fifths, each when the one before has been heard from for
// a minute.
func TestWaveGoesInBatches(t *testing.T) {
	l := newLab(t, 50)
	l.start("good", "waves: [{size: 100%, soak: 1h}]")
	l.beat(time.Second)
	for want := 10; want <= 50; want += 10 {
		if got := len(l.running(digest('a'))); got != want {
			t.Fatalf("%d hosts run it, want %d", got, want)
		}
		l.beat(30 * time.Second)
		if got := len(l.running(digest('a'))); got != want {
			t.Fatalf("after half a minute %d hosts run it, want %d still", got, want)
		}
		l.beat(30 * time.Second)
	}
	l.checkReplay()
}

// A host of a batch that is not heard keeps the next batch back until it
// counts as lost, and the host that waits is told so.
func TestBatchWaitsForSilentHost(t *testing.T) {
	l := newLab(t, 50)
	id := l.start("good", "waves: [{size: 100%, soak: 1h, stragglers: 1}]")
	l.beat(time.Second)
	first := l.running(digest('a'))
	l.hosts[first[0]].silent = true
	started := l.now
	for l.now.Sub(started) < 14*time.Minute {
		l.beat(30 * time.Second)
	}
	if got := len(l.running(digest('a'))); got != 10 {
		t.Errorf("%d hosts run it while one of the first ten is silent, want 10", got)
	}
	for _, h := range l.ids {
		if e := Explain(l.s, l.v, h, l.now); e.Phase == "waiting" {
			if e.Kind != KindBatch || !strings.Contains(e.Reason, "1 host of the batch") || !e.Until.After(l.now) {
				t.Errorf("waiting host: %+v", e)
			}
			break
		}
	}
	// It comes back without a crash to tell of: nothing keeps the others.
	l.hosts[first[0]].silent = false
	for range 12 {
		l.beat(30 * time.Second)
	}
	if got := len(l.running(digest('a'))); got != 50 {
		t.Errorf("%d hosts run it after it was heard, want all (hold %q)", got, l.s.Rollout(id).Hold)
	}
}

// A patch that kills one host in ten on apply, with hosts that take five
// minutes to come back: no more than the first batch ever gets it.
func TestBatchesLimitHarm(t *testing.T) {
	l := newLab(t, 100)
	id := l.start("bad", "waves: [{size: 100%, soak: 1h}]")
	l.beat(time.Second)
	hit := l.running(digest('b'))
	for i := range 2 {
		l.hosts[hit[i]].silent = true
	}
	for range 10 {
		l.beat(30 * time.Second)
	}
	for i := range 2 {
		g := l.hosts[hit[i]]
		g.silent = false
		g.report.Live = nil
		l.crash(hit[i], wire.Crash{ID: "boot", Kind: wire.CrashUnorderedBoot, Boot: g.report.Boot, Live: digest('b')})
		g.report.Boot, g.report.UptimeS = "boot-2", 20
	}
	l.beat(time.Second)
	l.wantPhase(id, "reverted")
	if n := l.s.Rollout(id).Exposure.Exposed; n != 20 {
		t.Errorf("%d hosts had it, want the first batch of 20", n)
	}
	l.checkReplay()
}

// A host that gets the patch just before its wave is over is done with it, and
// keeps nobody of the next wave waiting.
func TestBatchEndsWithItsWave(t *testing.T) {
	l := newLab(t, 20)
	id := l.start("good", "waves: [{size: 10, soak: 10m, stragglers: 1}, {size: 100%, soak: 10m}]")
	for l.s.Rollout(id).Count(rollout.Soaking) < 8 {
		l.beat(5 * time.Second)
	}
	for _, g := range l.hosts {
		g.asleep = true
	}
	for l.s.Rollout(id).ActingIn(0) < 2 {
		l.beat(5 * time.Second)
	}
	late := slices.IndexFunc(l.ids, func(h fleet.HostID) bool { return l.s.Host(h).Phase == rollout.Admitted })
	for i, h := range l.ids {
		l.hosts[h].asleep = i == late
	}
	l.beat(time.Second)
	soaked := l.s.Rollout(id).Waves[0].Soaking.Add(10 * time.Minute)
	for l.now.Add(30 * time.Second).Before(soaked) {
		l.beat(5 * time.Second)
	}
	l.hosts[l.ids[late]].asleep = false
	for range 8 {
		l.beat(5 * time.Second)
	}
	if r := l.s.Rollout(id); r.Waves[1].Opened.IsZero() || r.Taken(1) != 2 {
		t.Errorf("the next wave has %d hosts (%+v), want its first fifth", r.Taken(1), r.Waves[1])
	}
	l.checkReplay()
}
