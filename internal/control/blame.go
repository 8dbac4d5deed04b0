package control

import (
	"slices"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/health"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

func (t *turn) crash(seen *Seen, h Host, c health.Crash) {
	e := CrashEvent{Crash: c}
	e.Patched, e.Also = t.s.blame(&h, c)
	for _, r := range t.s.active() {
		held := r.ID == e.Patched || r.ID == e.Also
		if r.Policy.Select.Matches(seen.Labels) && (held || !slices.Contains(r.Bundles, c.Live)) {
			e.Control = append(e.Control, t.bystander(r, seen, c, held))
		}
	}
	if c.Counts() && (e.Patched != "" || len(e.Control) > 0 && len(t.rec.Crashes) < lone) {
		e.Outage, e.Domains = t.outage(t.s.rollouts[e.Patched], seen, c)
	}
	t.rec.Crashes = append(t.rec.Crashes, e)
}

// blame names the rollouts that a crash is held against, "" for none. That is
// the one whose live patch was loaded, whoever has had the host since; and the
// one that has the host, if it has acted there. Where both are so:
//   - a host that never came back from an order is the order's alone: the patch
//     had run until then, and whether a kernel boots with it is for its payoff
//     to say;
//   - an oops is the patch's alone, as a boot and a restart change no code of
//     the kernel that runs, unless a module was exchanged: then it may be either;
//   - a boot that nobody ordered, and silence, may be either.
func (s *State) blame(h *Host, c health.Crash) (patched, also string) {
	by, acted := s.patcher(h, c.Live), s.actor(h, c)
	switch {
	case by == nil && acted == nil:
		return "", ""
	case by == nil, acted != nil && c.Kind == CrashLost:
		return acted.ID, ""
	case acted == nil || acted == by || c.Kind == wire.CrashOops && acted.Policy.Target.Action != policy.Module:
		return by.ID, ""
	}
	return by.ID, acted.ID
}

// actor is the rollout that has the host, if it has acted on its order.
func (s *State) actor(h *Host, c health.Crash) *rollout.Rollout {
	r := s.rollouts[h.Rollout]
	if r == nil || h.Act == nil || h.Act.Back || c.Kind != CrashLost && !r.HostPhase(h.Phase, h.Wave).Acted() {
		return nil
	}
	return r
}

// patcher is the rollout whose live patch a bundle is: of several the one that
// took the host last, and rather one of which something still follows.
func (s *State) patcher(h *Host, live bundle.Digest) (by *rollout.Rollout) {
	if live == "" {
		return nil
	}
	ids := slices.Clone(s.order)
	for _, a := range h.admissions() {
		ids = append(ids, a.Rollout)
	}
	for _, id := range slices.Backward(ids) {
		r := s.rollouts[id]
		if r == nil || !slices.Contains(r.Bundles, live) {
			continue
		}
		if !r.Phase.Over() {
			return r
		}
		if by == nil {
			by = r
		}
	}
	return by
}

// Kept is the live patch of an earlier rollout that a host keeps under another:
// it counts in the exposure of the earlier one.
type Kept struct {
	Rollout string    `json:"rollout"`
	Applied time.Time `json:"applied"`
}

// keep notes, before another rollout takes a host, whose live patch it has.
func (s *State) keep(h *Host, by *rollout.Rollout) {
	r := s.rollouts[h.Rollout]
	if r != nil && r != by && h.Phase.Exposed() && slices.Contains(r.Bundles, h.Live) {
		h.Kept = &Kept{r.ID, h.Applied}
	}
}

// shed takes a host out of the exposure of the rollout whose live patch it kept,
// unless it has that still.
func (s *State) shed(h *Host, still bool, edition int) {
	if h.Kept == nil || still && slices.Contains(s.rollouts[h.Kept.Rollout].Bundles, h.Live) {
		return
	}
	if edition > 0 {
		s.rollouts[h.Kept.Rollout].Exposure.Remove(1, h.Kept.Applied)
	}
	h.Kept = nil
}

// since is from when on a host had what a crash of it is held against: from the
// crash, if it went down while that went on.
func (h *Host) since(id string, c health.Crash) time.Time {
	applied := h.Applied
	if h.Kept != nil && h.Rollout != id {
		applied = h.Kept.Applied
	}
	if applied.IsZero() {
		return c.At
	}
	return applied
}
