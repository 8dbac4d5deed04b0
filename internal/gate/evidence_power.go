package gate

import (
	"math"

	"afloat/internal/policy"
)

const (
	// planning is what the mixture over ratios, the mean of three e-values and
	// being caught in 80 % of cases, not just on average, cost on top of Wald's
	// mean for one known ratio. Twice, as one would guess, gives only 60 %.
	planning = 3
	// power is the chance with which the crashes that a revert needs must have
	// happened at the required exposure.
	power = 0.9
)

// Required is the exposure at which hosts that crash ratio times as often as
// the upper end of the baseline are found out, as the crashes that this upper
// end expects in it; +Inf for a ratio of 1 or less. It is the larger of two:
// the mean exposure of a sequential test with that ratio known, A. Wald's
// ln(1/alpha) / (R ln R - R + 1) (1947), times 3 for planning; and what brings
// one crash more than the distinct hosts that a revert needs, with a chance of
// 90 %.
func (l Levels) Required(ratio float64) float64 {
	if !(ratio > 1) {
		return math.Inf(1)
	}
	wald := math.Log(l.Revert) / (ratio*math.Log(ratio) - ratio + 1)
	return max(planning*wald, l.mean()/ratio)
}

// meanOfThree is meanFor(3), which every turn asks for.
const meanOfThree = 5.322320

// mean brings one crash more than the hosts that a revert needs.
func (l Levels) mean() float64 {
	if l.Hosts == 2 {
		return meanOfThree
	}
	return meanFor(l.Hosts + 1)
}

// RequiredApplies is how many hosts must have the patch, and their apply
// windows behind them, to find out Aim.OnApply.
func (l Levels) RequiredApplies(b Baseline) float64 {
	p := b.perApply()
	return l.Required(1+l.Aim.OnApply/p) / p
}

// RequiredHostDays is the steady exposure that finds out Aim.Ratio.
func (l Levels) RequiredHostDays(b Baseline) float64 {
	return l.Required(l.Aim.Ratio) / b.Upper() * 365
}

// Need is the exposure without which a wave cannot end with go.
type Need struct {
	// Hosts through their apply window, and host-days after it.
	Hosts, HostDays float64
}

// Needed is the exposure that a policy's gate needs. The error is a baseline
// or a chance that cannot be.
func Needed(g policy.Gate) (Need, error) {
	levels, err := LevelsOf(g)
	if err != nil {
		return Need{}, err
	}
	b := Baseline{PerHostYear: g.Crashes.Baseline, Spread: g.Crashes.Spread}
	if err := b.Validate(); err != nil {
		return Need{}, err
	}
	return Need{levels.RequiredApplies(b), levels.RequiredHostDays(b)}, nil
}

// DetectableOnApply is the smallest share of hosts that die on apply which
// the evidence at hand would have shown, and 1 if not even all of them.
func (l Levels) DetectableOnApply(e Evidence) float64 {
	if !l.shows(e, 1) {
		return 1
	}
	return bisect(1e-9, 1, func(excess float64) bool { return l.shows(e, excess) })
}

// shows says that the applies seen would have shown such an excess.
func (l Levels) shows(e Evidence, excess float64) bool {
	windows := e.Apply.Hours / ApplyWindow.Hours()
	return e.Apply.Expected > 0 && l.Required(1+excess*windows/e.Apply.Expected) <= e.Apply.Expected
}

// DetectableRatio is the smallest steady crash rate, over the upper end of the
// baseline, which the evidence at hand would have shown; +Inf if over a thousand.
func (l Levels) DetectableRatio(e Evidence) float64 {
	if l.Required(absurd) > e.Steady.Expected {
		return math.Inf(1)
	}
	return bisect(1, absurd, func(ratio float64) bool { return l.Required(ratio) <= e.Steady.Expected })
}

func (l Levels) enoughApply(e Evidence) bool  { return l.shows(e, l.Aim.OnApply) }
func (l Levels) enoughSteady(e Evidence) bool { return l.Required(l.Aim.Ratio) <= e.Steady.Expected }

// meanFor is the Poisson mean at which n or more events come with a chance of power.
func meanFor(n int) float64 {
	return bisect(1e-3, 1e3, func(mean float64) bool { return poissonTail(n, mean) >= power })
}

// poissonTail is the chance of n or more events of that mean, summed from the
// middle outwards and over the thinner side, so that small chances stay exact.
func poissonTail(n int, mean float64) float64 {
	switch {
	case n <= 0:
		return 1
	case mean <= 0:
		return 0
	case float64(n) > mean:
		sum := 0.0
		for term := poisson(n, mean); term > sum*1e-17; term *= mean / float64(n) {
			sum += term
			n++
		}
		return min(1, sum)
	}
	below := 0.0
	for term := poisson(n-1, mean); n > 0 && term > below*1e-17; term *= float64(n) / mean {
		below += term
		n--
	}
	return max(0, 1-below)
}

// poisson is the chance of exactly n events of that mean.
func poisson(n int, mean float64) float64 {
	faculty, _ := math.Lgamma(float64(n + 1))
	return math.Exp(float64(n)*math.Log(mean) - mean - faculty)
}

// bisect is the smallest x in (lo, hi] with ok(x), to within one part in a
// million, for an ok that once true stays so; hi if there is none. lo > 0.
func bisect(lo, hi float64, ok func(float64) bool) float64 {
	for hi/lo > 1+1e-6 {
		mid := math.Sqrt(lo * hi)
		if ok(mid) {
			hi = mid
		} else {
			lo = mid
		}
	}
	return hi
}
