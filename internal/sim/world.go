package sim

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/control"
	"afloat/internal/converge"
	"afloat/internal/fleet"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// Options of a run.
type Options struct {
	Policy string // YAML
	Fleet  Fleet
	Faults []Fault
	Seed   uint64
	// Horizon is how long the run may take in virtual time, default 30 days.
	Horizon time.Duration
	// Check keeps the log, replays it in the end and tests every record
	// against the invariants. It costs time.
	Check bool
}

// kinds of events.
type kind uint8

const (
	evWake   kind = iota // the agent asked to be woken
	evAsk                // the host asks for its orders
	evReport             // a report arrives
	evDie                // the host dies, if it still runs what killed it
	evOops               // the host prints an oops, if it still runs what did it
	evBack               // a boot ends
	evChance             // a healthy host crashes
	evFault              // a timed fault begins
	evEnd                // a timed fault ends
)

type event struct {
	at     time.Duration
	seq    uint64
	kind   kind
	host   int32
	report *wire.Report
	digest bundle.Digest
	fault  int
}

func (a *event) less(b *event) bool { return a.at < b.at || a.at == b.at && a.seq < b.seq }

// world is one run.
type world struct {
	o       Options
	start   time.Time
	now     time.Duration
	rng     *rand.Rand
	hosts   []host
	index   map[fleet.HostID]int32
	heard   []uint64 // highest report seq by host
	events  []event
	nth     uint64
	faults  faults
	bundles map[bundle.Digest]map[bundle.Digest]converge.Bundle
	target  string
	state   *control.State
	view    *control.View
	log     [][]byte
	epoch   uint64
	offline bool // no server
	cut     map[int][]int32
	check   *checker
	out     *Result
	rate    float64 // crashes of healthy hosts per hour, whole fleet
	busy    bool    // something came since the last turn
}

// started is when every run begins: a Saturday morning.
func started() time.Time { return time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC) }

// forever is later than any run.
const forever = 20 * 365 * 24 * time.Hour

func (w *world) at(t time.Duration) time.Time { return w.start.Add(t) }

func (w *world) random(*host) float64 { return w.rng.Float64() }

func (w *world) fail(format string, args ...any) {
	if len(w.out.Broken) < 20 {
		w.out.Broken = append(w.out.Broken, fmt.Sprintf(format, args...))
	}
}

// push adds an event; pop takes the earliest.
func (w *world) push(e event) {
	w.nth++
	e.seq = w.nth
	w.events = append(w.events, e)
	for i := len(w.events) - 1; i > 0; {
		up := (i - 1) / 2
		if !w.events[i].less(&w.events[up]) {
			return
		}
		w.events[i], w.events[up] = w.events[up], w.events[i]
		i = up
	}
}

func (w *world) pop() event {
	top, last := w.events[0], len(w.events)-1
	w.events[0] = w.events[last]
	w.events[last] = event{}
	w.events = w.events[:last]
	for i := 0; ; {
		least := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < last && w.events[c].less(&w.events[least]) {
				least = c
			}
		}
		if least == i {
			return top
		}
		w.events[i], w.events[least] = w.events[least], w.events[i]
		i = least
	}
}

func (w *world) schedule(at time.Duration, h *host, k kind) {
	w.push(event{at: at, kind: k, host: h.i})
}

// latency of one message.
func (w *world) latency() time.Duration {
	return 10*time.Millisecond + time.Duration(w.rng.Float64()*90)*time.Millisecond
}

// repeat is how long a host waits for an acknowledgement before it sends again.
const repeat = time.Minute

// send puts a report on the wire.
func (w *world) send(h *host, r wire.Report, now time.Duration) {
	at := now + w.latency()
	for w.rng.Float64() < w.faults.chance("lost", h.labels) {
		at += repeat
	}
	for _, f := range w.faults.named("late") {
		if w.rng.Float64() < f.Share {
			at += time.Duration(w.rng.Float64() * float64(f.For))
		}
	}
	w.push(event{at: at, kind: evReport, host: h.i, report: &r})
	if w.rng.Float64() < w.faults.chance("twice", h.labels) {
		w.push(event{at: at + 2*w.latency(), kind: evReport, host: h.i, report: &r})
	}
}

// arrive is the server's receipt of a report. Older ones of the host are dropped.
func (w *world) arrive(i int32, r *wire.Report) {
	h := &w.hosts[i]
	switch {
	case h.mute || w.offline:
		w.push(event{at: w.now + repeat, kind: evReport, host: i, report: r})
		return
	case r.Seq < w.heard[i]:
		return
	}
	w.heard[i] = r.Seq
	w.view.Report(*r, w.at(w.now))
	if !h.down && !h.gone {
		w.view.Heard(h.id, w.at(forever))
	}
	w.busy = true
}

// silent ends the heartbeats of a host.
func (w *world) silent(h *host, now time.Duration) { w.view.Lost(h.id, w.at(now)) }

// ask gives a host its orders, if it can hear the server.
func (w *world) ask(h *host, now time.Duration) {
	switch {
	case h.down || h.gone || h.away:
		return
	case h.mute || w.offline || w.rng.Float64() < w.faults.chance("lost", h.labels):
		w.schedule(now+repeat, h, evAsk)
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
	h.run(w, now)
	if h.last.Phase == wire.PhaseWaiting || h.last.Phase == wire.PhaseApplying && h.last.Kind == converge.Wait {
		w.schedule(now+30*time.Second, h, evAsk)
	}
}

// patched is the moment a live patch is on a host: what it does begins here.
func (w *world) patched(h *host, d bundle.Digest, now time.Duration) {
	if d != goodDigest {
		return
	}
	w.out.Applied++
	soon := func() time.Duration { return now + time.Duration(w.rng.Float64()*float64(time.Minute)) }
	if w.rng.Float64() < w.faults.chance("crash-on-apply", h.labels) {
		w.push(event{at: soon(), kind: evDie, host: h.i, digest: d})
	}
	if w.rng.Float64() < w.faults.chance("oops-on-apply", h.labels) {
		w.push(event{at: soon(), kind: evOops, host: h.i, digest: d})
	}
	if leak := w.faults.chance("leak", h.labels); leak > 0 {
		w.push(event{at: now + w.exponential(leak), kind: evDie, host: h.i, digest: d})
	}
}

// exponential is the time to the next event of so many per hour.
func (w *world) exponential(perHour float64) time.Duration {
	hours := -math.Log(1-w.rng.Float64()) / perHour
	if hours > forever.Hours() {
		return forever
	}
	return time.Duration(hours * float64(time.Hour))
}

// runs says whether the host runs the bundle.
func (h *host) runs(d bundle.Digest) bool {
	for _, p := range h.patches {
		if p.digest == d && p.Enabled {
			return !h.down && !h.gone
		}
	}
	return false
}

// handle is one event.
func (w *world) handle(e event) {
	h := &w.hosts[e.host]
	switch e.kind {
	case evWake:
		if !h.down && !h.gone && !h.away {
			h.run(w, e.at)
		}
	case evAsk:
		w.ask(h, e.at)
	case evReport:
		w.arrive(e.host, e.report)
	case evDie:
		if h.runs(e.digest) {
			w.out.Crashes++
			h.die(w, e.at)
		}
	case evOops:
		if h.runs(e.digest) {
			w.out.Crashes++
			h.oops(w, e)
		}
	case evBack:
		if h.down && !h.gone {
			h.back(w, e.at)
		}
	case evChance:
		w.chance()
	case evFault:
		w.begin(e.fault)
	case evEnd:
		w.end(e.fault)
	}
}

// oops is crash evidence that does not take the host down.
func (h *host) oops(w *world, e event) {
	c := wire.Crash{ID: fmt.Sprintf("oops-%s-%d", h.bootID(), e.seq), Kind: wire.CrashOops, Boot: h.bootID(), Live: e.digest, Signature: "simulated"}
	h.write(w, converge.Record{Kind: converge.RecordCrash, Boot: h.bootID(), Time: w.at(e.at), Crash: &c})
	h.run(w, e.at)
}

// chance crashes one healthy host and draws when the next one does.
func (w *world) chance() {
	h := &w.hosts[w.rng.IntN(len(w.hosts))]
	if h.group.CrashesPerYear > 0 && !h.away {
		w.out.Background++
		h.die(w, w.now)
	}
	w.push(event{at: w.now + w.exponential(w.rate), kind: evChance})
}

// commit applies a record and wakes the hosts it concerns.
func (w *world) commit(rec control.Record) {
	if w.check != nil {
		w.check.before(rec)
		data, err := json.Marshal(rec)
		if err != nil || len(data) > 512<<10 {
			w.fail("record %d: %d bytes, %v", rec.Seq, len(data), err)
		}
		w.log = append(w.log, data)
	}
	if err := w.state.Apply(rec); err != nil {
		w.fail("%v", err)
		return
	}
	w.note(rec)
	for _, id := range rec.Hosts() {
		h := &w.hosts[w.index[id]]
		w.schedule(w.now+w.latency(), h, evAsk)
	}
	if w.check != nil {
		w.check.after(rec)
	}
}

// maxTurns bounds what follows from one moment; more is a loop.
const maxTurns = 5000

// turn decides until nothing follows.
func (w *world) turn() {
	if w.offline {
		return
	}
	for range maxTurns {
		rec := control.Decide(w.state, w.view, w.at(w.now))
		if rec.Empty() {
			return
		}
		w.commit(rec)
		if len(w.out.Broken) > 0 {
			return
		}
	}
	w.fail("decisions do not end at %s", w.now)
}

// do gives an operator's command to the first rollout.
func (w *world) do(v control.Verb) {
	c := control.Command{Verb: v, By: "simulated operator", Rollout: "r1"}
	if v == control.Start {
		c.Policy, c.Rollout = w.o.Policy, ""
	}
	rec, err := control.Do(w.state, w.view, c, w.at(w.now))
	if err != nil {
		w.out.refused = err
		return
	}
	w.commit(rec)
}

// over says that the rollout has come to rest.
func (w *world) over() bool {
	r := w.state.Rollout("r1")
	return r == nil || r.Phase == rollout.PhaseComplete && !r.AnyActing() || r.Phase == rollout.PhaseReverted ||
		r.Phase == rollout.PhaseAborted && !r.AnyActing()
}
