package plan

import (
	"cmp"
	"container/heap"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/gate"
	"afloat/internal/policy"
)

// Work is one host of a forecast and what its action takes.
type Work struct {
	Labels fleet.Labels
	// Takes is how long the host is out: drain, reboot and verify; or the few
	// seconds of a live patch. Take the 90 % point of its class, not the mean.
	Takes time.Duration
	// Order is its place, as in Host; 0 lets the forecast draw one.
	Order uint64
	// Out: the host is down already, and stays so.
	Out bool
	// Done: it has nothing to do, and only counts in the budgets. So does a host
	// that the policy does not select.
	Done bool
}

// Forecast is a rollout played ahead, with no surprises.
type Forecast struct {
	Hosts int `json:"hosts"`
	// Started is when the last host starts, Done when the last is back, both
	// after the beginning.
	Started time.Duration `json:"started_ns"`
	Done    time.Duration `json:"done_ns"`
	// Over is when the last wave has soaked.
	Over time.Duration `json:"over_ns"`
	Peak int           `json:"peak"` // most hosts out at once
	// Bounds are what no schedule can beat, the greatest first. Above is how
	// far Done lies above it, as a share.
	Bounds []Bound `json:"bounds"`
	Above  float64 `json:"above"`
	// Stuck says why hosts never start, "" when all do; Left is how many.
	Stuck string     `json:"stuck,omitempty"`
	Left  int        `json:"left,omitempty"`
	Waves []WavePlan `json:"waves"`
	// Times are the starts in order, for a curve and for checks.
	Times []Start `json:"-"`
}

// Start is one host's start in a forecast.
type Start struct {
	Host int32
	At   time.Duration
	Back time.Duration
}

// WavePlan is one wave of a forecast.
type WavePlan struct {
	Name  string        `json:"name"`
	Hosts int           `json:"hosts"`
	Opens time.Duration `json:"opens_ns"`
	Ends  time.Duration `json:"ends_ns"` // its soak is over, and the gate lets it end
	// Shown and HostDays are the exposure that the gate has at its end, on hosts
	// through their first minutes and in the time after those; Verdict is what
	// that is enough for if nothing crashes, Lacks what it is not enough for.
	Shown    int        `json:"shown"`
	HostDays float64    `json:"host_days"`
	Verdict  gate.Level `json:"verdict"`
	Lacks    string     `json:"lacks,omitempty"`
	// Sight is the smallest harm that would have shown by then.
	Sight gate.Sight `json:"sight"`
}

// Gap is how far the forecast lies above the greatest bound, as a share.
func (f Forecast) Gap() float64 {
	if len(f.Bounds) == 0 || f.Bounds[0].Least <= 0 {
		return 0
	}
	return float64(f.Done)/float64(f.Bounds[0].Least) - 1
}

// returns is a heap of hosts by when they are back.
type returns []Start

func (r returns) Len() int           { return len(r) }
func (r returns) Less(i, j int) bool { return r[i].Back < r[j].Back }
func (r returns) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *returns) Push(x any)        { *r = append(*r, x.(Start)) }
func (r *returns) Pop() any {
	old := *r
	x := old[len(old)-1]
	*r = old[:len(old)-1]
	return x
}

// Ahead plays a policy on hosts from a time on. Its cost is that of the
// planner: a turn per moment at which something changes.
func Ahead(pol *policy.Policy, hosts []Work, from time.Time) Forecast {
	run := &ahead{p: New(pol), pol: pol, hosts: hosts, from: from}
	run.need, _ = gate.Needed(pol.Gate) // of a policy that was read: the baseline is valid
	run.p.Grow(len(hosts))
	for i, h := range hosts {
		state := Fit
		switch {
		case !pol.Select.Matches(h.Labels):
			state = Other
		case h.Done:
			state = Had
		}
		run.p.Set(int32(i), Host{Labels: h.Labels, Order: cmp.Or(h.Order, draw(i)), Takes: h.Takes, State: state, Out: h.Out})
	}
	run.f.Hosts = run.p.Selected()
	run.play()
	run.f.Over = run.now
	run.f.Bounds = bounds(pol, hosts, run.f.Waves, from)
	run.f.Above = max(0, run.f.Gap())
	return run.f
}

type ahead struct {
	p     *Planner
	pol   *policy.Policy
	hosts []Work
	from  time.Time
	now   time.Duration
	out   returns
	need  gate.Need
	batch batch
	f     Forecast
}

func (a *ahead) at(d time.Duration) time.Time { return a.from.Add(d) }

func (a *ahead) play() {
	for w := range a.pol.Waves {
		spec := a.pol.Waves[w]
		if spec.Control && a.p.Room(w) > 0 {
			a.await(w)
		}
		plan := WavePlan{Name: spec.Name, Opens: a.now}
		n, ok := a.wave(w)
		plan.Hosts = n
		if n > 0 { // otherwise it is over at once
			a.now += spec.Soak
			if why := a.ends(w); ok && why != "" {
				ok, a.f.Stuck, a.f.Left = false, why, a.p.Fit()-len(a.f.Times)
			}
		}
		plan.Ends = a.now
		a.judge(&plan)
		a.f.Waves = append(a.f.Waves, plan)
		if !ok {
			return
		}
	}
}

// ends waits for what the end of a wave waits for. The last one may stay open.
func (a *ahead) ends(w int) string {
	if w == len(a.pol.Waves)-1 || a.pol.Waves[w].Control || len(a.f.Times) == 0 {
		return ""
	}
	return a.await(w)
}

// wave admits all hosts of a wave and waits for them. It says how many there
// were, and false if some can never start.
func (a *ahead) wave(w int) (n int, ok bool) {
	a.batch = a.batches(w)
	for {
		started := a.p.Next(w, a.at(a.now), a.batch.room(a.now))
		for _, i := range started {
			s := Start{Host: i, At: a.now, Back: a.now + a.hosts[i].Takes}
			a.f.Times = append(a.f.Times, s)
			a.f.Started = a.now
			heap.Push(&a.out, s)
		}
		a.batch.start(len(started), a.now)
		n += len(started)
		a.f.Peak = max(a.f.Peak, len(a.out))
		if a.p.Room(w) == 0 && len(a.out) == 0 {
			return n, true
		}
		if !a.advance(w) {
			return n, false
		}
	}
}

// advance goes to the next moment at which something changes.
func (a *ahead) advance(w int) bool {
	next, has := a.p.Later(a.at(a.now))
	if until := a.batch.until(); until > a.now && (!has || a.at(until).Before(next)) {
		next, has = a.at(until), true
	}
	if len(a.out) > 0 && (!has || !a.at(a.out[0].Back).After(next)) {
		next, has = a.at(a.out[0].Back), true
	}
	const horizon = 10 * 365 * 24 * time.Hour
	if !has || next.Sub(a.from) > horizon {
		a.f.Left = a.p.Room(w)
		a.f.Stuck = a.stuck(w)
		return false
	}
	a.now = next.Sub(a.from)
	for len(a.out) > 0 && a.out[0].Back <= a.now {
		s := heap.Pop(&a.out).(Start)
		a.p.Update(s.Host, Taken, a.hosts[s.Host].Out)
		a.p.Returned(a.at(s.Back), s.Host)
		a.batch.back(s.Back)
		a.f.Done = max(a.f.Done, s.Back)
	}
	return true
}

func (a *ahead) stuck(w int) string {
	for i := range a.p.hosts {
		if x := &a.p.hosts[i]; x.state == Fit && a.p.slot(x.wave) == a.p.waveSlot(w) {
			if b := a.p.Blocked(int32(i), a.at(a.now)); b != nil {
				return b.Text
			}
		}
	}
	return "no host of the wave may start"
}

// Later is when the planner may admit somebody without being told anything:
// a time budget frees or a window opens.
func (p *Planner) Later(now time.Time) (time.Time, bool) {
	var at time.Time
	sooner := func(t time.Time) {
		if !t.Before(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if open, _, until := p.policy.Open(now); !open {
		return until, true
	}
	if len(p.timers) > 0 {
		sooner(time.Unix(0, p.timers[0].at))
	}
	if !p.policy.Rate.Zero() {
		if _, until := p.starts.expire(now, p.policy.Rate.Per); until > 0 {
			sooner(time.Unix(0, until))
		}
	}
	return at, !at.IsZero()
}

// draw is the place of host i of a forecast that is given none: any, but always the same.
func draw(i int) uint64 {
	x := uint64(i+1) * 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	return x ^ x>>27
}
