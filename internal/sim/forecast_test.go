package sim

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"afloat/internal/plan"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// TestForecastAgrees: when nothing goes wrong, a rollout takes as long as its
// forecast said: within 5 %, two minutes, one host and one warm-up, live or by reboot.
// Orders, reports and the agents' own checks take seconds that a forecast leaves
// out, and it may take another host for its canary.
func TestForecastAgrees(t *testing.T) {
	targets := []string{"live: y", "kernel: 6.1.0-56-amd64", "replace: image-2", "restart: nginx.service"}
	budgets := []string{"", "unavailable: 10%\n", "budgets: [{name: r, groupBy: rack, unavailable: 1}]\n",
		"budgets: [{name: s, groupBy: service, unavailable: 30%}]\n", "budgets: [{name: d, groupBy: zone, domains: 1}, {name: u, groupBy: zone, unavailable: 5}]\n",
		"budgets: [{name: w, groupBy: zone, unavailable: 20%, warm: 3m}]\n", "rate: 20 per 10m\n"}
	rapid.Check(t, func(t *rapid.T) {
		text := fmt.Sprintf("name: x\ntarget: {%s}\nwaves: [{size: %d, soak: 20m}, {size: 100%%, soak: 30m}]\n%s", rapid.SampledFrom(targets).Draw(t, "target"),
			rapid.IntRange(1, 20).Draw(t, "canary"), rapid.SampledFrom(budgets).Draw(t, "budget"))
		p, err := policy.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		f := Generated(rapid.IntRange(20, 200).Draw(t, "hosts"))
		for i := range f.Groups {
			f.Groups[i].CrashesPerYear = 0
		}
		res, err := Run(Options{Policy: text, Fleet: f, Seed: rapid.Uint64().Draw(t, "seed")})
		if err != nil || res.Phase != rollout.PhaseComplete || len(res.Broken) > 0 {
			t.Fatalf("%s: %v: %s (%s, hold %q) %v", text, err, res.Phase, res.Reason, res.Hold, res.Broken)
		}
		work := f.Work(p.Target, 0)
		forecast := plan.Ahead(p, work, Started())
		warm := time.Duration(0)
		for _, b := range p.Budgets {
			warm = max(warm, b.Warm)
		}
		if off := (res.Took - forecast.Over).Abs(); off > forecast.Over/20+2*time.Minute+work[0].Takes+warm {
			t.Errorf("%s%d hosts: took %s, the forecast was %s", text, f.Size(), res.Took, forecast.Over)
		}
		if forecast.Done < forecast.Bounds[0].Least {
			t.Errorf("%s: done after %s, below the bound %v", text, forecast.Done, forecast.Bounds[0])
		}
	})
}
