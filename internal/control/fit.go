package control

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/health"
	"afloat/internal/kernel"
	"afloat/internal/rollout"
)

// Kind names what keeps a host from being admitted.
type Kind string

const (
	KindUnselected Kind = "unselected"
	KindSilent     Kind = "silent"
	KindObserve    Kind = "observe"
	KindStopped    Kind = "stop file"
	KindForeign    Kind = "foreign live patch"
	KindKernel     Kind = "kernel"
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
}

func blocked(k Kind, frees, format string, args ...any) *Blocker {
	return &Blocker{Kind: k, Reason: fmt.Sprintf(format, args...), Frees: frees}
}

// fit says which bundle the host would get from the rollout, or what about the
// host itself is in the way.
func (m *memo) fit(p *planner, h *Seen, now time.Time) (bundle.Digest, *Blocker) {
	if h.Report.Boot == "" {
		return "", blocked(KindSilent, "when its agent reports", "it has not reported yet")
	}
	if quiet(p.rollout, h, now) {
		return "", blocked(KindSilent, "when it is heard again", "silent since %s", h.Heard.UTC().Format(time.RFC3339))
	}
	if b := ownerBlocks(h); b != nil {
		return "", b
	}
	c, ok := p.choices[h.Report.Kernel]
	if !ok {
		c.digest, c.block = m.state.choose(m.view, p.rollout, h.Report.Kernel)
		p.choices[h.Report.Kernel] = c
	}
	if c.block != nil {
		return "", c.block
	}
	return c.digest, m.state.busy(p.rollout, h.ID, c.digest)
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

// choose finds the one usable bundle of the rollout's patch set for a kernel.
func (s *State) choose(v *View, r *rollout.Rollout, id kernel.ID) (bundle.Digest, *Blocker) {
	var best bundle.Digest
	var bad, kernels []string
	for d, e := range v.catalog {
		if e.Manifest.Name != r.Policy.Target.Name {
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
		r.Policy.Target.Name, strings.Join(slices.Compact(kernels), ", "))
}

func kernelName(release, version string) string { return fmt.Sprintf("%s (%s)", release, version) }

// busy says whether another rollout has the host.
func (s *State) busy(r *rollout.Rollout, id fleet.HostID, d bundle.Digest) *Blocker {
	h := s.hosts[id]
	if h == nil || h.Rollout == "" || h.Rollout == r.ID {
		if h != nil && h.Rollout == "" && h.Live == d {
			return blocked(KindHas, "", "it runs bundle %s already", d.Short())
		}
		return nil
	}
	other := s.rollouts[h.Rollout]
	phase := other.HostPhase(h.Phase, h.Wave)
	switch {
	case phase.Acting() || phase == rollout.Soaking:
		return blocked(KindBusy, "when it is done there", "it is %s in rollout %s", phase, other.ID)
	case h.Live == d:
		return blocked(KindHas, "", "it runs bundle %s already, from rollout %s", d.Short(), other.ID)
	case slices.Index(s.order, other.ID) > slices.Index(s.order, r.ID):
		return blocked(KindBusy, "", "the newer rollout %s has taken it", other.ID)
	}
	return nil
}
