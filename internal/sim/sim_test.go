package sim

import (
	"testing"
	"time"

	"afloat/internal/rollout"
)

const threeWaves = `name: x
target: {live: y}
waves:
  - {name: canary, size: 1%, soak: 30m}
  - {size: 10%, soak: 30m}
  - {size: 100%, soak: 30m}
`

func mustRun(t *testing.T, o Options) Result {
	t.Helper()
	res, err := Run(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range res.Broken {
		t.Errorf("broken: %s", b)
	}
	if t.Failed() {
		for _, m := range res.Moments {
			t.Logf("%10s %s", m.At.Round(time.Second), m.Text)
		}
	}
	return res
}

func fault(t *testing.T, s string) Fault {
	t.Helper()
	f, err := ParseFault(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestGoodPatchCompletes(t *testing.T) {
	res := mustRun(t, Options{Policy: threeWaves, Fleet: Generated(1000), Seed: 1, Check: true})
	if res.Phase != rollout.PhaseComplete || res.Running < 999 {
		t.Errorf("got %s (%s, hold %q), %d of %d run it", res.Phase, res.Reason, res.Hold, res.Running, res.Hosts)
	}
	if res.Took > 4*time.Hour {
		t.Errorf("took %s", res.Took)
	}
}

func TestBadPatchIsTakenOff(t *testing.T) {
	for _, f := range []string{"crash-on-apply:5%", "oops-on-apply:5%"} {
		res := mustRun(t, Options{Policy: threeWaves, Fleet: Generated(1000), Seed: 2, Check: true, Faults: []Fault{fault(t, f)}})
		if res.Phase != rollout.PhaseReverted || res.Running != 0 || res.Exposed > 110 {
			t.Errorf("%s: %s (%s, hold %q), %d exposed, %d still run it", f, res.Phase, res.Reason, res.Hold, res.Exposed, res.Running)
		}
	}
}
