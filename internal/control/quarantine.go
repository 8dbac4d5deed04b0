package control

import (
	"fmt"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/rollout"
)

// strikes is how many times in a row, over all rollouts, a host may fail before
// it is quarantined: what fails again and again is the host's own trouble.
const strikes = 3

// Quarantine is why and since when a host is not admitted to anything.
type Quarantine struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
}

// strike counts a failure of the host against it, and its success for it.
func (h *Host) strike(r *rollout.Rollout, m Move, from rollout.HostPhase, at time.Time) {
	switch {
	case m.To == rollout.Soaking:
		h.Strikes = 0
	case m.To == rollout.Failed && from.Acting() && !h.Excused:
		if h.Strikes++; h.Strikes >= strikes && h.Quarantine == nil {
			h.Quarantine = &Quarantine{at, fmt.Sprintf("it failed %d times in a row, last in rollout %s: %s", h.Strikes, r.ID, m.Reason)}
		}
	}
}

// quarantined says that the host is kept from everything.
func (s *State) quarantined(id fleet.HostID) *Blocker {
	h := s.hosts[id]
	if h == nil || h.Quarantine == nil {
		return nil
	}
	return blocked(KindQuarantine, "afloat hosts release "+string(id), "quarantined since %s: %s",
		h.Quarantine.Since.UTC().Format(time.RFC3339), h.Quarantine.Reason)
}

func checkRelease(s *State, c *Command) error {
	if h := s.hosts[c.Host]; h == nil || h.Quarantine == nil {
		return refuse(Release, AboutHost, "host %s is not quarantined", c.Host)
	}
	return nil
}

func (s *State) applyRelease(c Command) error {
	h := s.host(c.Host)
	h.Quarantine, h.Strikes = nil, 0
	return nil
}
