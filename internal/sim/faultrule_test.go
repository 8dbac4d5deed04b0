package sim

import (
	"math"
	"strings"
	"testing"
	"time"
)

// TestFaultsThatMeanNothing: a fault that does nothing would look like a fleet that stands it.
func TestFaultsThatMeanNothing(t *testing.T) {
	for s, want := range map[string]string{
		"late:50%":            "late does nothing without +DURATION",
		"leak":                "leak does nothing without :SHARE",
		"never-returns@5m":    "never-returns takes no @TIME",
		"crash-on-apply:2":    "a share of 2, at most 1",
		"down@-5m":            "a time below zero",
		"server-crash:10%@1m": "server-crash takes no :SHARE",
		"lost:10%+5m":         "lost takes no +DURATION",
		"down:3/2@5m":         "a share of 1.5, at most 1",
	} {
		if _, err := ParseFault(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", s, err, want)
		}
	}
}

func TestRefusedOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"there is no rollout 2 of 1":           {Fleet: Generated(10), Faults: []Fault{fault(t, "abort:2@1m")}},
		"no host of the fleet matches":         {Fleet: Generated(10), Faults: []Fault{fault(t, "down@5m+5m?rack=zzz")}},
		"the horizon -1m0s is below zero":      {Fleet: Generated(10), Horizon: -time.Minute},
		"0 hosts, want 1 to 5000000":           {Fleet: Fleet{Groups: []Group{{Name: "none"}}}},
		"+Inf crashes per year":                {Fleet: Fleet{Groups: []Group{{Name: "a", Hosts: 1, CrashesPerYear: math.Inf(1)}}}},
		"9223372036854775807 hosts, want 0 to": {Fleet: Fleet{Groups: []Group{{Name: "a", Hosts: math.MaxInt}, {Name: "b", Hosts: math.MaxInt}}}},
	} {
		o.Policy = drillPolicy
		if _, err := Run(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q", err, name)
		}
	}
}

func TestStops(t *testing.T) {
	stop := make(chan struct{})
	close(stop)
	if _, err := Run(Options{Policy: drillPolicy, Fleet: Generated(10), Stop: stop}); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("a stopped run: %v", err)
	}
}

// TestAllMessagesLost ends, and admits nobody who has not been heard again.
func TestAllMessagesLost(t *testing.T) {
	res := mustRun(t, Options{Policy: drillPolicy, Fleet: Generated(50), Faults: []Fault{fault(t, "lost:100%")}, Horizon: 4 * time.Hour, Check: true})
	if res.Applied != 0 || len(res.Broken) > 0 {
		t.Errorf("%d applied, broken %v", res.Applied, res.Broken)
	}
}

// TestGroupsCrashByTheirRate: hosts that crash 100 times as often are the victims 100 times as often.
func TestGroupsCrashByTheirRate(t *testing.T) {
	f := Generated(400)
	f.Groups = []Group{f.Groups[0], f.Groups[0]}
	f.Groups[0].Hosts, f.Groups[0].CrashesPerYear = 300, 10
	f.Groups[1].Name, f.Groups[1].Hosts, f.Groups[1].CrashesPerYear = "hot", 100, 1000
	w := newWorld(Options{Fleet: f, Seed: 1}, nil)
	hot := 0
	const draws = 20_000
	for range draws {
		if w.victim().group.Name == "hot" {
			hot++
		}
	}
	want := 100 * 1000. / (100*1000 + 300*10)
	if got := float64(hot) / draws; math.Abs(got-want) > 0.01 {
		t.Errorf("%.3f of the crashes on hot hosts, want %.3f", got, want)
	}
}

// TestLateLeak: a leak with an onset kills nobody before it.
func TestLateLeak(t *testing.T) {
	res := mustRun(t, Options{Policy: "name: x\ntarget: {live: x}\nwaves: [{size: 100%, soak: 1h}]\n", Fleet: Generated(100),
		Faults: []Fault{fault(t, "leak:50+2h")}, Horizon: 6 * time.Hour})
	if res.Applied != 100 || res.Crashes != 0 {
		t.Errorf("%d applied, %d crashes before the onset", res.Applied, res.Crashes)
	}
}
