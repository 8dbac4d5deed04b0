package health

import (
	"math"
	"slices"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/wire"
)

func TestCrashesAreCountedOnce(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := wire.Report{Host: "h1", Crashes: []wire.Crash{
		{ID: "a", Kind: wire.CrashOops, Live: "sha256:x", Signature: "s"}, {ID: "a", Kind: wire.CrashOops}, {ID: "b", Kind: wire.CrashWarning},
	}}
	got := Crashes(r, nil, fleet.Labels{"zone": "z", "rack": "r1", "service": "s"}, time.Time{}, now)
	if len(got) != 2 || got[0].Live != "sha256:x" || !got[0].Counts() || got[1].Counts() {
		t.Errorf("got %+v", got)
	}
	if d := got[0].Domains; !slices.Equal(d, []string{"rack=r1", "zone=z"}) || Wide(d[0]) || !Wide(d[1]) {
		t.Errorf("domains are %v", got[0].Domains)
	}
	if again := Crashes(r, []string{"a", "b"}, nil, time.Time{}, now); len(again) != 0 {
		t.Errorf("reported again: got %+v", again)
	}
}

func TestForeignAndRuns(t *testing.T) {
	r := wire.Report{Live: []wire.LivePatch{{Name: "afloat_x", Bundle: "sha256:x", Enabled: true}, {Name: "kpatch_y", Enabled: true}}}
	if !Runs(r, "sha256:x") || Runs(r, "sha256:z") || Foreign(r) != "kpatch_y" {
		t.Errorf("runs x %v, z %v, foreign %q", Runs(r, "sha256:x"), Runs(r, "sha256:z"), Foreign(r))
	}
}

func TestExposureHours(t *testing.T) {
	start := time.Unix(0, 0).Truncate(time.Hour)
	var e Exposure
	e.Seen = start
	e.Add(60, start)
	e.Add(40, start.Add(30*time.Minute))
	apply, steady := e.Advance(start.Add(time.Hour), 10*time.Minute)
	if near(apply, 100.0/6) && near(steady, 60*50.0/60+40*20.0/60) {
		apply, steady = e.Advance(start.Add(2*time.Hour), 10*time.Minute)
	}
	if !near(apply, 0) || !near(steady, 100) {
		t.Errorf("second hour: %v and %v host-hours, want 0 and 100", apply, steady)
	}
	e.Remove(40, start.Add(30*time.Minute))
	if e.Running() != 60 || e.Exposed != 100 {
		t.Errorf("running %d of %d exposed, want 60 of 100", e.Running(), e.Exposed)
	}
	if got := e.Within(start.Add(3*time.Hour), time.Hour); !near(got, 100) {
		t.Errorf("within one hour of apply: %v host-hours, want 100", got)
	}
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-6 }

// A crash that ended a boot happened when the host fell silent; one of the
// running kernel happens now.
func TestCrashTime(t *testing.T) {
	now := time.Unix(1e9, 0)
	down := now.Add(-20 * time.Minute)
	for _, tt := range []struct {
		name string
		boot string
		down time.Time
		want time.Time
	}{
		{"ended the earlier boot", "old", down, down},
		{"in this boot", "new", down, now},
		{"never heard before", "old", time.Time{}, now},
		{"clock of another server", "old", now.Add(time.Hour), now},
	} {
		r := wire.Report{Host: "h1", Boot: "new", Crashes: []wire.Crash{{ID: "a", Kind: wire.CrashOops, Boot: tt.boot}}}
		if got := Crashes(r, nil, nil, tt.down, now); len(got) != 1 || !got[0].At.Equal(tt.want) {
			t.Errorf("%s: got %+v, want one at %v", tt.name, got, tt.want)
		}
	}
}
