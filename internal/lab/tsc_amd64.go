package lab

import "time"

// rdtsc reads this machine's time stamp counter.
func rdtsc() uint64

// tscKHz measures the counter's rate, which is that of the guests' too: under
// TCG they read this machine's. A guest on a busy machine measures it wrongly,
// up to seven times, and its clocks then run that much too fast or slow.
func tscKHz() uint64 {
	const window = 50 * time.Millisecond
	t0, c0 := stamp()
	<-time.After(window)
	t1, c1 := stamp()
	return (c1 - c0) * uint64(time.Millisecond) / uint64(t1.Sub(t0))
}

// stamp reads clock and counter together: of some tries the one that nothing
// came between.
func stamp() (at time.Time, counter uint64) {
	best := time.Duration(1<<63 - 1)
	for range 20 {
		before := time.Now()
		c := rdtsc()
		if gap := time.Since(before); gap < best {
			best, at, counter = gap, before.Add(gap/2), c
		}
	}
	return at, counter
}
