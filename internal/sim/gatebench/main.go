// Command gatebench measures the crash gate by playing rollouts in virtual
// time: how often good patches are stopped, how early bad ones are, and what
// the plain rules in use elsewhere do with the same luck. It prints Markdown
// and then the figures, one per line. The same seed gives the same output.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"

	"afloat/internal/gate"
	"afloat/internal/policy"
)

func main() {
	runs := flag.Int("runs", 5000, "rollouts per case with a good patch")
	badRuns := flag.Int("bad-runs", 2000, "rollouts per case with a bad patch")
	seed := flag.Uint64("seed", 1, "what all luck is drawn from")
	parallel := flag.Int("parallel", runtime.GOMAXPROCS(0), "rollouts played at the same time")
	flag.Parse()
	b := bench{runs: *runs, badRuns: *badRuns, seed: *seed, parallel: max(1, *parallel), out: os.Stdout}
	if err := b.report(); err != nil {
		fmt.Fprintln(os.Stderr, "gatebench:", err)
		os.Exit(1)
	}
}

// play runs one world that many times. Run i of a world is the same whatever else
// is played, and in whatever order.
func (b *bench) play(w world, runs int) ([]outcome, error) {
	levels, err := gate.NewLevels(0.01, 1)
	if err != nil {
		return nil, err
	}
	outs, errs := make([]outcome, runs), make([]error, b.parallel)
	var wg sync.WaitGroup
	for worker := range b.parallel {
		wg.Go(func() {
			for i := worker; i < runs && errs[worker] == nil; i += b.parallel {
				r := &rollout{luck: luck{w: w, rng: rand.New(rand.NewPCG(b.seed, uint64(i)))}, levels: levels}
				r.base = gate.Baseline{PerHostYear: w.rate, Spread: w.spread}
				r.gate.Crashes = policy.Crashes{FalseRevert: 0.01, Baseline: w.rate, Spread: w.spread,
					Cap: policy.Cap{Excess: policy.DefaultExcess, Within: policy.DefaultWithin}}
				outs[i], errs[worker] = r.play()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return outs, nil
}
