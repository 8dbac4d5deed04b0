package control

import (
	"slices"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/health"
	"afloat/internal/rollout"
)

// Record is what one turn decided: the unit that the store appends. Applying
// the same records in order gives the same State.
type Record struct {
	// Seq is the State's sequence after this record: one more than before.
	Seq uint64    `json:"seq"`
	At  time.Time `json:"at"`
	// Edition is which rules of applying it goes by: see edition.
	Edition int `json:"edition,omitempty"`
	// A record holds one kind of thing only, so the parts never depend on each other.
	Command *Command `json:"command,omitempty"`
	Adopts  []Adopt  `json:"adopts,omitempty"`
	Owes    []Owes   `json:"owes,omitempty"`
	Payoffs []Payoff `json:"payoffs,omitempty"`
	// Successions are machines that stand in for replaced ones.
	Successions []Succession `json:"successions,omitempty"`
	// Drops are hosts told to take off a live patch that was reverted, though
	// another rollout has them.
	Drops   []fleet.HostID `json:"drops,omitempty"`
	Crashes []CrashEvent   `json:"crashes,omitempty"`
	Moves   []Move         `json:"moves,omitempty"`
	Waves   []WaveEvent    `json:"waves,omitempty"`
	Changes []Change       `json:"changes,omitempty"`
}

// edition is that of the records that are decided now. From 1 on, a host that
// loses the live patch of an earlier rollout leaves the exposure of that. Records
// from before, which have none, are applied as they were.
const edition = 1

// maxHosts and maxCrashes bound a record: with host ids and texts of the
// greatest length it stays below 512 kB of JSON.
const (
	maxHosts   = 6000
	maxCrashes = 200
)

// Empty says that nothing was decided: there is nothing to append.
func (r Record) Empty() bool {
	return r.Command == nil && len(r.Adopts) == 0 && len(r.Crashes) == 0 && len(r.Moves) == 0 &&
		len(r.Waves) == 0 && len(r.Changes) == 0 && len(r.Owes) == 0 && len(r.Payoffs) == 0 && len(r.Successions) == 0 && len(r.Drops) == 0
}

// Hosts are the hosts whose Desired this record may have changed: nudge them.
func (r Record) Hosts() []fleet.HostID {
	out := slices.Clone(r.Drops)
	for _, a := range r.Adopts {
		out = append(out, a.Host)
	}
	for _, s := range r.Successions {
		out = append(out, s.New)
	}
	for _, m := range r.Moves {
		if m.Orders() {
			out = append(out, m.Hosts...)
		}
	}
	return out
}

// Adopt takes over what a host runs that this State does not know of: the
// store lost its tail, or the host is older than the store.
type Adopt struct {
	Host       fleet.HostID  `json:"host"`
	Generation uint64        `json:"generation"`
	Live       bundle.Digest `json:"live,omitempty"`
}

// CrashEvent is a new crash and the rollouts it counts in.
type CrashEvent struct {
	health.Crash
	// Patched is the rollout that it is held against, "" for none, and Also
	// another one that may have done it as well.
	Patched string `json:"patched,omitempty"`
	Also    string `json:"also,omitempty"`
	// Control are the rollouts that the host was a bystander of, with the
	// number of such hosts.
	Control []Bystander `json:"control,omitempty"`
	// Outage is the domain that went down as a whole, neighbours without the
	// patch included: then the crash says nothing about the patch.
	Outage string `json:"outage,omitempty"`
}

// Bystander is a rollout and the hosts at risk when the crash came: Hosts do
// not run the patch, Patched do, longer than the apply window. Both are of the
// crashed host's class, or 0 if one of them is. Records from before that have
// Hosts of the whole rollout alone, and mean all of Patched by its exposure.
type Bystander struct {
	Rollout string `json:"rollout"`
	Hosts   int    `json:"hosts"`
	Patched int    `json:"patched,omitempty"`
}

func (b Bystander) arms() rollout.Arms { return rollout.Arms{Patched: b.Patched, Control: b.Hosts} }

// Move takes hosts of one rollout and wave to a phase.
type Move struct {
	Rollout string            `json:"rollout"`
	Wave    int               `json:"wave"`
	To      rollout.HostPhase `json:"to"`
	// Live is what the hosts are told to run, for the moves that tell (Orders).
	Live bundle.Digest `json:"live,omitempty"`
	// Act is what they are told to do; none calls off what they were told before.
	Act    *Act   `json:"act,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Gone: the hosts are enrolled no more, which is not a failure of the target.
	Gone bool `json:"gone,omitempty"`
	// Booted is what the end of an ordered boot proved.
	Booted *Booted        `json:"booted,omitempty"`
	Hosts  []fleet.HostID `json:"hosts"`
	// Boots are the sums of the hosts' boot ids where they settle.
	Boots []uint32 `json:"boots,omitempty"`
}

// like says whether two moves differ in nothing but their hosts.
func (m Move) like(o Move) bool {
	return o.Rollout == m.Rollout && o.Wave == m.Wave && o.To == m.To && o.Live == m.Live && o.Reason == m.Reason && o.Gone == m.Gone && same(o.Act, m.Act) && same(o.Booted, m.Booted)
}

// Orders says whether the move changes what the hosts are told.
func (m Move) Orders() bool {
	switch m.To {
	case rollout.Admitted, rollout.Failed, rollout.Reverting:
		return true
	}
	return false
}

// WaveEvent is a wave event of a rollout.
type WaveEvent struct {
	Rollout string `json:"rollout"`
	rollout.WaveEvent
}

// Change is a change of a rollout.
type Change struct {
	Rollout string `json:"rollout"`
	rollout.Change
}
