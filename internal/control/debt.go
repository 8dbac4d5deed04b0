package control

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// Debt is the reboot that a host owes: an old kernel is kept safe by live patches.
type Debt struct {
	Since time.Time `json:"since"`
	// Patches is how many live patches were put on since the last boot.
	Patches int `json:"patches"`
	// Boot is the sum of the boot id in which it was incurred: any other boot pays it.
	Boot uint32 `json:"boot"`
}

// Owes is a host whose debt changed without afloat's order: it booted by
// itself, or runs a live patch that it was not told to put on now.
type Owes struct {
	Host fleet.HostID `json:"host"`
	Boot uint32       `json:"boot"`
	// Live: it runs a live patch.
	Live bool `json:"live,omitempty"`
}

// Booted is what an ordered action proved about a class of hardware: a boot, for
// the kernel by the name it was ordered by.
type Booted struct {
	Kernel   string `json:"kernel,omitempty"`
	Hardware string `json:"hardware,omitempty"`
}

// Proof is how often a kernel has booted on a class of hardware by order.
type Proof struct {
	Booted
	OK     int `json:"ok"`
	Failed int `json:"failed,omitempty"`
}

// Payoff begins the rollout of the reboots that a live rollout owes.
type Payoff struct {
	Rollout string         `json:"rollout"`
	Of      string         `json:"of"`
	Sample  []fleet.HostID `json:"sample,omitempty"`
}

// bootSum is short enough to be kept for every host of a record.
func bootSum(boot string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(boot)) // a hash takes everything
	return h.Sum32()
}

// settle keeps the host's debt when it has reached what it was told to be.
func (h *Host) settle(boot uint32, at time.Time) {
	switch {
	case h.Act != nil && (h.Act.Action == wire.ActionReboot || h.Act.Action == wire.ActionReplace):
		h.booted(boot, h.Live != "", at)
	case h.Live == "":
		h.Debt = nil
	case h.Act != nil:
	case h.Debt == nil || h.Debt.Boot != boot:
		h.Debt = &Debt{Since: at, Patches: 1, Boot: boot}
	default:
		h.Debt = &Debt{Since: h.Debt.Since, Patches: h.Debt.Patches + 1, Boot: boot}
	}
}

// booted notes a boot: a live patch that is put on again after it is owed anew.
func (h *Host) booted(boot uint32, live bool, at time.Time) {
	h.Debt = nil
	if live {
		h.Debt = &Debt{Since: at, Patches: 1, Boot: boot}
	}
}

// owing notes a host that booted by itself, so that it owes nothing from
// before, and one that runs a live patch of which nothing is noted.
func (t *turn) owing(seen *Seen, h *Host) bool {
	if h == nil || h.Phase.Acting() {
		return false
	}
	sum, live := bootSum(seen.Report.Boot), loaded(seen.Report) != ""
	if h.Debt == nil && !live || h.Debt != nil && h.Debt.Boot == sum {
		return false
	}
	t.hosts++
	t.rec.Owes = append(t.rec.Owes, Owes{seen.ID, sum, live})
	return true
}

// proves is what the end of an action says about the host's class of hardware,
// and about the kernel if it was a boot.
func (a *Act) proves(seen *Seen) *Booted {
	if a == nil || a.Off {
		return nil
	}
	b := &Booted{Hardware: seen.Labels["hardware"]}
	if a.Action != wire.ActionReboot {
		return b
	}
	if b.Kernel = a.Name; b.Kernel == "" {
		b.Kernel = seen.Report.Kernel.Release
	}
	return b
}

func (s *State) prove(b *Booted, ok bool, hosts int) {
	if b == nil || b.Kernel == "" {
		return
	}
	key := b.Kernel + " on " + b.Hardware
	p := s.proofs[key]
	p.Booted = *b
	if ok {
		p.OK += hosts
	} else {
		p.Failed += hosts
	}
	s.proofs[key] = p
}

// Proofs are all kernels that booted by order, sorted.
func (s *State) Proofs() (out []Proof) {
	for _, key := range slices.Sorted(maps.Keys(s.proofs)) {
		out = append(out, s.proofs[key])
	}
	return out
}

// Debtor is one host of the debt ledger.
type Debtor struct {
	Host     fleet.HostID `json:"host"`
	Name     string       `json:"name"`
	Kernel   string       `json:"kernel"`
	Hardware string       `json:"hardware,omitempty"`
	Since    time.Time    `json:"since"`
	Patches  int          `json:"patches"`
	// Due is when it must have booted by policy, zero for no rule, and Of the
	// live rollout with that policy.
	Due time.Time `json:"due,omitzero"`
	Of  string    `json:"of,omitempty"`
	// Proven: its kernel has booted by order on its class of hardware.
	Proven bool `json:"proven"`
}

// Ledger lists who owes a reboot, the longest first.
func Ledger(s *State, v *View) (out []Debtor) {
	for _, id := range v.Hosts() {
		if d := DebtOf(s, v, id); !d.Since.IsZero() {
			out = append(out, d)
		}
	}
	slices.SortStableFunc(out, func(a, b Debtor) int { return a.Since.Compare(b.Since) })
	return out
}

// DebtOf is what one host owes, the zero Debtor for nothing.
func DebtOf(s *State, v *View, id fleet.HostID) Debtor {
	h, seen := s.hosts[id], v.hosts[id]
	if h == nil || h.Debt == nil || seen == nil {
		return Debtor{}
	}
	d := Debtor{Host: id, Name: seen.Name, Kernel: seen.Report.Kernel.Release, Hardware: seen.Labels["hardware"],
		Since: h.Debt.Since, Patches: h.Debt.Patches, Due: s.due(h)}
	if r := s.owes(h); r != nil {
		d.Of = r.ID
	}
	for _, p := range s.proofs {
		d.Proven = d.Proven || p.OK > 0 && p.Hardware == d.Hardware && seen.Report.Kernel.Named(p.Kernel)
	}
	return d
}

// payoffs begins the reboots that live rollouts owe, when they are complete or
// their deadline presses.
func (t *turn) payoffs() {
	for _, r := range t.s.Rollouts() {
		if !t.mayOwe(r) {
			continue
		}
		id := fmt.Sprintf("r%d", len(t.s.order)+1)
		switch {
		case r.Phase == rollout.PhaseComplete:
			t.rec.Payoffs = append(t.rec.Payoffs, Payoff{Rollout: id, Of: r.ID, Sample: t.sample(r, id)})
			return
		case t.pressed(r):
			if sample := t.sample(r, id); len(sample) > 0 {
				t.rec.Payoffs = append(t.rec.Payoffs, Payoff{Rollout: id, Of: r.ID, Sample: sample})
				return
			}
		}
	}
}

// mayOwe says that the reboots of a live rollout may have to begin.
func (t *turn) mayOwe(r *rollout.Rollout) bool {
	return r.Policy.Debt.Reboot != 0 && t.s.payoff(r.ID) == nil && !t.unheard(r)
}

// payoff is the rollout that pays off another's reboots, nil before it began.
func (s *State) payoff(of string) *rollout.Rollout {
	for _, id := range s.order {
		if r := s.rollouts[id]; r.Of == of {
			return r
		}
	}
	return nil
}

// maxSample bounds what a boot sample adds to a record.
const maxSample = 5000

// sample picks the hosts that boot first: one of each class of hardware, and
// then more up to the policy's share.
func (t *turn) sample(r *rollout.Rollout, id string) []fleet.HostID {
	var able []*Seen
	for i := range t.m.hosts {
		x := &t.m.hosts[i]
		if x.host != nil && x.host.Debt != nil && !t.s.acts(x.host) && r.Policy.Select.Matches(x.seen.Labels) && !quiet(r, x.seen, t.now) &&
			ownerBlocks(x.seen) == nil && x.seen.Report.Can(wire.ActionReboot) {
			able = append(able, x.seen)
		}
	}
	slices.SortFunc(able, func(a, b *Seen) int {
		if x, y := order(id, a.ID), order(id, b.ID); x != y {
			return map[bool]int{true: -1, false: 1}[x < y]
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	var first, rest []fleet.HostID
	class := map[string]bool{}
	for _, seen := range able {
		if hw := seen.Labels["hardware"]; !class[hw] {
			class[hw] = true
			first = append(first, seen.ID)
			continue
		}
		rest = append(rest, seen.ID)
	}
	more := max(0, r.Policy.Debt.BootSample.Of(len(able))-len(first))
	out := append(first, rest[:min(more, len(rest))]...)
	return out[:min(len(out), maxSample)]
}

// acts says that a host is on its way in a rollout, or soaks in a wave that is not over.
func (s *State) acts(h *Host) bool {
	r := s.rollouts[h.Rollout]
	if r == nil {
		return false
	}
	phase := r.HostPhase(h.Phase, h.Wave)
	return phase.Acting() || phase == rollout.Soaking
}

const ruleBoot gate.Rule = "boot"

// kin lets a live rollout and its payoff follow each other: it says whether r
// changed for the other's sake.
func (t *turn) kin(r *rollout.Rollout) bool {
	if parent := t.s.rollouts[r.Of]; parent != nil && (parent.Phase == rollout.PhaseReverting || parent.Phase == rollout.PhaseReverted) {
		to := rollout.PhaseAborted // a host that runs the fixed kernel needs no live patch
		if r.Policy.Target.Name == "" {
			to = rollout.PhaseReverting
		}
		t.change(r, rollout.Change{Phase: to, Reason: fmt.Sprintf("rollout %s is %s: %s", parent.ID, parent.Phase, parent.Reason)})
		return true
	}
	if why := t.bootFailure(r); why != "" {
		before := len(t.rec.Changes)
		t.pull(r, gate.Verdict{Level: gate.LevelRevert, Findings: []gate.Finding{{Rule: ruleBoot, Level: gate.LevelRevert, Text: why}}})
		return len(t.rec.Changes) > before
	}
	return false
}

// bootFailure says that the boot sample of r, or of the rollout that pays off
// r, failed: the kernel with the live patch does not boot.
func (t *turn) bootFailure(r *rollout.Rollout) string {
	if r.Of != "" {
		if n := r.CountIn(0, rollout.Failed); n > 0 && !r.Over(0) {
			return fmt.Sprintf("%s of the boot sample did not come back as ordered", count(n))
		}
		return ""
	}
	p := t.s.payoff(r.ID)
	if p == nil || p.Policy.Target.Name != "" || p.Phase != rollout.PhaseReverting && p.Phase != rollout.PhaseReverted {
		return ""
	}
	return fmt.Sprintf("its hosts do not survive a boot (rollout %s: %s)", p.ID, p.Reason)
}

// markBoot remembers the bundles that a payoff found not to survive a boot.
func (s *State) markBoot(r *rollout.Rollout, c Change, at time.Time) {
	parent := s.rollouts[r.Of]
	if parent == nil || r.Policy.Target.Name != "" || c.Phase != rollout.PhaseReverting && c.By != ruleBoot || parent.Phase == rollout.PhaseReverting {
		return
	}
	for _, d := range parent.Bundles {
		s.bad[d] = Bad{Rollout: r.ID, Reason: c.Reason, At: at, NoBoot: true}
	}
}

// requires is the rollout into whose kernel the host must boot before it takes
// live patches for its old one, nil for none.
func (m *memo) requires(h *Seen) *rollout.Rollout {
	for _, r := range m.required {
		if r.Policy.Select.Matches(h.Labels) && !h.Report.Kernel.Named(r.Policy.Target.Name) {
			return r
		}
	}
	return nil
}

// requiring are the rollouts of kernels that must be booted, as long as they stand.
func (s *State) requiring() (out []*rollout.Rollout) {
	for _, id := range s.order {
		r := s.rollouts[id]
		switch r.Phase {
		case rollout.PhaseAborted, rollout.PhaseReverting, rollout.PhaseReverted:
			continue
		}
		if r.Policy.Reboot == policy.RebootRequired {
			out = append(out, r)
		}
	}
	return out
}
