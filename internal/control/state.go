package control

import (
	"fmt"
	"slices"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// State is everything durable: what Apply has made of the records. It has one
// owner; nothing in it is safe for concurrent use.
type State struct {
	seq      uint64
	at       time.Time
	hosts    map[fleet.HostID]*Host
	rollouts map[string]*rollout.Rollout
	order    []string // of rollouts, oldest first
	bad      map[bundle.Digest]Bad
	badName  map[string]Bad // targets that are no bundle, by their name: see reverted
	proofs   map[string]Proof
	times    map[string]Took
	expected int       // how often what is expected of a class changed; not durable
	touched  []touched // by Apply since the last turn; not durable
	shelf    policy.Shelf
}

// Host is what was decided for one host.
type Host struct {
	// Generation of its orders; it only grows. The first order is 1.
	Generation uint64 `json:"generation"`
	// Live is what it is told to run, Prev what it ran before its rollout.
	Live bundle.Digest `json:"live,omitempty"`
	Prev bundle.Digest `json:"prev,omitempty"`
	// Act is what it is told to do beyond that, nil for nothing.
	Act *Act `json:"act,omitempty"`
	// Rollout that took it last, "" for none, with its place there.
	Rollout string            `json:"rollout,omitempty"`
	Phase   rollout.HostPhase `json:"phase,omitempty"`
	Wave    int               `json:"wave,omitempty"`
	Reason  string            `json:"reason,omitempty"`
	Since   time.Time         `json:"since,omitzero"`   // of the phase
	Started time.Time         `json:"started,omitzero"` // when it was admitted last
	Applied time.Time         `json:"applied,omitzero"`
	// Earlier are its admissions before the last, oldest first: budgets over
	// weeks count each of them.
	Earlier []Admission `json:"earlier,omitempty"`
	// Excused: it went down with its whole failure domain, so a failure that
	// came of it is not held against it and it gets another try.
	Excused bool `json:"excused,omitempty"`
	// Gone is the machine that stands in for it since it was replaced.
	Gone fleet.HostID `json:"gone,omitempty"`
	// Debt is the reboot it owes, nil for none.
	Debt *Debt `json:"debt,omitempty"`
	// Strikes are its failures in a row, Quarantine what came of them.
	Strikes    int         `json:"strikes,omitempty"`
	Quarantine *Quarantine `json:"quarantine,omitempty"`
	// Crashes are the ids of its crashes that were folded in, newest last.
	Crashes []string `json:"crashes,omitempty"`
	// Kept is the live patch that it keeps of an earlier rollout, nil for none.
	Kept *Kept `json:"kept,omitempty"`

	at int32 // its place in the memo that saw it last, from 1; 0 for none
}

// touched is a host that a record was about.
type touched struct {
	id   fleet.HostID
	host *Host
}

// Admission is one time that a rollout took the host.
type Admission struct {
	Rollout string    `json:"rollout"`
	At      time.Time `json:"at"`
}

// maxCrashIDs is more than a report can hold, so that none is counted twice.
const maxCrashIDs = 64

// maxEarlier and oldest bound what is kept of a host's earlier admissions.
const (
	maxEarlier = 8
	oldest     = 31 * 24 * time.Hour
)

// Bad is a bundle or another target that was reverted, and is refused from then on.
type Bad struct {
	Rollout string    `json:"rollout"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
	// NoBoot: hosts that ran it did not survive a boot.
	NoBoot bool `json:"no_boot,omitempty"`
}

// New is the state before the first record.
func New() *State { return NewSharing(nil) }

// NewSharing is New for one of several states of the same log: they take the
// policies from the shelf. nil shares nothing.
func NewSharing(shelf policy.Shelf) *State {
	return &State{shelf: shelf, hosts: map[fleet.HostID]*Host{}, rollouts: map[string]*rollout.Rollout{}, bad: map[bundle.Digest]Bad{}, badName: map[string]Bad{}, proofs: map[string]Proof{}, times: map[string]Took{}}
}

// Seq is the number of records applied.
func (s *State) Seq() uint64 { return s.seq }

// Rollout is one rollout, nil if there is none of that id. The caller must not change it.
func (s *State) Rollout(id string) *rollout.Rollout { return s.rollouts[id] }

// reverted says that a target that is no bundle was reverted. A restart never
// was, whatever old records say: it is no version, and another day it may do.
func (s *State) reverted(t policy.Target) (Bad, bool) {
	b, bad := s.badName[t.String()]
	return b, bad && t.Action != policy.Restart
}

// Rollouts are all rollouts, oldest first. The caller must not change them.
func (s *State) Rollouts() []*rollout.Rollout {
	out := make([]*rollout.Rollout, 0, len(s.order))
	for _, id := range s.order {
		out = append(out, s.rollouts[id])
	}
	return out
}

// Host is what was decided for a host, the zero Host if nothing was.
func (s *State) Host(id fleet.HostID) Host {
	if h := s.hosts[id]; h != nil {
		return *h
	}
	return Host{}
}

// Desired is what a host should be, as far as rollouts decide: the caller
// fills in Epoch, Mode and Withdrawn and signs it. A host that no rollout has
// taken stays what it settled on.
func (s *State) Desired(id fleet.HostID) wire.Desired {
	h := s.Host(id)
	d := wire.Desired{Version: wire.Version, Host: id, Generation: max(1, h.Generation), Rollout: h.Rollout, Live: h.Live}
	h.Act.fill(&d)
	return d
}

// Permits says whether hosts of the rollout may start something new: the
// caller signs a wire.Permit for it then. Paused and held rollouts get none,
// so their admitted hosts that have not begun do not begin. Going back and
// coming back to what has settled is always permitted.
func (s *State) Permits(id string) bool {
	r := s.rollouts[id]
	return r != nil && r.Phase != rollout.PhasePaused && r.Hold == ""
}

// Apply adds a record that the store has acknowledged, or one of its log. The
// error wraps rollout.ErrIllegal or tells of a gap; the State is then broken
// and must be rebuilt.
func (s *State) Apply(r Record) error {
	if r.Seq != s.seq+1 {
		return fmt.Errorf("apply record %d: the one before was %d", r.Seq, s.seq)
	}
	if err := s.apply(r); err != nil {
		return fmt.Errorf("apply record %d: %w", r.Seq, err)
	}
	s.seq, s.at = r.Seq, r.At
	return nil
}

func (s *State) apply(r Record) error {
	for _, id := range s.order {
		if err := s.rollouts[id].Advance(r.At); err != nil {
			return err
		}
	}
	if r.Command != nil {
		if err := s.applyCommand(*r.Command, r.At); err != nil {
			return err
		}
	}
	for _, a := range r.Adopts {
		s.applyAdopt(a, r)
	}
	for _, c := range r.Crashes {
		if err := s.applyCrash(c); err != nil {
			return err
		}
	}
	for _, c := range r.Successions {
		s.applySuccession(c)
	}
	for _, o := range r.Owes {
		h := s.host(o.Host)
		h.booted(o.Boot, o.Live, r.At)
		s.shed(h, o.Live, r.Edition)
	}
	for _, id := range r.Drops {
		h := s.host(id)
		h.Generation++
		h.Live, h.Prev = "", ""
		s.shed(h, false, r.Edition)
	}
	for _, p := range r.Payoffs {
		if err := s.applyPayoff(p, r.At); err != nil {
			return err
		}
	}
	for _, m := range r.Moves {
		if err := s.applyMove(m, r.At, r.Edition); err != nil {
			return err
		}
	}
	for _, w := range r.Waves {
		if err := s.with(w.Rollout, func(x *rollout.Rollout) error { return x.StepWave(w.WaveEvent, r.At) }); err != nil {
			return err
		}
		s.release(w)
	}
	for _, c := range r.Changes {
		if err := s.applyChange(c, r.At); err != nil {
			return err
		}
	}
	return nil
}

// applyAdopt takes a host for what it says it is: out of whatever rollout had it.
func (s *State) applyAdopt(a Adopt, r Record) {
	h := s.host(a.Host)
	if x := s.rollouts[h.Rollout]; x != nil {
		c := s.cohort(x, h)
		x.Leave(rollout.Move{Wave: h.Wave, From: c.from, N: 1, At: r.At, Applied: c.applied})
	}
	h.Generation, h.Live, h.Prev = a.Generation, a.Live, a.Live
	h.Rollout, h.Phase, h.Reason = "", "", ""
	s.shed(h, true, r.Edition)
}

// active are the rollouts of which something may still follow, oldest first.
func (s *State) active() []*rollout.Rollout {
	return slices.DeleteFunc(s.Rollouts(), func(r *rollout.Rollout) bool { return r.Phase.Over() })
}

// watched are the rollouts whose hosts are looked after: the active ones, and
// those of which hosts past the point of no return are still on their way.
func (s *State) watched() []*rollout.Rollout {
	return slices.DeleteFunc(s.Rollouts(), func(r *rollout.Rollout) bool { return r.Phase.Over() && !r.AnyActing() })
}

// host is a host about to be changed.
func (s *State) host(id fleet.HostID) *Host {
	h := s.hosts[id]
	if h == nil {
		h = &Host{Generation: 1}
		s.hosts[id] = h
	}
	s.touched = append(s.touched, touched{id, h})
	return h
}

// release tells the other rollouts of the hosts of a wave that is over: until
// then they were busy. To its own they are taken before and after; its batch
// looks for itself.
func (s *State) release(w WaveEvent) {
	if w.What != rollout.WaveCloses || len(s.order) == 1 {
		return
	}
	s.freed(func(h *Host) bool { return h.Rollout == w.Rollout && h.Wave == w.Wave && h.Phase == rollout.Soaking })
}

func (s *State) with(id string, fn func(*rollout.Rollout) error) error {
	r := s.rollouts[id]
	if r == nil {
		return fmt.Errorf("there is no rollout %s: %w", id, rollout.ErrIllegal)
	}
	return fn(r)
}

func (s *State) applyCrash(c CrashEvent) error {
	h := s.host(c.Host)
	if h.Crashes = append(h.Crashes, c.ID); len(h.Crashes) > maxCrashIDs {
		h.Crashes = slices.Delete(h.Crashes, 0, 1)
	}
	if c.Outage != "" {
		h.Excused = true
		return nil
	}
	for _, id := range []string{c.Patched, c.Also} {
		if id == "" {
			continue
		}
		err := s.with(id, func(r *rollout.Rollout) error {
			return r.Observe(c.Crash, h.since(id, c.Crash), s.bystanders(c, id))
		})
		if err != nil {
			return err
		}
	}
	for _, b := range c.Control {
		if b.Rollout == c.Patched || b.Rollout == c.Also {
			continue
		}
		err := s.with(b.Rollout, func(r *rollout.Rollout) error { return r.Observe(c.Crash, time.Time{}, b.arms()) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *State) bystanders(c CrashEvent, id string) rollout.Arms {
	for _, b := range c.Control {
		if b.Rollout == id {
			return b.arms()
		}
	}
	return rollout.Arms{}
}

// cohort is hosts of one move that come from the same place: one step of the rollout.
type cohort struct {
	from    rollout.HostPhase
	applied time.Time
}

func (s *State) applyMove(m Move, at time.Time, edition int) error {
	return s.with(m.Rollout, func(r *rollout.Rollout) error {
		var order []cohort
		counts := map[cohort]int{}
		hosts := make([]*Host, len(m.Hosts))
		for i, id := range m.Hosts {
			hosts[i] = s.host(id)
			c := s.cohort(r, hosts[i])
			if counts[c]++; counts[c] == 1 {
				order = append(order, c)
			}
		}
		for _, c := range order {
			step := rollout.Move{Wave: m.Wave, From: c.from, To: m.To, N: counts[c], At: at, Applied: c.applied, Gone: m.Gone}
			if m.To == rollout.Admitted && m.Act == nil {
				step.Live = m.Live
			}
			if err := r.Step(step); err != nil {
				return err
			}
		}
		for n, h := range hosts {
			s.keep(h, r)
			h.move(r, m, at)
			s.shed(h, h.Kept == nil || h.Kept.Rollout != r.ID, edition)
			s.took(h, m, at)
			if n < len(m.Boots) {
				h.settle(m.Boots[n], at)
			}
		}
		s.prove(m.Booted, m.To == rollout.Soaking, len(m.Hosts))
		return nil
	})
}

func (s *State) cohort(r *rollout.Rollout, h *Host) cohort {
	c := cohort{from: rollout.Waiting}
	if h.Rollout == r.ID {
		c.from = r.HostPhase(h.Phase, h.Wave)
	}
	if c.from.Exposed() {
		c.applied = h.Applied
	}
	return c
}

// move is what a move makes of one of its hosts.
func (h *Host) move(r *rollout.Rollout, m Move, at time.Time) {
	if m.To == rollout.Admitted {
		before := h.Prev
		h.begin(at)
		if m.Act != nil && m.Act.Action == wire.ActionReboot && m.Act.Name == "" {
			h.Prev = before // the same kernel again: the way back is the one of its live patch
		}
	}
	if m.To == rollout.Reverted && h.Live == "" {
		h.Debt = nil
	}
	if m.Orders() {
		h.Generation++
		h.Live = m.Live
		h.Act = h.ordered(m)
	}
	h.strike(r, m, h.Phase, at)
	if m.To == rollout.Soaking {
		h.Applied = at
	}
	h.Rollout, h.Wave, h.Phase, h.Reason, h.Since = r.ID, m.Wave, m.To, m.Reason, at
}

// begin is an admission.
func (h *Host) begin(at time.Time) {
	h.Earlier = h.admissions()
	for len(h.Earlier) > 0 && (len(h.Earlier) > maxEarlier || at.Sub(h.Earlier[0].At) > oldest) {
		h.Earlier = h.Earlier[1:]
	}
	if len(h.Earlier) == 0 {
		h.Earlier = nil
	}
	h.Prev, h.Started, h.Applied, h.Excused = h.Live, at, time.Time{}, false
}

// admissions are all that are known of the host, oldest first.
func (h *Host) admissions() []Admission {
	if h == nil || h.Started.IsZero() {
		return nil
	}
	return append(slices.Clip(h.Earlier), Admission{h.Rollout, h.Started})
}

// ordered is what the host is told to do by a move, nil for nothing. What is
// called off is remembered: it may have been done already.
func (h *Host) ordered(m Move) *Act {
	switch {
	case m.Act != nil:
		act := *m.Act
		act.Nonce = nonce(m.Rollout, h.Generation)
		return &act
	case m.To == rollout.Admitted || h.Act == nil:
		return nil
	}
	act := *h.Act
	act.Off = true
	return &act
}

func (s *State) applyChange(c Change, at time.Time) error {
	return s.with(c.Rollout, func(r *rollout.Rollout) error {
		if c.Phase == rollout.PhaseReverting && r.Phase != c.Phase {
			for _, d := range r.Bundles {
				if !s.bad[d].NoBoot { // the first reason is the one to know
					s.bad[d] = Bad{Rollout: r.ID, Reason: c.Reason, At: at}
				}
			}
			if t := r.Policy.Target; t.Disrupts() && t.Name != "" && t.Action != policy.Restart { // a restart is no version
				s.badName[r.Policy.Target.String()] = Bad{Rollout: r.ID, Reason: c.Reason, At: at}
			}
		}
		s.markBoot(r, c, at)
		if c.Phase == rollout.PhaseAborted || r.Phase == rollout.PhaseAborted {
			s.freed(func(h *Host) bool { return h.Rollout == r.ID && h.Phase == rollout.Soaking })
		}
		return r.StepPhase(c.Change, at)
	})
}

// freed tells the planners of hosts that were busy to others until now, or are
// from now on.
func (s *State) freed(which func(*Host) bool) {
	for id, h := range s.hosts {
		if which(h) {
			s.touched = append(s.touched, touched{id, h})
		}
	}
}

func (s *State) applyPayoff(p Payoff, at time.Time) error {
	if s.rollouts[p.Rollout] != nil || p.Rollout == "" {
		return fmt.Errorf("start of rollout %q: %w", p.Rollout, rollout.ErrIllegal)
	}
	return s.with(p.Of, func(r *rollout.Rollout) error {
		s.rollouts[p.Rollout] = r.Payoff(p.Rollout, p.Sample, at)
		s.order = append(s.order, p.Rollout)
		return nil
	})
}
