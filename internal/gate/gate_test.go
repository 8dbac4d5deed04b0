package gate

import (
	"math"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/health"
	"afloat/internal/policy"
)

func usual() policy.Gate {
	return policy.Gate{Crashes: policy.Crashes{
		FalseRevert: policy.DefaultFalseRevert, Baseline: policy.DefaultBaseline, Spread: policy.DefaultSpread,
		Cap: policy.Cap{Excess: policy.DefaultExcess, Within: policy.DefaultWithin},
	}}
}

func ids(of ...fleet.HostID) []fleet.HostID { return of }

func TestDecide(t *testing.T) {
	quiet := Evidence{Apply: Tally{Expected: 0.05, Hours: 20_000.0 / 6}, Steady: Tally{Expected: 20, Hours: 1e6}}
	for _, tt := range []struct {
		name string
		f    Facts
		want Level
		rule Rule   // of the finding that decides
		text string // part of it
	}{
		{name: "nobody runs it yet", want: LevelInconclusive},
		{
			name: "just applied, no exposure yet, is not missing data", want: LevelInconclusive, rule: RuleEvidence,
			f: Facts{Exposed: 3, Evidence: &Evidence{}},
		},
		{name: "quiet and enough of it", want: LevelGo, rule: RuleEvidence, f: Facts{Exposed: 20_000, Evidence: &quiet}},
		{
			name: "one canary of one, minutes after apply", want: LevelRevert, rule: RuleCap,
			f:    Facts{Exposed: 1, HoursWithin: 0.1, Crashed: ids("a")},
			text: "1 crash within 24h of apply on 1 host exposed (a), expected 0.0000017: 1,000 per 1,000 hosts, the cap is 1",
		},
		{
			name: "one of ten after a day may be chance: 0.4 % of harmless rollouts", want: LevelHold, rule: RuleCap,
			f:    Facts{Exposed: 10, HoursWithin: 240, Crashed: ids("a")},
			text: "so many come by chance in 0.41 % of harmless rollouts",
		},
		{
			name: "one of a hundred thousand is below the cap", want: LevelGo, rule: RuleEvidence,
			f: Facts{Exposed: 100_000, HoursWithin: 1e5, Crashed: ids("a"), Evidence: &quiet},
		},
		{
			name: "what the baseline explains is not excess", want: LevelInconclusive,
			f: Facts{Exposed: 2000, HoursWithin: hoursPerYear / 0.15 * 3, Crashed: ids("a", "b", "c")},
		},
		{
			name: "evidence reverts above 1/alpha less the cap's part: E=133", want: LevelRevert, rule: RuleEvidence,
			f: Facts{Exposed: 5000, Evidence: &Evidence{Apply: Tally{Crashes: 2, Expected: 0.005, Hours: 800}, Hosts: ids("a", "b")}},
		},
		{
			name: "a new signature on two hosts", want: LevelHold, rule: RuleSignature,
			f:    Facts{Signatures: []Signature{{Sum: "0123456789abcdef", Hosts: ids("a", "b")}}},
			text: "the same new crash 0123456789ab on 2 hosts (a, b), never seen without the patch",
		},
		{
			name: "a signature known without the patch", want: LevelInconclusive,
			f: Facts{Signatures: []Signature{{Sum: "s", Hosts: ids("a", "b"), Elsewhere: true}, {Sum: "t", Hosts: ids("a")}}},
		},
		{
			name: "more failures than allowed", want: LevelHold, rule: RuleFailures, f: Facts{Failed: 2, Allowed: 1},
			text: "2 hosts of this wave could not apply, at most 1 may",
		},
		{name: "failures within bounds", want: LevelInconclusive, f: Facts{Failed: 1, Allowed: 1}},
		{
			name: "an unreadable signal holds what else is green", want: LevelHold, rule: RuleNoData,
			f: Facts{NoData: "store is away", Exposed: 20_000, Evidence: &quiet}, text: "no data: store is away",
		},
		{
			name: "the worst rule comes first", want: LevelRevert, rule: RuleCap,
			f: Facts{NoData: "store is away", Exposed: 1, Crashed: ids("a"), Failed: 1, Signatures: []Signature{{Sum: "s", Hosts: ids("a", "b")}}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := Decide(usual(), tt.f)
			if v.Level != tt.want {
				t.Fatalf("Decide = %s, want %s", v, tt.want)
			}
			if tt.rule != "" && v.Findings[0].Rule != tt.rule {
				t.Errorf("rule %q decides, want %q", v.Findings[0].Rule, tt.rule)
			}
			terse := tt.f
			terse.Terse = true
			if short := Decide(usual(), terse); short.Level != v.Level || short.E != v.E {
				t.Errorf("without words it is %s with E=%v, not %s with %v", short.Level, short.E, v.Level, v.E)
			}
			if !strings.Contains(v.Why(), tt.text) {
				t.Errorf("%q does not hold %q", v.Why(), tt.text)
			}
		})
	}
}

// Looking at every crash, at the upper end of the baseline, the cap reverts at
// most its part of the false reverts: the chances at which it may, summed over
// all counts, as each count gets its crashes too early no more often than that.
func TestCapKeepsItsPart(t *testing.T) {
	sum := 0.0
	for n := 1; n < 100_000; n++ {
		sum += capChance(0.01, n)
	}
	if sum > 0.01*capShare {
		t.Errorf("the cap may revert %v of good rollouts, its part is %v", sum, 0.01*capShare)
	}
	levels, err := NewLevels(0.01*(1-capShare), 1)
	if err != nil {
		t.Fatal(err)
	}
	if both := sum + 1/levels.Revert; both > 0.01+1e-12 {
		t.Errorf("cap and evidence together may revert %v, want at most 0.01", both)
	}
}

func TestLookAt(t *testing.T) {
	start := time.Unix(0, 0)
	x := health.Exposure{Seen: start}
	x.Add(60, start)
	l := LookAt(usual().Crashes, &x, start.Add(time.Hour))
	if len(l.Exposure) != 1 || math.Abs(l.Exposure[0].ApplyHours-10) > 1e-9 || math.Abs(l.Exposure[0].SteadyHours-50) > 1e-9 {
		t.Errorf("an hour of 60 hosts: %+v, want 10 host-hours in the window and 50 after", l)
	}
	if again := LookAt(usual().Crashes, &x, start.Add(time.Hour)); len(again.Exposure) != 0 {
		t.Errorf("the same hour again: %+v", again)
	}
}
