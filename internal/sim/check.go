package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/control"
	"afloat/internal/fleet"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// checker tests every record against what must always hold. It counts for
// itself, from the records and from what the hosts have said: it shares no sum
// with the planner, the rollout or the state.
type checker struct {
	w        *world
	hosts    map[fleet.HostID]*checked
	rollouts map[string]*watched
	bad      map[bundle.Digest]string // reverted, and by which rollout
	starts   []start                  // of all rollouts
	listens  time.Duration            // when the present server began
	// snapshot is the state at some record on the way, and tail the log after it.
	snapshot []byte
	tail     int
}

// checked is a host as the records have it.
type checked struct {
	phase   rollout.HostPhase
	rollout string
	wave    int
	starts  []start
	applied time.Time
	gen     uint64
	wasOut  bool          // when it was admitted last, or told to go back: taking it cost nothing
	heard   time.Duration // its last sign of life, but for heartbeats while they are given
}

type start struct {
	rollout string
	at      time.Time
}

// watched is a rollout as the records have it.
type watched struct {
	stopped string // since which command or verdict nobody may be admitted
	live    map[bundle.Digest]bool
	open    map[int]bool // waves
	closed  map[int]bool
}

func newChecker(w *world) *checker {
	return &checker{w: w, hosts: map[fleet.HostID]*checked{}, rollouts: map[string]*watched{}, bad: map[bundle.Digest]string{}}
}

func (c *checker) host(id fleet.HostID) *checked {
	if c.hosts[id] == nil {
		c.hosts[id] = &checked{phase: rollout.Waiting}
	}
	return c.hosts[id]
}

func (c *checker) rollout(id string) *watched {
	if c.rollouts[id] == nil {
		c.rollouts[id] = &watched{live: map[bundle.Digest]bool{}, open: map[int]bool{}, closed: map[int]bool{}}
	}
	return c.rollouts[id]
}

// told sees every order that a host gets.
func (c *checker) told(h *host, d wire.Desired) {
	x := c.host(h.id)
	if d.Generation < x.gen {
		c.w.fail("host %s: generation %d after %d", h.id, d.Generation, x.gen)
	}
	x.gen = d.Generation
}

// before tests a record against the state that it was decided on.
func (c *checker) before(rec control.Record) {
	for _, a := range rec.Adopts {
		h := c.host(a.Host)
		h.phase, h.rollout = rollout.Waiting, ""
	}
	for _, e := range rec.Crashes {
		c.crashed(e)
	}
	for _, m := range rec.Moves {
		for _, id := range m.Hosts {
			c.moved(id, m, rec.At)
		}
	}
	for _, e := range rec.Waves {
		c.waved(e, rec.At)
	}
	if rec.Command != nil {
		c.commanded(*rec.Command)
	}
	for _, x := range rec.Changes {
		c.changed(x)
	}
}

func (c *checker) moved(id fleet.HostID, m control.Move, at time.Time) {
	h := c.host(id)
	from := rollout.Waiting
	if h.rollout == m.Rollout {
		from = h.phase
	}
	if m.To == rollout.Admitted || m.To == rollout.Reverting && m.Act != nil && !from.Acting() { // on its way it has cost what it costs
		h.wasOut = c.isOut(c.w.state.Rollout(m.Rollout), id)
	}
	if m.To == rollout.Admitted {
		c.admitted(id, h, m)
		s := start{m.Rollout, at}
		h.starts, c.starts, h.applied = append(h.starts, s), append(c.starts, s), time.Time{}
		if r := c.w.state.Rollout(m.Rollout); r != nil && r.Policy.Target.Action == policy.Live && m.Live != "" && m.Act == nil { // a fallback keeps what the host runs
			c.rollout(m.Rollout).live[m.Live] = true
		}
	} else if h.rollout != m.Rollout {
		c.w.fail("host %s is moved to %s by rollout %s, it belongs to %q", id, m.To, m.Rollout, h.rollout)
	}
	if by, bad := c.bad[m.Live]; bad && m.Orders() {
		c.w.fail("host %s is told to run %s, which rollout %s reverted", id, m.Live.Short(), by)
	}
	if !rollout.CanMove(from, m.To) && (from != rollout.Soaking || !rollout.CanMove(rollout.Done, m.To)) {
		c.w.fail("host %s goes from %s to %s", id, from, m.To)
	}
	switch m.To {
	case rollout.Soaking:
		h.applied = at
	case rollout.Reverting:
		if m.Act != nil {
			c.alive(id, m.Rollout, "taken back by an action")
		}
	}
	h.phase, h.rollout, h.wave = m.To, m.Rollout, m.Wave
}

// admitted tests one admission: the host is fit, idle, and its rollout open.
func (c *checker) admitted(id fleet.HostID, h *checked, m control.Move) {
	if h.phase.Acting() {
		c.w.fail("host %s is admitted while %s in rollout %s", id, h.phase, h.rollout)
	}
	r := c.w.state.Rollout(m.Rollout)
	if r == nil || !r.Phase.Open() || r.Hold != "" {
		c.w.fail("host %s is admitted to rollout %s which is not open", id, m.Rollout)
		return
	}
	x := c.rollout(m.Rollout)
	if x.stopped != "" {
		c.w.fail("host %s is admitted to rollout %s after %s", id, m.Rollout, x.stopped)
	}
	if !x.open[m.Wave] && !x.closed[m.Wave] {
		c.w.fail("host %s is admitted to wave %d, which is not open", id, m.Wave)
	}
	c.alive(id, m.Rollout, "admitted")
	seen, now := c.w.view.Host(id), c.w.at(c.w.now)
	switch {
	case seen == nil || seen.Report.Boot == "":
		c.w.fail("host %s is admitted on no data", id)
		return
	case now.Sub(seen.Heard) > r.Policy.Timeouts.Silent:
		c.w.fail("host %s is admitted though silent since %s", id, seen.Heard)
	case seen.Report.Blind != "":
		c.w.fail("host %s is admitted though its crash evidence cannot be seen", id)
	case seen.Report.Mode != fleet.ModeAct || seen.Report.Stopped:
		c.w.fail("host %s is admitted against its owner's will", id)
	case !r.Policy.Select.Matches(seen.Labels):
		c.w.fail("host %s is admitted and not selected", id)
	}
	for _, l := range seen.Report.Live {
		if l.Bundle == "" {
			c.w.fail("host %s is admitted with the foreign live patch %s", id, l.Name)
		}
	}
	if open, why, _ := r.Policy.Open(now); !open {
		c.w.fail("host %s is admitted %s", id, why)
	}
	if last := len(h.starts) - 1; last >= 0 && now.Sub(h.starts[last].at) < r.Policy.MinInterval {
		c.w.fail("host %s is disrupted %s after the last time, at least %s must lie between", id, now.Sub(h.starts[last].at), r.Policy.MinInterval)
	}
}

// alive tests that a host told to go down was heard, as the hosts know it.
func (c *checker) alive(id fleet.HostID, in, what string) {
	r := c.w.state.Rollout(in)
	switch last := c.lastHeard(id); {
	case c.unheard(id):
		c.w.fail("host %s is %s though it was last heard at %s, and the server leads since %s", id, what, last, c.listens)
	case r != nil && c.w.now-last > r.Policy.Timeouts.Silent:
		c.w.fail("host %s is %s though truly silent since %s", id, what, last)
	}
}

// lastHeard is the host's last sign of life.
func (c *checker) lastHeard(id fleet.HostID) time.Duration {
	if c.w.hosts[c.w.index[id]].given {
		return c.w.now
	}
	return c.host(id).heard
}

// unheard says that the present server has not heard the host.
func (c *checker) unheard(id fleet.HostID) bool { return c.lastHeard(id) < c.listens }

// ends tests that a wave does not end while nobody knows what became of a host
// that has the target: silence speaks for itself only after a time.
func (c *checker) ends(e control.WaveEvent) {
	r := c.w.state.Rollout(e.Rollout)
	if r == nil || c.listens == 0 || c.w.now-c.listens > r.Policy.Timeouts.Silent {
		return
	}
	for id, h := range c.hosts {
		if h.rollout == e.Rollout && (h.phase.Acting() || h.phase.Exposed()) && c.w.view.Host(id) != nil && c.unheard(id) {
			c.w.fail("wave %d of rollout %s ends, and host %s has not been heard since the server leads", e.Wave, e.Rollout, id)
		}
	}
}

// soaks tests that the hosts of a wave that ends have had the target for its
// soak, but for as many as may lag behind.
func (c *checker) soaks(e control.WaveEvent, at time.Time) {
	r, taken, short := c.w.state.Rollout(e.Rollout), 0, 0
	if r == nil || e.Wave >= len(r.Policy.Waves) {
		return
	}
	for _, h := range c.hosts {
		if h.rollout != e.Rollout || h.wave != e.Wave {
			continue
		}
		taken++
		if h.phase.Acting() || h.phase == rollout.Soaking && at.Sub(h.applied) < r.Policy.Waves[e.Wave].Soak {
			short++
		}
	}
	if may := r.Policy.Waves[e.Wave].Stragglers.Of0(taken); short > may {
		c.w.fail("wave %d of rollout %s ends with %d hosts that have not soaked, at most %d may", e.Wave, e.Rollout, short, may)
	}
}

func (c *checker) waved(e control.WaveEvent, at time.Time) {
	x := c.rollout(e.Rollout)
	if e.What != rollout.WaveOpens {
		c.ends(e)
	}
	switch e.What {
	case rollout.WaveOpens:
		x.open[e.Wave] = true
	case rollout.WaveCloses:
		c.soaks(e, at)
		delete(x.open, e.Wave)
		x.closed[e.Wave] = true
	}
	if len(x.open) > 1 {
		c.w.fail("%d waves of rollout %s are open", len(x.open), e.Rollout)
	}
}

func (c *checker) commanded(cmd control.Command) {
	x := c.rollout(cmd.Rollout)
	switch cmd.Verb {
	case control.Abort, control.Pause:
		x.stopped = "the command to " + string(cmd.Verb)
	case control.Revert:
		c.reverts(cmd.Rollout)
	case control.Resume:
		x.stopped = ""
	}
}

func (c *checker) changed(x control.Change) {
	switch x.Phase {
	case rollout.PhaseReverting:
		c.reverts(x.Rollout)
	case rollout.PhasePaused, rollout.PhaseAborted, rollout.PhaseReverted:
		c.rollout(x.Rollout).stopped = "it was " + string(x.Phase)
	}
}

func (c *checker) reverts(id string) {
	x := c.rollout(id)
	x.stopped = "its revert"
	for d := range x.live {
		c.bad[d] = id
	}
}

// after tests what must hold once a record is applied.
func (c *checker) after(rec control.Record) {
	for _, m := range rec.Moves {
		if r := c.w.state.Rollout(m.Rollout); m.To == rollout.Admitted && r != nil {
			c.budgets(r, m)
		}
	}
	for _, x := range rec.Changes {
		if x.Phase == rollout.PhaseReverted {
			c.gone(x.Rollout)
		}
	}
	if rate := c.w.o.Rate; !rate.Zero() && within(c.starts, rate.Per, c.w.at(c.w.now), "") > rate.N {
		c.w.fail("fleet rate: more than %d hosts started in %s", rate.N, rate.Per)
	}
	if c.snapshot == nil && rec.Seq > 4+c.w.o.Seed%40 {
		c.snapshot, c.tail = c.take(c.w.state), len(c.w.log)
	}
}

// gone tests that nobody is told to run what was reverted, but for hosts that
// cannot be reached in the middle of something else.
func (c *checker) gone(id string) {
	for _, host := range c.w.view.Hosts() {
		h := c.w.state.Host(host)
		if c.rollout(id).live[h.Live] && !c.isOut(c.w.state.Rollout(id), host) {
			c.w.fail("rollout %s is reverted, and host %s is told to run its %s", id, host, h.Live.Short())
		}
	}
}

// within is how many starts lie in the last span, of one rollout or ("") of all.
func within(starts []start, span time.Duration, now time.Time, id string) int {
	n := 0
	for i := len(starts) - 1; i >= 0 && now.Sub(starts[i].at) < span; i-- {
		if id == "" || starts[i].rollout == id {
			n++
		}
	}
	return n
}

func (c *checker) take(s *control.State) []byte {
	data, err := s.Snapshot()
	if err != nil {
		c.w.fail("snapshot: %v", err)
	}
	return data
}

// replayed is the state as the log gives it.
func (c *checker) replayed() *control.State { return c.replay(control.NewSharing(c.w.shelf), c.w.log) }

func (c *checker) replay(s *control.State, log [][]byte) *control.State {
	for _, data := range log {
		var rec control.Record
		err := json.Unmarshal(data, &rec)
		if err == nil {
			err = s.Apply(rec)
		}
		if err != nil {
			c.w.fail("replay: %v", err)
			return s
		}
	}
	return s
}

// end compares the state with its replay, from the beginning and from a snapshot.
func (c *checker) end() {
	c.exposure()
	want := c.take(c.w.state)
	if !bytes.Equal(want, c.take(c.replayed())) {
		c.w.fail("the replay of %d records differs", len(c.w.log))
	}
	if c.snapshot == nil {
		return
	}
	s, err := control.RestoreSharing(c.snapshot, c.w.shelf)
	if err != nil {
		c.w.fail("restore: %v", err)
		return
	}
	if tail := c.w.log[c.tail:]; !bytes.Equal(want, c.take(c.replay(s, tail))) {
		c.w.fail("a snapshot and the %d records after it differ from the state", len(tail))
	}
}

// Replay is the command that plays a run again; fleet is the flag that gives it.
func Replay(policy, fleet string, o Options) string {
	var s strings.Builder
	s.WriteString(fmt.Sprintf("afloat sim %s %s --seed %d", policy, fleet, o.Seed))
	for _, f := range o.Faults {
		s.WriteString(fmt.Sprintf(" --fault %q", f.String()))
	}
	if o.Horizon > 0 {
		s.WriteString(" --horizon " + o.Horizon.Round(time.Second).String())
	}
	return s.String()
}
