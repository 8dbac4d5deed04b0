package control

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// newRegion is a lab of n hosts in racks of 8, zones of 40 and one region, all
// of which run a patch for an hour.
func newRegion(t tester, n int, waves string) *lab {
	l := newLab(t, 0)
	for i := range n {
		l.join(fleet.HostID(fmt.Sprintf("h%d", i)), fleet.Labels{"env": "prod", "rack": fmt.Sprintf("r%d", i/8), "zone": fmt.Sprintf("z%d", i/40), "region": "eu"})
	}
	l.start("good", "waves: ["+waves+"]")
	l.tick(time.Minute)
	l.tick(time.Hour)
	return l
}

// fall lets hosts lose power for ten minutes.
func (l *lab) fall(ids ...fleet.HostID) {
	for _, id := range ids {
		l.hosts[id].silent = true
	}
	l.tick(10 * time.Minute)
	for _, id := range ids {
		l.reboot(id)
	}
	l.tick(time.Minute)
}

// A zone that loses power when all of it has the patch is one crash; hosts that
// crash in a region that stands are one each.
func TestBigDomainsCountOnceWhereTheyFell(t *testing.T) {
	for _, tt := range []struct {
		name string
		fall []fleet.HostID
		want int
	}{
		{"a zone", hostsFrom(40, 40), 1},
		{"a rack", hostsFrom(40, 8), 1},
		{"one host in each of two racks", []fleet.HostID{"h41", "h50"}, 2},
		{"one host in each of two zones", []fleet.HostID{"h1", "h50"}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newRegion(t, 160, "{size: 100%, soak: 9h}")
			l.fall(tt.fall...)
			if r := l.s.Rollouts()[0]; len(r.Crashed) != tt.want {
				t.Errorf("%d crashes counted, want %d", len(r.Crashed), tt.want)
			}
			l.checkReplay()
		})
	}
}

func hostsFrom(first, n int) (out []fleet.HostID) {
	for i := range n {
		out = append(out, fleet.HostID(fmt.Sprintf("h%d", first+i)))
	}
	return out
}

// A host that prints an oops and lives has power and network, and so has its
// region: in a canary each counts.
func TestOopsesOfARegionCountEach(t *testing.T) {
	l := newRegion(t, 160, "{size: 20, soak: 9h}, {size: 100%}")
	racks := map[string]bool{}
	for _, id := range l.running(digest('a')) {
		if rack := l.v.Host(id).Labels["rack"]; !racks[rack] && len(racks) < 3 {
			racks[rack] = true
			l.crash(id, wire.Crash{ID: "oops-" + string(id), Kind: wire.CrashOops, Live: digest('a')})
		}
	}
	l.tick(time.Second)
	if r := l.s.Rollouts()[0]; len(racks) != 3 || len(r.Crashed) != 3 {
		t.Errorf("%d crashes counted in %d racks, want 3 each", len(r.Crashed), len(racks))
	}
	l.checkReplay()
}

// Who is in a domain and who is compared with whom is kept between crashes, and
// follows the labels.
func TestMembersFollowTheLabels(t *testing.T) {
	l := newLab(t, 12)
	l.start("good", "waves: [{size: 100%, soak: 2h}]")
	l.tick(time.Minute)
	l.tick(30 * time.Minute)
	p := l.v.memo.planners["r1"]
	at := l.v.Host("h1").at - 1
	old := p.peers(l.v.Host("h1"))
	if !slices.Contains(l.v.memo.members("rack=r0"), at) || !slices.Contains(l.v.memo.alike(p, old), at) {
		t.Fatalf("h1 is not among those of rack r0 or of its class %+v", old)
	}
	labels := maps.Clone(l.v.Host("h1").Labels)
	labels["rack"], labels["hardware"] = "r9", "new"
	l.v.Enrol("h1", "h1", labels, l.v.Host("h1").Mode)
	l.tick(0)
	m := l.v.memo
	p = m.planners["r1"]
	if slices.Contains(m.members("rack=r0"), at) || !slices.Contains(m.members("rack=r9"), at) {
		t.Errorf("rack r0 has %v, r9 %v", m.members("rack=r0"), m.members("rack=r9"))
	}
	if now := p.peers(l.v.Host("h1")); now == old || slices.Contains(m.alike(p, old), at) || !slices.Contains(m.alike(p, now), at) {
		t.Errorf("h1 is still among %v", m.alike(p, old))
	}
}
