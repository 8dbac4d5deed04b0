package plan

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// BenchmarkMillion prints what the planner takes at a million hosts, 2,000
// services and five budgets each.
func BenchmarkMillion(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		before := inUse()
		start := time.Now()
		p := bigFleet(b, n)
		now := time.Unix(1e9, 0)
		admitted := p.Next(0, now, n)
		first := time.Since(start)
		bytes := inUse() - before
		var worst time.Duration
		for range 5 { // one host in a hundred changes: back in service, others start
			now = now.Add(30 * time.Second)
			tick := time.Now()
			back := admitted[:min(n/200, len(admitted))]
			for _, i := range back {
				p.Update(i, Taken, false)
				p.Returned(now, i)
			}
			admitted = append(admitted[len(back):], p.Next(0, now, n)...)
			worst = max(worst, time.Since(tick))
		}
		fmt.Printf("bench plan_1m_first_s %.2f s\n", first.Seconds())
		fmt.Printf("bench plan_1m_tick_ms %.1f ms\n", float64(worst.Microseconds())/1000)
		fmt.Printf("bench plan_bytes_per_host %d bytes\n", bytes/n)
		runtime.KeepAlive(p)
	}
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
