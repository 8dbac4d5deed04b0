package plan

import (
	"fmt"
	"time"

	"afloat/internal/policy"
)

// Pace bounds how many hosts may start in a time over all rollouts together:
// the change rate of the fleet. Planners that share one Pace keep to it
// together. A nil Pace bounds nothing.
type Pace struct {
	rate   policy.Rate
	starts window
}

// NewPace is a pace at which nobody has started yet.
func NewPace(r policy.Rate) *Pace { return &Pace{rate: r} }

// Started notes a start that no planner sharing the pace has made.
func (p *Pace) Started(at time.Time) { p.starts.add(at, 1) }

// blocked says that no more hosts may start now.
func (p *Pace) blocked(now time.Time) *Block {
	if p == nil || p.rate.Zero() {
		return nil
	}
	n, until := p.starts.expire(now, p.rate.Per)
	if n < p.rate.N {
		return nil
	}
	return &Block{Budget: "fleet rate", Until: time.Unix(0, until).UTC(), Over: p.rate.Per,
		Text: fmt.Sprintf("fleet rate: %d hosts started in the last %s in all rollouts together, at most %d may", n, policy.Span(p.rate.Per), p.rate.N)}
}

// Later is when the pace may let another host start, if it has no room at now.
func (p *Pace) Later(now time.Time) (time.Time, bool) {
	b := p.blocked(now)
	if b == nil {
		return time.Time{}, false
	}
	return b.Until, true
}

// Keep makes the planner share a pace with the planners of other rollouts.
func (p *Planner) Keep(pace *Pace) { p.pace = pace }
