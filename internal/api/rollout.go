package api

import (
	"time"

	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// StartRollout asks to begin a rollout.
type StartRollout struct {
	Policy string `json:"policy"`         // YAML
	File   string `json:"file,omitempty"` // its name, for people
}

// RolloutVerb is what a person can do to a rollout.
type RolloutVerb string

const (
	VerbAbort  RolloutVerb = "abort"  // start nothing more; what is applied stays
	VerbRevert RolloutVerb = "revert" // start nothing more, and take off what was applied
	VerbPause  RolloutVerb = "pause"
	VerbResume RolloutVerb = "resume"
)

// DoRollout asks for one of the verbs.
type DoRollout struct {
	ID     string      `json:"id"`
	Verb   RolloutVerb `json:"verb"`
	Reason string      `json:"reason,omitempty"`
}

// Rollout is one rollout at a glance.
type Rollout struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Target string `json:"target"`
	State  string `json:"state"`
	// Ended: nothing will change any more. Good: it ended as it was meant to.
	Ended bool `json:"ended"`
	Good  bool `json:"good"`
	// Reason why it is in this state, for people.
	Reason  string    `json:"reason,omitempty"`
	By      string    `json:"by,omitempty"`
	Started time.Time `json:"started"`
	Hosts   int       `json:"hosts"`
	// Phases counts the hosts in each phase.
	Phases map[string]int `json:"phases"`
	Waves  []Wave         `json:"waves"`
	// Verdict is what the gate says last, with its reasons.
	Verdict string   `json:"verdict,omitempty"`
	Reasons []string `json:"reasons,omitempty"`
	// ETA says when it will be through and what bounds that, "" once nothing is
	// left. Only in a RolloutDetail.
	ETA string `json:"eta,omitempty"`
	// Reboot is how soon one must follow by the word of the target's publisher.
	Reboot string `json:"reboot,omitempty"`
	// Unbound says which hosts its budgets do not bound, as they lack a label.
	Unbound []string `json:"unbound,omitempty"`
	// Debt says that the reboots it owes, or pays off, will not be in time, and
	// what is in the way. Only in a RolloutDetail.
	Debt string `json:"debt,omitempty"`
}

// Wave is one wave of a rollout.
type Wave struct {
	Name   string         `json:"name"`
	State  string         `json:"state"` // waiting, open, soaking or over
	Hosts  int            `json:"hosts"` // when it is full
	Phases map[string]int `json:"phases"`
	// SoakLeftS is how many seconds of the soak are left.
	SoakLeftS float64 `json:"soak_left_s,omitempty"`
	Reason    string  `json:"reason,omitempty"`
}

// RolloutHost is one host in a rollout.
type RolloutHost struct {
	ID     fleet.HostID `json:"id"`
	Name   string       `json:"name"`
	Wave   string       `json:"wave"`
	Phase  string       `json:"phase"`
	Reason string       `json:"reason,omitempty"`
}

// RolloutDetail is a rollout with its hosts.
type RolloutDetail struct {
	Rollout
	Members []RolloutHost `json:"members"`
}

// Debt is a host that owes a reboot: live patches keep its old kernel safe.
type Debt struct {
	ID       fleet.HostID `json:"id"`
	Name     string       `json:"name"`
	Kernel   string       `json:"kernel"` // release that it runs
	Hardware string       `json:"hardware,omitempty"`
	Since    time.Time    `json:"since"`
	Patches  int          `json:"patches"`
	// Due is when it must have booted by policy, zero for no rule.
	Due time.Time `json:"due,omitzero"`
	// Proven: that kernel has booted by order on that class of hardware.
	Proven bool `json:"proven"`
	// Rollout is the live rollout by whose policy it is due, Late that it will
	// not have booted by then, and Outlook why, for all hosts of that rollout.
	Rollout string `json:"rollout,omitempty"`
	Late    bool   `json:"late,omitempty"`
	Outlook string `json:"outlook,omitempty"`
}

// Took is how long an action has taken on a class of hardware, from admission
// to being of use again.
type Took struct {
	Action   wire.Action `json:"action"`
	Hardware string      `json:"hardware,omitempty"`
	P90S     float64     `json:"p90_s"` // nine of ten were through within so many seconds
	Hosts    int         `json:"hosts"` // that this rests on
}

// Explanation says what a host is, what it should be, and what it waits for.
type Explanation struct {
	Host       Host     `json:"host"`
	Desired    string   `json:"desired"` // in words
	Generation uint64   `json:"generation"`
	Rollout    string   `json:"rollout,omitempty"`
	Phase      string   `json:"phase,omitempty"` // in that rollout
	Reasons    []string `json:"reasons"`         // each wait, hold and refusal
}
