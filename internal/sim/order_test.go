package sim

import (
	"strings"
	"testing"

	"afloat/internal/plan"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// ofAll reboots a fleet in one wave. The most constrained hosts start first.
const ofAll = `name: x
target: {kernel: 6.1.0-56-amd64}
waves: [{size: 100%}]
budgets:
  - {name: db, select: service=db, unavailable: 1}
  - {name: cache, select: service=cache, unavailable: 1}
unavailable: 6
`

// uneven are 30 databases and 40 caches of which one may be out at a time, and
// 280 others that only share what is left of six.
func uneven() Fleet {
	return Fleet{Groups: []Group{
		{Name: "db", Hosts: 30, Labels: map[string]string{"service": "db", "hardware": "big"}, Times: Times{Boot: "24m", Spread: "20%"}},
		{Name: "cache", Hosts: 40, Labels: map[string]string{"service": "cache", "hardware": "mid"}, Times: Times{Boot: "17m", Spread: "20%"}},
		{Name: "web", Hosts: 280, Labels: map[string]string{"service": "web", "hardware": "small"}, Times: Times{Boot: "9m", Spread: "20%"}},
	}}
}

// TestMostConstrainedFirst plays rollouts to the end: with the most constrained
// first they come closer to what no schedule can beat than in the order of a
// hash, in which a wave of a number of hosts admits them, though it be all.
func TestMostConstrainedFirst(t *testing.T) {
	gap := func(source string) (mean, worst float64) {
		p, err := policy.Parse([]byte(source))
		if err != nil {
			t.Fatal(err)
		}
		bound := plan.Ahead(p, uneven().Work(p.Target, 0), Started()).Bounds[0]
		const runs = 8
		for seed := range uint64(runs) {
			res := mustRun(t, Options{Policy: source, Fleet: uneven(), Seed: seed + 1, Check: true})
			if res.Phase != rollout.PhaseComplete || res.Running != res.Hosts {
				t.Fatalf("seed %d: %s (%s), %d of %d", seed+1, res.Phase, res.Hold, res.Running, res.Hosts)
			}
			above := float64(res.Took)/float64(bound.Least) - 1
			mean, worst = mean+above/runs, max(worst, above)
		}
		t.Logf("%.1f %% above the bound of %s (%s), at worst %.1f %%", 100*mean, bound.Least, bound.Name, 100*worst)
		return mean, worst
	}
	ranked, worst := gap(ofAll)
	hashed, worstHashed := gap(strings.Replace(ofAll, "size: 100%", "size: 350", 1))
	if ranked >= hashed || worst >= worstHashed {
		t.Errorf("%.1f %% above the bound, at worst %.1f; in hash order %.1f, at worst %.1f", 100*ranked, 100*worst, 100*hashed, 100*worstHashed)
	}
}

// TestDueTellsOfAll decides each second although nothing was heard and nothing
// is due, and asks that nothing follows: who waits for Due misses nothing.
func TestDueTellsOfAll(t *testing.T) {
	for seed := range uint64(number(t, "AFLOAT_DUE", 300)) {
		o := schedule(seed)
		o.doubt = true
		playOptions(t, o, false)
	}
}
