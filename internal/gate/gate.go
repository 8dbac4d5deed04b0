package gate

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/health"
	"afloat/internal/policy"
)

// Facts are what a verdict rests on.
type Facts struct {
	// Exposed is how many hosts ever ran the patch in this rollout.
	Exposed int
	// HoursWithin is their host-hours, each at most the cap's time after apply.
	HoursWithin float64
	// Crashed are the hosts that crashed within the cap's time after apply.
	Crashed []fleet.HostID
	// Signatures are the crash signatures on patched hosts; Elsewhere those
	// seen without the patch.
	Signatures []Signature
	// Failed is how many hosts of the open wave could not apply, of at most Allowed.
	Failed, Allowed int
	// NoData says which signal cannot be read, "" when all can.
	NoData string
	// Evidence is what the e-values rest on, nil when nobody runs the patch yet.
	Evidence *Evidence
	// Terse leaves out the words for evidence that asks for nothing, which take
	// longer than the verdict itself.
	Terse bool
	// Name is what people call a host; nil leaves its id.
	Name func(fleet.HostID) string
}

// Signature is one crash signature and where it was seen.
type Signature struct {
	Sum       string         `json:"sum"`
	Hosts     []fleet.HostID `json:"hosts"`
	Elsewhere bool           `json:"elsewhere,omitempty"` // also on a host without the patch
}

// Rule names what spoke in a verdict.
type Rule string

const (
	RuleCap       Rule = "cap"
	RuleEvidence  Rule = "evidence"
	RuleSignature Rule = "signature"
	RuleFailures  Rule = "failures"
	RuleNoData    Rule = "no data"
)

// Finding is one rule's word, in a sentence for people.
type Finding struct {
	Rule  Rule   `json:"rule"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
}

// Verdict is what all rules together say: the worst of them, worst first.
type Verdict struct {
	Level    Level     `json:"level"`
	Findings []Finding `json:"findings,omitempty"`
	E        float64   `json:"e,omitempty"`
}

// String is the verdict with the sentence of the rule that decided it.
func (v Verdict) String() string {
	if len(v.Findings) == 0 {
		return string(v.Level)
	}
	return string(v.Level) + ": " + v.Findings[0].Text
}

// Why is the sentence of the rule that decided.
func (v Verdict) Why() string {
	if len(v.Findings) == 0 {
		return ""
	}
	return v.Findings[0].Text
}

// severity orders levels: what a fleet must heed first is highest.
func (l Level) severity() int {
	return slices.Index([]Level{LevelGo, LevelInconclusive, LevelHold, LevelRevert}, l)
}

// Decide judges the facts by the policy's gate.
func Decide(g policy.Gate, f Facts) Verdict {
	var v Verdict
	found, e := evidence(g, f)
	for _, one := range []*Finding{noData(g, f), hardCap(g, f), found, signatures(g, f), failures(g, f)} {
		if one != nil {
			v.Findings = append(v.Findings, *one)
		}
	}
	v.E = e
	slices.SortStableFunc(v.Findings, func(a, b Finding) int { return b.Level.severity() - a.Level.severity() })
	v.Level = LevelInconclusive
	if len(v.Findings) > 0 {
		v.Level = v.Findings[0].Level
	}
	return v
}

func noData(_ policy.Gate, f Facts) *Finding {
	if f.NoData == "" {
		return nil
	}
	return &Finding{RuleNoData, LevelHold, "no data: " + f.NoData}
}

// capShare is the part of the policy's false revert chance that the hard cap
// may use up; the evidence has the rest, so that both together keep to it.
const capShare = 0.25

// capChance is how likely n crashes may be under the baseline for the cap to
// revert on them. The cap looks at any moment and at every n. As the expected
// number only grows, the chance that n crashes ever come too early is that of
// n in one Poisson count; 1/(n(n+1)) adds up to 1 over all n.
func capChance(falseRevert float64, n int) float64 {
	return capShare * falseRevert / (float64(n) * float64(n+1))
}

// hardCap is "more than 1 per 1000: pull", with its clock and its sample: the
// hosts that crashed within the time after apply, less those that the baseline
// explains, over the hosts exposed. One crash of a hundred thousand hosts that
// ran for a day is above no cap; one of one canary minutes after apply is. In
// between, where the excess may be chance, it holds.
func hardCap(g policy.Gate, f Facts) *Finding {
	n := len(f.Crashed)
	if n == 0 || f.Exposed == 0 {
		return nil
	}
	c := g.Crashes
	expected := Baseline{PerHostYear: c.Baseline, Spread: c.Spread}.Expected(f.HoursWithin)
	excess := (float64(n) - expected) / float64(f.Exposed)
	if excess <= c.Cap.Excess {
		return nil
	}
	text := fmt.Sprintf("%s within %s of apply on %s exposed (%s), expected %s: %s per 1,000 hosts, the cap is %s",
		crashes(n), policy.Span(c.Cap.Within), hosts(f.Exposed), Some(f.Crashed, f.Name), short(expected), short(excess*1000), short(c.Cap.Excess*1000))
	if chance := poissonTail(n, expected); chance > capChance(c.FalseRevert, n) {
		return &Finding{RuleCap, LevelHold, fmt.Sprintf("%s; so many come by chance in %s %% of harmless rollouts", text, short(chance*100))}
	}
	return &Finding{RuleCap, LevelRevert, text}
}

// LevelsOf are the levels that the policy's part for the evidence gives.
func LevelsOf(g policy.Gate) (Levels, error) { return NewLevels(g.Crashes.FalseRevert*(1-capShare), 1) }

// evidence is the word of the e-values, and E itself.
func evidence(g policy.Gate, f Facts) (*Finding, float64) {
	if f.Evidence == nil || g.Crashes.FalseRevert == 0 {
		return nil, 0
	}
	levels, err := LevelsOf(g)
	if err != nil {
		return &Finding{RuleEvidence, LevelHold, err.Error()}, 0 // unknown blocks
	}
	if log := f.Evidence.Log(); f.Terse {
		if level := levels.level(*f.Evidence, log); level.severity() < LevelHold.severity() {
			return &Finding{Rule: RuleEvidence, Level: level}, min(math.Exp(log), math.MaxFloat64)
		}
	}
	level, reason := Judge(*f.Evidence, levels)
	if level == LevelHold && f.Evidence.blank() {
		level = LevelInconclusive // the hosts have only just got it
	}
	return &Finding{RuleEvidence, level, reason.Text}, reason.E
}

// signatureHosts is how many hosts a new crash signature holds at.
const signatureHosts = 2

func signatures(_ policy.Gate, f Facts) *Finding {
	for _, s := range f.Signatures {
		if len(s.Hosts) >= signatureHosts && !s.Elsewhere {
			return &Finding{RuleSignature, LevelHold, fmt.Sprintf(
				"the same new crash %.12s on %s (%s), never seen without the patch", s.Sum, hosts(len(s.Hosts)), Some(s.Hosts, f.Name))}
		}
	}
	return nil
}

func failures(_ policy.Gate, f Facts) *Finding {
	if f.Failed == 0 || f.Failed <= f.Allowed {
		return nil
	}
	return &Finding{RuleFailures, LevelHold, fmt.Sprintf("%s of this wave could not apply, at most %d may", hosts(f.Failed), f.Allowed)}
}

func hosts(n int) string {
	if n == 1 {
		return "1 host"
	}
	return count(float64(n)) + " hosts"
}

// named is how many hosts a sentence names.
const named = 3

// Some names the first few of the hosts. name may be nil.
func Some(ids []fleet.HostID, name func(fleet.HostID) string) string {
	var out []string
	for _, id := range ids[:min(named, len(ids))] {
		if name == nil {
			out = append(out, string(id))
		} else {
			out = append(out, name(id))
		}
	}
	text := strings.Join(out, ", ")
	if more := len(ids) - named; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// LookAt is the Look of one class of hosts between two moments of its exposure.
func LookAt(c policy.Crashes, e *health.Exposure, now time.Time) Look {
	apply, steady := e.Advance(now, ApplyWindow)
	if apply == 0 && steady == 0 {
		return Look{}
	}
	return Look{Exposure: []Exposure{{Baseline: Baseline{PerHostYear: c.Baseline, Spread: c.Spread},
		ApplyHours: math.Max(0, apply), SteadyHours: math.Max(0, steady)}}}
}
