package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/control"
	"afloat/internal/converge"
	"afloat/internal/fleet"
	"afloat/internal/policy"
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
	// Also are further rollouts on the same fleet.
	Also []Start
	// Blame is the rollout whose patch does the harm that the faults tell of: 0
	// is the first, then those of Also.
	Blame int
	// Stop ends the run early when it is closed; nil never does.
	Stop <-chan struct{}
	// Rate bounds the starts of all rollouts together; zero does not.
	Rate policy.Rate

	bare      bool // for tests: leaves out curves and capacities
	shardSize int  // for tests, otherwise shardSize
	doubt     bool // for tests: decides although nothing is due, and fails if something follows
}

// world is one run.
type world struct {
	o        Options
	start    time.Time
	now      time.Duration
	rng      *rand.Rand
	hosts    []host
	index    map[fleet.HostID]int32
	shards   []shard
	size     int // of a shard
	workers  int
	queue    queue // what concerns no single host
	faults   faults
	bundles  map[bundle.Digest]map[bundle.Digest]converge.Bundle
	orders   []ordered
	blamed   bundle.Digest
	state    *control.State
	shelf    policy.Shelf
	view     *control.View
	log      [][]byte
	epoch    uint64
	offline  bool          // no server
	decided  time.Duration // when something was decided last
	due      time.Duration // when something follows by itself, as of the last turn
	news     bool          // since the last turn
	cut      map[int][]int32
	check    *checker
	out      *Result
	used     map[useKey]*BudgetUse
	services []ServiceUse
	up       []int         // in service, by service
	looked   time.Duration // when who serves was counted
	rate     float64       // crashes of healthy hosts per hour, whole fleet
}

// Started is when every run begins: a Saturday morning.
func Started() time.Time { return time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC) }

// forever is later than any run.
const forever = 20 * 365 * 24 * time.Hour

func (w *world) at(t time.Duration) time.Time { return w.start.Add(t) }

func (w *world) fail(format string, args ...any) {
	if len(w.out.Broken) < 20 {
		w.out.Broken = append(w.out.Broken, fmt.Sprintf(format, args...))
	}
}

// handle is one event that concerns no single host.
func (w *world) handle(e event) {
	w.news = true
	switch e.kind {
	case evChance:
		w.chance()
	case evHour:
		w.relabel()
	case evFault:
		w.begin(e.fault)
	case evEnd:
		w.end(e.fault)
	case evOrder:
		w.order(e)
	}
	w.meet()
}

// chance crashes one healthy host and draws when the next one does.
func (w *world) chance() {
	h := w.victim()
	if h.group.CrashesPerYear > 0 && !h.away {
		w.out.Background++
		h.die(w.shard(h.i), w.now, 0)
	}
	w.queue.push(event{at: w.now + exponential(w.rate, w.rng.Float64()), kind: evChance})
}

// victim draws the healthy host that crashes next: each by the rate of its group.
func (w *world) victim() *host {
	groups := w.o.Fleet.Groups
	if len(groups) == 1 || !slices.ContainsFunc(groups, func(g Group) bool { return g.CrashesPerYear != groups[0].CrashesPerYear }) {
		return &w.hosts[w.rng.IntN(len(w.hosts))]
	}
	left, first := w.rng.Float64()*w.rate*24*365, 0
	for _, g := range groups {
		if left -= g.CrashesPerYear * float64(g.Hosts); left < 0 {
			return &w.hosts[first+w.rng.IntN(g.Hosts)]
		}
		first += g.Hosts
	}
	return &w.hosts[len(w.hosts)-1] // the sum was rounded
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
	w.decided = w.now
	for _, id := range rec.Hosts() {
		h := &w.hosts[w.index[id]]
		s := w.shard(h.i)
		s.schedule(w.now+s.latency(h), h, evAsk)
	}
	if w.check != nil {
		w.check.after(rec)
	}
}

// maxTurns bounds what follows from one moment; more is a loop.
const maxTurns = 5000

// turn decides until nothing follows.
func (w *world) turn() {
	w.due, w.news = forever, false
	if w.offline {
		return
	}
	for range maxTurns {
		rec := control.Decide(w.state, w.view, w.at(w.now))
		if rec.Empty() {
			if due, ok := control.Due(w.state, w.view, w.at(w.now)); ok {
				w.due = due.Sub(w.start)
			}
			if w.check != nil {
				w.check.truth()
			}
			return
		}
		w.commit(rec)
		if len(w.out.Broken) > 0 {
			return
		}
	}
	w.fail("decisions do not end at %s", w.now)
}
