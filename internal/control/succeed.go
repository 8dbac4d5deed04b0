package control

import (
	"slices"

	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// LabelReplaces is the label of a new machine that names the host it stands in
// for. It counts only if the join token bound it: a host may not say so itself.
const LabelReplaces = "replaces"

// Succession gives a replaced host's place in its rollout to the new machine.
type Succession struct {
	Old fleet.HostID `json:"old"`
	New fleet.HostID `json:"new"`
	// Generation of the new machine's first order, above any it has seen.
	Generation uint64 `json:"generation"`
}

// succeeds notes that a new machine stands in for one that is being replaced.
func (t *turn) succeeds(seen *Seen, now *Host) bool {
	old := seen.replaces
	if old == "" || old == seen.ID {
		return false
	}
	was := t.s.hosts[old]
	switch {
	case was == nil || was.Act == nil || was.Act.Action != wire.ActionReplace || was.Act.Off || was.Act.Met || !was.Phase.Acting():
		return false
	case now != nil && (now.Rollout != "" || now.Gone != ""):
		return false
	case slices.ContainsFunc(t.rec.Successions, func(s Succession) bool { return s.Old == old }):
		return false // two say so: the first one is
	}
	t.hosts++
	generation := seen.Report.Generation
	if now != nil {
		generation = max(generation, now.Generation)
	}
	t.rec.Successions = append(t.rec.Successions, Succession{old, seen.ID, min(generation, sane) + 1})
	return true
}

func (s *State) applySuccession(c Succession) {
	was, now := s.host(c.Old), s.host(c.New)
	act := *was.Act
	act.Met = true
	*now = Host{at: now.at, Generation: c.Generation, Rollout: was.Rollout, Phase: was.Phase, Wave: was.Wave,
		Since: was.Since, Started: was.Started, Earlier: was.Earlier, Act: &act}
	*was = Host{at: was.at, Generation: was.Generation, Gone: c.New}
}
