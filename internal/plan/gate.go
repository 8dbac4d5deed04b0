package plan

import (
	"fmt"
	"time"

	"afloat/internal/gate"
	"afloat/internal/policy"
)

// shown is what the crash gate will have seen at some moment of a forecast.
type shown struct {
	hosts int           // through their apply window
	time  time.Duration // of all hosts together after it
}

// shows adds up what the hosts started so far will have shown by then.
func (a *ahead) shows(at time.Duration) (s shown) {
	for _, t := range a.f.Times {
		if steady := at - t.Back - gate.ApplyWindow; steady >= 0 {
			s.hosts++
			s.time += steady
		}
	}
	return s
}

// exposure is the host-hours in apply windows, and after them, by then.
func (a *ahead) exposure(at time.Duration) (apply, steady float64) {
	for _, t := range a.f.Times {
		had := max(0, at-t.Back)
		apply += min(had, gate.ApplyWindow).Hours()
		steady += max(0, had-gate.ApplyWindow).Hours()
	}
	return apply, steady
}

// sure is when the gate can say go on the hosts started so far, not before
// from; false if it never can, as they are too few.
func (a *ahead) sure(from time.Duration, need gate.Need) (time.Duration, bool) {
	n := len(a.f.Times)
	if n == 0 || float64(n) < need.Hosts {
		return 0, false
	}
	at, sum := from, 0.0
	for _, t := range a.f.Times {
		at = max(at, t.Back+gate.ApplyWindow)
		sum += (t.Back + gate.ApplyWindow).Hours()
	}
	mean := sum / 24 / float64(n)
	return max(at, days(mean+need.HostDays/float64(n))+time.Second), true
}

func days(d float64) time.Duration { return time.Duration(d * 24 * float64(time.Hour)) }

// await lets the time pass until wave w may end or, for the control arm, begin.
// It says why it never may, "" if it may.
func (a *ahead) await(w int) string {
	wave := a.pol.Waves[w]
	switch at, ok := a.sure(a.now, a.need); {
	case wave.Control:
		if by := a.pol.Gate.Control.By; !ok || at > by {
			at = by
		}
		a.now = max(a.now, at)
	case a.pol.Gate.OnInconclusive != policy.InconclusiveHold:
	case !ok:
		return fmt.Sprintf("wave %s ends only when a person resumes it: the gate takes %.0f hosts to be sure, %d will have the patch (onInconclusive: hold)",
			wave.Name, a.need.Hosts, len(a.f.Times))
	default:
		a.now = max(a.now, at)
	}
	return ""
}

// judge writes into the plan of a wave what the gate can say at its end.
func (a *ahead) judge(w *WavePlan) {
	apply, steady := a.exposure(w.Ends)
	w.Sight, _ = gate.Foresee(a.pol.Gate, apply, steady) // of a policy that was read
	s := a.shows(w.Ends)
	w.Shown, w.HostDays, w.Verdict = s.hosts, s.time.Hours()/24, gate.LevelGo
	if float64(s.hosts) < a.need.Hosts || w.HostDays < a.need.HostDays {
		w.Verdict = gate.LevelInconclusive
		w.Lacks = fmt.Sprintf("%d of %.0f hosts and %.1f of %.0f host-days that it takes to be sure", s.hosts, a.need.Hosts, w.HostDays, a.need.HostDays)
	}
}

// gateBounds are what the gate's own need of exposure costs at least: where an
// inconclusive wave holds, the first wave must gather all of it on its few
// hosts; the control arm waits for it, or for its time.
func gateBounds(pol *policy.Policy, waves []WavePlan, n int) []Bound {
	need, err := gate.Needed(pol.Gate)
	if err != nil {
		return nil
	}
	var out []Bound
	var soaks time.Duration
	for i := len(pol.Waves) - 1; i >= 0; i-- {
		w := pol.Waves[i]
		if i >= len(waves) || waves[i].Hosts == 0 {
			continue
		}
		hosts := reached(pol, i, n)
		least := days(need.HostDays / float64(max(1, hosts)))
		switch {
		case w.Control:
			out = append(out, Bound{Name: "control arm", Least: min(pol.Gate.Control.By, days(need.HostDays/float64(n))), Why: "the control arm waits until the gate is sure"})
		case i < len(pol.Waves)-1 && pol.Gate.OnInconclusive == policy.InconclusiveHold && float64(hosts) >= need.Hosts:
			out = append(out, Bound{Name: "gate", Least: least + soaks, Why: fmt.Sprintf("wave %s holds until its %d hosts have shown %.0f host-days", w.Name, hosts, need.HostDays)})
		}
		if i < len(pol.Waves)-1 {
			soaks += w.Soak
		}
	}
	return out
}

// reached is how many of n hosts have the change at most when wave i is over.
func reached(pol *policy.Policy, i, n int) int {
	most := 0
	for _, w := range pol.Waves[:i+1] {
		switch {
		case w.Select != nil:
			return n // as many as match: not known here
		case w.Size.Share > 0:
			most = max(most, w.Size.Up(n))
		default:
			most = min(n, most+w.Size.N)
		}
	}
	return most
}
