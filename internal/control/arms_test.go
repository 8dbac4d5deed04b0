package control

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/health"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// newMixed is a lab of 40 hosts of old hardware and 160 of new that run a patch
// for an hour, as far as waves have come.
func newMixed(t tester, waves string) *lab {
	l := newLab(t, 0)
	for i := range 200 {
		hw := "new"
		if i < 40 {
			hw = "old"
		}
		l.join(fleet.HostID(fmt.Sprintf("h%d", i)), fleet.Labels{"env": "prod", "hardware": hw})
	}
	l.start("good", "gate: {crashes: {baseline: 60, spread: 3}}\nwaves: ["+waves+"]")
	l.tick(time.Minute)
	l.tick(time.Hour)
	return l
}

// crashEach lets n hosts of a hardware crash, an hour apart, with the patch or
// without, while the rollout runs.
func (l *lab) crashEach(n int, hardware string, patched bool) {
	for _, id := range l.ids {
		live := loaded(l.hosts[id].report)
		if n > 0 && l.v.Host(id).Labels["hardware"] == hardware && (live != "") == patched {
			n--
			l.crash(id, wire.Crash{ID: "oops-" + string(id), Kind: wire.CrashOops, Live: live})
			l.tick(time.Hour)
		}
	}
}

// Old hardware may crash more often, and a wave that takes it first says nothing
// about the patch: hosts are compared with their like, or with nobody.
func TestControlArmIsOfTheSameClass(t *testing.T) {
	const oldFirst, sample = "{select: hardware=old, soak: 30h}, {size: 100%}", "{size: 10%, soak: 30h}, {size: 100%}"
	for _, tt := range []struct {
		name, waves, hardware string
		patched               bool
		compared              int // crashes
		share                 float64
		want                  rollout.Phase
	}{
		{"all of a class have the patch", oldFirst, "old", true, 0, 0, rollout.PhaseRunning},
		{"none of a class has it", oldFirst, "new", false, 0, 0, rollout.PhaseRunning},
		{"a sample of the class has it, and others crash", sample, "new", false, 6, 0.1, rollout.PhaseRunning},
		{"a sample of the class has it, and crashes", sample, "new", true, 4, 0.1, rollout.PhaseReverted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newMixed(t, tt.waves)
			l.crashEach(6, tt.hardware, tt.patched)
			r := l.s.Rollouts()[0]
			v := r.Evidence.Control
			if n := v.Patched + v.Control; n != tt.compared || n > 0 && (v.Control > 0) == tt.patched {
				t.Errorf("%d crashes with the patch and %d without compared, want %d", v.Patched, v.Control, tt.compared)
			} else if n > 0 && math.Abs(v.Share/float64(n)-tt.share) > 0.03 {
				t.Errorf("the share of the patched is %.2f, want about %.2f", v.Share/float64(n), tt.share)
			}
			l.wantPhase(r.ID, tt.want)
			if tt.want == rollout.PhaseReverted && !strings.HasPrefix(r.Reason, "evidence: ") {
				t.Errorf("reverted for %s", r.Reason)
			}
			l.checkReplay()
		})
	}
}

// A record from before hosts were compared by class means the whole rollout.
func TestBystandersOfOldRecords(t *testing.T) {
	l := newMixed(t, "{size: 10%, soak: 30h}, {size: 100%}")
	at := l.now.Add(time.Minute)
	rec := Record{Seq: l.s.Seq() + 1, At: at, Crashes: []CrashEvent{{
		Crash:   health.Crash{Host: "h199", ID: "x", Kind: wire.CrashOops, At: at},
		Control: []Bystander{{Rollout: l.s.Rollouts()[0].ID, Hosts: 180}},
	}}}
	if err := l.s.Apply(rec); err != nil {
		t.Fatal(err)
	}
	if v := l.s.Rollouts()[0].Evidence.Control; v.Control != 1 || v.Share != 0.1 {
		t.Errorf("compared as %+v, want one crash and a share of 20 in 200", v)
	}
}
