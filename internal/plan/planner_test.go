package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"afloat/internal/fleet"
	"afloat/internal/policy"
)

func mustPolicy(t interface{ Fatal(...any) }, rest string) *policy.Policy {
	p, err := policy.Parse([]byte("name: x\ntarget: {live: y}\n" + waved(rest)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// told is everything that a planner was told, so that another can be told it afresh.
type told struct {
	hosts    []Host
	started  []past
	returned []past
	others   []past // starts by other rollouts
	rate     policy.Rate
}

type past struct {
	at   time.Time
	host int32
}

func (w *told) planner(p *policy.Policy) *Planner {
	fresh, pace := New(p), NewPace(w.rate)
	fresh.Keep(pace)
	for i, h := range w.hosts {
		fresh.Set(int32(i), h)
	}
	for _, s := range w.started {
		fresh.Started(s.at, s.host)
		pace.Started(s.at)
	}
	for _, s := range w.others {
		fresh.Disrupted(s.at, s.host)
		pace.Started(s.at)
	}
	for _, s := range w.returned { // each host's last one is enough
		fresh.Returned(s.at, s.host)
	}
	return fresh
}

// known says that something is told of the host's past.
func (w *told) known(i int32) bool {
	of := func(p past) bool { return p.host == i }
	return slices.ContainsFunc(w.started, of) || slices.ContainsFunc(w.returned, of) || slices.ContainsFunc(w.others, of)
}

// naive tries every host in order, with no queue and no gate.
func naive(p *Planner, w int, now time.Time, limit int) []int32 {
	p.tick(now)
	var out []int32
	if open, _, _ := p.policy.Open(now); !open {
		return nil
	}
	var order []int32
	for i := range p.hosts {
		if x := &p.hosts[i]; x.state == Fit && p.slot(x.wave) == p.waveSlot(w) {
			order = append(order, int32(i))
		}
	}
	p.arrange(w)
	slices.SortFunc(order, func(a, b int32) int {
		x, y := &p.hosts[a], &p.hosts[b]
		return cmp.Or(cmp.Compare(p.rank(x), p.rank(y)), cmp.Compare(x.order, y.order), cmp.Compare(a, b))
	})
	room := min(limit, p.Room(w))
	for again := true; again; { // one admission may let an earlier host pass (its group's first are gone)
		again = false
		for _, i := range order {
			if len(out) >= room || p.global() != nil {
				return out
			}
			if x := &p.hosts[i]; x.state == Fit {
				if _, k, _ := p.try(x); k == none {
					p.take(i)
					out = append(out, i)
					again = true
					break
				}
			}
		}
	}
	return out
}

func TestIncrementalEqualsFromScratch(t *testing.T) {
	policies := []string{
		"budgets: [{name: a, groupBy: s, unavailable: 30%, warm: 7m}]",
		"budgets: [{name: a, groupBy: s, unavailable: 2}, {name: r, groupBy: r, domains: 1}]",
		"budgets: [{name: a, select: s=s1, starts: 2 per 10m}, {name: q, groupBy: r, unavailable: quorum-0}]\nunavailable: 4",
		"budgets: [{name: p, groupBy: pair, unavailable: 1, order: role}, {name: d, groupBy: s, disruptions: 3 per 1h}]\nrate: 3 per 5m",
		"budgets: [{name: h, groupBy: s, headroom: 100%, load: load}, {groupBy: pair, order: role, warm: 6m}]\nminInterval: 20m",
		"waves: [{select: s=s0}, {size: 30%}, {size: 100%}]\nbudgets: [{name: a, groupBy: r, unavailable: 1}]",
		"windows: ['Sun 01:00-02:15 Europe/Paris', 'Sun 02:45-04:00 Europe/Paris']\nbudgets: [{name: a, groupBy: s, unavailable: 1}]",
		"windows: ['Sat-Sun 20:00-21:00 America/New_York']\nfreezes: ['2026-10-25T00:40..2026-10-25T01:10']\nminInterval: 5m",
		"budgets: [{groupBy: r, domains: 2}, {groupBy: s, headroom: 90%, load: load}, {groupBy: r, headroom: 95%, load: net}, {groupBy: pair, unavailable: 1, order: role, warm: 4m}]\nunavailable: 30%",
		"budgets: [{groupBy: s, disruptions: 4 per 2h, warm: 11m, unavailable: 40%}, {groupBy: r, starts: 1 per 3m}]\nrate: 5 per 7m\nminInterval: 13m",
	}
	rapid.Check(t, func(t *rapid.T) {
		pol := mustPolicy(t, rapid.SampledFrom(policies).Draw(t, "policy"))
		if rapid.Bool().Draw(t, "reboot") {
			pol.Target = policy.Target{Action: policy.Kernel, Name: "6.1.192-2"}
		}
		var w told
		p, pace := New(pol), Pace{}
		if rapid.Bool().Draw(t, "paced") {
			w.rate = policy.Rate{N: rapid.IntRange(1, 6).Draw(t, "rate"), Per: time.Duration(rapid.IntRange(1, 20).Draw(t, "per")) * time.Minute}
		}
		pace.rate = w.rate
		p.Keep(&pace)
		// Summer time ends in Paris at 01:00, and begins in the third.
		now := rapid.SampledFrom([]time.Time{time.Unix(1e9, 0), time.Date(2026, 10, 24, 23, 20, 0, 0, time.UTC), time.Date(2026, 3, 28, 23, 20, 0, 0, time.UTC)}).Draw(t, "from")
		for i := range rapid.IntRange(1, 30).Draw(t, "hosts") {
			h := Host{Order: uint64(rapid.IntRange(0, 99).Draw(t, "order")), Takes: time.Duration(rapid.IntRange(0, 4).Draw(t, "takes")*5) * time.Minute, State: rapid.SampledFrom([]State{Unfit, Had, Unsure, Other, Fit, Fit, Fit}).Draw(t, "state"), Labels: fleet.Labels{
				"s": fmt.Sprintf("s%d", rapid.IntRange(0, 2).Draw(t, "s")), "r": fmt.Sprintf("r%d", rapid.IntRange(0, 4).Draw(t, "r")),
				"pair": fmt.Sprintf("p%d", i/2), "role": []string{"passive", "active"}[i%2], "load": fmt.Sprintf("0.%d", rapid.IntRange(1, 9).Draw(t, "load")), "net": fmt.Sprintf("0.%d", rapid.IntRange(1, 9).Draw(t, "net")),
			}}
			w.hosts = append(w.hosts, h)
			p.Set(int32(i), h)
		}
		wave := 0
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "seconds")) * time.Second)
			for range rapid.IntRange(0, 4).Draw(t, "changes") {
				i := int32(rapid.IntRange(0, len(w.hosts)-1).Draw(t, "host"))
				h := &w.hosts[i]
				wasOut := h.Out
				if h.State == Absent {
					h.State = Fit // it is back, or another
					p.Set(i, *h)
				}
				switch rapid.IntRange(0, 5).Draw(t, "change") {
				case 5: // it goes, or is another: what it did before would count for what it is then
					if w.known(i) {
						break
					}
					h.Out, h.State = false, rapid.SampledFrom([]State{Absent, h.State}).Draw(t, "stays")
					h.Labels = maps.Clone(h.Labels)
					h.Labels["s"] = fmt.Sprintf("s%d", rapid.IntRange(0, 2).Draw(t, "s again"))
					if wasOut = false; h.State != Absent {
						p.Set(i, *h)
					}
				case 4: // another rollout lets it start
					p.Disrupted(now, i)
					pace.Started(now)
					w.others = append(w.others, past{now, i})
				case 0:
					h.Out = !h.Out
				case 1:
					if h.State == Taken {
						h.Out = false
					}
				case 2:
					h.State = rapid.SampledFrom([]State{Unfit, Had, Unsure, Other, Fit, Taken}).Draw(t, "to")
				case 3:
					h.Order = uint64(rapid.IntRange(0, 99).Draw(t, "order"))
					p.Set(i, *h)
				}
				p.Update(i, h.State, h.Out)
				if wasOut && !h.Out {
					p.Returned(now, i)
					w.returned = append(w.returned, past{now, i})
				}
			}
			if wave < len(pol.Waves)-1 && rapid.IntRange(0, 3).Draw(t, "wave") == 0 {
				wave++
			}
			limit := rapid.IntRange(0, 10).Draw(t, "limit")
			want := naive(w.planner(pol), wave, now, limit)
			got := p.Next(wave, now, limit)
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Fatalf("at %s (-from scratch +incremental):\n%s", now, diff)
			}
			for _, i := range got {
				w.hosts[i].State, w.hosts[i].Out = Taken, true
				w.started = append(w.started, past{now, i})
			}
		}
	})
}

func TestLoadRefusesToLoseOneOfFour(t *testing.T) {
	p := New(mustPolicy(t, "budgets: [{name: peak, groupBy: service, headroom: 100%, load: load}]"))
	for i := range int32(4) {
		p.Set(i, Host{State: Fit, Order: uint64(i), Labels: fleet.Labels{"service": "db", "load": "90%"}})
	}
	now := time.Unix(1e9, 0)
	if got := p.Next(0, now, 10); len(got) != 0 {
		t.Errorf("%v of four hosts at 90 %% load may go", got)
	}
	const want = "budget peak (service db): with one more out, 3 hosts would carry 120 % of their capacity, at most 100 % is allowed"
	if b := p.Blocked(0, now); b == nil || b.Text != want {
		t.Errorf("blocked by %+v, want %q", b, want)
	}
}

func TestHostsNotSelectedCountInBudgetsOnly(t *testing.T) {
	p := New(mustPolicy(t, "budgets: [{name: half, select: in=budget, groupBy: g, unavailable: 50%, disruptions: 2 per 1h}]\nunavailable: 50%"))
	in, now := fleet.Labels{"g": "1", "in": "budget"}, time.Unix(1e9, 0)
	p.Set(0, Host{State: Fit, Labels: in})
	p.Set(1, Host{State: Other, Labels: in, Out: true})
	p.Set(2, Host{State: Other, Labels: fleet.Labels{"g": "1"}, Out: true})
	if p.Selected() != 1 || p.Fit() != 1 || p.State(2) != Absent {
		t.Errorf("%d are selected, %d fit, the last is %d", p.Selected(), p.Fit(), p.State(2))
	}
	if b := p.Blocked(0, now); b == nil || b.Text != "budget half (g 1): 1 of 2 hosts are out (0 of them warming up), at most 50% (1) may be" {
		t.Errorf("blocked by %+v", b)
	}
	p.Update(1, Other, false)
	p.Disrupted(now, 1)
	p.Disrupted(now, 1)
	if b := p.Blocked(0, now); b == nil || b.Over != time.Hour {
		t.Errorf("blocked by %+v, want the disruptions of the other host", b)
	}
	if got := p.Next(0, now.Add(2*time.Hour), 10); !slices.Equal(got, []int32{0}) {
		t.Errorf("%v start", got)
	}
}

func TestEachHeadroomReadsItsOwnLoad(t *testing.T) {
	p := New(mustPolicy(t, "budgets: [{name: cpu, groupBy: s, headroom: 95%, load: cpu}, {name: net, groupBy: s, headroom: 95%, load: net}, {name: wide, headroom: 100%, load: cpu}]"))
	for i := range int32(4) {
		p.Set(i, Host{State: Fit, Labels: fleet.Labels{"s": "web", "cpu": "90%", "net": "10%"}})
	}
	now := time.Unix(1e9, 0)
	if b := p.Blocked(0, now); b == nil || b.Budget != "cpu" {
		t.Errorf("blocked by %+v, want the load of the processors", b)
	}
	for i := range int32(4) {
		p.Set(i, Host{State: Fit, Labels: fleet.Labels{"s": "web", "cpu": "30%", "net": "30%"}})
	}
	if got := p.Next(0, now, 10); len(got) != 2 {
		t.Errorf("%v start, want two: the others carry 60 %% each", got)
	}
}

func TestPassiveGoesFirst(t *testing.T) {
	p := New(mustPolicy(t, "budgets: [{name: ha, groupBy: pair, unavailable: 1, order: role}]"))
	p.Set(0, Host{State: Fit, Order: 0, Labels: fleet.Labels{"pair": "fw", "role": "active"}})
	p.Set(1, Host{State: Fit, Order: 1, Labels: fleet.Labels{"pair": "fw", "role": "passive"}})
	now := time.Unix(1e9, 0)
	if got := p.Next(0, now, 10); !slices.Equal(got, []int32{1}) {
		t.Errorf("%v go first, want the passive one alone", got)
	}
	if got := p.Next(0, now, 10); len(got) != 0 {
		t.Errorf("%v go while the passive one is out", got)
	}
	p.Update(1, Taken, false)
	if got := p.Next(0, now, 10); !slices.Equal(got, []int32{0}) {
		t.Errorf("%v go then, want the active one", got)
	}
}

func TestAnOrderLetsOneOfAGroupGo(t *testing.T) {
	for _, bound := range []string{"", ", unavailable: 100%", ", unavailable: 2", ", starts: 5 per 1h"} {
		p := New(mustPolicy(t, "budgets: [{name: ha, groupBy: pair, order: role"+bound+"}]"))
		for i := range int32(4) {
			p.Set(i, Host{State: Fit, Labels: fleet.Labels{"pair": "fw", "role": "active"}})
		}
		now := time.Unix(1e9, 0)
		if got := p.Next(0, now, 10); len(got) != 1 {
			t.Errorf("%q: %v of a group go at once", bound, got)
		}
		const want = "budget ha (pair fw): 1 of 4 hosts are out (0 of them warming up), at most 1 at a time in order (1) may be"
		if b := p.Blocked(3, now); b == nil || b.Text != want {
			t.Errorf("%q: blocked by %+v, want %q", bound, b, want)
		}
	}
}

func TestMinimumInterval(t *testing.T) {
	p := New(mustPolicy(t, "minInterval: 24h"))
	p.Set(0, Host{State: Fit})
	now := time.Unix(1e9, 0)
	p.Disrupted(now.Add(-23*time.Hour), 0) // by another rollout
	if got := p.Next(0, now, 10); len(got) != 0 {
		t.Errorf("%v go 23 hours after the last disruption", got)
	}
	b := p.Blocked(0, now)
	if b == nil || b.Text != "it was disrupted less than 24h ago" || !b.Until.Equal(now.Add(time.Hour)) {
		t.Errorf("blocked by %+v", b)
	}
	if got := p.Next(0, now.Add(time.Hour), 10); !slices.Equal(got, []int32{0}) {
		t.Errorf("%v go after 24 hours, want the host", got)
	}
}

func TestDisruptionsPerWeek(t *testing.T) {
	p := New(mustPolicy(t, "budgets: [{name: slo, groupBy: service, disruptions: 2 per week}]"))
	for i := range int32(3) {
		p.Set(i, Host{State: Fit, Order: uint64(i), Labels: fleet.Labels{"service": "db"}})
	}
	now := time.Unix(1e9, 0)
	if got := p.Next(0, now, 10); !slices.Equal(got, []int32{0, 1}) {
		t.Errorf("%v go first, want two", got)
	}
	p.Update(0, Taken, false)
	p.Update(1, Taken, false)
	b := p.Blocked(2, now.Add(6*24*time.Hour))
	if b == nil || b.Text != "budget slo (service db): 2 disruptions in the last 7d, at most 2 may be" || !b.Until.Equal(now.Add(7*24*time.Hour)) {
		t.Errorf("after six days blocked by %+v", b)
	}
	if got := p.Next(0, now.Add(7*24*time.Hour), 10); !slices.Equal(got, []int32{2}) {
		t.Errorf("%v go after a week, want the third", got)
	}
}

// bigFleet is a planner of n hosts in 2,000 services with five budgets each.
func bigFleet(t interface{ Fatal(...any) }, n int) *Planner {
	pol := mustPolicy(t, `budgets:
  - {name: out, groupBy: service, unavailable: 20%, warm: 30m}
  - {name: starts, groupBy: service, starts: 60 per 30m}
  - {name: load, groupBy: service, headroom: 90%, load: load}
  - {name: slo, groupBy: service, disruptions: 900 per 1w}
  - {name: racks, groupBy: rack, unavailable: 4}
unavailable: 5%
`)
	pol.Target = policy.Target{Action: policy.Kernel, Name: "6.1.192-2"} // the most constrained first
	p := New(pol)
	p.Grow(n)
	services, racks := names("s", 2000), names("r", n/40+1)
	for i := range n {
		x := uint64(i+1) * 0x9e3779b97f4a7c15
		p.Set(int32(i), Host{State: Fit, Order: x ^ x>>31, Takes: time.Duration(5+x>>50%3*5) * time.Minute, Labels: fleet.Labels{"service": services[x>>40%2000], "rack": racks[i/40], "load": "0.6"}})
	}
	return p
}

func names(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return out
}

// A host that may be dead keeps its place in its wave, as those behind it would
// go too early otherwise, and goes itself only when it is known to be alive.
func TestUnsureKeepsItsPlace(t *testing.T) {
	p := New(mustPolicy(t, "waves: [{size: 50%}, {size: 100%}]\nbudgets: [{name: p, groupBy: pair, order: role}]"))
	now := time.Unix(1e9, 0)
	for i := range int32(4) {
		p.Set(i, Host{Order: uint64(i), State: Unsure, Labels: fleet.Labels{"pair": "p", "role": []string{"passive", "active"}[i/2]}})
	}
	if got := p.Next(0, now, 10); len(got) != 0 || p.Room(0) != 2 || p.Goal(1) != 2 {
		t.Fatalf("%v started, room for %d, then %d; want nobody, 2 and 2", got, p.Room(0), p.Goal(1))
	}
	p.Update(2, Fit, false)
	if got := p.Next(0, now, 10); len(got) != 0 {
		t.Errorf("active host %v goes before a passive one that may live", got)
	}
	p.Update(1, Fit, false)
	if got := p.Next(0, now, 10); !slices.Equal(got, []int32{1}) {
		t.Errorf("%v started, want the passive host that is heard", got)
	}
}
