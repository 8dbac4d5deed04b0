package control

import (
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// reboot lets a host come back with another boot id, seconds after its kernel
// started, and with the unordered boot in its report.
func (l *lab) reboot(id fleet.HostID) {
	g := l.hosts[id]
	g.silent = false
	ended := g.report.Boot
	g.report.Boot, g.report.UptimeS = "boot-2-"+string(id), 20
	c := wire.Crash{ID: "boot-" + string(id), Kind: wire.CrashUnorderedBoot, Boot: ended}
	for _, p := range g.report.Live {
		c.Live = p.Bundle
	}
	l.crash(id, c)
}

// A rack that loses power is one crash, although its hosts come back minutes
// apart: what counts is when they fell silent.
func TestRackComingBackSlowlyIsOneCrash(t *testing.T) {
	l := newLab(t, 12) // h1, h5 and h9 are in rack r0
	l.start("good", "waves: [{size: 100%, soak: 2h}]")
	l.tick(time.Minute)
	l.tick(30 * time.Minute)
	rack := []fleet.HostID{"h1", "h5", "h9"}
	for _, id := range rack {
		l.hosts[id].silent = true
	}
	for _, id := range rack {
		l.tick(4 * time.Minute)
		l.reboot(id)
		l.v.Heard(id, l.now) // its request for orders comes before its report
		l.tick(0)
	}
	r := l.s.Rollouts()[0]
	if len(r.Crashed) != 1 || r.Evidence.Steady.Crashes != 1 {
		t.Errorf("%d crashes counted, evidence %+v, want 1", len(r.Crashed), r.Evidence.Steady)
	}
	l.checkReplay()
}

// A host that stays silent counts once it is overdue, and not once more when
// it comes back and says why.
func TestSilentHostCountsOnce(t *testing.T) {
	l := newLab(t, 12)
	l.start("good", "waves: [{size: 100%, soak: 2h}]")
	l.tick(time.Minute)
	l.tick(30 * time.Minute)
	fell := l.now
	l.hosts["h2"].silent = true
	for range 20 {
		l.tick(time.Minute)
	}
	r := l.s.Rollouts()[0]
	if len(r.Crashed) != 1 || !r.Crashed[0].At.Equal(fell) {
		t.Fatalf("after 20 minutes of silence: %+v, want one crash at %v", r.Crashed, fell)
	}
	l.tick(10 * time.Minute)
	l.reboot("h2")
	l.tick(time.Minute)
	if r := l.s.Rollouts()[0]; len(r.Crashed) != 1 {
		t.Errorf("after it came back: %d crashes, want 1", len(r.Crashed))
	}
	l.checkReplay()
}

// Two hosts of a rack that has mostly not got the patch and stays up are two
// crashes: the rack had no part in them.
func TestRackThatStoodIsNoExcuse(t *testing.T) {
	l := newLab(t, 80) // 20 in each of 4 racks
	l.start("good", "waves: [{size: 8, soak: 2h}, {size: 100%}]")
	l.tick(time.Minute)
	l.tick(30 * time.Minute)
	var hit []fleet.HostID
	byRack := map[string][]fleet.HostID{}
	for _, id := range l.v.Hosts() {
		if l.s.Host(id).Live == "" {
			continue
		}
		rack := l.v.Host(id).Labels["rack"]
		if byRack[rack] = append(byRack[rack], id); len(byRack[rack]) == 2 && hit == nil {
			hit = byRack[rack]
		}
	}
	for _, id := range hit {
		l.hosts[id].silent = true
	}
	for _, id := range hit {
		l.tick(3 * time.Minute)
		l.reboot(id)
		l.tick(0)
	}
	if r := l.s.Rollouts()[0]; len(hit) != 2 || len(r.Crashed) != 2 {
		t.Errorf("%d crashes counted of %v, want both", len(r.Crashed), hit)
	}
	l.checkReplay()
}
