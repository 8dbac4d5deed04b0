package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"afloat/internal/gate"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// TestNoDataHolds: a canary that cannot see its own crash evidence proves
// nothing. The rollout holds until it does; a host that is blind is not admitted.
func TestNoDataHolds(t *testing.T) {
	l := newLab(t, 4)
	id := l.start("good", canaryThenAll)
	l.tick(time.Second)
	canary := l.running(digest('a'))
	if len(canary) != 1 {
		t.Fatalf("%v run it, want one canary", canary)
	}
	l.hosts[canary[0]].report.Blind = "no kernel log"
	l.tick(time.Hour)
	r := l.s.Rollout(id)
	if want := "no data: crash evidence of 1 host cannot be seen: " + string(canary[0]); r.Hold != want || len(l.running(digest('a'))) != 1 {
		t.Errorf("hold %q, want %q; %v run it", r.Hold, want, l.running(digest('a')))
	}
	l.hosts[canary[0]].report.Blind = ""
	for other := range l.hosts {
		if other != canary[0] {
			l.hosts[other].report.Blind = "no kernel log"
			break
		}
	}
	l.tick(time.Hour)
	if l.wantPhase(id, rollout.PhaseComplete); len(l.running(digest('a'))) != 3 {
		t.Errorf("%v run it, want all but the blind one", l.running(digest('a')))
	}
	for _, h := range l.ids {
		if e := Explain(l.s, l.v, h, l.now); l.hosts[h].report.Blind != "" && (e.Kind != KindNoData || !strings.Contains(e.Reason, "no kernel log")) {
			t.Errorf("%+v", e)
		}
	}
	l.checkReplay()
}

// TestSameNewCrashOnTwoHosts: two crashes of the same signature, never seen
// without the patch, hold at once, however rare they are.
func TestSameNewCrashOnTwoHosts(t *testing.T) {
	const lenient = "waves: [{name: first, size: 20, soak: 10m}, {size: 100%}]\ngate: {crashes: {falseRevert: 0.0000001%, cap: {excess: 50%, within: 24h}}}"
	for name, tt := range map[string]struct {
		sums [2]string
		at   int // the host without the patch that had the first crash before, 0 for none
		want bool
	}{
		"the same":            {[2]string{"sig", "sig"}, 0, true},
		"two different ones":  {[2]string{"sig", "other"}, 0, false},
		"known without patch": {[2]string{"sig", "sig"}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 40)
			id := l.start("good", lenient)
			for range 12 {
				l.tick(time.Minute)
			}
			on := l.running(digest('a'))
			if len(on) != 20 {
				t.Fatalf("%d run it, want 20", len(on))
			}
			if tt.at > 0 {
				for _, h := range l.ids {
					if loaded(l.hosts[h].report) == "" {
						l.crash(h, wire.Crash{ID: "before", Kind: wire.CrashOops, Signature: "sig"})
						break
					}
				}
				l.tick(time.Second)
			}
			for i, sum := range tt.sums {
				l.crash(on[i], wire.Crash{ID: "c", Kind: wire.CrashOops, Live: digest('a'), Signature: sum})
			}
			l.tick(time.Second)
			st, _ := StatusOf(l.s, l.v, id, l.now)
			says := func(f gate.Finding) bool {
				return f.Rule == gate.RuleSignature && f.Level == gate.LevelHold && strings.HasPrefix(f.Text, "the same new crash sig on 2 hosts")
			}
			if slices.ContainsFunc(st.Gate.Findings, says) != tt.want || tt.want && st.Hold == "" {
				t.Errorf("hold %q, findings %+v", st.Hold, st.Gate.Findings)
			}
			l.checkReplay()
		})
	}
}

// TestStragglers: a wave ends without those that it need not wait for, and not
// without more.
func TestStragglers(t *testing.T) {
	for stragglers, want := range map[string]bool{"0": false, "1": false, "2": true, "20%": true} {
		l := newLab(t, 10)
		id := l.start("good", "waves: [{name: first, size: 10, soak: 10m, stragglers: '"+stragglers+"'}, {size: 100%}]")
		l.hosts["h1"].asleep, l.hosts["h2"].asleep = true, true
		for range 40 {
			l.tick(time.Minute)
		}
		if w := l.s.Rollout(id).Waves[0]; !w.Closed.IsZero() != want {
			t.Errorf("stragglers: %s: two hosts do nothing, and the wave is over: %v (hold %q)", stragglers, !w.Closed.IsZero(), l.s.Rollout(id).Hold)
		}
		l.checkReplay()
	}
}
