package sim

import (
	"fmt"
	"strings"
	"time"

	"afloat/internal/gate"
	"afloat/internal/rollout"
)

// Drill is a rehearsal of one failure, with what must be true after it.
type Drill struct {
	Name   string
	Story  string
	Faults []string
	// Ends is how the rollout must end, MostExposed how many hosts may have had a
	// bad patch and MostCrashes how many it may crash (0: any).
	Ends        rollout.Phase
	MostExposed float64 // share of the fleet
	MostCrashes int
}

// Drills are the rehearsals; the same names are to run on the lab.
func Drills() []Drill {
	return []Drill{
		{"monkey", "one host loses power in the last wave and comes back", []string{"down:1host@130m+5m"}, rollout.PhaseComplete, 0, 0},
		{"rack", "a whole rack loses power for half an hour", []string{"down@40m+30m?rack=prod-r1"}, rollout.PhaseComplete, 0, 0},
		{"zone", "a third of the fleet is cut off for twenty minutes", []string{"cut@40m+20m?zone=z1"}, rollout.PhaseComplete, 0, 0},
		{"control-plane", "the server dies in the middle of a wave and another leads two minutes later", []string{"server-crash@31m+2m"}, rollout.PhaseComplete, 0, 0},
		{"telemetry", "three in ten messages are lost and half the reports come ten minutes late", []string{"lost:30%", "late:50%+10m"}, rollout.PhaseComplete, 0, 0},
		{"bad-patch", "one host in fifty dies when it gets the patch", []string{"crash-on-apply:2%"}, rollout.PhaseReverted, 0.25, 10},
		{"bad-patch-blind", "the same, with reports late and messages lost", []string{"crash-on-apply:2%", "late:50%+5m", "lost:10%"}, rollout.PhaseReverted, 0.25, 10},
		{"bad-on-one-class", "the patch kills only one kind of hardware", []string{"crash-on-apply:20%?hardware=h2"}, rollout.PhaseReverted, 0.25, 10},
		{"slow-leak", "patched hosts crash once in two days, from the second hour on", []string{"leak:0.02+1h"}, rollout.PhaseReverted, 1, 10},
	}
}

// DrillResult is how one drill went.
type DrillResult struct {
	Drill  string        `json:"drill"`
	Story  string        `json:"story"`
	Passed int           `json:"passed"`
	Runs   int           `json:"runs"`
	Ends   rollout.Phase `json:"ends"` // expected
	// Exposed, Crashes and Took are the worst of all runs.
	Exposed int           `json:"exposed"`
	Crashes int           `json:"crashes"`
	Took    time.Duration `json:"took_ns"`
	// Held is how many of the passed ended with a hold on a single crash.
	Held int `json:"held,omitempty"`
	// Failures say what went wrong, with the seed that plays it again.
	Failures []string `json:"failures,omitempty"`
}

// drillPolicy is what every drill rolls out.
const drillPolicy = `name: drill
target: {live: drill}
waves:
  - {name: canary, size: 2%, soak: 30m}
  - {size: 10%, soak: 30m}
  - {size: 50%, soak: 30m}
  - {size: 100%, soak: 6h}
`

// Play runs a drill so often on a generated fleet, each with another seed.
func (d Drill) Play(hosts, runs int, seed uint64) (DrillResult, error) {
	if runs < 1 || hosts < 1 {
		return DrillResult{}, fmt.Errorf("cannot play drill %s: %d runs on %d hosts", d.Name, runs, hosts)
	}
	out := DrillResult{Drill: d.Name, Story: d.Story, Ends: d.Ends, Runs: runs}
	o := Options{Policy: drillPolicy, Fleet: Generated(hosts), Check: hosts <= 2000, Horizon: 48 * time.Hour}
	for _, s := range d.Faults {
		f, err := ParseFault(s)
		if err != nil {
			return out, err
		}
		o.Faults = append(o.Faults, f)
	}
	for n := range runs {
		o.Seed = seed + uint64(n)
		res, err := Run(o)
		if err != nil {
			return out, err
		}
		out.Exposed, out.Crashes, out.Took = max(out.Exposed, res.Exposed), max(out.Crashes, res.Crashes), max(out.Took, res.Took)
		if why := d.wrong(res); why != "" {
			out.Failures = append(out.Failures, fmt.Sprintf("seed %d: %s; again: afloat drill %s --hosts %d --seed %d --runs 1", o.Seed, why, d.Name, hosts, o.Seed))
			continue
		}
		out.Passed++
		if res.Phase != d.Ends {
			out.Held++
		}
	}
	return out, nil
}

// wrong says what a run did not do as it must, "" if nothing.
func (d Drill) wrong(res Result) string {
	switch {
	case len(res.Broken) > 0:
		return res.Broken[0]
	case res.Phase != d.Ends && !d.held(res):
		return fmt.Sprintf("ended %s (%s; hold %q), not %s", res.Phase, res.Reason, res.Hold, d.Ends)
	case d.MostExposed > 0 && float64(res.Exposed) > d.MostExposed*float64(res.Hosts):
		return fmt.Sprintf("%d of %d hosts had the bad patch", res.Exposed, res.Hosts)
	case d.MostCrashes > 0 && res.Crashes > d.MostCrashes:
		return fmt.Sprintf("the bad patch crashed %d hosts, at most %d may", res.Crashes, d.MostCrashes)
	case res.Phase == rollout.PhaseReverted && res.Running > 0:
		return fmt.Sprintf("%d hosts still run the bad patch", res.Running)
	}
	return ""
}

// held says that a bad patch was stopped on a single crash. That may be a
// broken host, so it is not taken off: admissions hold until a person decides.
func (d Drill) held(res Result) bool {
	rule, _, _ := strings.Cut(res.Hold, ": ")
	return d.Ends == rollout.PhaseReverted && res.Phase == rollout.PhaseRunning && res.Counted == 1 &&
		(gate.Rule(rule) == gate.RuleCap || gate.Rule(rule) == gate.RuleEvidence)
}
