package rollout

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/health"
	"afloat/internal/policy"
	"afloat/internal/wire"
)

// ErrIllegal says that an event cannot happen in this state. It is a bug or a
// damaged log, never a person's mistake.
var ErrIllegal = errors.New("event is not possible here")

// Rollout is one rollout as its events have made it. Only Step changes it.
type Rollout struct {
	ID     string `json:"id"`
	By     string `json:"by"`
	Source string `json:"source"` // the policy as written
	// Reboot is how soon one must follow by the publisher of the target: Policy
	// has it already.
	Reboot bundle.Reboot `json:"reboot,omitempty"`
	// Of is the live rollout whose reboots this one pays off, "" for none, and
	// Sample the hosts that boot first.
	Of      string         `json:"of,omitempty"`
	Sample  []fleet.HostID `json:"sample,omitempty"`
	Started time.Time      `json:"started"`
	Phase   Phase          `json:"phase"`
	// Reason is why the rollout is in its phase.
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	// Hold is why nobody is admitted although the rollout runs, "" when it is not so.
	Hold string `json:"hold,omitempty"`
	// Freed is when a hold or pause ended last: nobody had a permit before.
	Freed time.Time `json:"freed,omitzero"`
	// Waved are the rules that a person let the rollout go on past until its next
	// wave opens, and WavedAt the rules that count, with the count they were waved at.
	Waved   []gate.Rule       `json:"waved,omitempty"`
	WavedAt map[gate.Rule]int `json:"waved_at,omitempty"`
	// PausedBy is the rule that paused it under onRevert: pause.
	PausedBy gate.Rule `json:"paused_by,omitempty"`
	Waves    []Wave    `json:"waves"`
	// Bundles are the live patches that hosts were told to load.
	Bundles []bundle.Digest `json:"bundles,omitempty"`

	Exposure health.Exposure `json:"exposure"`
	Evidence gate.Evidence   `json:"evidence"`
	Filter   gate.Filter     `json:"filter"`
	// Crashed are the counted crashes on hosts with the target, oldest first.
	Crashed []Crash `json:"crashed,omitempty"`
	// Signatures of crashes on either side.
	Signatures []gate.Signature `json:"signatures,omitempty"`

	Policy *policy.Policy `json:"-"`
}

// Crash is a counted crash on a host with the target.
type Crash struct {
	health.Crash
	// After is how long after apply it became known.
	After time.Duration `json:"after_ns"`
}

// Wave is one wave as its events have made it.
type Wave struct {
	Name   string    `json:"name"`
	Opened time.Time `json:"opened,omitzero"`
	// Soaking is since when all its hosts have settled, zero before, and when
	// another was admitted since.
	Soaking time.Time `json:"soaking,omitzero"`
	Closed  time.Time `json:"closed,omitzero"`
	// Verdict and Why are what the gate said at its end.
	Verdict gate.Level `json:"verdict,omitempty"`
	Why     string     `json:"why,omitempty"`
	// Hosts counts its hosts by phase; Done counts as Soaking until read through Count.
	Hosts map[HostPhase]int `json:"hosts,omitempty"`
	// Late is how many hosts failed on their way since the wave is over, or since
	// a person let the rollout go on past that.
	Late int `json:"late,omitempty"`
	// Gone is how many of the failed are enrolled no more.
	Gone int `json:"gone,omitempty"`
}

// New is a rollout that has just been started.
func New(id, by, source string, p *policy.Policy, at time.Time) *Rollout {
	r := &Rollout{ID: id, By: by, Source: source, Started: at, Since: at, Phase: PhaseRunning, Policy: p}
	r.Exposure.Seen = at
	for _, w := range p.Waves {
		r.Waves = append(r.Waves, Wave{Name: w.Name})
	}
	return r
}

// Payoff is the rollout of the reboots that r owes.
func (r *Rollout) Payoff(id string, sample []fleet.HostID, at time.Time) *Rollout {
	out := New(id, "the debt of rollout "+r.ID, r.Source, r.Policy.Payoff(), at)
	out.Of, out.Sample, out.Reboot = r.ID, sample, r.Reboot
	return out
}

// Restore makes a rollout that came out of a snapshot whole again.
func (r *Rollout) Restore(shelf policy.Shelf) error {
	p, err := shelf.Reread([]byte(r.Source))
	if err != nil {
		return fmt.Errorf("restore rollout %s: %w", r.ID, err)
	}
	if r.Reboot != "" {
		p = p.Prompt()
	}
	if r.Of != "" {
		p = p.Payoff()
	}
	if len(p.Waves) != len(r.Waves) {
		return fmt.Errorf("restore rollout %s: %d waves, the policy has %d", r.ID, len(r.Waves), len(p.Waves))
	}
	r.Policy = p
	return nil
}

// Current is the index of the open wave, or len(Waves) when all are over, and
// whether it has been opened.
func (r *Rollout) Current() (i int, opened bool) {
	for i, w := range r.Waves {
		if w.Closed.IsZero() {
			return i, !w.Opened.IsZero()
		}
	}
	return len(r.Waves), false
}

// Over says that wave i is over.
func (r *Rollout) Over(i int) bool {
	return i >= 0 && i < len(r.Waves) && !r.Waves[i].Closed.IsZero()
}

// HostPhase is the phase of a host of wave i whose stored phase is p: hosts
// become done together with their wave, or when the rollout is aborted.
func (r *Rollout) HostPhase(p HostPhase, i int) HostPhase {
	if p == Soaking && r.soaked(i) {
		return Done
	}
	return p
}

// Shut says that wave i soaks and takes nobody more: a later one may, so that
// its soak need not begin again.
func (r *Rollout) Shut(i int) bool {
	w := r.Waves[i]
	return !w.Soaking.IsZero() && w.Closed.IsZero() && r.Policy.Waves[i].Select == nil &&
		slices.ContainsFunc(r.Policy.Waves[i+1:], func(w policy.Wave) bool { return w.Select == nil })
}

// soaked says that hosts of wave i that have the target wait for nothing more.
func (r *Rollout) soaked(i int) bool { return r.Over(i) || r.Phase == PhaseAborted }

// Count is how many hosts are in the phase, over all waves.
func (r *Rollout) Count(p HostPhase) int {
	n := 0
	for i := range r.Waves {
		n += r.CountIn(i, p)
	}
	return n
}

// CountIn is how many hosts of wave i are in the phase.
func (r *Rollout) CountIn(i int, p HostPhase) int {
	w := r.Waves[i]
	switch {
	case p == Done && r.soaked(i):
		return w.Hosts[Soaking]
	case p == Done, p == Soaking && r.soaked(i):
		return 0
	}
	return w.Hosts[p]
}

// Taken is how many hosts of wave i were ever admitted.
func (r *Rollout) Taken(i int) int {
	n := 0
	for _, c := range r.Waves[i].Hosts {
		n += c
	}
	return n
}

// ActingIn is how many hosts of wave i are on their way.
func (r *Rollout) ActingIn(i int) int {
	n := 0
	for p, c := range r.Waves[i].Hosts {
		if p.Acting() {
			n += c
		}
	}
	return n
}

// AnyActing says that hosts of the rollout are on their way.
func (r *Rollout) AnyActing() bool {
	for i := range r.Waves {
		if r.ActingIn(i) > 0 {
			return true
		}
	}
	return false
}

// Move is a group of hosts of one wave that go from one phase to another.
type Move struct {
	Wave     int
	From, To HostPhase
	N        int
	At       time.Time
	// Applied is when the hosts got the target, where they lose it.
	Applied time.Time
	// Live is the bundle of an admission.
	Live bundle.Digest
	// Gone: the hosts fail as they are enrolled no more.
	Gone bool
}

// Step moves hosts.
func (r *Rollout) Step(m Move) error {
	if m.Wave < 0 || m.Wave >= len(r.Waves) {
		return fmt.Errorf("move hosts of rollout %s: wave %d of %d: %w", r.ID, m.Wave, len(r.Waves), ErrIllegal)
	}
	if !CanMove(m.From, m.To) {
		return fmt.Errorf("move hosts of rollout %s from %s to %s: %w", r.ID, m.From, m.To, ErrIllegal)
	}
	w := &r.Waves[m.Wave]
	if w.Hosts == nil {
		w.Hosts = map[HostPhase]int{}
	}
	stored := func(p HostPhase) HostPhase {
		if p == Done {
			return Soaking
		}
		return p
	}
	from, to := stored(m.From), stored(m.To)
	if m.From != Waiting {
		if w.Hosts[from] < m.N {
			return fmt.Errorf("move %d hosts of rollout %s from %s, which has %d: %w", m.N, r.ID, m.From, w.Hosts[from], ErrIllegal)
		}
		if w.Hosts[from] -= m.N; w.Hosts[from] == 0 {
			delete(w.Hosts, from)
		}
	}
	if m.To != Waiting {
		w.Hosts[to] += m.N
	}
	if m.To == Admitted && w.Closed.IsZero() {
		w.Soaking = time.Time{} // who comes now soaks like the others
	}
	w.lag(m)
	r.expose(m)
	return nil
}

// Leave takes a host out of its wave that some other thing has now. A host that
// is not there, or was reverted, leaves nothing to take out.
func (r *Rollout) Leave(m Move) {
	if m.To = Failed; m.From == Failed || r.Step(m) == nil {
		m.From, m.To = Failed, Waiting
		_ = r.Step(m) // illegal only where there is none
	}
}

// lag counts the failures that are nobody's, and those of hosts that come to a
// wave which is over.
func (w *Wave) lag(m Move) {
	switch {
	case m.Gone:
		w.Gone += m.N
	case w.Closed.IsZero():
	case m.To == Failed && m.From.Acting() && m.From != Reverting:
		w.Late += m.N
	case m.From == Failed && m.To == Waiting:
		w.Late = max(0, w.Late-m.N)
	}
}

func (r *Rollout) expose(m Move) {
	switch {
	case m.To.Exposed() && !m.From.Exposed():
		r.Exposure.Add(m.N, m.At)
	case m.From.Exposed() && !m.To.Exposed():
		r.Exposure.Remove(m.N, m.Applied)
	}
	if m.Live != "" && !slices.Contains(r.Bundles, m.Live) {
		r.Bundles = append(r.Bundles, m.Live)
	}
}

// Arms are the hosts at risk when one crashed, with the target and without. No
// Patched means all that have it for longer than the apply window.
type Arms struct{ Patched, Control int }

// Observe counts one crash: on a host that has the target since applied, or on
// a host without it (applied is zero).
func (r *Rollout) Observe(c health.Crash, applied time.Time, at Arms) error {
	onPatched := !applied.IsZero()
	r.sign(c, onPatched)
	if !c.Counts() || !r.Filter.Count(gate.Event{Host: c.Host, Domains: c.Domains, At: c.At}) {
		return nil
	}
	patched := at.Patched
	if patched == 0 {
		patched = r.Exposure.Steady(c.At, gate.ApplyWindow)
	}
	e := gate.Crash{Host: c.Host, Kind: gate.CrashControl, Patched: float64(patched), Control: float64(at.Control)}
	if onPatched {
		e.Kind = gate.CrashSteady
		if c.At.Sub(applied) <= gate.ApplyWindow {
			e.Kind = gate.CrashApply
		}
		r.Crashed = append(r.Crashed, Crash{Crash: c, After: max(0, c.At.Sub(applied))})
	}
	next, err := r.Evidence.Observe(gate.Look{Crashes: []gate.Crash{e}})
	if err != nil {
		return fmt.Errorf("observe crash %s of host %s: %w", c.ID, c.Host, err)
	}
	r.Evidence = next
	return nil
}

func (r *Rollout) sign(c health.Crash, onPatched bool) {
	if c.Signature == "" || c.Kind == wire.CrashWarning {
		return
	}
	i := slices.IndexFunc(r.Signatures, func(s gate.Signature) bool { return s.Sum == c.Signature })
	if i < 0 {
		i = len(r.Signatures)
		r.Signatures = append(r.Signatures, gate.Signature{Sum: c.Signature})
	}
	s := &r.Signatures[i]
	switch {
	case !onPatched:
		s.Elsewhere = true
	case !slices.Contains(s.Hosts, c.Host) && len(s.Hosts) < 16:
		s.Hosts = append(s.Hosts, c.Host)
	}
}

// Advance counts the exposure up to at.
func (r *Rollout) Advance(at time.Time) error {
	next, err := r.Evidence.Observe(gate.LookAt(r.Policy.Gate.Crashes, &r.Exposure, at))
	if err != nil {
		return fmt.Errorf("count exposure of rollout %s: %w", r.ID, err)
	}
	r.Evidence = next
	return nil
}

// Facts are what the gate judges at the given time.
func (r *Rollout) Facts(now time.Time) gate.Facts {
	limit := r.Policy.Gate.Crashes.Cap.Within
	f := gate.Facts{Exposed: r.Exposure.Exposed, HoursWithin: r.Exposure.Within(now, limit), Signatures: r.Signatures}
	for _, c := range r.Crashed {
		if c.After <= limit && !slices.Contains(f.Crashed, c.Host) {
			f.Crashed = append(f.Crashed, c.Host)
		}
	}
	f.Failed, f.Allowed = r.failures()
	// A crash while the patch goes on comes before any exposure is counted.
	f.Exposed = max(f.Exposed, len(f.Crashed))
	if f.Exposed > 0 {
		exposure := r.Exposure.Clone()
		if e, err := r.Evidence.Observe(gate.LookAt(r.Policy.Gate.Crashes, &exposure, now)); err == nil {
			f.Evidence = &e
		} else {
			f.NoData = err.Error()
		}
	}
	return f
}

// failures are the failed hosts of the open wave and how many it allows, or
// those of late hosts of a wave that is over, if they are more than that allows.
func (r *Rollout) failures() (failed, allowed int) {
	current, opened := r.Current()
	if opened {
		failed, allowed = max(0, r.CountIn(current, Failed)-r.Waves[current].Gone), r.Policy.Waves[current].Failures.Of0(r.Taken(current))
	}
	for i := range r.Waves[:current] {
		if may := r.Policy.Waves[i].Failures.Of0(r.Taken(i)); failed <= allowed && r.Waves[i].Late > may {
			return r.Waves[i].Late, may
		}
	}
	return failed, allowed
}

// WaveEvent opens, soaks or closes a wave.
type WaveEvent struct {
	Wave    int        `json:"wave"`
	What    WaveWhat   `json:"what"`
	Verdict gate.Level `json:"verdict,omitempty"`
	Why     string     `json:"why,omitempty"`
}

// WaveWhat is what happens to a wave.
type WaveWhat string

const (
	WaveOpens  WaveWhat = "opens"
	WaveSoaks  WaveWhat = "soaks"
	WaveCloses WaveWhat = "closes"
)

// StepWave applies a wave event. Waves go in order: never two are open.
func (r *Rollout) StepWave(e WaveEvent, at time.Time) error {
	current, opened := r.Current()
	if e.Wave != current || e.Wave >= len(r.Waves) || opened == (e.What == WaveOpens) {
		return fmt.Errorf("wave %d of rollout %s %s while wave %d is open (%v): %w", e.Wave, r.ID, e.What, current, opened, ErrIllegal)
	}
	w := &r.Waves[e.Wave]
	switch e.What {
	case WaveOpens:
		w.Opened, r.Waved = at, nil
	case WaveSoaks:
		w.Soaking = at
	case WaveCloses:
		w.Closed, w.Verdict, w.Why = at, e.Verdict, e.Why
	default:
		return fmt.Errorf("wave %d of rollout %s %q: %w", e.Wave, r.ID, e.What, ErrIllegal)
	}
	return nil
}

// Change is a new phase or hold of the rollout itself.
type Change struct {
	Phase  Phase  `json:"phase"`
	Reason string `json:"reason,omitempty"`
	// Hold is the new hold, "" releases. It counts only while Phase stays.
	Hold string `json:"hold,omitempty"`
	// Waved are rules that a person lets the rollout pass.
	Waved []gate.Rule `json:"waved,omitempty"`
	// By is the rule that paused the rollout.
	By gate.Rule `json:"by_rule,omitempty"`
}

// StepPhase applies a change.
func (r *Rollout) StepPhase(c Change, at time.Time) error {
	for _, rule := range c.Waved {
		r.waive(rule)
	}
	if r.Hold != "" && c.Hold == "" || r.Phase == PhasePaused && c.Phase != PhasePaused {
		r.Freed = at
	}
	if c.Phase == r.Phase {
		r.Hold = c.Hold
		return nil
	}
	if !r.Phase.CanGo(c.Phase) {
		return fmt.Errorf("rollout %s from %s to %s: %w", r.ID, r.Phase, c.Phase, ErrIllegal)
	}
	if c.Phase == PhaseComplete {
		r.Waved = nil // it was about the hosts of the last wave
	}
	r.Phase, r.Reason, r.Since, r.Hold, r.PausedBy = c.Phase, c.Reason, at, "", c.By
	return nil
}

// CrashedHost says whether the host has a counted crash in this rollout.
func (r *Rollout) CrashedHost(id fleet.HostID) bool {
	return slices.ContainsFunc(r.Crashed, func(c Crash) bool { return c.Host == id })
}
