package control

import (
	"encoding/json"
	"testing"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/health"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// restarted is a lab in which rollout r1 runs with its first wave over, and
// rollout r2 has restarted a unit on the hosts of that, which keep r1's patch.
func restarted(t *testing.T) (l *lab, one, two string, hosts []fleet.HostID) {
	t.Helper()
	l = newRebootLab(t, 12)
	one = l.start("good", "waves: [{name: canary, size: 6, soak: 1m}, {size: 7, soak: 24h}, {size: 100%}]")
	for range 10 {
		l.tick(time.Minute)
	}
	two = l.begin("name: r\ntarget: {restart: app.service}\nunavailable: 12")
	for range 30 {
		l.tick(time.Minute)
	}
	for _, h := range l.running(digest('a')) {
		if l.s.Host(h).Rollout == two {
			hosts = append(hosts, h)
		}
	}
	if len(hosts) < 3 {
		t.Fatalf("%v run the patch under the second rollout, want three at least", hosts)
	}
	return l, one, two, hosts
}

// A crash under a live patch is held against that, whoever has had the host since.
func TestOopsIsThePatchsNotTheRestarts(t *testing.T) {
	l, one, two, hosts := restarted(t)
	for _, h := range hosts[:3] {
		l.crash(h, wire.Crash{ID: "oops", Kind: wire.CrashOops, Live: digest('a'), Signature: "sig"})
	}
	l.tick(time.Second)
	r := l.s.Rollout(one)
	if len(r.Crashed) < 2 || r.Crashed[0].After < 10*time.Minute || len(r.Signatures) != 1 || r.Signatures[0].Elsewhere || len(r.Signatures[0].Hosts) != 3 {
		t.Errorf("the patch's rollout counts %+v and %+v, want crashes minutes after apply", r.Crashed, r.Signatures)
	}
	l.wantPhase(one, rollout.PhaseReverted)
	if r := l.s.Rollout(two); r.Phase == rollout.PhaseReverting || r.Phase == rollout.PhaseReverted || len(r.Crashed) != 0 {
		t.Errorf("the restart's rollout is %s and counts %v", r.Phase, r.Crashed)
	}
	l.checkReplay()
}

func TestBlame(t *testing.T) {
	l, one, two, hosts := restarted(t)
	l.s.rollouts["r3"] = l.s.rollouts[two].Payoff("r3", nil, l.now)
	l.s.rollouts["r3"].Policy.Target.Action = policy.Module
	for _, tt := range []struct {
		name          string
		by            string
		act           bool
		phase         rollout.HostPhase
		kind          wire.CrashKind
		live          bundle.Digest
		patched, also string
	}{
		{"oops after a restart", two, true, rollout.Soaking, wire.CrashOops, digest('a'), one, ""},
		{"oops after an exchange of a module", "r3", true, rollout.Soaking, wire.CrashOops, digest('a'), one, "r3"},
		{"boot after a restart", two, true, rollout.Verifying, wire.CrashUnorderedBoot, digest('a'), one, two},
		{"silent after a restart", two, true, rollout.Soaking, "silent", digest('a'), one, two},
		{"boot before the restart", two, true, rollout.Draining, wire.CrashUnorderedBoot, digest('a'), one, ""},
		{"never came back", two, true, rollout.Rebooting, CrashLost, digest('a'), two, ""},
		{"no patch loaded", two, true, rollout.Soaking, wire.CrashOops, "", two, ""},
		{"no patch loaded and nothing done", two, true, rollout.Admitted, wire.CrashOops, "", "", ""},
		{"somebody else's patch", two, true, rollout.Admitted, wire.CrashOops, digest('c'), "", ""},
		{"its own patch", one, false, rollout.Soaking, wire.CrashOops, digest('a'), one, ""},
		{"nobody has the host", "", false, "", wire.CrashOops, digest('a'), one, ""},
	} {
		h := l.s.Host(hosts[0])
		h.Rollout, h.Phase = tt.by, tt.phase
		if !tt.act {
			h.Act = nil
		}
		if patched, also := l.s.blame(&h, health.Crash{Kind: tt.kind, Live: tt.live}); patched != tt.patched || also != tt.also {
			t.Errorf("%s: held against %q and %q, want %q and %q", tt.name, patched, also, tt.patched, tt.also)
		}
	}
}

// A host counts in the exposure of the rollout whose patch it runs, until that
// goes: no longer, and no shorter because another rollout has it.
func TestExposureFollowsThePatch(t *testing.T) {
	l, one, _, hosts := restarted(t)
	want := func(when string, n int) {
		t.Helper()
		if got, runs := l.s.Rollout(one).Exposure.Running(), len(l.running(digest('a'))); got != n || runs != n {
			t.Errorf("%s: %d count in the exposure, %d run the patch, want %d", when, got, runs, n)
		}
	}
	want("a restart takes no patch off", 12)
	l.begin(toNewKernel + "unavailable: 12")
	for range 60 {
		l.tick(time.Minute)
	}
	want("those that the restart had run another kernel", 12-len(hosts))
	for range 30 {
		l.tick(time.Hour)
	}
	want("all do", 0)
	l.checkReplay()
}

// A host that turns out to run something else keeps nothing of an earlier rollout.
func TestAdoptedHostShedsWhatItLost(t *testing.T) {
	l, one, _, hosts := restarted(t)
	before := l.s.Rollout(one).Exposure.Running()
	for n, live := range []bundle.Digest{digest('a'), digest('b')} {
		rec := l.s.record(l.now)
		rec.Adopts = []Adopt{{Host: hosts[n], Generation: 50, Live: live}}
		l.commit(rec)
		if got := l.s.Rollout(one).Exposure.Running(); got != before-n {
			t.Errorf("adopted with %s: %d count, want %d", live.Short(), got, before-n)
		}
	}
	l.checkReplay()
}

// Records from before hosts left the exposure of an earlier rollout are
// applied as they were.
func TestOldRecordsKeepTheirExposure(t *testing.T) {
	l, one, _, hosts := restarted(t)
	s := New()
	ran := l.s.Rollout(one).Exposure.Running()
	l.begin(toNewKernel + "unavailable: 12")
	for range 60 {
		l.tick(time.Minute)
	}
	for _, data := range l.log {
		var rec Record
		if err := json.Unmarshal(data, &rec); err != nil {
			t.Fatal(err)
		}
		rec.Edition = 0
		if err := s.Apply(rec); err != nil {
			t.Fatal(err)
		}
	}
	if got, now := s.Rollout(one).Exposure.Running(), l.s.Rollout(one).Exposure.Running(); got != ran || now != ran-len(hosts) {
		t.Errorf("%d count by the old rules and %d by the new, want %d and %d", got, now, ran, ran-len(hosts))
	}
}
