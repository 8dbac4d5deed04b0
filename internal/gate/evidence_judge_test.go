package gate

import (
	"errors"
	"math"
	"strings"
	"testing"

	"afloat/internal/fleet"
)

func levels(t testing.TB) Levels {
	t.Helper()
	l, err := NewLevels(0.01, 1)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNewLevels(t *testing.T) {
	for _, tt := range []struct {
		chance       float64
		signals      int
		hold, revert float64
	}{
		{0.01, 1, 20, 100},
		{0.01, 4, 80, 400},
		{0.001, 1, 20, 1000},
		{0.2, 1, 5, 5}, // a revert never comes before its hold
	} {
		l, err := NewLevels(tt.chance, tt.signals)
		if err != nil {
			t.Fatal(err)
		}
		if !near(l.Hold, tt.hold) || !near(l.Revert, tt.revert) || l.Hosts != 2 {
			t.Errorf("NewLevels(%v, %d) = %+v, want hold %v and revert %v on 2 hosts", tt.chance, tt.signals, l, tt.hold, tt.revert)
		}
	}
	for _, chance := range []float64{0, 1, -1, math.NaN()} {
		if _, err := NewLevels(chance, 1); !errors.Is(err, ErrBadEvidence) {
			t.Errorf("NewLevels(%v, 1): %v", chance, err)
		}
	}
	if _, err := NewLevels(0.01, 0); !errors.Is(err, ErrBadEvidence) {
		t.Errorf("no signals: %v", err)
	}
}

func TestJudge(t *testing.T) {
	hosts := []fleet.HostID{"a", "b"}
	plenty := Tally{Expected: 0.05, Hours: 20_000.0 / 6}
	long := Tally{Expected: 20, Hours: 1e6}
	for _, tt := range []struct {
		name string
		e    Evidence
		want Level
		text string
	}{
		{name: "no data holds", want: LevelHold, text: "no data: no host has reported since the patch was applied"},
		{
			name: "quiet, and enough of it", e: Evidence{Apply: plenty, Steady: long}, want: LevelGo,
			text: "no crash on 20,000 hosts in their first 10 minutes, nor in 41,667 host-days after that (20 expected)",
		},
		{
			name: "too few applies", e: Evidence{Apply: Tally{Expected: 0.005, Hours: 2000.0 / 6}, Steady: long}, want: LevelInconclusive,
			text: "too few hosts to tell if 1 in 1,000 crashes on apply (1 in 376 would have shown)",
		},
		{
			name: "too little time", e: Evidence{Apply: plenty, Steady: Tally{Expected: 1, Hours: 1e5}}, want: LevelInconclusive,
			text: "too little time to tell if they crash 3 times as often as healthy ones may (9.9 times would have shown)",
		},
		{
			name: "no time at all", e: Evidence{Apply: plenty}, want: LevelInconclusive,
			text: "(not even 1,000 times would have shown)",
		},
		{
			name: "seconds", e: Evidence{Apply: Tally{Hours: 0.01, Expected: 1e-7}}, want: LevelInconclusive,
			text: "no host has run the patch for a minute yet; too few hosts",
		},
		{
			name: "minutes", e: Evidence{Apply: Tally{Hours: 0.1, Expected: 1e-6}}, want: LevelInconclusive,
			text: "no crash, but the patch has run for only 6 minutes in all; too few hosts to tell if 1 in 1,000 crashes on apply (not even all of them would do)",
		},
		{
			name: "one host", e: Evidence{Apply: Tally{Hours: 1.0 / 6, Expected: 1e-6}, Steady: Tally{Hours: 1.5, Expected: 1e-5}}, want: LevelInconclusive,
			text: "no crash on 1 host in its first 10 minutes, nor in 1.5 host-hours after that (0.000011 expected)",
		},
		{
			name: "the sentence of a revert", want: LevelRevert,
			e:    Evidence{Apply: Tally{Crashes: 3, Expected: 0.002, Hours: 1240.0 / 6}, Steady: long, Hosts: hosts},
			text: "3 crashes on 1,240 hosts in their first 10 minutes, 0.002 expected; at most 1 in ",
		},
		{
			name: "one crash at 500 applies holds", want: LevelHold,
			e:    Evidence{Apply: Tally{Crashes: 1, Expected: 0.00143, Hours: 500.0 / 6}, Hosts: hosts[:1]},
			text: "1 crash on 500 hosts in their first 10 minutes, 0.0014 expected; at most 1 in 29 harmless rollouts ever looks this bad (E=29)",
		},
		{
			name: "one host cannot cause a revert", want: LevelHold,
			e:    Evidence{Apply: Tally{Crashes: 3, Expected: 0.002, Hours: 1240.0 / 6}, Hosts: hosts[:1]},
			text: "; 1 of 2 hosts that a revert needs",
		},
		{
			name: "steady crashes against the control arm", want: LevelRevert,
			e: Evidence{
				Apply: plenty, Steady: Tally{Crashes: 12, Expected: 1.7, Hours: 24 * 3100}, Hosts: hosts,
				Control: Contest{Patched: 12, Control: 2, Share: 3.27},
			},
			text: "12 crashes in 3,100 host-days after that time, 1.7 expected; 12 of 14 crashes on hosts with the patch, 3.3 expected by their share",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, why := Judge(tt.e, levels(t))
			if got != tt.want {
				t.Errorf("Judge = %s (%s), want %s", got, why.Text, tt.want)
			}
			if !strings.Contains(why.Text, tt.text) {
				t.Errorf("reason %q does not hold %q", why.Text, tt.text)
			}
			if why.E != tt.e.E() {
				t.Errorf("reason has E=%v, evidence %v", why.E, tt.e.E())
			}
		})
	}
}

// A hold falls when quiet exposure speaks against what caused it.
func TestHoldReleases(t *testing.T) {
	e := Evidence{Apply: Tally{Hours: 1}, Steady: Tally{Crashes: 2, Expected: 0.01, Hours: 100}, Hosts: []fleet.HostID{"a", "a2"}}
	if got, why := Judge(e, levels(t)); got == LevelInconclusive || got == LevelGo {
		t.Fatalf("two crashes where 0.01 are expected: %s, %s", got, why.Text)
	}
	e.Steady.Expected = 5
	if got, why := Judge(e, levels(t)); got != LevelInconclusive {
		t.Errorf("two crashes where 5 are expected: %s, %s", got, why.Text)
	}
}

func TestNumbersForPeople(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0", 0.002: "0.002", 0.00234: "0.0023", 1.7: "1.7", 1: "1", 23.4: "23", 212: "212", 1240: "1,240", 1234567: "1,234,567", 99.7: "100",
	} {
		if got := short(x); got != want {
			t.Errorf("short(%v) = %q, want %q", x, got, want)
		}
	}
	for e, want := range map[float64]string{212.9: "212", 1.52: "1.5", 99.99: "100", 8.2e6: "8,200,000", 1e300: "over 10 million"} {
		if got := eText(e); got != want {
			t.Errorf("eText(%v) = %q, want %q", e, got, want)
		}
	}
}

func TestRequiredByHand(t *testing.T) {
	l := levels(t)
	for _, tt := range []struct{ ratio, want float64 }{
		{3, 3 * math.Log(100) / (3*math.Log(3) - 2)},    // Wald: 10.7
		{10, 3 * math.Log(100) / (10*math.Log(10) - 9)}, // Wald: 0.985
		{1000, 5.32232 / 1000},                          // three crashes: Poisson mean for 90 %
		{1, math.Inf(1)}, {0.5, math.Inf(1)}, {math.NaN(), math.Inf(1)},
	} {
		if got := l.Required(tt.ratio); got != tt.want && !(math.Abs(got/tt.want-1) < 1e-5) {
			t.Errorf("Required(%v) = %v, want %v", tt.ratio, got, tt.want)
		}
	}
	// At 0.05 a year, tested at 0.15, a window expects 2.854e-6 crashes and 1 in
	// 1000 is 351 times that: three crashes decide.
	if got := l.RequiredApplies(Baseline{PerHostYear: 0.05}); math.Abs(got/(5.32232/0.0010028539)-1) > 1e-5 {
		t.Errorf("RequiredApplies = %v", got)
	}
	// 10.67 crashes at 0.15 a year.
	if got := l.RequiredHostDays(Baseline{PerHostYear: 0.05}); math.Abs(got/(10.6636/0.15*365)-1) > 1e-3 {
		t.Errorf("RequiredHostDays = %v", got)
	}
}

// What is said to have shown at an exposure needs just that exposure.
func TestDetectableIsTheInverse(t *testing.T) {
	l := levels(t)
	b := Baseline{PerHostYear: 0.2}
	for _, excess := range []float64{0.0003, 0.001, 0.01} {
		l.Aim.OnApply = excess
		n := l.RequiredApplies(b)
		e := Evidence{Apply: Tally{Hours: n / 6, Expected: b.Expected(n / 6)}}
		if got := l.DetectableOnApply(e); math.Abs(got/excess-1) > 1e-4 {
			t.Errorf("%v needs %v applies, which show %v", excess, n, got)
		}
		if !l.enoughApply(Evidence{Apply: Tally{Hours: n / 5.9, Expected: b.Expected(n / 5.9)}}) || l.enoughApply(Evidence{Apply: Tally{Hours: n / 6.1, Expected: b.Expected(n / 6.1)}}) {
			t.Errorf("%v: enough does not turn at %v applies", excess, n)
		}
	}
	if got := l.DetectableRatio(Evidence{Steady: Tally{Expected: l.Required(7)}}); math.Abs(got/7-1) > 1e-4 {
		t.Errorf("DetectableRatio = %v, want 7", got)
	}
	if got := l.DetectableOnApply(Evidence{}); got != 1 {
		t.Errorf("nothing seen shows %v, want 1", got)
	}
}

func TestPoissonTail(t *testing.T) {
	for _, tt := range []struct {
		n    int
		mean float64
		want float64
	}{
		{0, 3, 1}, {1, 0, 0},
		{1, 1e-12, 1e-12},        // 1-exp(-m)
		{1, 2, 1 - math.Exp(-2)}, // closed forms
		{2, 2, 1 - 3*math.Exp(-2)},
		{3, 2, 1 - 5*math.Exp(-2)},
		{5, 0.01, math.Exp(-0.01) * 1e-10 / 120 * (1 + 0.01/6 + 1e-4/42)}, // its first three terms
		{1, 1000, 1},
		{1000, 1000, 0.504205}, // half, and a third of the chance of 1000 itself (Ramanujan)
	} {
		if got := poissonTail(tt.n, tt.mean); math.Abs(got-tt.want) > 1e-5*tt.want {
			t.Errorf("poissonTail(%d, %v) = %v, want %v", tt.n, tt.mean, got, tt.want)
		}
	}
}

func TestMeanOfThree(t *testing.T) {
	if got := meanFor(3); math.Abs(got/meanOfThree-1) > 2e-6 {
		t.Errorf("three events come with a chance of %v at a mean of %v, not %v", power, got, meanOfThree)
	}
}
