// Package gate turns counts of crashes into a verdict with its reasons.
package gate

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"afloat/internal/fleet"
)

// ApplyWindow is how long after apply or boot a crash is laid at the door of
// that act. Exposure and crashes inside it go to Evidence.Apply, later ones to
// Evidence.Steady and Evidence.Control.
const ApplyWindow = 10 * time.Minute

// hostsNamed bounds how many crashed hosts Evidence remembers by name. The
// two-host rule and a person who reads the verdict need no more.
const hostsNamed = 16

// ErrBadEvidence says that a Look holds numbers that cannot be, such as a
// negative exposure. Nothing of that Look was counted.
var ErrBadEvidence = errors.New("evidence is not usable")

// Evidence is everything that one rollout has shown about crashes, as
// sufficient statistics: it does not grow with the fleet or with time, goes to
// JSON and back without loss, and equals itself after a replay of the same
// Looks. The zero value is a rollout that nobody has looked at. It is kept per
// rollout, never reset per wave: Ville's inequality covers any number of looks
// at one process, not fresh starts.
//
// The number drawn from it is an e-value: a non-negative quantity whose mean
// is at most 1 at any time while the patch crashes no more hosts than the
// baseline. By Ville's inequality (J. Ville, 1939) the chance that it ever
// reaches x is then at most 1/x, however often one looks. The mean of e-values
// is an e-value (V. Vovk and R. Wang, "E-values: calibration, combination and
// applications", 2021), which allows both the mixtures over rate ratios and
// the mean of the three parts.
type Evidence struct {
	// Apply is the first ApplyWindow on each host.
	Apply Tally `json:"apply"`
	// Steady is the time after it.
	Steady Tally `json:"steady"`
	// Control compares crashes in the steady time with hosts that do not yet
	// run the patch.
	Control Contest `json:"control"`
	// Hosts are the distinct patched hosts that crashed, in the order they
	// were counted, at most 16.
	Hosts []fleet.HostID `json:"hosts,omitempty"`
}

// Tally is a count of crashes against what the baseline explains.
type Tally struct {
	Crashes int `json:"crashes"`
	// Expected is the mean number of crashes at the upper end of the baseline.
	Expected float64 `json:"expected"`
	// Hours is the exposure in host-hours.
	Hours float64 `json:"hours"`
}

// Contest is the comparison of two arms that run side by side.
type Contest struct {
	Patched int `json:"patched"`
	Control int `json:"control"`
	// Share is how many of these crashes fall to the patched arm if the patch
	// changes nothing.
	Share float64 `json:"share"`
	// Logs are the log likelihood ratios, one for each of steadyRatios.
	Logs [6]float64 `json:"logs"`
}

// CrashKind says where a counted crash belongs.
type CrashKind string

const (
	// CrashApply happened within ApplyWindow of apply or boot on a patched host.
	CrashApply CrashKind = "apply"
	// CrashSteady happened later on a patched host.
	CrashSteady CrashKind = "steady"
	// CrashControl happened on a host that does not run the patch.
	CrashControl CrashKind = "control"
)

// Crash is one crash that passed the Filter.
type Crash struct {
	Host fleet.HostID `json:"host"`
	Kind CrashKind    `json:"kind"`
	// Patched and Control are the hosts of the crashed host's class that were
	// at risk in each arm when it happened, not when it was reported. Patched
	// counts only hosts past their ApplyWindow. Either being 0 means that
	// there was nothing to compare with.
	Patched float64 `json:"patched"`
	Control float64 `json:"control"`
}

// Exposure is what the patched hosts of one class have lived through since the
// last Look, as far as they have reported: hosts not heard from add nothing.
type Exposure struct {
	Baseline Baseline `json:"baseline"`
	// Applied is how many hosts the patch was newly applied to. It matters
	// only where the baseline has an apply floor.
	Applied int `json:"applied"`
	// ApplyHours and SteadyHours are host-hours inside and after ApplyWindow.
	ApplyHours  float64 `json:"apply_hours"`
	SteadyHours float64 `json:"steady_hours"`
}

// Look is what has become known since the one before.
type Look struct {
	Exposure []Exposure `json:"exposure,omitempty"`
	Crashes  []Crash    `json:"crashes,omitempty"`
}

// applyRatios are the crash rates that the apply window is tested for, as
// multiples of the baseline: from 10 to where one host in a hundred dies.
func applyRatios() [4]float64 { return [...]float64{10, 100, 1e3, 1e4} }

// steadyRatios are those for the time after.
func steadyRatios() [6]float64 { return [...]float64{2, 3, 5, 10, 30, 100} }

// Observe returns the evidence after one more Look; e is left as it was.
// Counting exposure earlier than the crashes that happened in it (they are
// reported late) only lowers the e-value, so late reports cause no false alarm.
// The error wraps ErrBadEvidence and comes with e unchanged.
func (e Evidence) Observe(l Look) (Evidence, error) {
	next := e
	next.Hosts = slices.Clip(e.Hosts)
	for i, x := range l.Exposure {
		if err := next.expose(x); err != nil {
			return e, fmt.Errorf("observe exposure %d: %w", i, err)
		}
	}
	for i, c := range l.Crashes {
		if err := next.count(c); err != nil {
			return e, fmt.Errorf("observe crash %d: %w", i, err)
		}
	}
	return next, nil
}

func (e *Evidence) expose(x Exposure) error {
	if err := x.Baseline.Validate(); err != nil {
		return err
	}
	if x.Applied < 0 || !measure(x.ApplyHours) || !measure(x.SteadyHours) {
		return fmt.Errorf("%w: %d applied, %v and %v host-hours", ErrBadEvidence, x.Applied, x.ApplyHours, x.SteadyHours)
	}
	e.Apply.Hours += x.ApplyHours
	e.Apply.Expected += x.Baseline.Expected(x.ApplyHours) + x.Baseline.ApplyFloor*float64(x.Applied)
	e.Steady.Hours += x.SteadyHours
	e.Steady.Expected += x.Baseline.Expected(x.SteadyHours)
	return nil
}

func (e *Evidence) count(c Crash) error {
	if !measure(c.Patched) || !measure(c.Control) {
		return fmt.Errorf("%w: %v patched and %v control hosts at risk", ErrBadEvidence, c.Patched, c.Control)
	}
	switch c.Kind {
	case CrashApply:
		e.Apply.Crashes++
	case CrashSteady:
		e.Steady.Crashes++
		e.Control.add(c, true)
	case CrashControl:
		e.Control.add(c, false)
		return nil
	default:
		return fmt.Errorf("%w: crash of kind %q", ErrBadEvidence, c.Kind)
	}
	if len(e.Hosts) < hostsNamed && !slices.Contains(e.Hosts, c.Host) {
		e.Hosts = append(e.Hosts, c.Host)
	}
	return nil
}

// add multiplies in one crash. Given that a crash happened in either arm, and
// that one moment's crash rate is the same for all hosts of a class, it falls
// to the patched arm with probability p = Xp/(Xp+Xc), whatever that rate is:
// waves of load cancel. Were patched hosts to crash r times as often, it would
// be rXp/(rXp+Xc). The product of the ratios is a likelihood ratio, hence an
// e-value (M. Lindon and A. Malek, "Anytime-valid inference for multinomial
// count data", arXiv 2011.03567; M. Lindon and N. Kallus, "Anytime-valid
// inference on two time-inhomogeneous Poisson processes", arXiv 2410.09282).
func (v *Contest) add(c Crash, patched bool) {
	if c.Patched == 0 || c.Control == 0 {
		return
	}
	all := c.Patched + c.Control
	v.Share += c.Patched / all
	if patched {
		v.Patched++
	} else {
		v.Control++
	}
	for i, r := range steadyRatios() {
		v.Logs[i] += math.Log(all / (r*c.Patched + c.Control))
		if patched {
			v.Logs[i] += math.Log(r)
		}
	}
}

// measure says that x can be an amount of something.
func measure(x float64) bool { return x >= 0 && !math.IsInf(x, 1) }

// LogApply is the natural logarithm of the e-value of the apply window.
func (e Evidence) LogApply() float64 {
	r := applyRatios()
	return e.Apply.log(r[:])
}

// LogSteady is that of the time after it, against the baseline.
func (e Evidence) LogSteady() float64 {
	r := steadyRatios()
	return e.Steady.log(r[:])
}

// LogControl is that of the time after it, against the control arm.
func (e Evidence) LogControl() float64 { return logMeanExp(e.Control.Logs[:]) }

// Log is the natural logarithm of the e-value that verdicts go by: the mean of
// the three.
func (e Evidence) Log() float64 {
	return logMeanExp([]float64{e.LogApply(), e.LogSteady(), e.LogControl()})
}

// E is the e-value itself, at most math.MaxFloat64.
func (e Evidence) E() float64 { return min(math.Exp(e.Log()), math.MaxFloat64) }

// log is that of the mean over r of r^n·exp(-(r-1)m): the likelihood ratio of
// n crashes under a Poisson mean of r·m against m, with the chances mixed
// evenly over r. With a true mean of at most m its own mean is at most 1: the
// exponential pays for what a crash may win. The count may also be a sum of
// rare yes-or-no events with chances that add up to m, as 1+(r-1)p <= exp((r-1)p).
func (t Tally) log(ratios []float64) float64 {
	logs := make([]float64, 0, 8)
	for _, r := range ratios {
		logs = append(logs, float64(t.Crashes)*math.Log(r)-(r-1)*t.Expected)
	}
	return logMeanExp(logs)
}

// logMeanExp is the logarithm of the mean of exp(logs), without overflow.
func logMeanExp(logs []float64) float64 {
	top := slices.Max(logs)
	sum := 0.0
	for _, l := range logs {
		sum += math.Exp(l - top)
	}
	return top + math.Log(sum/float64(len(logs)))
}
