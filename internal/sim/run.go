package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/control"
	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// goodDigest is the bundle of every run: the one that the policy targets.
const goodDigest bundle.Digest = "sha256:600d600d600d600d600d600d600d600d600d600d600d600d600d600d600d600d"

// Result is what a run came to.
type Result struct {
	Seed    uint64        `json:"seed"`
	Hosts   int           `json:"hosts"`
	Phase   rollout.Phase `json:"phase"`
	Reason  string        `json:"reason,omitempty"`
	Hold    string        `json:"hold,omitempty"`
	Took    time.Duration `json:"took_ns"` // virtual
	Exposed int           `json:"exposed"`
	Applied int           `json:"applied"` // loads that went through, all hosts
	Crashes int           `json:"crashes"` // by the patch
	Counted int           `json:"counted"` // crashes held against the rollout
	Running int           `json:"running"` // hosts that run the target in the end
	// Later is how many hosts have the targets of the rollouts that began later.
	Later []int `json:"later_running,omitempty"`
	// Waits are the reasons why hosts have not started, and how many wait for
	// each; only if the run ended before its rollouts did.
	Waits map[string]int `json:"waits,omitempty"`
	// Background are crashes of healthy hosts, patched or not.
	Background int `json:"background"`
	// Peak is how many hosts were out of service at once at most, for
	// whatever reason: leaving, down, being verified, or warming up.
	Peak    int    `json:"peak_out"`
	Records uint64 `json:"records"`
	// Verdict is the gate's last word: revert, hold, or that of the last wave that ended.
	Verdict gate.Level `json:"verdict,omitempty"`
	// Budgets and Services are the most used and the worst served first.
	Budgets  []BudgetUse  `json:"budgets,omitempty"`
	Services []ServiceUse `json:"services,omitempty"`
	Moments  []Moment     `json:"timeline"`
	Samples  []Sample     `json:"samples,omitempty"`
	// Levels are those of E at which the policy's gate holds and reverts.
	Levels gate.Levels `json:"levels"`
	// Broken lists the invariants that did not hold: a bug, never a result.
	Broken []string `json:"broken,omitempty"`
}

// Moment is one line of the timeline.
type Moment struct {
	At   time.Duration `json:"at_ns"`
	Text string        `json:"text"`
}

// Sample is the state at one time, for curves.
type Sample struct {
	At      time.Duration `json:"at_ns"`
	Exposed int           `json:"exposed"`
	Acting  int           `json:"acting"`
	E       float64       `json:"e"`
	// Spent is the share of the most used budget that is out, Serving the share
	// of its hosts that the worst service has.
	Spent   float64 `json:"spent"`
	Serving float64 `json:"serving"`
}

// Run plays a policy on a fleet. The error is a policy or option that cannot
// be; what went wrong in the run is in the Result.
func Run(o Options) (Result, error) {
	if err := o.Fleet.Check(); err != nil {
		return Result{}, err
	}
	orders, err := o.orders()
	if err != nil {
		return Result{}, err
	}
	if err := o.check(); err != nil {
		return Result{}, err
	}
	if o.Horizon == 0 {
		o.Horizon = 30 * 24 * time.Hour
	}
	w := newWorld(o, orders)
	if err := w.aims(); err != nil {
		return Result{}, err
	}
	w.join()
	w.turn()
	if err := w.give(0); err != nil {
		return Result{}, err
	}
	w.plant()
	if !w.loop() {
		return Result{}, errors.New("run simulation: it was stopped")
	}
	w.finish()
	return *w.out, nil
}

func newWorld(o Options, orders []ordered) *world {
	shelf := policy.Shelf{}
	for _, x := range orders {
		shelf[x.Policy] = x.read
	}
	w := &world{o: o, start: Started(), shelf: shelf, rng: rand.New(rand.NewPCG(o.Seed, 0x5eed)), faults: o.Faults, orders: orders, blamed: digestOf(o.Blame),
		state: control.NewSharing(shelf), view: control.NewView(), epoch: 1, cut: map[int][]int32{}, used: map[useKey]*BudgetUse{}, out: &Result{Seed: o.Seed, Hosts: o.Fleet.Size()}}
	w.hosts = o.Fleet.hosts()
	w.index = make(map[fleet.HostID]int32, len(w.hosts))
	w.split()
	for i := range w.hosts {
		w.index[w.hosts[i].id], w.hosts[i].i = int32(i), int32(i)
		w.hosts[i].chance = newDraws(o.Seed, i)
		w.rate += w.hosts[i].group.CrashesPerYear / (365 * 24)
	}
	w.enlist()
	w.view.Limit(o.Rate)
	w.stock()
	if o.Check {
		w.check = newChecker(w)
	}
	return w
}

// join enrols the hosts; those of a join fault come later.
func (w *world) join() {
	for n, f := range w.faults {
		if f.Name == "join" {
			for i := range w.hosts {
				if h := &w.hosts[i]; f.On.Matches(h.labels) && w.rng.Float64() < f.Share && !h.away { // nobody joins twice
					h.away = true
					w.cut[n] = append(w.cut[n], int32(i))
				}
			}
		}
	}
	for i := range w.hosts {
		if h := &w.hosts[i]; !h.away {
			w.view.Enrol(h.id, string(h.id), h.labels, fleet.ModeAct)
		}
	}
	w.each(func(s *shard) {
		for i := range s.hosts {
			if h := &s.hosts[i]; !h.away {
				h.enrol(s)
			}
		}
	})
}

// plant schedules the faults that have a time.
func (w *world) plant() {
	if len(w.o.Fleet.Services) > 0 {
		w.relabel()
	}
	if w.rate > 0 {
		w.queue.push(event{at: exponential(w.rate, w.rng.Float64()), kind: evChance})
	}
	for n, f := range w.faults {
		switch f.Name {
		case "cut", "down", "owner-drains", "blind", "server-crash", "abort", "pause", "revert", "join":
			w.queue.push(event{at: f.At, kind: evFault, fault: n})
		}
	}
	for n, s := range w.o.Also {
		w.queue.push(event{at: s.At, kind: evOrder, verb: control.Start, fault: n + 1})
	}
}

// begin starts a timed fault.
func (w *world) begin(n int) {
	f := w.faults[n]
	w.say("fault %s", f)
	switch f.Name {
	case "cut", "down", "owner-drains", "blind":
		w.strike(n)
	case "server-crash":
		w.offline = true
	case "abort":
		w.operate(control.Abort, n)
	case "pause":
		w.operate(control.Pause, n)
	case "revert":
		w.operate(control.Revert, n)
	case "join":
		for _, i := range w.cut[n] {
			h := &w.hosts[i]
			h.away = false
			w.view.Enrol(h.id, string(h.id), h.labels, fleet.ModeAct)
			h.enrol(w.shard(i))
		}
	}
	if f.For > 0 || f.Name == "server-crash" {
		w.queue.push(event{at: w.now + f.For, kind: evEnd, fault: n})
	}
}

func (w *world) strike(n int) {
	f := w.faults[n]
	for _, i := range w.struck(f) {
		h := &w.hosts[i]
		switch f.Name {
		case "cut":
			h.mute = true
			w.shard(i).silent(h, w.now)
			w.cut[n] = append(w.cut[n], i)
		case "owner-drains":
			h.byOwner(w.shard(i), true, w.now)
			w.cut[n] = append(w.cut[n], i)
		case "blind":
			h.see(w.shard(i), false, w.now)
			w.cut[n] = append(w.cut[n], i)
		default:
			h.die(w.shard(i), w.now, f.For)
		}
	}
}

// struck draws the hosts that a fault hits: a share of them, or so many.
func (w *world) struck(f Fault) (hit []int32) {
	for i := range w.hosts {
		h := &w.hosts[i]
		if h.down || h.gone || h.away || !f.On.Matches(h.labels) || f.Count == 0 && w.rng.Float64() >= f.Share {
			continue
		}
		hit = append(hit, int32(i))
	}
	if f.Count > 0 {
		w.rng.Shuffle(len(hit), func(i, j int) { hit[i], hit[j] = hit[j], hit[i] })
		hit = hit[:min(f.Count, len(hit))]
	}
	return hit
}

// end ends a timed fault.
func (w *world) end(n int) {
	switch f := w.faults[n]; f.Name {
	case "cut":
		for _, i := range w.cut[n] {
			h := &w.hosts[i]
			h.mute = false
			if !h.down && !h.gone {
				h.given = true
				w.view.Given(h.id, w.at(w.now), w.at(forever))
				w.shard(i).ask(h, w.now)
			}
		}
	case "owner-drains":
		for _, i := range w.cut[n] {
			w.hosts[i].byOwner(w.shard(i), false, w.now)
		}
	case "blind":
		for _, i := range w.cut[n] {
			w.hosts[i].see(w.shard(i), true, w.now)
		}
	case "pause":
		w.operate(control.Resume, n)
	case "server-crash":
		w.failOver()
	}
}

// failOver is another leader: it knows the log, and the reports that the one
// before it kept. Who lives it learns as hosts report again.
func (w *world) failOver() {
	w.offline = false
	w.epoch++
	if w.check != nil {
		w.state = w.check.replayed()
	}
	kept := w.view
	w.view = control.NewView()
	w.view.Limit(w.o.Rate)
	w.stock()
	for i := range w.hosts {
		if h := &w.hosts[i]; !h.away {
			h.given = false
			w.view.Enrol(h.id, string(h.id), h.labels, fleet.ModeAct)
			if was := kept.Host(h.id).Report; was.Boot != "" {
				w.view.Report(was, w.at(w.now))
			}
		}
	}
	w.view.Listen(w.at(w.now))
	if w.check != nil {
		w.check.listens = w.now
	}
	for i := range w.hosts {
		if h := &w.hosts[i]; !h.away && !h.down && !h.gone {
			w.shard(h.i).again(h, w.now)
			w.shard(h.i).ask(h, w.now)
		}
	}
}

const (
	turnEvery = time.Second      // the server's clock
	lookEvery = 30 * time.Second // at what goes on, when nothing does
)

// loop runs until the rollout rests or the horizon is reached. It is false if it was stopped.
func (w *world) loop() bool {
	w.turn()
	w.sample(true)
	for w.now < w.o.Horizon && len(w.out.Broken) == 0 {
		w.play(w.turnAt())
		if !w.nothingNew() {
			w.turn()
		}
		w.sample(false)
		select {
		case <-w.o.Stop:
			return false
		default:
		}
		if w.over() && !w.pending() && (len(w.orders) == 1 || w.now-w.decided > time.Minute) {
			return true
		}
	}
	return true
}

// nothingNew says that a turn would only find what the last one found: nothing
// was heard or done since, and nothing was due. The real server takes it anyway.
// The hosts themselves may have changed, so the checker looks at them.
func (w *world) nothingNew() bool {
	if w.news || w.now >= w.due {
		return false
	}
	if w.check != nil && !w.offline {
		w.check.truth()
	}
	if rec := w.doubted(); !rec.Empty() {
		w.fail("nothing was due at %s, but this follows: %+v", w.now, rec)
	}
	return true
}

// doubted is what a turn would decide now, for tests of Due.
func (w *world) doubted() (rec control.Record) {
	if w.o.doubt && !w.offline {
		rec = control.Decide(w.state, w.view, w.at(w.now))
	}
	return rec
}

// turnAt is when the server may decide next. It does at each second of its clock,
// but only those count at which something has happened or is due.
func (w *world) turnAt() time.Duration {
	end := min(w.now+lookEvery, max(w.now+turnEvery, w.due.Truncate(turnEvery)+turnEvery))
	if first, ok := w.first(); ok {
		end = min(end, max(w.now+turnEvery, first.Truncate(turnEvery)+turnEvery))
	}
	return end
}

// first is when the next thing happens.
func (w *world) first() (time.Duration, bool) {
	at, ok := w.queue.next()
	for i := range w.shards {
		if t, has := w.shards[i].queue.next(); has && (!ok || t < at) {
			at, ok = t, true
		}
	}
	return at, ok
}

// play goes on to a time: the shards by themselves up to each event that
// concerns them all.
func (w *world) play(end time.Duration) {
	for w.queue.due(end) {
		e := w.queue.pop()
		w.each(func(s *shard) { s.until(e.at) })
		w.now = max(w.now, e.at)
		w.handle(e)
	}
	w.each(func(s *shard) { s.until(end) })
	w.now = end
}

// pending says that timed faults are still to come.
func (w *world) pending() bool {
	for _, f := range w.faults {
		if f.At > w.now {
			return true
		}
	}
	for _, s := range w.o.Also {
		if s.At > w.now {
			return true
		}
	}
	return w.offline
}

func (w *world) say(format string, args ...any) {
	const most = 2000
	if len(w.out.Moments) < most {
		w.out.Moments = append(w.out.Moments, Moment{w.now, fmt.Sprintf(format, args...)})
	}
}

// note puts what a record decided into the timeline.
func (w *world) note(rec control.Record) {
	for _, c := range rec.Changes {
		switch {
		case c.Hold != "":
			w.say("%sholds: %s", other(c.Rollout), c.Hold)
		case c.Reason != "":
			w.say("%s%s: %s", other(c.Rollout), c.Phase, c.Reason)
		default:
			w.say("%s%s again", other(c.Rollout), c.Phase)
		}
	}
	for _, e := range rec.Waves {
		name := w.state.Rollout(e.Rollout).Waves[e.Wave].Name
		switch {
		case e.Verdict != "":
			if e.Rollout == "r1" {
				w.out.Verdict = e.Verdict
			}
			w.say("%swave %s %s, %s: %s", other(e.Rollout), name, e.What, e.Verdict, e.Why)
		case e.Why != "":
			w.say("%swave %s %s: %s", other(e.Rollout), name, e.What, e.Why)
		default:
			w.say("%swave %s %s", other(e.Rollout), name, e.What)
		}
	}
	for _, c := range rec.Crashes {
		if c.Patched != "" {
			w.say("crash with the patch on host %s (%s)", c.Host, c.Kind)
		}
	}
}

// other names a rollout that is not the first one.
func other(id string) string {
	if id == "r1" {
		return ""
	}
	return id + ": "
}

// sample notes the curves, thinned out so that they stay small.
func (w *world) sample(always bool) {
	if w.o.bare {
		return
	}
	const most, every = 4000, 30 * time.Second
	spent := w.spend()
	n := len(w.out.Samples)
	if !always && (n >= most || w.now-w.out.Samples[n-1].At < every) {
		return
	}
	r := w.state.Rollout("r1")
	if r == nil {
		return
	}
	s := Sample{At: w.now, Exposed: r.Exposure.Running(), E: r.Evidence.E(), Spent: spent, Serving: 1}
	for i := range r.Waves {
		s.Acting += r.ActingIn(i)
	}
	if n > 0 {
		s.Serving = w.out.Samples[n-1].Serving
	}
	if always || len(w.hosts) <= manyHosts || w.now-w.looked >= 60*every {
		s.Serving, w.looked = w.serve(), w.now
	}
	w.out.Samples = append(w.out.Samples, s)
}

// manyHosts is from how many hosts on who serves is counted every half hour: it takes
// a look at each of them.
const manyHosts = 20_000
