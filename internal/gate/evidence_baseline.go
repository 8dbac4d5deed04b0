package gate

import (
	"fmt"
	"math"
	"time"
)

// hoursPerYear is that of a year of 365 days, as in "crashes per host-year".
const hoursPerYear = 365 * 24

// DefaultSpread is how far the true rate may lie above the point estimate
// before the baseline itself is blamed on the patch: past rates drift with
// load, hardware and season. Excess inside it is the control arm's job.
const DefaultSpread = 3

// Baseline is how often healthy hosts of one class crash, as an interval. The
// tests run against its upper end. It must be measured through the same Filter
// that counts a rollout's crashes.
type Baseline struct {
	// PerHostYear is the point estimate in crashes per host and year.
	PerHostYear float64 `json:"per_host_year"`
	// Spread times PerHostYear is the upper end; 0 means DefaultSpread.
	Spread float64 `json:"spread,omitempty"`
	// ApplyFloor is the share of applies known to end in a crash with any
	// patch, for instance because of a firmware fault. Usually 0.
	ApplyFloor float64 `json:"apply_floor,omitempty"`
}

// Validate refuses a baseline against which nothing can be judged. A rate of 0
// is one: under it the first crash would be infinite evidence.
func (b Baseline) Validate() error {
	switch {
	case !(b.PerHostYear > 0) || math.IsInf(b.PerHostYear, 1):
		return fmt.Errorf("%w: baseline of %v crashes per host-year", ErrBadEvidence, b.PerHostYear)
	case b.Spread != 0 && !(b.Spread >= 1) || math.IsInf(b.Spread, 1):
		return fmt.Errorf("%w: baseline spread of %v, want at least 1", ErrBadEvidence, b.Spread)
	case !(b.ApplyFloor >= 0 && b.ApplyFloor < 1):
		return fmt.Errorf("%w: apply floor of %v, want 0 to 1", ErrBadEvidence, b.ApplyFloor)
	}
	return nil
}

// Upper is the upper end of the interval in crashes per host-year.
func (b Baseline) Upper() float64 {
	if b.Spread == 0 {
		return b.PerHostYear * DefaultSpread
	}
	return b.PerHostYear * b.Spread
}

// Expected is the mean number of crashes in so many host-hours at the upper end.
func (b Baseline) Expected(hostHours float64) float64 {
	return b.Upper() * hostHours / hoursPerYear
}

// perApply is the mean number of crashes in one host's whole apply window.
func (b Baseline) perApply() float64 {
	return b.Expected(ApplyWindow.Hours()) + b.ApplyFloor
}

// The prior of EstimateBaseline: ten host-years that saw half a crash. Thin on
// purpose, so that a month of a hundred hosts already outweighs it.
const (
	priorCrashes   = 0.5
	priorHostYears = 10
)

// EstimateBaseline turns a class's history (90 days or more) into a Baseline
// by a Gamma prior, the conjugate of Poisson counts. The interval reaches to
// the 97.5 % point of the posterior where that is above DefaultSpread times
// its mean, which is so only while history is thin.
func EstimateBaseline(crashes int, exposure time.Duration, hosts int) (Baseline, error) {
	years := exposure.Hours() / hoursPerYear * float64(hosts)
	if crashes < 0 || exposure < 0 || hosts < 0 {
		return Baseline{}, fmt.Errorf("%w: %d crashes in %v on %d hosts", ErrBadEvidence, crashes, exposure, hosts)
	}
	shape := priorCrashes + float64(crashes)
	return Baseline{
		PerHostYear: shape / (priorHostYears + years),
		Spread:      max(DefaultSpread, gammaUpper(shape)/shape),
	}, nil
}

// gammaUpper is the 97.5 % quantile of the Gamma distribution of that shape and
// rate 1, by the cube-root normal approximation of E. B. Wilson and M. M.
// Hilferty (1931): within 2 % from shape 0.5 up.
func gammaUpper(shape float64) float64 {
	const z = 1.959964
	root := 1 - 1/(9*shape) + z/(3*math.Sqrt(shape))
	return shape * root * root * root
}
