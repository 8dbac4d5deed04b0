package control

import (
	"fmt"
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// Verb is what an operator wants done.
type Verb string

const (
	Start  Verb = "start"
	Abort  Verb = "abort"
	Revert Verb = "revert"
	Pause  Verb = "pause"
	Resume Verb = "resume" // also lets a held rollout go on past what holds it now
	// Release lets a quarantined host take part again.
	Release Verb = "release"
)

// Command is an operator's wish. An accepted one is part of a Record.
type Command struct {
	Verb   Verb   `json:"verb"`
	By     string `json:"by"`               // who, for the audit
	Policy string `json:"policy,omitempty"` // start: the YAML as written
	// Rollout that is meant; for start Do fills it in.
	Rollout string `json:"rollout,omitempty"`
	// Reboot is how soon one must follow by the publisher of the target; for
	// start Do fills it in.
	Reboot bundle.Reboot `json:"reboot,omitempty"`
	// Host that is meant by release.
	Host   fleet.HostID `json:"host,omitempty"`
	Reason string       `json:"reason,omitempty"`
}

// Subject is what a refused command failed on: what the caller looks at next.
type Subject string

// The subjects of refusals.
const (
	AboutID      Subject = "id"      // there is no such rollout
	AboutPhase   Subject = "phase"   // the rollout's phase does not allow it
	AboutTarget  Subject = "target"  // the policy's target cannot be done
	AboutRival   Subject = "rival"   // another rollout has the same target
	AboutHost    Subject = "host"    // it does not apply to that host
	AboutMissing Subject = "missing" // the catalog has nothing of that name
	AboutBudget  Subject = "budget"  // a budget bounds no host
	AboutBundles Subject = "bundles" // no bundle of that name may be used
)

// RefusedError is a command that was understood and turned down.
type RefusedError struct {
	Verb    Verb
	Subject Subject
	Reason  string
}

func (e *RefusedError) Error() string {
	what := "rollout"
	if e.Verb == Release {
		what = "host"
	}
	return fmt.Sprintf("cannot %s %s: %s", e.Verb, what, e.Reason)
}

func refuse(v Verb, s Subject, format string, args ...any) error {
	return &RefusedError{Verb: v, Subject: s, Reason: fmt.Sprintf(format, args...)}
}

// Do turns a command into a record; it changes nothing. The record's Command
// names the rollout. Errors are *RefusedError, or *policy.Error with the place.
func Do(s *State, v *View, c Command, now time.Time) (Record, error) {
	if err := check(s, v, &c); err != nil {
		return Record{}, err
	}
	rec := s.record(now)
	rec.Command = &c
	return rec, nil
}

// record is the next record, still empty. Time never runs backwards in the log.
func (s *State) record(now time.Time) Record {
	return Record{Seq: s.seq + 1, At: later(s.at, now.UTC().Round(0)), Edition: edition}
}

func check(s *State, v *View, c *Command) error {
	switch c.Verb {
	case Start:
		return checkStart(s, v, c)
	case Release:
		return checkRelease(s, c)
	}
	r := s.rollouts[c.Rollout]
	if r == nil {
		return refuse(c.Verb, AboutID, "there is no rollout %q", c.Rollout)
	}
	to, ok := c.Verb.phase()
	switch {
	case !ok:
		return refuse(c.Verb, AboutPhase, "there is no such command")
	case c.Verb == Resume && r.Phase.Open() && r.Hold != "":
		return nil
	case r.Phase == to:
		return refuse(c.Verb, AboutPhase, "rollout %s is %s already", r.ID, r.Phase)
	case c.Verb == Resume && r.Phase != rollout.PhasePaused:
		return refuse(c.Verb, AboutPhase, "rollout %s is %s, not paused", r.ID, r.Phase)
	case !r.Phase.CanGo(to):
		return refuse(c.Verb, AboutPhase, "rollout %s is %s", r.ID, r.Phase)
	}
	return nil
}

func (v Verb) phase() (rollout.Phase, bool) {
	switch v {
	case Abort:
		return rollout.PhaseAborted, true
	case Revert:
		return rollout.PhaseReverting, true
	case Pause:
		return rollout.PhasePaused, true
	case Resume:
		return rollout.PhaseRunning, true
	}
	return "", false
}

func checkStart(s *State, v *View, c *Command) error {
	p, err := policy.Parse([]byte(c.Policy))
	if err != nil {
		return err
	}
	for _, r := range s.Rollouts() {
		if r.Policy.Target == p.Target && !r.Phase.Over() && r.Phase != rollout.PhaseComplete {
			return refuse(Start, AboutRival, "rollout %s with target %s is %s", r.ID, p.Target, r.Phase)
		}
	}
	if err := checkTarget(s, v, p.Target); err != nil {
		return err
	}
	if err := checkBudgets(s, v, p); err != nil {
		return err
	}
	c.Rollout, c.Reboot = fmt.Sprintf("r%d", len(s.order)+1), ""
	if p.Target.Action == policy.Live {
		c.Reboot = s.urge(v, p.Target.Name)
	}
	return nil
}

// checkTarget refuses what no host may get.
func checkTarget(s *State, v *View, t policy.Target) error {
	if !t.Disrupts() {
		return checkSet(s, v, t.Name)
	}
	if b, bad := s.reverted(t); bad {
		return refuse(Start, AboutTarget, "%s was reverted by rollout %s: %s", t, b.Rollout, b.Reason)
	}
	for _, seen := range v.hosts {
		if seen.Report.Can(Action(t.Action)) {
			return nil
		}
	}
	return refuse(Start, AboutTarget, "no host has an agent that can %s", Action(t.Action))
}

// checkSet refuses a patch set of which no bundle may be used.
func checkSet(s *State, v *View, name string) error {
	var why []string
	for d, e := range v.catalog {
		if e.Manifest.Name != name {
			continue
		}
		bad := s.unusable(v, d)
		if bad == "" {
			return nil
		}
		why = append(why, bad)
	}
	if len(why) == 0 {
		return refuse(Start, AboutMissing, "the catalog has no bundle named %s", name)
	}
	return refuse(Start, AboutBundles, "no bundle named %s may be used: %s", name, strings.Join(why, "; "))
}

// unusable says why a bundle of the catalog may not be used, "" if it may.
func (s *State) unusable(v *View, d bundle.Digest) string {
	if e, ok := v.catalog[d]; !ok {
		return fmt.Sprintf("bundle %s is not in the catalog", d.Short())
	} else if e.Withdrawn {
		return fmt.Sprintf("bundle %s was withdrawn", d.Short())
	}
	if b, bad := s.bad[d]; bad && b.NoBoot {
		return fmt.Sprintf("bundle %s does not survive a boot (rollout %s: %s)", d.Short(), b.Rollout, b.Reason)
	} else if bad {
		return fmt.Sprintf("bundle %s was reverted by rollout %s: %s", d.Short(), b.Rollout, b.Reason)
	}
	return ""
}

func (s *State) applyCommand(c Command, at time.Time) error {
	switch c.Verb {
	case Start:
		return s.applyStart(c, at)
	case Release:
		return s.applyRelease(c)
	}
	to, ok := c.Verb.phase()
	r := s.rollouts[c.Rollout]
	if !ok || r == nil {
		return fmt.Errorf("command %s of rollout %s: %w", c.Verb, c.Rollout, rollout.ErrIllegal)
	}
	reason := fmt.Sprintf("by %s", c.By)
	if c.Reason != "" {
		reason += ": " + c.Reason
	}
	if c.Verb == Resume && r.Phase.Open() {
		return r.StepPhase(rollout.Change{Phase: r.Phase, Waved: []gate.Rule{heldBy(r)}}, at)
	}
	change := rollout.Change{Phase: to, Reason: reason}
	if c.Verb == Resume && r.PausedBy != "" {
		change.Waved = []gate.Rule{r.PausedBy}
	}
	return s.applyChange(Change{Rollout: r.ID, Change: change}, at)
}

// heldBy is the rule that the rollout is held by, "" for none.
func heldBy(r *rollout.Rollout) gate.Rule {
	rule, _, _ := strings.Cut(r.Hold, ": ")
	return gate.Rule(rule)
}

func (s *State) applyStart(c Command, at time.Time) error {
	if s.rollouts[c.Rollout] != nil || c.Rollout == "" {
		return fmt.Errorf("start of rollout %q: %w", c.Rollout, rollout.ErrIllegal)
	}
	p, err := s.shelf.Reread([]byte(c.Policy))
	if err != nil {
		return fmt.Errorf("start rollout %s: %w", c.Rollout, err)
	}
	if c.Reboot != "" {
		p = p.Prompt()
	}
	r := rollout.New(c.Rollout, c.By, c.Policy, p, at)
	r.Reboot = c.Reboot
	s.rollouts[c.Rollout] = r
	s.order = append(s.order, c.Rollout)
	return nil
}
