package gate

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"afloat/internal/fleet"
)

// exact is a baseline known without doubt: one crash per host and hour, so
// that host-hours are expected crashes.
func exact() Baseline { return Baseline{PerHostYear: hoursPerYear, Spread: 1} }

func observe(t testing.TB, e Evidence, l Look) Evidence {
	t.Helper()
	next, err := e.Observe(l)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func near(got, want float64) bool {
	return got == want || math.Abs(got-want) <= 1e-9*max(1, math.Abs(want))
}

func TestPartsByHand(t *testing.T) {
	crash := func(kind CrashKind) Crash { return Crash{Host: "a", Kind: kind, Patched: 1, Control: 1} }
	for _, tt := range []struct {
		name                   string
		apply, steady          float64 // expected crashes
		crashes                []Crash
		wantA, wantS, wantC, e float64
	}{
		{name: "nothing seen is 1", wantA: 1, wantS: 1, wantC: 1, e: 1},
		{
			name: "one on apply: mean of 10, 100, 1000, 10000", crashes: []Crash{crash(CrashApply)},
			wantA: 2777.5, wantS: 1, wantC: 1, e: (2777.5 + 2) / 3,
		},
		{
			name: "one later: mean of 2, 3, 5, 10, 30, 100; and of 2r/(r+1)", crashes: []Crash{crash(CrashSteady)},
			wantA: 1, wantS: 25, wantC: (4.0/3 + 3.0/2 + 5.0/3 + 20.0/11 + 60.0/31 + 200.0/101) / 6,
			e: (26 + (4.0/3+3.0/2+5.0/3+20.0/11+60.0/31+200.0/101)/6) / 3,
		},
		{
			name: "one on a control host: mean of 2/(r+1)", crashes: []Crash{crash(CrashControl)},
			wantA: 1, wantS: 1, wantC: (2.0/3 + 2.0/4 + 2.0/6 + 2.0/11 + 2.0/31 + 2.0/101) / 6,
			e: (2 + (2.0/3+2.0/4+2.0/6+2.0/11+2.0/31+2.0/101)/6) / 3,
		},
		{
			name: "exposure alone lowers it", apply: 1, steady: 1,
			wantA: math.Exp(-9) / 4, // the other three are below 1e-43
			wantS: (math.Exp(-1) + math.Exp(-2) + math.Exp(-4) + math.Exp(-9) + math.Exp(-29)) / 6,
			wantC: 1,
			e:     (math.Exp(-9)/4 + (math.Exp(-1)+math.Exp(-2)+math.Exp(-4)+math.Exp(-9)+math.Exp(-29))/6 + 1) / 3,
		},
		{
			name: "two on apply where 0.01 are expected", apply: 0.01, crashes: []Crash{crash(CrashApply), crash(CrashApply)},
			wantA: (100*math.Exp(-0.09) + 1e4*math.Exp(-0.99) + 1e6*math.Exp(-9.99) + 1e8*math.Exp(-99.99)) / 4,
			wantS: 1, wantC: 1,
			e: ((100*math.Exp(-0.09)+1e4*math.Exp(-0.99)+1e6*math.Exp(-9.99)+1e8*math.Exp(-99.99))/4 + 2) / 3,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := observe(t, Evidence{}, Look{
				Exposure: []Exposure{{Baseline: exact(), ApplyHours: tt.apply, SteadyHours: tt.steady}},
				Crashes:  tt.crashes,
			})
			for _, part := range []struct {
				name      string
				got, want float64
			}{
				{"apply", math.Exp(e.LogApply()), tt.wantA},
				{"steady", math.Exp(e.LogSteady()), tt.wantS},
				{"control", math.Exp(e.LogControl()), tt.wantC},
				{"E", e.E(), tt.e},
			} {
				if !near(part.got, part.want) {
					t.Errorf("%s = %v, want %v", part.name, part.got, part.want)
				}
			}
		})
	}
}

// A crash without anybody to compare with says nothing about the difference.
func TestControlNeedsBothArms(t *testing.T) {
	for _, c := range []Crash{
		{Host: "a", Kind: CrashSteady, Patched: 10, Control: 0},
		{Host: "a", Kind: CrashControl, Patched: 0, Control: 10},
		{Host: "a", Kind: CrashSteady},
	} {
		e := observe(t, Evidence{}, Look{Crashes: []Crash{c}})
		if e.LogControl() != 0 || e.Control.Patched+e.Control.Control != 0 {
			t.Errorf("crash %+v moved the comparison: %+v", c, e.Control)
		}
	}
}

func TestHugeCountsStayFinite(t *testing.T) {
	e := Evidence{
		Apply:  Tally{Crashes: 1_000_000, Expected: 1e6, Hours: 1e12},
		Steady: Tally{Crashes: 1_000_000, Expected: 10, Hours: 1e12},
	}
	if log := e.Log(); math.IsNaN(log) || math.IsInf(log, 0) {
		t.Errorf("Log = %v", log)
	}
	if got := e.E(); got != math.MaxFloat64 {
		t.Errorf("E = %v, want the largest number", got)
	}
	// A likelihood ratio of 2 at its own mean: ln E = n ln 2 - n, for n = m = 1e6
	// the largest of the mixture, less ln 6 for its share.
	want := 1e6*math.Log(2) - 1e6 - math.Log(6)
	if got := (Evidence{Steady: Tally{Crashes: 1e6, Expected: 1e6}}).LogSteady(); !near(got, want) {
		t.Errorf("LogSteady = %v, want %v", got, want)
	}
}

func TestObserveRefuses(t *testing.T) {
	good := Evidence{Apply: Tally{Crashes: 1, Expected: 2, Hours: 3}}
	nan := math.NaN()
	for _, l := range []Look{
		{Exposure: []Exposure{{Baseline: Baseline{}, ApplyHours: 1}}},
		{Exposure: []Exposure{{Baseline: Baseline{PerHostYear: nan}}}},
		{Exposure: []Exposure{{Baseline: Baseline{PerHostYear: 1, Spread: 0.5}}}},
		{Exposure: []Exposure{{Baseline: Baseline{PerHostYear: 1, ApplyFloor: 1}}}},
		{Exposure: []Exposure{{Baseline: exact(), ApplyHours: -1}}},
		{Exposure: []Exposure{{Baseline: exact(), SteadyHours: nan}}},
		{Exposure: []Exposure{{Baseline: exact(), SteadyHours: math.Inf(1)}}},
		{Exposure: []Exposure{{Baseline: exact(), Applied: -1}}},
		{Crashes: []Crash{{Host: "a", Kind: CrashSteady, Patched: -1}}},
		{Crashes: []Crash{{Host: "a", Kind: CrashApply}, {Host: "a", Kind: "other"}}},
	} {
		got, err := good.Observe(l)
		if !errors.Is(err, ErrBadEvidence) {
			t.Errorf("Observe(%+v) = %v, want ErrBadEvidence", l, err)
		}
		if diff := cmp.Diff(good, got); diff != "" {
			t.Errorf("a refused look changed the evidence:\n%s", diff)
		}
	}
}

func TestApplyFloorIsExpected(t *testing.T) {
	b := exact()
	b.ApplyFloor = 0.25
	e := observe(t, Evidence{}, Look{Exposure: []Exposure{{Baseline: b, Applied: 8, ApplyHours: 1}}})
	if e.Apply.Expected != 3 {
		t.Errorf("expected %v crashes, want 1 from time and 2 from applying", e.Apply.Expected)
	}
}

func drawLooks(t *rapid.T) []Look {
	crash := rapid.Custom(func(t *rapid.T) Crash {
		return Crash{
			Host:    fleet.HostID(rapid.StringMatching(`h[0-9]`).Draw(t, "host")),
			Kind:    rapid.SampledFrom([]CrashKind{CrashApply, CrashSteady, CrashControl}).Draw(t, "kind"),
			Patched: float64(rapid.IntRange(0, 1000).Draw(t, "patched")),
			Control: float64(rapid.IntRange(0, 1000).Draw(t, "control")),
		}
	})
	exposure := rapid.Custom(func(t *rapid.T) Exposure {
		return Exposure{
			Baseline:    Baseline{PerHostYear: rapid.Float64Range(0.001, 10).Draw(t, "rate")},
			ApplyHours:  rapid.Float64Range(0, 1e4).Draw(t, "apply"),
			SteadyHours: rapid.Float64Range(0, 1e6).Draw(t, "steady"),
		}
	})
	look := rapid.Custom(func(t *rapid.T) Look {
		return Look{
			Exposure: rapid.SliceOfN(exposure, 0, 3).Draw(t, "exposure"),
			Crashes:  rapid.SliceOfN(crash, 0, 4).Draw(t, "crashes"),
		}
	})
	return rapid.SliceOfN(look, 1, 8).Draw(t, "looks")
}

// A state restored from JSON in the middle goes on to exactly the same values.
func TestReplayIsIdentical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		looks := drawLooks(t)
		whole := foldR(t, Evidence{}, looks)
		at := rapid.IntRange(0, len(looks)).Draw(t, "cut")
		stored, err := json.Marshal(foldR(t, Evidence{}, looks[:at]))
		if err != nil {
			t.Fatal(err)
		}
		var restored Evidence
		if err := json.Unmarshal(stored, &restored); err != nil {
			t.Fatal(err)
		}
		resumed := foldR(t, restored, looks[at:])
		if diff := cmp.Diff(whole, resumed); diff != "" {
			t.Fatalf("replay differs:\n%s", diff)
		}
		if whole.Log() != resumed.Log() {
			t.Fatalf("replay gives E %v, want %v", resumed.Log(), whole.Log())
		}
	})
}

func foldR(t *rapid.T, e Evidence, looks []Look) Evidence {
	for _, l := range looks {
		next, err := e.Observe(l)
		if err != nil {
			t.Fatal(err)
		}
		e = next
	}
	return e
}

// All three parts come out the same in whatever order things became known.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		looks := drawLooks(t)
		want := foldR(t, Evidence{}, looks).Log()
		got := foldR(t, Evidence{}, rapid.Permutation(looks).Draw(t, "order")).Log()
		if math.Abs(got-want) > 1e-9*max(1, math.Abs(want)) {
			t.Fatalf("in another order ln E is %v, was %v", got, want)
		}
	})
}

// One crash more with the patch never lowers E, one more without it never
// raises it, and neither does exposure: only harm speaks against a patch.
func TestOneSided(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := foldR(t, Evidence{}, drawLooks(t))
		extra := Crash{Host: "x", Patched: rapid.Float64Range(0, 1e6).Draw(t, "patched"), Control: rapid.Float64Range(0, 1e6).Draw(t, "control")}
		before, slack := e.Log(), 1e-9*max(1, math.Abs(e.Log()))
		for kind, sign := range map[CrashKind]float64{CrashApply: 1, CrashSteady: 1, CrashControl: -1} {
			extra.Kind = kind
			after := foldR(t, e, []Look{{Crashes: []Crash{extra}}}).Log()
			if sign*(after-before) < -slack {
				t.Fatalf("one more %s crash moved ln E from %v to %v", kind, before, after)
			}
		}
		quiet := Exposure{Baseline: exact(), ApplyHours: rapid.Float64Range(0, 10).Draw(t, "a"), SteadyHours: rapid.Float64Range(0, 10).Draw(t, "s")}
		if after := foldR(t, e, []Look{{Exposure: []Exposure{quiet}}}).Log(); after > before+slack {
			t.Fatalf("quiet exposure raised ln E from %v to %v", before, after)
		}
	})
}

func TestHostsAreDistinctAndBounded(t *testing.T) {
	var e Evidence
	for i := range 100 {
		host := fleet.HostID(string(rune('a' + i%26)))
		e = observe(t, e, Look{Crashes: []Crash{{Host: host, Kind: CrashApply}}})
	}
	if len(e.Hosts) != hostsNamed || e.Apply.Crashes != 100 {
		t.Errorf("%d hosts and %d crashes, want %d and 100", len(e.Hosts), e.Apply.Crashes, hostsNamed)
	}
	branch := Evidence{Hosts: make([]fleet.HostID, 1, 8)}
	left := observe(t, branch, Look{Crashes: []Crash{{Host: "left", Kind: CrashApply}}})
	right := observe(t, branch, Look{Crashes: []Crash{{Host: "right", Kind: CrashApply}}})
	if left.Hosts[1] != "left" || right.Hosts[1] != "right" {
		t.Errorf("two branches of one evidence share memory: %v, %v", left.Hosts, right.Hosts)
	}
}

func TestEstimateBaseline(t *testing.T) {
	for _, tt := range []struct {
		name    string
		crashes int
		days    int
		hosts   int
		rate    float64
		spread  float64
	}{
		// 0.5 crashes in 10 host-years; 97.5 % point of Gamma(0.5) is 2.5119, /0.5.
		{"no history is the prior", 0, 0, 0, 0.05, 5.024},
		// 100000*90/365 = 24657.5 host-years.
		{"long history", 1233, 90, 100_000, 1233.5 / 24667.534, 3},
		{"quiet history", 0, 90, 1000, 0.5 / 256.575, 5.024},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := EstimateBaseline(tt.crashes, time.Duration(tt.days)*24*time.Hour, tt.hosts)
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(b.PerHostYear/tt.rate-1) > 1e-4 || math.Abs(b.Spread/tt.spread-1) > 0.02 {
				t.Errorf("got %+v, want rate %v and spread %v", b, tt.rate, tt.spread)
			}
			if err := b.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := EstimateBaseline(-1, time.Hour, 1); !errors.Is(err, ErrBadEvidence) {
		t.Errorf("negative crashes: %v", err)
	}
}
