package sim

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"afloat/internal/rollout"
)

const sixWaves = `name: x
target: {live: y}
waves:
  - {name: rc, select: tier=rc, soak: 30m}
  - {name: canary, size: 0.1%, soak: 1h}
  - {size: 1%, soak: 1h}
  - {size: 10%, soak: 1h}
  - {size: 30%, soak: 1h}
  - {size: 100%, soak: 1h}
`

// BenchmarkMillion plays a rollout to a million hosts.
func BenchmarkMillion(b *testing.B) {
	for b.Loop() {
		n := 1_000_000
		if s := os.Getenv("AFLOAT_SIM_HOSTS"); s != "" {
			fmt.Sscan(s, &n)
		}
		start, used := time.Now(), cpu(b)
		res, err := Run(Options{Policy: sixWaves, Fleet: Generated(n), Seed: 1})
		if err != nil {
			b.Fatal(err)
		}
		if res.Phase != rollout.PhaseComplete || len(res.Broken) > 0 {
			b.Fatalf("%s (%s, hold %q): %v", res.Phase, res.Reason, res.Hold, res.Broken)
		}
		fmt.Printf("bench sim_1m_s %.1f s\nbench sim_1m_cpu_s %.1f s\n", time.Since(start).Seconds(), (cpu(b) - used).Seconds())
		b.Logf("%d records, %d exposed, took %s virtual", res.Records, res.Exposed, res.Took)
	}
}

// cpu is the processor time of this process: what a busy machine does not change.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
