package plan

import (
	"math"
	"time"
)

// A wave of a live rollout is admitted in parts, so that a bad patch reaches
// few hosts before it shows.
const (
	// Batches is how many admissions a wave is spread over.
	Batches = 5
	// BatchFill is how long a batch may take to fill up.
	BatchFill = 30 * time.Second
	// BatchSettle is how long a live patch must have run before a sign of life
	// counts for it, if the wave does not soak for less.
	BatchSettle = time.Minute
)

// batch is the part of a wave that has yet to settle, in a forecast.
type batch struct {
	most    int // hosts, 0 for no bound
	settle  time.Duration
	hosts   int             // under way or yet to settle
	began   time.Duration   // when the first of them started
	settled []time.Duration // when hosts that are back have settled
}

// batches are the parts of a wave.
func (a *ahead) batches(w int) batch {
	if a.pol.Target.Disrupts() {
		return batch{}
	}
	return batch{most: (a.p.Room(w) + Batches - 1) / Batches, settle: min(BatchSettle, a.pol.Waves[w].Soak)}
}

// room is how many hosts may start now.
func (b *batch) room(now time.Duration) int {
	if b.most == 0 {
		return math.MaxInt
	}
	done := 0
	for done < len(b.settled) && b.settled[done] <= now {
		done++
	}
	b.settled, b.hosts = b.settled[done:], b.hosts-done
	if b.hosts > 0 && now-b.began > BatchFill {
		return 0
	}
	return max(0, b.most-b.hosts)
}

func (b *batch) start(n int, now time.Duration) {
	if n > 0 && b.hosts == 0 {
		b.began = now
	}
	b.hosts += n
}

func (b *batch) back(at time.Duration) {
	if b.most > 0 {
		b.settled = append(b.settled, at+b.settle)
	}
}

// until is when the last host that is back has settled, 0 if none is to.
func (b *batch) until() time.Duration {
	if len(b.settled) == 0 {
		return 0
	}
	return b.settled[len(b.settled)-1]
}
