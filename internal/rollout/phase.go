// Package rollout is the state machine of one rollout: the phases of its hosts
// and of itself, its waves, and what they have shown. Step takes an event and
// changes the state, or says why the event cannot be; it decides nothing.
// Events are what the store keeps: the same events give the same state.
package rollout

import (
	"fmt"
	"slices"
	"strings"
)

// HostPhase is where one host stands in a rollout.
type HostPhase string

const (
	Waiting   HostPhase = "waiting"   // not admitted: the planner says why
	Admitted  HostPhase = "admitted"  // told to start
	Applying  HostPhase = "applying"  // live: fetching, loading, in transition
	Soaking   HostPhase = "soaking"   // has the target, its wave is not over
	Draining  HostPhase = "draining"  // reboot: leaving rotation
	Rebooting HostPhase = "rebooting" // reboot: down
	Verifying HostPhase = "verifying" // reboot: back, being checked
	Warming   HostPhase = "warming"   // reboot: in service, not at full strength yet
	Done      HostPhase = "done"      // has the target, its wave is over
	Failed    HostPhase = "failed"    // could not apply, and was told to be what it was
	Reverting HostPhase = "reverting" // told to be what it was before
	Reverted  HostPhase = "reverted"  // is what it was before
)

// HostPhases lists every phase in the order of the way through a rollout.
func HostPhases() []HostPhase {
	return []HostPhase{Waiting, Admitted, Draining, Applying, Rebooting, Verifying, Warming, Soaking, Done, Failed, Reverting, Reverted}
}

// Transition is one allowed move of a host and what causes it.
type Transition struct {
	From, To HostPhase
	By       string
}

// Transitions is the one table of host moves: for live and for reboot targets.
func Transitions() []Transition {
	return []Transition{
		{Waiting, Admitted, "planner"},
		{Admitted, Applying, "host reports applying"},
		{Admitted, Soaking, "host reports applied"},
		{Admitted, Failed, "host reports failed or refused"},
		{Admitted, Reverting, "abort, revert or withdrawal"},
		{Applying, Soaking, "host reports applied"},
		{Applying, Failed, "host reports failed or refused"},
		{Applying, Reverting, "abort, revert or withdrawal"},
		{Admitted, Draining, "host reports draining"},
		{Draining, Rebooting, "host reports rebooting"},
		{Draining, Failed, "host reports failed"},
		{Draining, Reverting, "abort or revert"},
		{Rebooting, Verifying, "host reports from the new boot"},
		{Rebooting, Failed, "host reports failed"},
		{Rebooting, Reverting, "revert"},
		{Verifying, Warming, "host reports verified"},
		{Verifying, Failed, "host reports failed"},
		{Verifying, Reverting, "revert"},
		{Warming, Soaking, "warm-up over"},
		{Warming, Reverting, "revert"},
		{Soaking, Done, "wave over"},
		{Soaking, Failed, "host lost the target"},
		{Soaking, Reverting, "revert or withdrawal"},
		{Done, Failed, "host lost the target"},
		{Done, Reverting, "revert or withdrawal"},
		{Failed, Reverting, "revert"},
		{Failed, Waiting, "another try"},
		{Reverting, Reverted, "host reports what it was before"},
	}
}

// CanMove says whether a host may go from one phase to another.
func CanMove(from, to HostPhase) bool {
	return slices.ContainsFunc(Transitions(), func(t Transition) bool { return t.From == from && t.To == to })
}

// Table prints the transitions for the docs.
func Table() string {
	var b strings.Builder
	b.WriteString("| from | to | by |\n|---|---|---|\n")
	for _, t := range Transitions() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", t.From, t.To, t.By)
	}
	return b.String()
}

// Acting says that a host in the phase is on its way: it is in an action.
func (p HostPhase) Acting() bool {
	switch p {
	case Admitted, Applying, Draining, Rebooting, Verifying, Warming, Reverting:
		return true
	}
	return false
}

// Exposed says that a host in the phase has the target.
func (p HostPhase) Exposed() bool { return p == Soaking || p == Done }

// Phase is where a rollout stands.
type Phase string

const (
	PhaseRunning   Phase = "running"   // admits hosts, wave by wave
	PhasePaused    Phase = "paused"    // by a person, or by a revert verdict under onRevert: pause
	PhaseComplete  Phase = "complete"  // every wave is over; hosts that come later still get the target
	PhaseAborted   Phase = "aborted"   // stopped for ever; hosts keep what they have
	PhaseReverting Phase = "reverting" // hosts go back to what they were
	PhaseReverted  Phase = "reverted"  // all hosts are back; the version is remembered as bad
)

// next lists where a rollout may go from each phase.
func (p Phase) next() []Phase {
	switch p {
	case PhaseRunning:
		return []Phase{PhasePaused, PhaseComplete, PhaseAborted, PhaseReverting}
	case PhasePaused:
		return []Phase{PhaseRunning, PhaseAborted, PhaseReverting}
	case PhaseComplete:
		return []Phase{PhasePaused, PhaseAborted, PhaseReverting}
	case PhaseAborted:
		return []Phase{PhaseReverting}
	case PhaseReverting:
		return []Phase{PhaseReverted}
	}
	return nil
}

// CanGo says whether a rollout may go from p to another phase.
func (p Phase) CanGo(to Phase) bool { return slices.Contains(p.next(), to) }

// Open says that the rollout may admit hosts.
func (p Phase) Open() bool { return p == PhaseRunning || p == PhaseComplete }

// Over says that nothing more happens by itself.
func (p Phase) Over() bool { return p == PhaseAborted || p == PhaseReverted }
