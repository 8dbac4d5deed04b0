package sim

import (
	"cmp"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/converge"
	"afloat/internal/fleet"
	"afloat/internal/policy"
	"afloat/internal/wire"
)

// shard is a part of the fleet. Hosts meet at the server alone, and the server
// decides in turns: between two of them the shards play by themselves, on as
// many cores as there are. What chance does to a host is drawn from the seed
// and the host, so that neither cores nor shards change a run.
type shard struct {
	w     *world // only read while shards play
	hosts []host
	queue queue
	// said is what the server hears of the shard's hosts, until the shards meet.
	said []said
	// spare are reports that have arrived.
	spare            []*wire.Report
	applied, crashes int
	idle             int // hosts out of service now
	broken           []string
}

// said is a sign of life, or that there are no more.
type said struct {
	host   int32
	at     time.Duration
	report *wire.Report // nil: the heartbeats end
}

// shardSize is how many hosts are worth a shard.
const shardSize = 1 << 12

// split makes the shards; a small fleet has one.
func (w *world) split() {
	w.size = cmp.Or(w.o.shardSize, shardSize)
	for part := range slices.Chunk(w.hosts, w.size) {
		w.shards = append(w.shards, shard{w: w, hosts: part})
	}
	w.workers = min(runtime.GOMAXPROCS(0), len(w.shards))
	if w.o.Check {
		w.workers = 1 // the checker sees one order after the other
	}
}

func (w *world) shard(host int32) *shard { return &w.shards[int(host)/w.size] }

// each runs fn for every shard and then brings to the server what they said.
func (w *world) each(fn func(*shard)) {
	if w.workers <= 1 {
		for i := range w.shards {
			fn(&w.shards[i])
		}
		w.meet()
		return
	}
	var next atomic.Int32
	var wg sync.WaitGroup
	for range w.workers {
		wg.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(w.shards); i = next.Add(1) - 1 {
				fn(&w.shards[i])
			}
		})
	}
	wg.Wait()
	w.meet()
}

// meet takes over what the shards have said and counted, in their order.
func (w *world) meet() {
	idle := 0
	defer func() { w.out.Peak = max(w.out.Peak, idle) }()
	for i := range w.shards {
		s := &w.shards[i]
		for _, m := range s.said {
			w.hear(s, m)
		}
		idle += s.idle
		w.out.Applied, w.out.Crashes = w.out.Applied+s.applied, w.out.Crashes+s.crashes
		for _, b := range s.broken {
			w.fail("%s", b)
		}
		s.said, s.broken, s.applied, s.crashes = s.said[:0], nil, 0, 0
	}
}

func (w *world) hear(s *shard, m said) {
	w.news = true
	h := &w.hosts[m.host]
	if m.report == nil {
		if h.given {
			w.view.Lost(h.id, w.at(m.at))
			w.heard(h, m.at)
		}
		h.given = false
		return
	}
	w.heard(h, m.at)
	w.view.Report(*m.report, w.at(m.at))
	s.spare = append(s.spare, m.report)
	if !h.given && !h.down && !h.gone {
		h.given = true
		w.view.Given(h.id, w.at(m.at), w.at(forever))
	}
}

// heard tells the checker of a true sign of life.
func (w *world) heard(h *host, at time.Duration) {
	if w.check != nil {
		w.check.host(h.id).heard = at
	}
}

// until plays the events of a shard up to a time.
func (s *shard) until(end time.Duration) {
	for s.queue.due(end) {
		s.handle(s.queue.pop())
	}
}

func (s *shard) at(t time.Duration) time.Time { return s.w.at(t) }

// random is the host's next draw.
func (s *shard) random(h *host) float64 { return h.chance.float() }

func (s *shard) fail(format string, args ...any) {
	s.broken = append(s.broken, fmt.Sprintf(format, args...))
}

// chance is how likely the fault is for the host.
func (s *shard) chance(name string, h *host) float64 { return s.w.faults.chance(name, h.labels) }

// hit draws whether the fault befalls the host, if the run has such a fault.
func (s *shard) hit(name string, h *host) bool {
	p := s.chance(name, h)
	return p > 0 && s.random(h) < p
}

func (s *shard) push(e event) { s.queue.push(e) }

func (s *shard) schedule(at time.Duration, h *host, k kind) {
	s.push(event{at: at, kind: k, host: h.i})
}

// skew is how wrong the host's wall clock is, either way.
func (s *shard) skew(h *host) (off time.Duration) {
	for _, f := range s.w.faults.named("skew") {
		if f.On.Matches(h.labels) && s.random(h) < f.Share {
			off += time.Duration((2*s.random(h) - 1) * float64(f.For))
		}
	}
	return off
}

// latency of one message.
func (s *shard) latency(h *host) time.Duration {
	return 10*time.Millisecond + time.Duration(s.random(h)*90)*time.Millisecond
}

// repeat is how long a host waits for an acknowledgement before it sends again.
const repeat = time.Minute

// letter is a copy of the report that may be kept until it arrives.
func (s *shard) letter(r wire.Report) *wire.Report {
	if last := len(s.spare) - 1; last >= 0 {
		out := s.spare[last]
		s.spare = s.spare[:last]
		*out = r
		return out
	}
	return &r
}

// resent is how much later a message arrives because it was lost and sent again,
// false if it never does.
func (s *shard) resent(h *host) (wait time.Duration, arrives bool) {
	p := s.chance("lost", h)
	for s.random(h) < p {
		if wait += repeat; p >= 1 || wait > forever {
			return 0, false
		}
	}
	return wait, true
}

// send puts a report on the wire.
func (s *shard) send(h *host, r wire.Report, now time.Duration) {
	at := now + s.latency(h)
	wait, arrives := s.resent(h)
	if !arrives {
		return
	}
	at += wait
	for _, f := range s.w.faults.named("late") {
		if s.random(h) < f.Share {
			at += time.Duration(s.random(h) * float64(f.For))
		}
	}
	s.push(event{at: at, kind: evReport, host: h.i, report: s.letter(r)})
	if s.random(h) < s.chance("twice", h) {
		s.push(event{at: at + 2*s.latency(h), kind: evReport, host: h.i, report: s.letter(r)})
	}
}

// beat is how long a host may take until it speaks to a server that knows
// nothing of it.
const beat = 30 * time.Second

// again sends a new leader what the host says of itself.
func (s *shard) again(h *host, now time.Duration) {
	at := now + time.Duration(s.random(h)*float64(beat))
	wait, arrives := s.resent(h)
	if !arrives {
		return
	}
	s.push(event{at: at + wait, kind: evReport, host: h.i, report: s.letter(h.report(s, now))})
}

// arrive is the server's receipt of a report. Older ones of the host are dropped.
func (s *shard) arrive(h *host, r *wire.Report, now time.Duration) {
	switch {
	case h.mute || s.w.offline:
		s.push(event{at: now + repeat, kind: evReport, host: h.i, report: r})
		return
	case r.Seq < h.heard:
		s.spare = append(s.spare, r)
		return
	}
	h.heard = r.Seq
	s.said = append(s.said, said{h.i, now, r})
}

// silent ends the heartbeats of a host.
func (s *shard) silent(h *host, now time.Duration) { s.said = append(s.said, said{host: h.i, at: now}) }

// ask gives a host its orders, if it can hear the server.
func (s *shard) ask(h *host, now time.Duration) {
	w := s.w
	switch {
	case h.down || h.gone || h.away:
		return
	case h.mute || w.offline || s.random(h) < s.chance("lost", h):
		s.schedule(now+repeat, h, evAsk)
		return
	}
	d := w.state.Desired(h.id)
	d.Epoch, d.Mode = w.epoch, fleet.ModeAct
	if w.check != nil {
		w.check.told(h, d)
	}
	h.offered = &d
	if w.state.Permits(d.Rollout) {
		h.permit = &converge.Permit{Rollout: d.Rollout, Epoch: w.epoch, Seq: uint64(now/time.Second) + 1, Until: h.clock(now) + 2*time.Minute}
	}
	h.run(s, now)
	if h.last.Kind == converge.Wait && slices.Contains(waits, h.last.Phase) {
		s.schedule(now+30*time.Second, h, evAsk)
	}
}

// waits are the phases in which a host that only waits may do so for its orders.
var waits = []wire.Phase{wire.PhaseWaiting, wire.PhaseApplying, wire.PhaseDraining}

// reached is the moment a host is what the blamed policy is about, if that is
// no live patch: what it does begins here.
func (s *shard) reached(h *host, now time.Duration) {
	if o := s.w.blame(); o.read.Target.Action != policy.Live && h.onTarget(o) {
		s.applied++
		s.took(h, "", now)
	}
}

// patched is the moment a live patch is on a host: what it does begins here.
func (s *shard) patched(h *host, d bundle.Digest, now time.Duration) {
	s.applied++
	if d == s.w.blamed {
		s.took(h, d, now)
	}
}

// took draws what having the target does to the host. d is "" if that is no
// live patch.
func (s *shard) took(h *host, d bundle.Digest, now time.Duration) {
	soon := func() time.Duration { return now + time.Duration(s.random(h)*float64(time.Minute)) }
	if s.random(h) < s.chance("crash-on-apply", h) {
		s.push(event{at: soon(), kind: evDie, host: h.i, digest: d})
	}
	if s.random(h) < s.chance("oops-on-apply", h) {
		s.push(event{at: soon(), kind: evOops, host: h.i, digest: d})
	}
	for _, f := range s.w.faults.named("leak") {
		if f.Share > 0 && f.On.Matches(h.labels) {
			s.push(event{at: now + f.For + exponential(f.Share, s.random(h)), kind: evDie, host: h.i, digest: d})
		}
	}
}

// exponential is the time to the next event of so many per hour, from a draw.
func exponential(perHour, draw float64) time.Duration {
	hours := -math.Log(1-draw) / perHour
	if hours > forever.Hours() {
		return forever
	}
	return time.Duration(hours * float64(time.Hour))
}

// handle is one event of a host.
func (s *shard) handle(e event) {
	h := &s.w.hosts[e.host]
	switch e.kind {
	case evWake:
		if !h.down && !h.gone && !h.away {
			h.run(s, e.at)
		}
	case evAsk:
		s.ask(h, e.at)
	case evReport:
		s.arrive(h, e.report, e.at)
	case evDie:
		if h.has(s.w, e.digest) {
			s.crashes++
			h.die(s, e.at, 0)
		}
	case evOops:
		if h.has(s.w, e.digest) {
			s.crashes++
			h.oops(s, e)
		}
	case evBack:
		if h.down && !h.gone {
			h.back(s, e.at)
		}
	case evActed:
		h.acted(s, e.at)
	}
}

// draws are random numbers of one host: SplitMix64 (Steele, Lea, Flood 2014),
// for eight bytes of state.
type draws uint64

func newDraws(seed uint64, host int) draws {
	d := draws(seed)
	d = draws(d.next() ^ uint64(host)*0xd1342543de82ef95)
	d.next()
	return d
}

func (d *draws) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// float is in [0, 1).
func (d *draws) float() float64 { return float64(d.next()>>11) / (1 << 53) }
