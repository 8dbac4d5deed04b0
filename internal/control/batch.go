package control

import (
	"fmt"
	"time"

	"afloat/internal/gate"
	"afloat/internal/plan"
	"afloat/internal/rollout"
)

// A wave is admitted in batches: see plan.
const (
	batches = plan.Batches
	fill    = plan.BatchFill
	settle  = plan.BatchSettle
)

// batch is the hosts of one rollout that have not yet shown what the patch
// does to them.
type batch struct {
	hosts int
	// admitted is how many of them started when, in Unix nanoseconds.
	admitted map[int64]int
	// due are hosts that stop counting by themselves then, in Unix nanoseconds:
	// each is there, and some that count no longer, or until later.
	due map[int64][]int32
	// over is how many waves were when it was last gone through for that.
	over int
}

// batch is that of a rollout, as of now.
func (m *memo) batch(r *rollout.Rollout, now time.Time) *batch {
	b := m.batchOf(r.ID)
	if over, _ := r.Current(); over != b.over { // their hosts are done: one pass, once per wave
		b.over = over
		for i := range m.hosts {
			if m.hosts[i].batch == b {
				m.count(int32(i), now)
			}
		}
	}
	for at, hosts := range b.due {
		if at > now.UnixNano() {
			continue
		}
		delete(b.due, at)
		for _, i := range hosts {
			if m.hosts[i].until == at {
				m.count(i, now)
			}
		}
	}
	return b
}

func (m *memo) batchOf(id string) *batch {
	b := m.batches[id]
	if b == nil {
		b = &batch{admitted: map[int64]int{}, due: map[int64][]int32{}}
		m.batches[id] = b
	}
	return b
}

// count puts host i into the batch that it counts in now, if any.
func (m *memo) count(i int32, now time.Time) {
	x := &m.hosts[i]
	var in *batch
	var since, until int64
	if h := x.host; h != nil && h.Rollout != "" {
		r := m.state.rollouts[h.Rollout]
		if t := unsettled(r, x.seen, h); t.After(now) {
			in, since, until = m.batchOf(r.ID), h.Started.UnixNano(), t.UnixNano()
		}
	}
	if x.batch == in && x.since == since && x.until == until {
		return
	}
	if b := x.batch; b != nil {
		b.hosts--
		if b.admitted[x.since]--; b.admitted[x.since] == 0 {
			delete(b.admitted, x.since)
		}
	}
	if x.batch, x.since, x.until = in, since, until; in != nil {
		in.hosts++
		in.admitted[since]++
		in.due[until] = append(in.due[until], i)
	}
}

// unsettled is until when a host counts that the rollout has taken, unless
// something is heard of it before; the zero time if it does not.
func unsettled(r *rollout.Rollout, seen *Seen, h *Host) time.Time {
	phase := r.HostPhase(h.Phase, h.Wave)
	if h.Wave >= len(r.Waves) || r.Policy.Target.Disrupts() || !phase.Acting() && phase != rollout.Soaking {
		return time.Time{}
	}
	proof, delay := proof(r, h.Wave), min(silentCrash*r.Policy.Timeouts.Silent, r.Policy.Waves[h.Wave].Soak)
	one := gate.Batch{Applied: later(h.Applied, h.Started), Hosts: 1}
	switch {
	case r.CrashedHost(seen.ID) || !seen.unheard && !h.Applied.IsZero() && !seen.Heard.Before(h.Applied.Add(proof)):
		one.Heard = 1
	case seen.unheard: // what it has said before was for another to hear
		one.Applied = later(one.Applied, seen.Heard)
	}
	return one.Applied.Add(one.Wait(proof, delay, one.Applied))
}

// room is how many more hosts may start now in a wave of so many.
func (b *batch) room(wave int, now time.Time) int {
	for at := range b.admitted {
		if now.Sub(time.Unix(0, at)) > fill {
			return 0
		}
	}
	return max(0, (wave+batches-1)/batches-b.hosts)
}

// waits says what the next batch waits for, and until when at the latest.
func (b *batch) waits(m *memo, r *rollout.Rollout, now time.Time) (what string, until time.Time) {
	silent := 0
	for i := range m.hosts {
		x := &m.hosts[i]
		if x.batch != b {
			continue
		}
		until = later(until, unsettled(r, x.seen, x.host))
		if now.Sub(later(x.host.Applied, x.host.Started)) > proof(r, x.host.Wave) {
			silent++
		}
	}
	if silent > 0 {
		return fmt.Sprintf("%s of the batch before it not heard yet since the patch went on", count(silent)), until
	}
	return fmt.Sprintf("the batch before it has yet to settle: %s", count(b.hosts)), until
}

// proof is how long a host must have had the patch before a sign of life
// counts. A batch never waits longer than the wave would soak: who asks for
// seconds of proof gets seconds.
func proof(r *rollout.Rollout, wave int) time.Duration { return min(settle, r.Policy.Waves[wave].Soak) }
