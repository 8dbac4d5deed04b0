package control

import (
	"fmt"
	"slices"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/health"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// CrashLost is a host that never came back from what it was ordered to do.
const CrashLost wire.CrashKind = "never-returned"

// silentCrash is how many times the silence limit a host may be quiet after
// apply, while its neighbours report, before it counts as crashed.
const silentCrash = 3

// neighbours is the share of the other hosts that must be heard for the
// silence of one to be its own.
const neighbours = 0.8

// silence turns hosts that went quiet with the patch into crashes.
func (t *turn) silence() {
	for _, r := range t.s.watched() {
		w := t.m.watch[r.ID]
		if w == nil || !w.alone() {
			continue
		}
		for _, id := range w.silent {
			if len(t.rec.Crashes) < maxCrashes {
				t.silentHost(r, id)
			}
		}
		for _, id := range w.lost {
			if len(t.rec.Crashes) < maxCrashes {
				t.lostHost(r, id)
			}
		}
	}
}

// alone says that enough other hosts are heard for the silence of one to be its own.
func (w *watch) alone() bool {
	return w.heard > 0 && float64(w.heard) >= neighbours*float64(w.all-1)
}

func (t *turn) silentHost(r *rollout.Rollout, id fleet.HostID) {
	h, seen := t.s.hosts[id], t.v.hosts[id]
	if p := r.HostPhase(h.Phase, h.Wave); p == rollout.Reverting {
		return
	}
	crash := silentCrashID(h)
	if t.now.Before(seen.crashedAt(r, h)) || slices.Contains(h.Crashes, crash) || r.CrashedHost(id) {
		return
	}
	t.crash(seen, *h, health.Crash{Host: id, ID: crash, Kind: health.CrashSilent, Live: h.Live, At: later(seen.Heard, h.Since),
		Domains: health.Domains(seen.Labels), Text: wentQuiet(seen)})
}

// silentCrashID is the id of the crash of a host that went quiet.
func silentCrashID(h *Host) string { return fmt.Sprintf("silent-%d", h.Generation) }

func wentQuiet(seen *Seen) string {
	return fmt.Sprintf("not heard since %s while its neighbours report", seen.Heard.UTC().Format(time.RFC3339))
}

// crashedAt is from when on a silent host counts as crashed.
func (h *Seen) crashedAt(r *rollout.Rollout, was *Host) time.Time {
	return later(h.Heard, was.Since).Add(silentCrash*r.Policy.Timeouts.Silent + time.Nanosecond)
}

// lostCrash is the id of the crash of a host that never came back from an order.
func lostCrash(h *Host) string { return fmt.Sprintf("lost-%d", h.Generation) }

func (t *turn) lostHost(r *rollout.Rollout, id fleet.HostID) {
	h, seen := t.s.hosts[id], t.v.hosts[id]
	if h.Phase == rollout.Reverting || slices.Contains(h.Crashes, lostCrash(h)) {
		return
	}
	t.crash(seen, *h, health.Crash{Host: id, ID: lostCrash(h), Kind: CrashLost, Live: h.Live, At: later(seen.Heard, h.Since),
		Domains: health.Domains(seen.Labels), Text: neverCame(r, seen)})
}

// losses takes hosts for failed that will not settle by themselves: those that
// never came back, or went quiet on their way, once that was counted, and those
// that are enrolled no more. On the way back there is nothing to count: it is
// not the target's doing.
func (t *turn) losses() {
	for _, r := range t.s.watched() {
		w := t.m.watch[r.ID]
		if w == nil {
			continue
		}
		for _, id := range w.lost {
			h, seen := t.s.hosts[id], t.v.hosts[id]
			if slices.Contains(h.Crashes, lostCrash(h)) || h.Phase == rollout.Reverting && w.alone() {
				t.lose(r, h, seen, Move{Reason: neverCame(r, seen), Booted: h.Act.proves(seen)})
			}
		}
		for _, id := range w.silent {
			if h, seen := t.s.hosts[id], t.v.hosts[id]; t.dead(r, w, h, seen) {
				t.lose(r, h, seen, Move{Reason: wentQuiet(seen), Booted: h.Act.proves(seen)})
			}
		}
	}
	for _, id := range t.m.revoked {
		if h := t.s.hosts[id]; h.Phase.Acting() && !t.succeeded(h) {
			t.lose(t.s.rollouts[h.Rollout], h, &Seen{ID: id}, Move{Reason: "its enrolment was revoked", Gone: true})
		}
	}
}

// lose takes a host for failed.
func (t *turn) lose(r *rollout.Rollout, h *Host, seen *Seen, m Move) {
	if m.Rollout, m.Wave, m.To, m.Live = r.ID, h.Wave, rollout.Failed, t.restores(h); !t.full() {
		t.move(seen, m)
	}
}

// dead says that a silent host counts as crashed before it had the target, so
// that its wave need not wait for it.
func (t *turn) dead(r *rollout.Rollout, w *watch, h *Host, seen *Seen) bool {
	counted := slices.Contains(h.Crashes, silentCrashID(h)) || r.CrashedHost(seen.ID)
	return counted && h.Phase.Acting() && h.Phase != rollout.Reverting && w.alone() && !t.now.Before(seen.crashedAt(r, h))
}

// succeeded says that another machine may yet stand in for a host.
func (t *turn) succeeded(h *Host) bool {
	return h.Act != nil && h.Act.Action == wire.ActionReplace && h.mayBeDown(h.Phase) &&
		!t.now.After(h.Since.Add(t.s.rollouts[h.Rollout].Policy.Timeouts.Boot))
}

// underwayRevoked are the hosts under way whose enrolment was revoked.
func (v *View) underwayRevoked(s *State) []fleet.HostID {
	var out []fleet.HostID
	for id := range v.revoked {
		if h := s.hosts[id]; h != nil && h.Rollout != "" && h.Phase.Acting() {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// patience is how long a host may be in one phase of an action.
func patience(t policy.Timeouts, p rollout.HostPhase) time.Duration {
	switch p {
	case rollout.Draining:
		return t.Drain
	case rollout.Rebooting, rollout.Reverting:
		return max(t.Boot, t.Stuck)
	}
	return t.Stuck
}

func neverCame(r *rollout.Rollout, seen *Seen) string {
	return fmt.Sprintf("it did not come back within %s, last heard at %s", policy.Span(r.Policy.Timeouts.Boot), seen.Heard.UTC().Format(time.RFC3339))
}
