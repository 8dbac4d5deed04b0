package gate

import (
	"fmt"
	"math"

	"afloat/internal/policy"
)

// Sight is the smallest harm that would have shown by some time.
type Sight struct {
	// OnApply is the share of hosts that crash on apply, 1 if not even all of them would show.
	OnApply float64 `json:"on_apply"`
	// Ratio is the steady crash rate over that of healthy hosts, 0 if none below 1,000 times would show.
	Ratio float64 `json:"ratio,omitempty"`
}

// Foresee is what will have shown after so many host-hours of apply windows
// and of the time after. The error is a baseline or a chance that cannot be.
func Foresee(g policy.Gate, applyHours, steadyHours float64) (Sight, error) {
	levels, err := LevelsOf(g)
	if err != nil {
		return Sight{}, err
	}
	base := Baseline{PerHostYear: g.Crashes.Baseline, Spread: g.Crashes.Spread}
	if err := base.Validate(); err != nil {
		return Sight{}, err
	}
	e := Evidence{Apply: Tally{Hours: applyHours, Expected: base.Expected(applyHours)}, Steady: Tally{Hours: steadyHours, Expected: base.Expected(steadyHours)}}
	s := Sight{OnApply: levels.DetectableOnApply(e)}
	if r := levels.DetectableRatio(e); !math.IsInf(r, 1) {
		s.Ratio = r
	}
	return s, nil
}

// String is the sight in words.
func (s Sight) String() string {
	if s.OnApply >= 1 {
		return "not even a crash on every apply would show"
	}
	text := fmt.Sprintf("crashes on 1 in %s applies would show", count(math.Floor(1/s.OnApply)))
	if s.Ratio > 0 {
		text += ", and " + short(s.Ratio) + " times the crashes of healthy hosts"
	}
	return text
}
