package main

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/gate"
)

func TestUpperBound(t *testing.T) {
	for _, tt := range []struct {
		k, n int
		want float64
	}{
		{0, 100, 1 - math.Pow(0.05, 1.0/100)}, // closed form
		{1, 10, 0.39416},                      // tables of Clopper and Pearson
		{5, 10, 0.77756},
		{10, 10, 1},
		{0, 2000, 0.0014968},
	} {
		if got := upperBound(tt.k, tt.n); math.Abs(got-tt.want) > 1e-5 {
			t.Errorf("upperBound(%d, %d) = %v, want %v", tt.k, tt.n, got, tt.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.8: 4, 0.81: 5, 1: 5} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %v = %v, want %v", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("quantile of nothing = %v", got)
	}
}

// The luck has the rates that the world says: the mean of many draws is within
// four standard deviations of what is expected.
func TestLuckHasTheStatedRates(t *testing.T) {
	w := product(0.2)
	w.truth, w.swing, w.rackLoss = 3, 0.8, 0.5
	w.patch = harm{ratio: 4, onApply: 0.001, leak: 0.01}
	l := luck{w: w, rng: rand.New(rand.NewPCG(7, 7))}
	check := func(name string, got int, want, each float64) {
		t.Helper()
		if math.Abs(float64(got)-want) > 4*math.Sqrt(want*each) {
			t.Errorf("%s: %d, want about %.0f", name, got, want)
		}
	}
	var base, caused, lost int
	const days = 30
	for _, c := range l.between(0, days*24, 50_000) {
		switch {
		case c.outage > 0:
			lost++
		case c.caused:
			caused++
		default:
			base++
		}
	}
	check("baseline", base, 0.6*100_000*days/365, 1)
	check("caused", caused, 0.6*3*50_000*days/365, 1)
	check("outage crashes", lost, 0.5*2500*rackHosts*days/365, rackHosts)
	var onApply, leaks int
	for _, c := range l.applying(cohort{at: 5, to: 100_000}) {
		if c.at > 6 {
			leaks++
		} else {
			onApply++
		}
	}
	check("crashes on apply", onApply, 100, 1)
	check("leaks", leaks, 1000, 1)
}

// The same seed gives the same report, however many rollouts play at a time.
func TestReportIsReproducible(t *testing.T) {
	text := func(parallel int) string {
		var out bytes.Buffer
		b := bench{runs: 4, badRuns: 4, seed: 9, parallel: parallel, out: &out}
		if err := b.report(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	one := text(1)
	if diff := cmp.Diff(one, text(3)); diff != "" {
		t.Errorf("three at a time differ from one:\n%s", diff)
	}
	lines := strings.Split(strings.TrimSpace(one), "\n")
	for i, name := range []string{"gate_false_revert_pct_max", "gate_crashes_p95_max", "gate_recall_pct_min"} {
		if got := lines[len(lines)-3+i]; !strings.HasPrefix(got, "bench "+name+" ") {
			t.Errorf("line %d from the end is %q, want figure %s", 3-i, got, name)
		}
	}
}

func play(t *testing.T, w world, runs int) []outcome {
	t.Helper()
	b := bench{seed: 1, parallel: 2}
	outs, err := b.play(w, runs)
	if err != nil {
		t.Fatal(err)
	}
	return outs
}

// The figures that are promised, on fewer runs. The control shows that the
// same bench does see a gate that reverts good patches: one that was told a
// tenth of the baseline, with no interval.
func TestPromises(t *testing.T) {
	good := play(t, product(0.05), 300)
	if n := stopped(good, ruleGate); n > 8 {
		t.Errorf("%d of 300 good patches reverted", n)
	}
	misled := product(0.2)
	misled.truth, misled.spread = 10, 1
	if n := stopped(play(t, misled, 50), ruleGate); n < 45 {
		t.Errorf("control: a gate told a tenth of the baseline reverted only %d of 50", n)
	}
	bad := product(0.05)
	bad.patch = harm{onApply: 0.001}
	outs := play(t, bad, 300)
	if n := stopped(outs, ruleGate); n != 300 {
		t.Errorf("%d of 300 patches that kill 1/1000 on apply caught", n)
	}
	if got := quantile(pick(outs, ruleGate, crashesOf), 0.95); got > 6 {
		t.Errorf("crashes p95 %v", got)
	}
}

// The gate holds by its cap too: a good patch on a fleet that crashes as often
// as the interval allows is held more often than by evidence alone, and none is
// reverted that was not held.
func TestHoldsCountTheCap(t *testing.T) {
	w := product(0.2)
	w.truth = 3
	outs := play(t, w, 100)
	if held, reverted := stopped(outs, ruleHold), stopped(outs, ruleGate); held < 15 || reverted > 3 {
		t.Errorf("%d of 100 good patches held and %d reverted, want many held", held, reverted)
	}
	w.patch = harm{onApply: 0.1}
	for i, o := range play(t, w, 50) {
		if hold, revert := o.stops[ruleHold], o.stops[ruleGate]; !hold.stopped || hold.hours > revert.hours {
			t.Errorf("rollout %d reverted after %v hours and held after %v (%v)", i, revert.hours, hold.hours, hold.stopped)
		}
	}
}

func TestSmallFleetIsNeverGreen(t *testing.T) {
	w := product(0.05)
	w.hosts, w.stages = 2000, []int{10, 100, 500, 1000, 2000}
	for _, o := range play(t, w, 100) {
		for stage, level := range o.levels {
			if level == gate.LevelGo {
				t.Fatalf("stage %d of a 2,000-host fleet is green", stage)
			}
		}
	}
}

// Not waiting for late reports costs hosts: the reason for Batch.Wait.
func TestWaitingSavesHosts(t *testing.T) {
	w := product(0.05)
	w.patch = harm{onApply: 0.001}
	w.delay = [2]float64{15 * minute, 30 * minute}
	w.limit = 30 * minute
	waits := quantile(pick(play(t, w, 200), ruleGate, crashesOf), 0.95)
	w.limit = settle
	hurries := quantile(pick(play(t, w, 200), ruleGate, crashesOf), 0.95)
	if waits > 6 || hurries < waits+4 {
		t.Errorf("crashes p95: %v waiting, %v not", waits, hurries)
	}
}

// A rack that loses power must not stop a rollout. Without the domain rule
// the same outages stop it: the control.
func TestOutagesDoNotStop(t *testing.T) {
	w := product(0.05)
	w.rackLoss, w.rowLoss, w.together = 0.5, 0.2, true
	outs := play(t, w, 100)
	if n := stopped(outs, ruleGate); n > 3 {
		t.Errorf("%d of 100 good patches reverted because of outages", n)
	}
	if n := stopped(outs, ruleNaive1k); n < 50 {
		t.Errorf("control: only %d of 100 stopped by counting each host", n)
	}
}
