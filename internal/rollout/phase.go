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
	Draining  HostPhase = "draining"  // leaving rotation
	Rebooting HostPhase = "rebooting" // down: booting, being replaced, its module or unit exchanged
	Verifying HostPhase = "verifying" // back, being checked
	Warming   HostPhase = "warming"   // in rotation, not at full strength yet
	Done      HostPhase = "done"      // has the target, and its wave is over or the rollout aborted
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

// Transitions is the one table of host moves, whatever the target. A report
// may be lost or overtaken by a later one, so a host may skip what lies between.
func Transitions() []Transition { return slices.Clone(transitions) }

var transitions = slices.Concat(
	enter(Admitted, "planner", Waiting),
	enter(Applying, "host reports applying", Admitted),
	enter(Draining, "host reports draining", Admitted),
	enter(Rebooting, "host reports rebooting", Admitted, Draining),
	enter(Verifying, "host reports verifying: it has acted", Admitted, Draining, Rebooting),
	enter(Warming, "host reports warming: in rotation again", Admitted, Draining, Rebooting, Verifying),
	enter(Soaking, "host is what it should be, and in rotation", Admitted, Applying, Draining, Rebooting, Verifying, Warming),
	enter(Done, "wave over, or abort", Soaking),
	enter(Failed, "host reports failed or refused, or never came back", Admitted, Applying, Draining, Rebooting, Verifying, Warming),
	enter(Failed, "host lost the target", Soaking, Done),
	enter(Failed, "host cannot go back to what it was", Reverting),
	enter(Waiting, "another try", Failed),
	enter(Reverting, "abort, revert or withdrawal", Admitted, Applying, Draining),
	enter(Reverting, "revert or withdrawal", Rebooting, Verifying, Warming, Soaking, Done, Failed),
	enter(Reverted, "host reports what it was before", Reverting),
	enter(Soaking, "too late: the host had acted already", Reverting),
)

func enter(to HostPhase, by string, from ...HostPhase) (out []Transition) {
	for _, f := range from {
		out = append(out, Transition{f, to, by})
	}
	return out
}

// CanMove says whether a host may go from one phase to another.
func CanMove(from, to HostPhase) bool {
	return slices.ContainsFunc(transitions, func(t Transition) bool { return t.From == from && t.To == to })
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

// Acted says that a host in the phase is past the point of no return of an
// action that disrupts: an abort lets it finish.
func (p HostPhase) Acted() bool {
	switch p {
	case Rebooting, Verifying, Warming, Soaking, Done:
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
