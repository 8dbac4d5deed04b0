package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/policy"
)

// rule names what can stop a rollout.
type rule int

const (
	ruleGate     rule = iota // afloat: what gate.Decide reverts, by evidence or cap; holds are released at once
	ruleHold                 // afloat: what gate.Decide holds or reverts: where it stops admitting
	ruleRevert               // evidence alone, with all of the false revert chance: E >= 100 on two hosts
	ruleNaive                // more than 1 crash per 1000 hosts, from the first host on
	ruleNaive1k              // the same from 1000 hosts on
	ruleInterval             // Argo-style: crashes of the last hour over hosts, failureLimit 0
	rules
)

// stop is when a rule ended the rollout.
type stop struct {
	stopped bool
	hours   float64 // since the first admission
	exposed int     // hosts that had the patch
	crashes int     // hosts that the patch had crashed one minute later
}

// outcome is one simulated rollout.
type outcome struct {
	stops  [rules]stop
	levels []gate.Level // what the gate said at the end of each stage
	hours  float64      // length of the rollout if nothing stops it
}

// rollout plays one world once. Rules only watch; it goes on until all of them
// have stopped it or it is complete, so that they see the same luck.
type rollout struct {
	luck
	levels  gate.Levels
	base    gate.Baseline
	filter  gate.Filter
	ev      gate.Evidence
	seen    float64 // exposure is counted up to here
	cohorts []cohort
	pending []crash
	gate    policy.Gate
	capped  []fleet.HostID // patched hosts that crashed within the cap's time
	caused  []float64      // times of the crashes that the patch caused
	patched int            // crash reports of patched hosts, unfiltered, as a plain rule counts
	hourly  int            // the same since the last full hour
	hour    float64        // next full hour
	out     outcome
}

func (r *rollout) admitted() int {
	if len(r.cohorts) == 0 {
		return 0
	}
	return r.cohorts[len(r.cohorts)-1].to
}

// play runs all stages. Each starts when the one before has baked.
func (r *rollout) play() (outcome, error) {
	r.hour = 1
	now := 0.0
	for _, size := range r.w.stages {
		start := r.admitted()
		for b := range r.w.batches {
			next, err := r.batch(now, start+(size-start)*(b+1)/r.w.batches, b+1 == r.w.batches)
			if err != nil {
				return r.out, err
			}
			now = next
		}
		level, _ := gate.Judge(r.ev, r.levels)
		r.out.levels = append(r.out.levels, level)
		if r.over() {
			break
		}
	}
	r.out.hours = now
	return r.out, nil
}

func (r *rollout) over() bool {
	return !slices.ContainsFunc(r.out.stops[:], func(s stop) bool { return !s.stopped })
}

// batch admits hosts up to the given rank and returns when the next admission
// may come.
func (r *rollout) batch(now float64, upTo int, last bool) (float64, error) {
	c := cohort{at: now, from: r.admitted(), to: upTo}
	r.cohorts = append(r.cohorts, c)
	hit := r.applying(c)
	next := now + r.wait(c, hit)
	if last {
		next += r.w.bake
	}
	for _, h := range hit {
		r.caused = append(r.caused, h.at)
	}
	other := r.between(now, next, r.admitted())
	for _, o := range other {
		if o.caused {
			r.caused = append(r.caused, o.at)
		}
	}
	r.pending = append(append(r.pending, hit...), other...)
	return next, r.advance(next)
}

// wait asks the gate how long the next batch waits for this one: hosts that
// crashed stay unheard until their report arrives.
func (r *rollout) wait(c cohort, hit []crash) float64 {
	if r.w.looks > 0 {
		return r.w.looks
	}
	size := c.to - c.from
	ask := func(after float64, heard int) float64 {
		b := gate.Batch{Applied: moment(c.at), Hosts: size, Heard: heard}
		return b.Wait(span(settle), span(r.w.limit), moment(c.at+after)).Hours()
	}
	slices.SortFunc(hit, func(a, b crash) int { return cmp.Compare(a.known, b.known) })
	wait := ask(0, size)
	for i, h := range hit {
		if h.at > c.at+settle {
			continue // heard from alive before it crashed
		}
		if left := ask(0, size-len(hit)+i); left > h.known-c.at && !h.lost {
			wait = max(wait, h.known-c.at)
		} else {
			return max(wait, left)
		}
	}
	return wait
}

// moment and span carry virtual hours into the gate's types.
func moment(hours float64) time.Time   { return time.Unix(0, 0).Add(span(hours)) }
func span(hours float64) time.Duration { return time.Duration(hours * float64(time.Hour)) }

// advance tells the rules everything that becomes known by then.
func (r *rollout) advance(to float64) error {
	var due []crash
	r.pending = slices.DeleteFunc(r.pending, func(c crash) bool {
		if c.lost {
			return true
		}
		c.known = r.look(c.known)
		if c.known > to {
			return false
		}
		due = append(due, c)
		return true
	})
	slices.SortFunc(due, func(a, b crash) int {
		return cmp.Or(cmp.Compare(a.known, b.known), cmp.Compare(a.at, b.at), cmp.Compare(a.rank, b.rank))
	})
	before := r.patched
	for i, c := range due {
		r.tick(c.known)
		if err := r.report(c); err != nil {
			return err
		}
		// Only a crash with the patch can make any rule stop.
		if r.patched > before && (i+1 == len(due) || due[i+1].known > c.known) {
			before = r.patched
			r.judge(c.known)
		}
	}
	r.tick(to)
	if err := r.expose(to); err != nil {
		return err
	}
	r.judge(to)
	return nil
}

// look is when the gate next looks.
func (r *rollout) look(t float64) float64 {
	if r.w.looks == 0 {
		return t
	}
	return math.Ceil(t/r.w.looks) * r.w.looks
}

// report counts one crash for every rule.
func (r *rollout) report(c crash) error {
	if err := r.expose(c.known); err != nil {
		return err
	}
	kind, steady, control := r.place(c)
	if kind != gate.CrashControl {
		r.patched++
		r.hourly++
	}
	host := fleet.HostID(strconv.Itoa(c.rank))
	if !r.filter.Count(gate.Event{Host: host, Domains: r.domains(c), At: moment(c.at)}) {
		return nil
	}
	if kind != gate.CrashControl && c.at-r.appliedAt(c.rank) <= r.gate.Crashes.Cap.Within.Hours() &&
		!slices.Contains(r.capped, host) {
		r.capped = append(r.capped, host)
	}
	return r.observe(gate.Look{Crashes: []gate.Crash{{Host: host, Kind: kind, Patched: steady, Control: control}}})
}

func (r *rollout) domains(c crash) []string {
	var out []string
	if c.outage > 0 {
		out = append(out, "outage="+strconv.Itoa(c.outage))
	}
	if r.w.together {
		out = append(out, "rack="+strconv.Itoa(c.rank/rackHosts))
	}
	return out
}

// place says to which arm a crash belongs, and who was at risk when it happened.
func (r *rollout) place(c crash) (kind gate.CrashKind, steady, control float64) {
	kind, control = gate.CrashControl, float64(r.w.hosts)
	for _, k := range r.cohorts {
		age := c.at - k.at
		if age < 0 {
			break
		}
		control -= float64(k.to - k.from)
		if age >= window {
			steady += float64(k.to - k.from)
		}
		switch {
		case c.rank < k.from || c.rank >= k.to:
		case age < window:
			kind = gate.CrashApply
		default:
			kind = gate.CrashSteady
		}
	}
	return kind, steady, control
}

func (r *rollout) appliedAt(rank int) float64 {
	i, _ := slices.BinarySearchFunc(r.cohorts, rank, func(k cohort, rank int) int {
		if rank >= k.to {
			return -1
		}
		return 1
	})
	return r.cohorts[i].at
}

// decided is gate.Decide's level. It takes long and is asked only where it may
// say hold or revert.
func (r *rollout) decided(now float64) gate.Level {
	within := 0.0
	for _, k := range r.cohorts {
		within += float64(k.to-k.from) * (1 - r.w.lostExposure) * min(now-k.at, r.gate.Crashes.Cap.Within.Hours())
	}
	return gate.Decide(r.gate, gate.Facts{
		Exposed: r.admitted(), HoursWithin: within, Crashed: r.capped, Evidence: &r.ev,
	}).Level
}

// expose counts the exposure since the last look, as reported.
func (r *rollout) expose(to float64) error {
	x := gate.Exposure{Baseline: r.base}
	for _, k := range r.cohorts {
		n := float64(k.to-k.from) * (1 - r.w.lostExposure)
		x.ApplyHours += n * (inside(to-k.at) - inside(r.seen-k.at))
		x.SteadyHours += n * (past(to-k.at) - past(r.seen-k.at))
	}
	r.seen = max(r.seen, to)
	x.ApplyHours, x.SteadyHours = max(0, x.ApplyHours), max(0, x.SteadyHours)
	return r.observe(gate.Look{Exposure: []gate.Exposure{x}})
}

func inside(age float64) float64 { return min(max(age, 0), window) }
func past(age float64) float64   { return max(age-window, 0) }

func (r *rollout) observe(l gate.Look) error {
	ev, err := r.ev.Observe(l)
	if err != nil {
		return fmt.Errorf("play rollout: %w", err)
	}
	r.ev = ev
	return nil
}

// judge lets the rules that may look at any time stop the rollout.
func (r *rollout) judge(now float64) {
	e := r.ev.E()
	r.stopIf(ruleRevert, e >= r.levels.Revert && len(r.ev.Hosts) >= r.levels.Hosts, now)
	over := float64(len(r.capped)) > r.gate.Crashes.Cap.Excess*float64(r.admitted())
	if (over || e >= r.levels.Hold) && !r.out.stops[ruleGate].stopped {
		level := r.decided(now)
		r.stopIf(ruleHold, level == gate.LevelHold || level == gate.LevelRevert, now)
		r.stopIf(ruleGate, level == gate.LevelRevert, now)
	}
	tooMany := float64(r.patched)/float64(r.admitted()) > 1.0/1000
	r.stopIf(ruleNaive, tooMany, now)
	r.stopIf(ruleNaive1k, tooMany && r.admitted() >= 1000, now)
}

// tick lets the rule that measures whole hours look at those that have ended.
func (r *rollout) tick(now float64) {
	for ; r.hour <= now; r.hour++ {
		r.stopIf(ruleInterval, float64(r.hourly)/float64(r.admitted()) > 1.0/1000, r.hour)
		r.hourly = 0
	}
}

func (r *rollout) stopIf(which rule, yes bool, now float64) {
	s := &r.out.stops[which]
	if !yes || s.stopped {
		return
	}
	s.stopped, s.hours, s.exposed = true, now, r.admitted()
	for _, at := range r.caused {
		if at <= now+minute {
			s.crashes++
		}
	}
}
