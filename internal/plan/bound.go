package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"afloat/internal/policy"
)

// Bound is a time that no schedule can beat, and the constraint it comes from.
type Bound struct {
	Name  string        `json:"name"`
	Least time.Duration `json:"least_ns"`
	Why   string        `json:"why"`
	// hides is how much of a soak can pass within the bound: the time that it
	// has nobody start anyway.
	hides time.Duration
}

// sum is the work in one group.
type sum struct {
	hosts   int  // those with nothing to do included
	own     bool // the policy selects some of them
	n       int
	total   time.Duration
	longest time.Duration
	least   time.Duration
	load    float64
}

func (s *sum) add(h Work, l float64) {
	s.hosts++
	s.load += l
	if h.Done {
		return
	}
	if s.n == 0 || h.Takes < s.least {
		s.least = h.Takes
	}
	s.n++
	s.total += h.Takes
	s.longest = max(s.longest, h.Takes)
}

// limit is how many hosts of the group may be out at once, 0 for no bound.
func (s *sum) limit(b *policy.Budget) int {
	if !b.Caps() {
		return 0
	}
	g := group{total: int32(s.hosts), load: s.load}
	return g.limit(b)
}

// slots is the least time of n works of total length on u slots that each stay
// taken for warm after a work, except the last.
func (s *sum) slots(u int, warm time.Duration) time.Duration {
	if u <= 0 || s.n == 0 {
		return 0
	}
	rounds := (s.n + u - 1) / u
	least := time.Duration(rounds)*s.least + time.Duration(rounds-1)*warm
	area := (s.total+time.Duration(s.n)*warm)/time.Duration(u) - warm
	return max(least, area, s.longest)
}

// cap is the bound of the group's own budget.
func (s *sum) cap(b *policy.Budget) time.Duration {
	if s.n == 0 {
		return 0
	}
	least := s.slots(s.limit(b), b.Warm)
	if !b.Starts.Zero() {
		least = max(least, s.sliding(b.Starts))
	}
	return least
}

// sliding is the bound of at most so many starts in any span.
func (s *sum) sliding(r policy.Rate) time.Duration {
	return time.Duration((s.n+r.N-1)/r.N-1)*r.Per + s.least
}

type sums struct {
	groups map[groupKey]*sum
	of     [][]groupKey
	all    sum
}

func groupSums(pol *policy.Policy, hosts []Work) sums {
	out := sums{groups: map[groupKey]*sum{}, of: make([][]groupKey, len(hosts))}
	index := newBudgetIndex(pol.Budgets)
	for i, h := range hosts {
		own := pol.Select.Matches(h.Labels)
		if own {
			out.all.add(h, 0)
		} else {
			h.Done = true
		}
		index.each(h.Labels, func(b int32) {
			spec := &pol.Budgets[b]
			value, ok := h.Labels[spec.GroupBy]
			if spec.GroupBy != "" && !ok {
				return
			}
			k := groupKey{b, value}
			if out.groups[k] == nil {
				out.groups[k] = &sum{}
			}
			l := 0.0
			if spec.Load != "" {
				l = load(h.Labels[spec.Load])
			}
			out.groups[k].add(h, l)
			out.groups[k].own = out.groups[k].own || own
			out.of[i] = append(out.of[i], k)
		})
	}
	return out
}

// bounds lists every lower bound, the greatest first. Soaks add to each: no
// host works while a wave soaks.
func bounds(pol *policy.Policy, hosts []Work, waves []WavePlan, from time.Time) []Bound {
	s := groupSums(pol, hosts)
	if s.all.n == 0 {
		return nil
	}
	out := []Bound{{Name: "longest", Least: s.all.longest, Why: "the longest single host"}}
	out = append(out, groupBounds(pol, s)...)
	if !pol.Down.Zero() {
		u := pol.Down.Of(s.all.hosts)
		out = append(out, Bound{Name: "unavailable", Least: s.all.slots(u, 0), Why: fmt.Sprintf("%d hosts, %d out at once", s.all.n, u)})
	}
	if !pol.Rate.Zero() {
		out = append(out, Bound{Name: "rate", Least: s.all.sliding(pol.Rate), Why: fmt.Sprintf("%d hosts, %s", s.all.n, pol.Rate), hides: pol.Rate.Per})
	}
	if t := settling(pol, waves); t > 0 {
		out = append(out, Bound{Name: "batches", Least: s.all.longest + t, Why: fmt.Sprintf("%s until batches have settled", policy.Span(t))})
	}
	for i := range out {
		out[i].soaked(pol, before(pol, waves), from, s.all.least)
	}
	out = append(out, gateBounds(pol, waves, s.all.n)...)
	slices.SortStableFunc(out, func(a, b Bound) int { return cmp.Compare(b.Least, a.Least) })
	return out
}

// before are the waves that soak before the last host starts: a wave without
// hosts does not.
func before(pol *policy.Policy, waves []WavePlan) (out []policy.Wave) {
	for i, w := range waves {
		if w.Hosts > 0 {
			out = append(out, pol.Waves[i])
		}
	}
	return out[:max(0, len(out)-1)]
}

// soaked adds what soaks and windows cost at least. Soaks may pass while
// windows are closed, so of these two it is the longer.
func (b *Bound) soaked(pol *policy.Policy, waves []policy.Wave, from time.Time, last time.Duration) {
	var soaks time.Duration
	for _, w := range waves {
		soaks += max(0, w.Soak-b.hides)
	}
	b.Least = max(b.Least+soaks, inWindows(pol, from, b.Least-last, last))
	if soaks > 0 {
		b.Why += fmt.Sprintf(", and %s of soaks", policy.Span(soaks))
	}
}

// settling is how long the batches of live waves wait for those before them.
func settling(pol *policy.Policy, waves []WavePlan) time.Duration {
	var sum time.Duration
	for i, w := range waves {
		if pol.Target.Disrupts() || w.Hosts == 0 {
			continue
		}
		size := (w.Hosts + Batches - 1) / Batches
		sum += time.Duration((w.Hosts+size-1)/size-1) * min(BatchSettle, pol.Waves[i].Soak)
	}
	return sum
}

// groupBounds is the greatest bound of each budget over its groups, and the
// sum over its domains.
func groupBounds(pol *policy.Policy, s sums) []Bound {
	best := make([]Bound, len(pol.Budgets))
	domains := make([]time.Duration, len(pol.Budgets))
	keys := make([]groupKey, 0, len(s.groups))
	for k := range s.groups {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b groupKey) int { return cmp.Or(cmp.Compare(a.budget, b.budget), cmp.Compare(a.value, b.value)) })
	for _, k := range keys {
		g, b := s.groups[k], &pol.Budgets[k.budget]
		domains[k.budget] += max(g.longest, g.cap(b))
		if least := g.cap(b); least > best[k.budget].Least {
			best[k.budget] = Bound{Name: b.Name, Least: least, Why: strings.TrimSpace(fmt.Sprintf("%d hosts of %s %s", g.n, b.Name, k.value)), hides: max(b.Warm, b.Starts.Per)}
		}
	}
	for i, b := range pol.Budgets {
		if b.Domains > 0 {
			if least := domains[i] / time.Duration(b.Domains); least > best[i].Least {
				best[i] = Bound{Name: b.Name, Least: least, Why: fmt.Sprintf("%ss one after the other, %d at a time", b.GroupBy, b.Domains), hides: max(b.Warm, b.Starts.Per)}
			}
		}
	}
	return slices.DeleteFunc(best, func(b Bound) bool { return b.Least == 0 })
}

// inWindows is how long it takes until the windows have been open for the
// given time, plus the last host's own work.
func inWindows(pol *policy.Policy, from time.Time, open, last time.Duration) time.Duration {
	at := from
	const steps = 10_000
	for range steps {
		is, _, until := pol.Open(at)
		switch {
		case is && (until.IsZero() || until.Sub(at) >= open):
			return at.Add(open + last).Sub(from)
		case is:
			open -= until.Sub(at)
		}
		if !until.After(at) {
			break
		}
		at = until
	}
	return at.Sub(from)
}
