package control

import (
	"fmt"
	"time"

	"afloat/internal/gate"
	"afloat/internal/rollout"
)

const (
	// batches is how many admissions a wave of a live rollout is spread over.
	batches = 5
	// fill is how long a batch may take to fill up: more hosts than fit a record.
	fill = 30 * time.Second
	// settle is how long a live patch must have run before a sign of life counts for it.
	settle = time.Minute
)

// batch is the hosts of one rollout that have not yet shown what the patch
// does to them.
type batch struct {
	hosts  int
	silent int       // of them, not heard since they should have settled
	oldest time.Time // when the first of them was admitted
	until  time.Time // the latest at which the next batch may start
	// soonest is when the first of them stops counting by itself.
	soonest time.Time
	counted time.Time
	moved   uint64 // of the memo when it was counted
}

// add counts one host that the rollout has taken. It says whether the host
// counts, now and until it settles.
func (b *batch) add(r *rollout.Rollout, seen *Seen, h *Host, now time.Time) bool {
	phase := r.HostPhase(h.Phase, h.Wave)
	if h.Wave >= len(r.Waves) || r.Policy.Target.Disrupts() || !phase.Acting() && phase != rollout.Soaking {
		return false
	}
	// A batch never waits longer than the wave would soak: who asks for
	// seconds of proof gets seconds.
	soak := r.Policy.Waves[h.Wave].Soak
	proof, delay := min(settle, soak), min(silentCrash*r.Policy.Timeouts.Silent, soak)
	one := gate.Batch{Applied: later(h.Applied, h.Started), Hosts: 1}
	if r.CrashedHost(seen.ID) || !h.Applied.IsZero() && !seen.Heard.Before(h.Applied.Add(proof)) {
		one.Heard = 1
	}
	wait := one.Wait(proof, delay, now)
	if wait == 0 {
		return false
	}
	b.hosts++
	if one.Heard == 0 && now.Sub(one.Applied) > proof {
		b.silent++
	}
	if b.oldest.IsZero() || h.Started.Before(b.oldest) {
		b.oldest = h.Started
	}
	b.until = later(b.until, now.Add(wait))
	if b.soonest.IsZero() || now.Add(wait).Before(b.soonest) {
		b.soonest = now.Add(wait)
	}
	return true
}

// room is how many more hosts may start now in a wave of so many.
func (b *batch) room(wave int, now time.Time) int {
	if b.hosts > 0 && now.Sub(b.oldest) > fill {
		return 0
	}
	return max(0, (wave+batches-1)/batches-b.hosts)
}

// String says what the next batch waits for.
func (b *batch) String() string {
	if b.silent > 0 {
		return fmt.Sprintf("%s of the batch before it not heard yet since the patch went on", count(b.silent))
	}
	return fmt.Sprintf("the batch before it has yet to settle: %s", count(b.hosts))
}
