// Package converge decides what a host does next. Next takes what the server
// wants, what the host's journal says and what its kernel shows, and returns
// one small action; the agent carries it out and asks again. Each action is
// safe to repeat, so that the agent may die between any two of them.
//
// The package is the agent's brain and the simulator's virtual host's: it
// never looks at a clock, a file or a network.
package converge

import (
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/wire"
)

// Kind says what an Action does.
type Kind string

const (
	// Wait does nothing. Phase and Reason say where the host stands.
	Wait Kind = "wait"
	// Note appends Record to the journal: something was found out or accepted.
	Note Kind = "note"
	// Refuse drops the order that was offered; Refusal says why.
	Refuse Kind = "refuse"
	// Fetch gets the bundle Digest onto the local disk and verifies it.
	Fetch Kind = "fetch"
	// Load journals Record (the intent), loads the module of bundle Digest and
	// journals what came of it, as Loaded or LoadFailed says.
	Load Kind = "load"
	// Watch looks at a transition until it ends or After has passed.
	Watch Kind = "watch"
	// Disable journals Record, if there is one, and disables live patch Module.
	// In a transition that means: reverse it.
	Disable Kind = "disable"
	// Unload removes Module, a live patch that is disabled, from the kernel.
	Unload Kind = "unload"
	// Leave journals Record, if there is one, and takes the host out of
	// rotation. It is asked for again until Observed.Out says that it is out.
	Leave Kind = "leave"
	// Perform journals Record, if there is one, and carries out the ordered
	// action Does. A reboot boots Object once and leaves the default as it is,
	// so that a crash comes back with the earlier kernel; it and a replacement
	// end the boot. Of the others the agent journals the outcome as Acted says,
	// before it asks for anything else.
	Perform Kind = "perform"
	// Probe runs the host's probes, for Observed.Probes.
	Probe Kind = "probe"
	// Commit makes the running kernel the one that boots by default.
	Commit Kind = "commit"
	// Enter journals Record, if there is one, and puts the host back in
	// rotation. It is asked for again until Observed.Out says that it is in.
	Enter Kind = "enter"
)

// Action is the one next thing to do.
type Action struct {
	Kind   Kind
	Phase  wire.Phase
	Reason string
	Digest bundle.Digest
	Module string
	// Does, Object and Nonce are what a Perform carries out.
	Does   wire.Action
	Object string
	Nonce  string
	// Record is to be durable before the action begins. Its Kind is empty if there is none.
	Record Record
	// Refusal is set when something asked for was turned down for good.
	Refusal *wire.Refusal
	// After is when to ask again even if nothing happens, 0 for no need.
	After time.Duration
}

// Acts says whether the action changes the host beyond its journal.
func (a Action) Acts() bool {
	switch a.Kind {
	case Fetch, Load, Disable, Unload, Leave, Perform, Commit, Enter:
		return true
	}
	return false
}

// Undo is the action that takes a back, or false if nothing does: a Load is
// undone by a Disable (and then an Unload, once the transition is over), a
// Leave by an Enter. What was performed stays performed: the way back is
// another order.
func (a Action) Undo() (Action, bool) {
	switch a.Kind {
	case Load:
		return Action{Kind: Disable, Module: a.Module, Digest: a.Digest, Phase: wire.PhaseReverting}, true
	case Leave:
		return Action{Kind: Enter, Phase: wire.PhaseVerifying}, true
	}
	return Action{}, false
}

// Patch is one live patch as the kernel shows it.
type Patch struct {
	Name       string
	Enabled    bool // in a transition: the state it goes to
	Transition bool
}

// Task holds up a transition.
type Task struct {
	PID  int
	Comm string
}

// Bundle is what the local disk has for one digest.
type Bundle struct {
	// Manifest of a bundle that is there, whole and signed by a publisher of this host.
	Manifest *bundle.Manifest
	// Refused says why it was turned down for good, "" if it was not.
	Refused string
	// Failing says why it could not be fetched yet.
	Failing string
	// Retry is the CLOCK_BOOTTIME at which to fetch again after Failing.
	Retry time.Duration
}

// Permit is a verified permit and the time it lasts on this boot's CLOCK_BOOTTIME.
type Permit struct {
	Rollout string        `json:"rollout"`
	Epoch   uint64        `json:"epoch"`
	Seq     uint64        `json:"seq"`
	Until   time.Duration `json:"until_ns"`
}

// Observed is what the host shows right now.
type Observed struct {
	// Problem says that something could not be read; then nothing is done (law 3).
	Problem string
	Boot    string
	Kernel  kernel.ID
	Patches []Patch
	// Modules are the names of all loaded modules.
	Modules []string
	// Tasks hold up the transition that is going on; needed only when NeedTasks says so.
	Tasks []Task
	// Blind says why crash evidence of this boot cannot be seen, "" if it can:
	// then nothing becomes proven (law 3).
	Blind   string
	Stopped bool       // the stop file is there
	Ceiling fleet.Mode // what the host's owner allows at most
	// ByHand: the host's owner is asking, at the machine itself. Observe mode
	// does not bind them, and the stop file binds only what they load.
	ByHand  bool
	Bundles map[bundle.Digest]Bundle
	Permit  *Permit
	Limits  Limits
	// Abilities are the ordered actions this agent can carry out.
	Abilities []wire.Action
	// Out: no work reaches the host, and what it had has ended. OutBy names who
	// else than afloat keeps it out, "" for nobody.
	Out   bool
	OutBy string
	// Default is the release that a boot takes which nobody ordered, "" if not known.
	Default string
	// Image the machine was made from, "" if not known.
	Image string
	// Made is the order that had this machine made, zero for none.
	Made Made
	// Hot are modules that can be exchanged under load, because a parent keeps
	// up their work meanwhile.
	Hot    []string
	Probes Probes
}

// Made is what a provisioner hands to a machine that it makes on order, whose
// journal is empty: so that the order is not carried out again, and no older
// one is taken.
type Made struct {
	Nonce      string
	Generation uint64
}

// Probes are the outcome of the host's own probes since it was last disrupted.
type Probes struct {
	Known  bool   // they have ended
	Failed string // and what did not pass, "" if all did
}

// Limits are the times the host is configured with. Only Warm may be zero.
type Limits struct {
	Stall  time.Duration // how long a transition may take before it is reversed
	Proven time.Duration // how long an applied live patch must be up
	Warm   time.Duration // how long after a disruption, back in rotation, until at full strength
}

// DefaultLimits are the times of design and documentation.
func DefaultLimits() Limits { return Limits{Stall: 60 * time.Second, Proven: 10 * time.Minute} }

// Mode is the lower of what the server's order and the host's owner allow.
func Mode(d wire.Desired, ceiling fleet.Mode) fleet.Mode {
	if d.Mode == fleet.ModeAct && ceiling == fleet.ModeAct {
		return fleet.ModeAct
	}
	return fleet.ModeObserve
}
