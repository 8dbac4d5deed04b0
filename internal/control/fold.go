package control

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/health"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// fold takes in what hosts have reported: what they run, crashes, phases. A
// host stays unread until nothing more follows from it.
func (t *turn) fold() {
	slices.Sort(t.m.unread)
	var left []int32
	for n, i := range t.m.unread {
		if t.full() || len(t.rec.Crashes) >= maxCrashes {
			left = append(left, t.m.unread[n:]...)
			break
		}
		if t.foldOne(t.m.hosts[i].seen) {
			left = append(left, i)
		} else {
			t.m.hosts[i].unread = false
		}
	}
	t.m.unread = left
	if len(t.rec.Crashes) > 0 { // one kind of thing per record, crashes first
		t.rec.Moves, t.rec.Adopts = nil, nil
	} else if len(t.rec.Adopts) > 0 {
		t.rec.Moves = nil
	}
}

// foldOne says whether something followed from the host's report.
func (t *turn) foldOne(seen *Seen) bool {
	if seen.Report.Boot == "" {
		return false
	}
	before := len(t.rec.Crashes)
	t.foldCrashes(seen)
	return len(t.rec.Crashes) > before || t.foldHost(seen)
}

func (t *turn) foldCrashes(seen *Seen) {
	if len(seen.Report.Crashes) == 0 {
		return
	}
	h := t.s.Host(seen.ID)
	for _, c := range health.Crashes(seen.Report, h.Crashes, seen.Labels, seen.Down, t.now) {
		t.crash(seen, h, c)
	}
}

func (t *turn) crash(seen *Seen, h Host, c health.Crash) {
	e := CrashEvent{Crash: c}
	if r := t.s.rollouts[h.Rollout]; r != nil && c.Live != "" && (h.Live == c.Live || slices.Contains(r.Bundles, c.Live)) {
		e.Patched = r.ID
	}
	for _, r := range t.s.active() {
		if r.Policy.Select.Matches(seen.Labels) {
			e.Control = append(e.Control, Bystander{r.ID, t.without(r)})
		}
	}
	if e.Patched != "" && c.Counts() {
		e.Outage = t.outage(seen, c)
	}
	t.rec.Crashes = append(t.rec.Crashes, e)
}

// together is how close in time hosts of one domain must have gone for it to
// be the domain's doing, late is from when on a host without a sign of life
// counts as gone for that.
const (
	together = 5 * time.Minute
	late     = 90 * time.Second
)

// outage names the failure domain of the host of which at least two hosts
// without the patch, and half of those there are, went down with it: a rack
// that loses power says nothing about a patch.
func (t *turn) outage(seen *Seen, c health.Crash) string {
	for _, domain := range c.Domains {
		key, value, _ := strings.Cut(domain, "=")
		all, gone := 0, 0
		for i := range t.m.hosts {
			x := &t.m.hosts[i]
			if x.seen == seen || x.seen.Labels[key] != value || x.host != nil && c.Live != "" && x.host.Live == c.Live {
				continue
			}
			all++
			if t.wentWith(x.seen, c.At) {
				gone++
			}
		}
		if gone >= 2 && 2*gone >= all {
			return domain
		}
	}
	return ""
}

// wentWith says that the host was lost at about the given time.
func (t *turn) wentWith(seen *Seen, at time.Time) bool {
	if !seen.Down.IsZero() && seen.Down.Sub(at).Abs() < together {
		return true
	}
	return t.now.Sub(seen.Heard) > late && seen.Heard.Sub(at).Abs() < together
}

// without is how many selected hosts do not run the rollout's patch.
func (t *turn) without(r *rollout.Rollout) int {
	return max(0, t.planner(r).Selected()-r.Exposure.Running())
}

// sane bounds the generation that a host may make the server follow.
const sane = 1 << 62

// foldHost says whether something followed from the host's phase.
func (t *turn) foldHost(seen *Seen) bool {
	h, report := t.s.hosts[seen.ID], seen.Report
	generation := uint64(1)
	if h != nil {
		generation = h.Generation
	}
	live := loaded(report)
	if report.Generation > generation && report.Generation < sane || h == nil && live != "" {
		t.hosts++
		t.rec.Adopts = append(t.rec.Adopts, Adopt{Host: seen.ID, Generation: max(report.Generation, generation) + 1, Live: live})
		return true
	}
	if h == nil || h.Rollout == "" || report.Generation < h.Generation {
		return false
	}
	r := t.s.rollouts[h.Rollout]
	phase := r.HostPhase(h.Phase, h.Wave)
	to, reason := follows(phase, h, report)
	if to == phase {
		return false
	}
	m := Move{Rollout: r.ID, Wave: h.Wave, To: to, Reason: reason}
	if to == rollout.Failed {
		m.Live = t.restores(h)
	}
	t.move(seen.ID, m)
	return true
}

// loaded is the bundle that the host runs, "" for none of ours.
func loaded(r wire.Report) (d bundle.Digest) {
	for _, l := range r.Live {
		if l.Bundle != "" && l.Enabled {
			d = l.Bundle
		}
	}
	return d
}

// follows is the phase that a host of this phase has reached by its report.
func follows(phase rollout.HostPhase, h *Host, r wire.Report) (rollout.HostPhase, string) {
	runs := h.Live != "" && health.Runs(r, h.Live)
	lost := r.Phase == wire.PhaseFailed || r.Phase == wire.PhaseRefused
	switch phase {
	case rollout.Admitted, rollout.Applying:
		switch {
		case r.Phase == wire.PhaseApplied && runs:
			return rollout.Soaking, ""
		case lost:
			return rollout.Failed, clip(r.Reason)
		case r.Phase == wire.PhaseApplying:
			return rollout.Applying, ""
		}
	case rollout.Soaking, rollout.Done:
		switch {
		case lost && !runs:
			return rollout.Failed, clip(r.Reason)
		case !runs && (r.Phase == wire.PhaseReverted || r.Phase == wire.PhaseIdle):
			return rollout.Failed, "taken off at the host"
		}
	case rollout.Failed:
		if h.Excused {
			return rollout.Waiting, "another try: it went down with its failure domain"
		}
	case rollout.Reverting:
		if runs || h.Live == "" && loaded(r) == "" || lost && loaded(r) == "" {
			return rollout.Reverted, clip(r.Reason)
		}
	}
	return phase, ""
}

// clip bounds what a host's words may add to a record.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + " ..."
	}
	return s
}

// silentCrash is how many times the silence limit a host may be quiet after
// apply, while its neighbours report, before it counts as crashed.
const silentCrash = 3

// neighbours is the share of the other hosts that must be heard for the
// silence of one to be its own.
const neighbours = 0.8

// silence turns hosts that went quiet with the patch into crashes.
func (t *turn) silence() {
	for _, r := range t.s.active() {
		w := t.m.watch[r.ID]
		if w == nil || float64(w.heard) < neighbours*float64(w.all-1) || w.heard == 0 {
			continue
		}
		for _, id := range w.silent {
			if len(t.rec.Crashes) < maxCrashes {
				t.silentHost(r, id)
			}
		}
	}
}

func (t *turn) silentHost(r *rollout.Rollout, id fleet.HostID) {
	h, seen := t.s.hosts[id], t.v.hosts[id]
	if p := r.HostPhase(h.Phase, h.Wave); p == rollout.Reverting {
		return
	}
	crash := fmt.Sprintf("silent-%d", h.Generation)
	quiet := t.now.Sub(later(seen.Heard, h.Since))
	if quiet <= silentCrash*r.Policy.Timeouts.Silent || slices.Contains(h.Crashes, crash) || r.CrashedHost(id) {
		return
	}
	t.crash(seen, *h, health.Crash{Host: id, ID: crash, Kind: health.CrashSilent, Live: h.Live, At: later(seen.Heard, h.Since),
		Domains: health.Domains(seen.Labels),
		Text:    fmt.Sprintf("not heard since %s while its neighbours report", seen.Heard.UTC().Format(time.RFC3339))})
}
