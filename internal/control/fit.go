package control

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/health"
	"afloat/internal/kernel"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// Kind names what keeps a host from being admitted.
type Kind string

const (
	KindUnselected Kind = "unselected"
	KindSilent     Kind = "silent"
	KindNoData     Kind = "no data"
	KindObserve    Kind = "observe"
	KindStopped    Kind = "stop file"
	KindForeign    Kind = "foreign live patch"
	KindKernel     Kind = "kernel"
	KindAbility    Kind = "ability"
	KindDebt       Kind = "debt"
	KindGone       Kind = "replaced"
	KindQuarantine Kind = "quarantine"
	KindBad        Kind = "bad version"
	KindBusy       Kind = "other rollout"
	KindHas        Kind = "has it"
	KindPaused     Kind = "paused"
	KindHold       Kind = "held"
	KindWave       Kind = "wave"
	KindBudget     Kind = "budget"
	KindBatch      Kind = "batch"
	KindOver       Kind = "over"
	KindFailed     Kind = "failed"
	KindNone       Kind = "none" // nothing blocks: it is on its way or settled
)

// Blocker is the one thing that keeps a host from starting.
type Blocker struct {
	Kind Kind `json:"kind"`
	// Reason in a sentence, Frees what or when ends it.
	Reason string    `json:"reason"`
	Frees  string    `json:"frees,omitempty"`
	Until  time.Time `json:"until,omitzero"`
	// About: Until is by what hosts of the class take.
	About bool `json:"about,omitempty"`
}

// Ends says in words what or when ends it, "" for nothing that is known.
func (b Blocker) Ends() string {
	at := ""
	if !b.Until.IsZero() {
		at = map[bool]string{true: "about ", false: "at "}[b.About] + stamp(b.Until)
	}
	return strings.TrimPrefix(strings.TrimSuffix(b.Frees+", "+at, ", "), ", ")
}

func blocked(k Kind, frees, format string, args ...any) *Blocker {
	return &Blocker{Kind: k, Reason: fmt.Sprintf(format, args...), Frees: frees}
}

// fit says what the host would get from the rollout, or what about the host
// itself is in the way.
func (m *memo) fit(p *planner, h *Seen, now time.Time) (*task, *Blocker) {
	if h.Report.Boot == "" {
		return nil, blocked(KindSilent, "when its agent reports", "it has not reported yet")
	}
	if quiet(p.rollout, h, now) {
		return nil, blocked(KindSilent, "when it is heard again", "silent since %s", h.Heard.UTC().Format(time.RFC3339))
	}
	if b := ownerBlocks(h); b != nil {
		return nil, b
	}
	if b := blind(h); b != nil {
		return nil, b
	}
	if b := m.state.quarantined(h.ID); b != nil {
		return nil, b
	}
	if b := m.owes(p.rollout, h); b != nil {
		return nil, b
	}
	c := p.choices[h.Report.Kernel]
	if c == nil {
		c = m.state.choose(m.view, p.rollout, h.Report.Kernel)
		p.choices[h.Report.Kernel] = c
	}
	switch {
	case c.block != nil:
		return nil, c.block
	case c.act == nil:
	case !h.Report.Can(c.act.Action):
		return nil, blocked(KindAbility, "a newer agent on it", "its agent cannot %s", c.act.Action)
	default:
		if b := m.state.comesOff(h.ID); b != nil {
			return nil, b
		}
	}
	return &c.task, m.state.busy(p.rollout, h.ID, &c.task)
}

// owes is what the debt of a host says about a rollout.
func (m *memo) owes(r *rollout.Rollout, h *Seen) *Blocker {
	if r.Of != "" {
		if x := m.state.hosts[h.ID]; x == nil || x.Debt == nil {
			return blocked(KindHas, "", "it owes no reboot")
		}
	}
	if r.Policy.Target.Action != policy.Live {
		return nil
	}
	if by := m.requires(h); by != nil {
		return blocked(KindDebt, "when rollout "+by.ID+" has booted it", "it must boot into kernel %s first: rollout %s requires that", by.Policy.Target.Name, by.ID)
	}
	return nil
}

// choose is what hosts of a kernel get from a rollout.
func (s *State) choose(v *View, r *rollout.Rollout, id kernel.ID) *choice {
	p := r.Policy
	if p.Target.Disrupts() {
		return s.chooseAction(p.Target, id)
	}
	digest, b := s.chooseBundle(v, p.Target.Name, id)
	if b == nil {
		m := v.catalog[digest].Manifest
		b = cmp.Or(s.bootFirst(v, m, id), tooUrgent(p.Target.Name, m, r.Reboot))
	}
	if b != nil && (b.Kind == KindKernel || b.Kind == KindDebt) && p.Fallback == policy.FallbackReboot {
		return s.chooseAction(policy.Target{Action: policy.Kernel, Name: p.FallbackKernel}, id)
	}
	return &choice{task{live: digest}, b}
}

// chooseAction is the order of a target that disrupts.
func (s *State) chooseAction(t policy.Target, id kernel.ID) *choice {
	if b, bad := s.reverted(t); bad {
		return &choice{block: blocked(KindBad, "another target", "%s was reverted by rollout %s: %s", t, b.Rollout, b.Reason)}
	}
	if t.Action == policy.Kernel && id.Named(t.Name) {
		return &choice{block: blocked(KindHas, "", "it runs kernel %s already", t.Name)}
	}
	return &choice{disrupts(t, id), nil}
}

// ownerBlocks is what the host's owner has decided, and what somebody else loaded.
func ownerBlocks(h *Seen) *Blocker {
	switch {
	case h.Mode != fleet.ModeAct:
		return blocked(KindObserve, "afloat hosts mode act", "the server keeps it in observe mode")
	case h.Report.Stopped:
		return blocked(KindStopped, "when its owner removes the stop file", "the stop file is there")
	}
	if name := health.Foreign(h.Report); name != "" {
		return blocked(KindForeign, "when its owner removes that live patch", "left alone: it carries the live patch %s, which afloat did not load", name)
	}
	if h.Report.Mode != fleet.ModeAct {
		return blocked(KindObserve, "when its agent has taken the new mode, or its owner raises its ceiling", "its agent is in observe mode")
	}
	return nil
}

// chooseBundle finds the one usable bundle of a patch set for a kernel.
func (s *State) chooseBundle(v *View, set string, id kernel.ID) (bundle.Digest, *Blocker) {
	var best bundle.Digest
	var bad, kernels []string
	for d, e := range v.catalog {
		if e.Manifest.Name != set {
			continue
		}
		if e.Manifest.Kernel.Mismatch(id) != "" {
			kernels = append(kernels, kernelName(e.Manifest.Kernel.Release, e.Manifest.Kernel.Version))
			continue
		}
		if why := s.unusable(v, d); why != "" {
			bad = append(bad, why)
			continue
		}
		if best == "" || v.catalog[best].Manifest.Created.Before(e.Manifest.Created) {
			best = d
		}
	}
	switch {
	case best != "":
		return best, nil
	case len(bad) > 0:
		return "", blocked(KindBad, "a new bundle", "%s", strings.Join(slices.Sorted(slices.Values(bad)), "; "))
	}
	slices.Sort(kernels)
	return "", blocked(KindKernel, "afloat build for that kernel, then afloat bundle add",
		"it runs %s, and %s has bundles only for %s", kernelName(id.Release, id.Version),
		set, strings.Join(slices.Compact(kernels), ", "))
}

func kernelName(release, version string) string { return fmt.Sprintf("%s (%s)", release, version) }

// comesOff says that the host's live patch was reverted and has yet to come off:
// an action would keep it.
func (s *State) comesOff(id fleet.HostID) *Blocker {
	h := s.hosts[id]
	if h == nil || h.Live == "" {
		return nil
	}
	bad, is := s.bad[h.Live]
	if r := s.rollouts[bad.Rollout]; !is || r == nil || r.Phase != rollout.PhaseReverting {
		return nil
	}
	return blocked(KindBad, "when it is off", "bundle %s, which it runs, was reverted by rollout %s and comes off first", h.Live.Short(), bad.Rollout)
}

// busy says whether another rollout has the host.
func (s *State) busy(r *rollout.Rollout, id fleet.HostID, o *task) *Blocker {
	h := s.hosts[id]
	if h == nil || h.Rollout == "" || h.Rollout == r.ID {
		if h != nil && h.Rollout == "" && o.act == nil && h.Live == o.live {
			return blocked(KindHas, "", "it runs bundle %s already", o.live.Short())
		}
		return nil
	}
	other := s.rollouts[h.Rollout]
	phase := other.HostPhase(h.Phase, h.Wave)
	switch {
	case phase.Acting() || phase == rollout.Soaking:
		return blocked(KindBusy, "when it is done there", "it is %s in rollout %s", phase, other.ID)
	case h.has(o):
		return blocked(KindHas, "", "it has %s already, from rollout %s", o, other.ID)
	case slices.Index(s.order, other.ID) > slices.Index(s.order, r.ID):
		return blocked(KindBusy, "", "the newer rollout %s has taken it", other.ID)
	}
	return nil
}
