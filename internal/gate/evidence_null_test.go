package gate

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"afloat/internal/fleet"
)

// meanUnder is the exact mean of f(n) for n from a Poisson distribution,
// summed to far beyond where f(n) may still matter.
func meanUnder(mean float64, upTo int, f func(n int) float64) float64 {
	sum := 0.0
	for n := range upTo {
		log, _ := math.Lgamma(float64(n + 1))
		sum += math.Exp(float64(n)*math.Log(mean) - mean - log + f(n))
	}
	return sum
}

// The mean of the e-value under the baseline is 1 at the interval's upper end
// and below it inside. Without the exponential it is far above: that formula
// must fail this test, or the test shows nothing.
func TestMeanIsOneUnderBaseline(t *testing.T) {
	apply, steady := applyRatios(), steadyRatios()
	for _, m := range []float64{1e-4, 0.01, 0.3, 2} {
		for name, ratios := range map[string][]float64{"apply": apply[:], "steady": steady[:]} {
			upTo := int(m*1e4*2) + 100
			at := func(n int) float64 { return Tally{Crashes: n, Expected: m}.log(ratios) }
			if got := meanUnder(m, upTo, at); math.Abs(got-1) > 1e-6 {
				t.Errorf("%s, m=%v: mean %v, want 1", name, m, got)
			}
			if got := meanUnder(m/3, upTo, at); got > 1 {
				t.Errorf("%s, m=%v, true rate a third: mean %v, want at most 1", name, m, got)
			}
			wrong := func(n int) float64 { return Tally{Crashes: n}.log(ratios) }
			if got := meanUnder(m, upTo, wrong); m >= 0.01 && got < 1.05 {
				t.Errorf("%s, m=%v: without compensation mean %v, the control does not show", name, m, got)
			}
		}
	}
}

// Over all ways in which eight crashes can fall on two arms of changing sizes,
// the comparison's e-value has mean 1.
func TestControlMeanIsOne(t *testing.T) {
	sizes := [][2]float64{{10, 990}, {100, 900}, {100, 900}, {500, 500}, {1, 999}, {950, 50}, {300, 700}, {700, 300}}
	sum := 0.0
	for mask := range 1 << len(sizes) {
		var e Evidence
		chance := 1.0
		for i, s := range sizes {
			c := Crash{Host: "a", Kind: CrashControl, Patched: s[0], Control: s[1]}
			p := s[0] / (s[0] + s[1])
			if mask&(1<<i) != 0 {
				c.Kind = CrashSteady
				chance *= p
			} else {
				chance *= 1 - p
			}
			e = observe(t, e, Look{Crashes: []Crash{c}})
		}
		sum += chance * math.Exp(e.LogControl())
	}
	if math.Abs(sum-1) > 1e-9 {
		t.Errorf("mean %v, want 1", sum)
	}
}

// walk plays a fleet at the upper end of its baseline, with a tenth of it
// patched every hour, and returns the highest e-value ever seen.
func walk(t *testing.T, rng *rand.Rand, value func(Evidence) float64) float64 {
	const hosts, perHour = 1000, 0.01 // crashes per host-hour, so that much happens
	base := Baseline{PerHostYear: perHour * hoursPerYear, Spread: 1}
	var e Evidence
	highest := 0.0
	patched, steady, fresh := 0.0, 0.0, 0.0 // hosts; fresh ones are in their apply window
	for step := range 120 {                 // ten minutes each
		steady, fresh = patched, 0
		if step%6 == 0 && patched < 900 {
			fresh, patched = 100, patched+100
		}
		e = observe(t, e, Look{Exposure: []Exposure{{Baseline: base, ApplyHours: fresh / 6, SteadyHours: steady / 6}}})
		for range draw(rng, hosts*perHour/6) {
			c := Crash{Kind: CrashControl, Patched: steady, Control: hosts - patched}
			switch who := rng.Float64() * hosts; {
			case who < steady:
				c.Kind = CrashSteady
			case who < patched:
				c.Kind = CrashApply
			}
			c.Host = fleet.HostID(strconv.Itoa(rng.IntN(hosts)))
			e = observe(t, e, Look{Crashes: []Crash{c}})
			highest = max(highest, value(e))
		}
	}
	return highest
}

func draw(rng *rand.Rand, mean float64) int {
	n := 0
	for t := rng.ExpFloat64(); t < mean; t += rng.ExpFloat64() {
		n++
	}
	return n
}

// Ville's bound, measured: looking after every crash, at most one rollout in
// twenty ever reaches 20. The same walk with the compensation left out of the
// steady part breaks the bound many times over.
func TestFalseAlarmBound(t *testing.T) {
	const walks = 1500
	over := func(value func(Evidence) float64) int {
		rng := rand.New(rand.NewPCG(1, 2))
		n := 0
		for range walks {
			if walk(t, rng, value) >= HoldAt {
				n++
			}
		}
		return n
	}
	// 75 are allowed on average; three standard deviations more is 100.
	if n := over(Evidence.E); n > 100 {
		t.Errorf("%d of %d good rollouts reached %d", n, walks, HoldAt)
	}
	uncompensated := func(e Evidence) float64 {
		e.Steady.Expected = 0
		return e.E()
	}
	if n := over(uncompensated); n < walks/2 {
		t.Errorf("without compensation only %d of %d walks alarm: the control does not show", n, walks)
	}
}

// What Required promises is enough, most of the time, when the whole gate is
// asked: three e-values, mixtures and the two-host rule.
func TestRequiredExposureHasPower(t *testing.T) {
	levels, err := NewLevels(0.01, 1)
	if err != nil {
		t.Fatal(err)
	}
	const walks = 2000
	for _, ratio := range []float64{2, 3, 10, 88, 350} {
		rng := rand.New(rand.NewPCG(3, uint64(ratio)))
		m := levels.Required(ratio)
		caught := 0
		for range walks {
			n := draw(rng, ratio*m)
			e := Evidence{Steady: Tally{Crashes: n, Expected: m}, Hosts: make([]fleet.HostID, min(n, 2))}
			if ratio > 10 {
				e.Apply, e.Steady = e.Steady, Tally{}
			}
			if level, _ := Judge(e, levels); level == LevelRevert {
				caught++
			}
		}
		if caught < walks*4/5 {
			t.Errorf("ratio %v at %.3g expected crashes: %d of %d caught, want four fifths", ratio, m, caught, walks)
		}
		t.Logf("ratio %v: %.1f %% caught at %.3g expected crashes", ratio, 100*float64(caught)/walks, m)
	}
}
