package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/plan"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// Owing is the reboots that the hosts of one live rollout owe, ready to be
// played ahead. It shares nothing with the State.
type Owing struct {
	// Of is the live rollout, Payoff the one that pays it off, "" before that began.
	Of, Payoff string
	pol        *policy.Policy // of the reboots
	ids        []fleet.HostID
	work       []plan.Work // all hosts that the policy selects, or may count in its budgets
	due        []time.Time // of each, zero for those that owe nothing
	sample     time.Duration
	cannot     map[string]int // hosts that no rollout could boot, by the reason
	waits      string         // why nobody is let start now, "" for no such thing
}

// Outlook says whether the reboots that a live rollout owes will be in time.
type Outlook struct {
	Of     string `json:"of"`
	Payoff string `json:"payoff,omitempty"`
	Owing  int    `json:"owing"`
	// Due is the first deadline, Last the last.
	Due  time.Time `json:"due"`
	Last time.Time `json:"last"`
	// Overdue hosts are past their deadline; Late ones will be, by the forecast:
	// the overdue are among them.
	Overdue int `json:"overdue,omitempty"`
	Late    int `json:"late,omitempty"`
	// Ends is when the last of those that can boot is back, if nothing is in the way.
	Ends time.Time `json:"ends,omitzero"`
	// Binds is what stands in the way, or what no schedule can beat.
	Binds string `json:"binds,omitempty"`

	late map[fleet.HostID]bool
}

// IsLate says that a host will have booted only after its deadline, or never.
func (o Outlook) IsLate(id fleet.HostID) bool { return o.late[id] }

// Text is the outlook in a sentence, "" while all is in time.
func (o Outlook) Text() string {
	var b strings.Builder
	switch {
	case o.Late == 0:
		return ""
	case o.Overdue > 0:
		fmt.Fprintf(&b, "OVERDUE: %s of %d that owe a reboot are past their deadline, the first since %s", count(o.Overdue), o.Owing, stamp(o.Due))
		if more := o.Late - o.Overdue; more > 0 {
			fmt.Fprintf(&b, ", %d more will be", more)
		}
	default:
		fmt.Fprintf(&b, "LATE: %s of %d that owe a reboot will miss their deadline, the first at %s", count(o.Late), o.Owing, stamp(o.Due))
	}
	if !o.Ends.IsZero() {
		fmt.Fprintf(&b, "; the forecast ends at %s", stamp(o.Ends))
	}
	return b.String() + ". " + o.Binds + ". No budget is broken for it"
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Debts are the reboots that are owed under a deadline, by live rollout.
func Debts(s *State, v *View, now time.Time) (out []Owing) {
	for _, r := range s.Rollouts() {
		if r.Policy.Debt.Reboot == 0 {
			continue
		}
		if o := owedBy(s, v, r, now); o.due != nil {
			out = append(out, o)
		}
	}
	return out
}

// Deadlines is Debts for one live rollout, or for the one that pays it off.
func Deadlines(s *State, v *View, id string, now time.Time) (Owing, bool) {
	r := s.rollouts[id]
	if r == nil {
		return Owing{}, false
	}
	if parent := s.rollouts[r.Of]; parent != nil {
		r = parent
	}
	if r.Policy.Debt.Reboot == 0 {
		return Owing{}, false
	}
	o := owedBy(s, v, r, now)
	return o, o.due != nil
}

// owes is the live rollout by whose policy a host owes a reboot, nil for none.
func (s *State) owes(h *Host) *rollout.Rollout {
	r := s.rollouts[h.Rollout]
	if r != nil && r.Of != "" {
		r = s.rollouts[r.Of]
	}
	if h.Debt == nil || r == nil || r.Policy.Debt.Reboot == 0 {
		return nil
	}
	return r
}

// due is by when a host must have booted, the zero time for no rule.
func (s *State) due(h *Host) time.Time {
	if r := s.owes(h); r != nil {
		return h.Debt.Since.Add(r.Policy.Debt.Reboot)
	}
	return time.Time{}
}

// Like says that two say the same of when how many must have booted, and of
// what keeps them.
func (o Owing) Like(p Owing) bool {
	return o.Of == p.Of && o.Payoff == p.Payoff && o.waits == p.waits && slices.Equal(o.due, p.due) && maps.Equal(o.cannot, p.cannot)
}

func owedBy(s *State, v *View, r *rollout.Rollout, now time.Time) Owing {
	o := Owing{Of: r.ID, pol: r.Policy.Payoff(), cannot: map[string]int{}}
	o.pol.Waves = o.pol.Waves[1:] // the sample is added to the time
	pays := s.payoff(r.ID)
	o.sample = s.sampleLeft(r, pays, now)
	if pays != nil {
		o.Payoff = pays.ID
	}
	o.waits = s.keepsDebt(r, pays)
	for _, id := range v.Hosts() {
		seen, h := v.hosts[id], s.hosts[id]
		if len(o.pol.Budgets) == 0 && !r.Policy.Select.Matches(seen.Labels) {
			continue
		}
		w := plan.Work{Labels: seen.Labels, Order: order(r.ID, id), Takes: s.reboots(seen), Out: quiet(r, seen, now), Done: true}
		var due time.Time
		if h != nil && s.owes(h) == r && r.Policy.Select.Matches(seen.Labels) {
			due = s.due(h)
			if why := s.cannotBoot(r, seen, now); why != "" {
				o.cannot[why]++
			} else {
				w.Done = false
			}
		}
		o.ids, o.work, o.due = append(o.ids, id), append(o.work, w), append(o.due, due)
	}
	if !slices.ContainsFunc(o.due, func(t time.Time) bool { return !t.IsZero() }) {
		o.due = nil
	}
	return o
}

// sampleLeft is how long the boot sample still takes.
func (s *State) sampleLeft(r, pays *rollout.Rollout, now time.Time) time.Duration {
	soak := r.Policy.Payoff().Waves[0].Soak
	switch {
	case pays == nil:
		return usualBoot + soak
	case pays.Over(0):
		return 0
	case !pays.Waves[0].Soaking.IsZero():
		return max(0, pays.Waves[0].Soaking.Add(soak).Sub(now))
	}
	return usualBoot + soak
}

// usualBoot is what a reboot takes of which nothing is known, with drain and probes.
const usualBoot = 10 * time.Minute

// reboots is how long a reboot keeps a host out.
func (s *State) reboots(seen *Seen) time.Duration {
	return cmp.Or(s.times[class(wire.ActionReboot, seen.Labels["hardware"])].Expect, usualBoot)
}

// keepsDebt says why no host is let start on its reboot, "" if that is not so.
func (s *State) keepsDebt(r, pays *rollout.Rollout) string {
	switch {
	case pays == nil && r.Phase.Over():
		return fmt.Sprintf("Rollout %s is %s, so that no rollout pays its reboots off: start one", r.ID, r.Phase)
	case pays == nil:
		return fmt.Sprintf("Rollout %s is %s, the one that pays its reboots off has not begun", r.ID, strings.TrimSuffix(string(r.Phase)+": "+r.Hold, ": "))
	case !pays.Phase.Open():
		return fmt.Sprintf("Rollout %s, which pays them off, is %s: %s", pays.ID, pays.Phase, pays.Reason)
	case pays.Hold != "":
		return fmt.Sprintf("Rollout %s, which pays them off, holds: %s", pays.ID, pays.Hold)
	}
	return ""
}

// cannotBoot says why no rollout could boot a host now, "" if one could.
func (s *State) cannotBoot(r *rollout.Rollout, seen *Seen, now time.Time) string {
	switch b := ownerBlocks(seen); {
	case quiet(r, seen, now):
		return "silent"
	case b != nil:
		return b.Reason
	case seen.Report.Blind != "":
		return "its crash evidence cannot be seen"
	case s.quarantined(seen.ID) != nil:
		return "quarantined"
	case !seen.Report.Can(wire.ActionReboot):
		return "its agent cannot reboot it"
	}
	return ""
}

// Outlook plays the reboots ahead from now on. For a big fleet that takes
// seconds: not for the owner of a State to wait for.
func (o Owing) Outlook(now time.Time) Outlook {
	out := Outlook{Of: o.Of, Payoff: o.Payoff, late: map[fleet.HostID]bool{}}
	f := plan.Ahead(o.pol, o.work, now.Add(o.sample))
	back := make([]time.Time, len(o.work))
	for _, s := range f.Times {
		back[s.Host] = now.Add(o.sample + s.Back)
		out.Ends = later(out.Ends, back[s.Host])
	}
	for i, due := range o.due {
		if due.IsZero() {
			continue
		}
		if out.Owing++; out.Due.IsZero() || due.Before(out.Due) {
			out.Due = due
		}
		out.Last = later(out.Last, due)
		if now.After(due) {
			out.Overdue++
		}
		if now.After(due) || back[i].IsZero() || back[i].After(due) {
			out.Late++
			out.late[o.ids[i]] = true
		}
	}
	out.Binds = o.binds(f)
	return out
}

// binds is the one thing that keeps the reboots from being in time: what lets
// nobody start, who cannot, or the bound that no schedule beats.
func (o Owing) binds(f plan.Forecast) string {
	switch {
	case o.waits != "":
		return o.waits
	case f.Stuck != "":
		return fmt.Sprintf("%s cannot start: %s", count(f.Left), f.Stuck)
	case len(o.cannot) > 0:
		why := slices.MaxFunc(slices.Sorted(maps.Keys(o.cannot)), func(a, b string) int { return cmp.Compare(o.cannot[a], o.cannot[b]) })
		return fmt.Sprintf("%s must be booted by hand: %s", count(o.cannot[why]), why)
	case len(f.Bounds) > 0:
		return fmt.Sprintf("What binds is %s: %s, which takes %s at least", f.Bounds[0].Name, f.Bounds[0].Why, policy.Span(f.Bounds[0].Least.Round(time.Minute)))
	}
	return "The time was too short"
}

// pressed says that the reboots of a live rollout must begin although it is not
// complete.
func (t *turn) pressed(r *rollout.Rollout) bool {
	at := t.presses(r)
	return !at.IsZero() && !t.now.Before(at)
}

// presses is from when on the reboots of a live rollout must begin although it
// is not complete, as of now: from then on, what they take at least would no
// longer fit before the first deadline, with half as much again for what cannot
// be foreseen. It is the zero time if nothing is owed.
func (t *turn) presses(r *rollout.Rollout) time.Time {
	if r.Phase != rollout.PhaseRunning || r.Exposure.Exposed == 0 {
		return time.Time{}
	}
	var first time.Time
	for i := range t.m.hosts {
		h := t.m.hosts[i].host
		if h == nil || h.Debt == nil || h.Rollout != r.ID || r.HostPhase(h.Phase, h.Wave) != rollout.Done {
			continue
		}
		if due := t.s.due(h); first.IsZero() || due.Before(first) {
			first = due
		}
	}
	if first.IsZero() {
		return time.Time{}
	}
	left := t.s.sampleLeft(r, nil, t.now)
	need := t.planner(r).Least(t.now.Add(left))
	return first.Add(time.Nanosecond - left - need - need/2)
}
