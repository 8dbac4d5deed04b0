package control

import (
	"slices"

	"afloat/internal/bundle"
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
		if t.foldOne(&t.m.hosts[i]) {
			left = append(left, i)
		} else {
			t.m.hosts[i].unread = false
		}
	}
	t.m.unread = left
	if len(t.rec.Crashes) > 0 { // one kind of thing per record, crashes first
		t.rec.Moves, t.rec.Adopts, t.rec.Owes, t.rec.Successions = nil, nil, nil, nil
	} else if len(t.rec.Adopts) > 0 {
		t.rec.Moves, t.rec.Owes, t.rec.Successions = nil, nil, nil
	} else if len(t.rec.Successions) > 0 {
		t.rec.Moves, t.rec.Owes = nil, nil
	} else if len(t.rec.Owes) > 0 {
		t.rec.Moves = nil
	}
}

// foldOne says whether something followed from the host's report.
func (t *turn) foldOne(x *memoHost) bool {
	if x.seen.Report.Boot == "" {
		return false
	}
	before := len(t.rec.Crashes)
	t.foldCrashes(x.seen)
	return len(t.rec.Crashes) > before || t.succeeds(x.seen, x.host) || t.foldHost(x.seen, x.host)
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

// sane bounds the generation that a host may make the server follow.
const sane = 1 << 62

// foldHost says whether something followed from the host's phase.
func (t *turn) foldHost(seen *Seen, h *Host) bool {
	report := seen.Report
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
	if t.owing(seen, h) {
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
		m = t.failing(m, h, report)
	}
	if to == rollout.Soaking && phase != rollout.Reverting || to == rollout.Failed && phase.Acting() {
		m.Booted = h.Act.proves(seen)
	}
	t.move(seen, m)
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

// clip bounds what a host's words may add to a record.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + " ..."
	}
	return s
}
