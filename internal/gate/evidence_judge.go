package gate

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"afloat/internal/fleet"
)

// HoldAt is the e-value at which admissions stop: at most one good rollout in
// twenty ever gets there.
const HoldAt = 20

// Level is what evidence amounts to.
type Level string

const (
	// LevelGo: enough exposure to have seen the excess aimed at, and it is not there.
	LevelGo Level = "go"
	// LevelInconclusive: nothing bad seen, but not enough exposure to have seen it. Never green.
	LevelInconclusive Level = "inconclusive"
	// LevelHold: admit nobody until the evidence falls or a person decides; also without data.
	LevelHold Level = "hold"
	// LevelRevert: take the patch off.
	LevelRevert Level = "revert"
)

// Levels are the e-values that verdicts turn at, and the excess that a wave
// must have been able to show.
type Levels struct {
	Hold   float64 `json:"hold"`
	Revert float64 `json:"revert"`
	// Hosts is how many distinct hosts must have crashed before a revert: one
	// host can be broken by itself.
	Hosts int `json:"hosts"`
	// Aim decides between go and inconclusive.
	Aim Aim `json:"aim"`
}

// Aim is the smallest harm that a rollout wants to be sure of not doing.
type Aim struct {
	// OnApply is in crashes per host the patch is applied to.
	OnApply float64 `json:"on_apply"`
	// Ratio is the steady crash rate over the upper end of the baseline.
	Ratio float64 `json:"ratio"`
}

// DefaultAim is one host in a thousand on apply, and three times the baseline.
func DefaultAim() Aim { return Aim{OnApply: 1.0 / 1000, Ratio: 3} }

// NewLevels are the levels for a chance of at most falseRevert (0 to 1) that a
// patch which crashes nobody is ever reverted, shared evenly over the signals
// that can each cause a revert (by the union bound).
func NewLevels(falseRevert float64, signals int) (Levels, error) {
	if !(falseRevert > 0 && falseRevert < 1) || signals < 1 {
		return Levels{}, fmt.Errorf("%w: false revert chance %v over %d signals", ErrBadEvidence, falseRevert, signals)
	}
	revert := float64(signals) / falseRevert
	return Levels{
		Hold:   min(HoldAt*float64(signals), revert),
		Revert: revert,
		Hosts:  2,
		Aim:    DefaultAim(),
	}, nil
}

// Reason is why Judge says what it says, for people.
type Reason struct {
	// E is the e-value, at most math.MaxFloat64.
	E    float64 `json:"e"`
	Text string  `json:"text"`
	// Hosts are those that crashed with the patch.
	Hosts []fleet.HostID `json:"hosts,omitempty"`
}

// Judge says what the evidence amounts to. Ask it once hosts run the patch:
// exposure of nobody is no data, and no data holds.
func Judge(e Evidence, l Levels) (Level, Reason) {
	log := e.Log()
	level, value := l.level(e, log), min(math.Exp(log), math.MaxFloat64)
	text := e.sentence(value)
	switch {
	case level == LevelHold && e.blank():
		text = "no data: no host has reported since the patch was applied"
	case level == LevelHold && value >= l.Revert:
		text += fmt.Sprintf("; %d of %d hosts that a revert needs", len(e.Hosts), l.Hosts)
	case level == LevelInconclusive:
		text += "; " + l.lacking(e)
	}
	return level, Reason{E: value, Text: text, Hosts: e.Hosts}
}

func (l Levels) level(e Evidence, log float64) Level {
	switch {
	case log >= math.Log(l.Revert) && len(e.Hosts) >= l.Hosts:
		return LevelRevert
	case log >= math.Log(l.Hold) || e.blank():
		return LevelHold
	case !l.enoughApply(e) || !l.enoughSteady(e):
		return LevelInconclusive
	}
	return LevelGo
}

// blank says that nothing at all was seen.
func (e Evidence) blank() bool {
	return e.Apply.Hours == 0 && e.Steady.Hours == 0 && len(e.Hosts) == 0
}

// lacking says what a wave was too small or too short to show.
func (l Levels) lacking(e Evidence) string {
	var parts []string
	if !l.enoughApply(e) {
		parts = append(parts, fmt.Sprintf("too few hosts to tell if 1 in %s crashes on apply (%s)",
			count(1/l.Aim.OnApply), oneIn(l.DetectableOnApply(e))))
	}
	if !l.enoughSteady(e) {
		parts = append(parts, fmt.Sprintf("too little time to tell if they crash %s times as often as healthy ones may (%s)",
			short(l.Aim.Ratio), times(l.DetectableRatio(e))))
	}
	return strings.Join(parts, "; ")
}

func oneIn(excess float64) string {
	if excess >= 1 {
		return "not even all of them would do"
	}
	return fmt.Sprintf("1 in %s would have shown", count(math.Floor(1/excess)))
}

// absurd is a ratio beyond which the number tells a person nothing.
const absurd = 1000

func times(ratio float64) string {
	if ratio > absurd {
		return fmt.Sprintf("not even %s times would have shown", count(absurd))
	}
	return short(ratio) + " times would have shown"
}

// String is the evidence in one sentence: "3 crashes on 1,240 hosts in their
// first 10 minutes, 0.002 expected; at most 1 in 212 harmless rollouts ever
// looks this bad (E=212)". What is expected is at the upper end of the baseline.
func (e Evidence) String() string { return e.sentence(e.E()) }

func (e Evidence) sentence(value float64) string {
	if e.Apply.Crashes+e.Steady.Crashes == 0 {
		return e.quiet()
	}
	var parts []string
	if e.Apply.Crashes > 0 {
		parts = append(parts, fmt.Sprintf("%s %s, %s expected", crashes(e.Apply.Crashes), e.Apply.onHosts(), short(e.Apply.Expected)))
	}
	if e.Steady.Crashes > 0 {
		parts = append(parts, fmt.Sprintf("%s in %s after that time, %s expected", crashes(e.Steady.Crashes), e.Steady.time(), short(e.Steady.Expected)))
	}
	if v := e.Control; v.Patched > 0 {
		parts = append(parts, fmt.Sprintf("%d of %s on hosts with the patch, %s expected by their share",
			v.Patched, crashes(v.Patched+v.Control), short(v.Share)))
	}
	return strings.Join(append(parts, chance(value)), "; ")
}

// quiet is the evidence of no crash.
func (e Evidence) quiet() string {
	const aMinute = 1.0 / 60
	switch {
	case e.Apply.Hours+e.Steady.Hours < aMinute:
		return "no host has run the patch for a minute yet"
	case e.Apply.Hours < 0.95*ApplyWindow.Hours():
		return fmt.Sprintf("no crash, but the patch has run for only %s minutes in all", short(60*(e.Apply.Hours+e.Steady.Hours)))
	}
	text := "no crash " + e.Apply.onHosts()
	if e.Steady.Hours >= 1 {
		text += fmt.Sprintf(", nor in %s after that", e.Steady.time())
	}
	return fmt.Sprintf("%s (%s expected)", text, short(e.Apply.Expected+e.Steady.Expected))
}

// onHosts is the exposure of an apply window as so many hosts that went through it.
func (t Tally) onHosts() string {
	n := int(math.Round(t.Hours / ApplyWindow.Hours()))
	whose := "their"
	if n == 1 {
		whose = "its"
	}
	return fmt.Sprintf("on %s in %s first 10 minutes", hosts(n), whose)
}

// time is the exposure as hours or days of all hosts together.
func (t Tally) time() string {
	if t.Hours < 48 {
		return short(t.Hours) + " host-hours"
	}
	return count(t.Hours/24) + " host-days"
}

// chance says what E means, by Ville's inequality.
func chance(e float64) string {
	if e < 2 {
		return "E=" + eText(e)
	}
	return fmt.Sprintf("at most 1 in %s harmless rollouts ever looks this bad (E=%s)", eText(e), eText(e))
}

// eText keeps E readable: nobody needs to tell 10 million from more.
func eText(e float64) string {
	if e >= 1e7 {
		return "over 10 million"
	}
	if e >= 100 {
		return count(math.Floor(e))
	}
	return short(e)
}

func crashes(n int) string {
	if n == 1 {
		return "1 crash"
	}
	return count(float64(n)) + " crashes"
}

// short prints two significant digits, never as a power of ten: 0.002, 1.7, 23.
func short(x float64) string {
	if x == 0 || x >= 100 {
		return count(x)
	}
	digits := 1 - int(math.Floor(math.Log10(x)))
	s := strconv.FormatFloat(x, 'f', max(0, digits), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// count prints a whole number with commas: 1,240.
func count(x float64) string {
	s := strconv.FormatFloat(math.Round(x), 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
