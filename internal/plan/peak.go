package plan

import (
	"cmp"
	"slices"
	"time"

	"afloat/internal/policy"
)

// Peak is the most that a forecast has out at once in one group of a budget.
type Peak struct {
	Budget string        `json:"budget"`
	Group  string        `json:"group,omitempty"`
	Hosts  int           `json:"hosts"`
	Limit  int           `json:"limit"` // that may be
	Most   int           `json:"most"`  // out at once, warming up included
	At     time.Duration `json:"at_ns"`
}

func (p Peak) share() float64 { return float64(p.Most) / float64(max(1, p.Limit)) }

// Low is the least that a service has in service in a forecast.
type Low struct {
	Service string        `json:"service"`
	Hosts   int           `json:"hosts"`
	Least   int           `json:"least"`
	At      time.Duration `json:"at_ns"`
}

// spans are the times in which hosts of one group are out.
type spans struct {
	from, to []time.Duration
	down     int // out all the time
	hosts    int
}

// most is the greatest number out at once, and since when.
func (s *spans) most() (n int, at time.Duration) {
	slices.Sort(s.from)
	slices.Sort(s.to)
	n = s.down
	for i, back := 0, 0; i < len(s.from); i++ {
		for back < len(s.to) && s.to[back] <= s.from[i] {
			back++
		}
		if out := s.down + i + 1 - back; out > n {
			n, at = out, s.from[i]
		}
	}
	return n, at
}

// gather fills the spans of a key's group from who starts when in a forecast.
func gather[K comparable](hosts []Work, f Forecast, keys func(i int) []K, warm func(K) time.Duration) map[K]*spans {
	all := map[K]*spans{}
	of := func(k K) *spans {
		if all[k] == nil {
			all[k] = &spans{}
		}
		return all[k]
	}
	for i, h := range hosts {
		for _, k := range keys(i) {
			if s := of(k); h.Out {
				s.hosts, s.down = s.hosts+1, s.down+1
			} else {
				s.hosts++
			}
		}
	}
	for _, t := range f.Times {
		if hosts[t.Host].Out { // it costs nothing more
			continue
		}
		for _, k := range keys(int(t.Host)) {
			s := of(k)
			s.from, s.to = append(s.from, t.At), append(s.to, t.Back+warm(k))
		}
	}
	return all
}

// Peaks is how far a forecast uses up each budget that bounds how many may be
// out, the most used first. It costs a few looks at every host.
func Peaks(pol *policy.Policy, hosts []Work, f Forecast) (out []Peak) {
	sums := groupSums(pol, hosts)
	groups := gather(hosts, f, func(i int) []groupKey { return sums.of[i] }, func(k groupKey) time.Duration { return pol.Budgets[k.budget].Warm })
	for k, s := range groups {
		spec := &pol.Budgets[k.budget]
		if !sums.groups[k].own { // nothing of the rollout happens there
			continue
		}
		if !spec.Caps() {
			continue
		}
		p := Peak{Budget: spec.Name, Group: k.value, Hosts: s.hosts, Limit: sums.groups[k].limit(spec)}
		p.Most, p.At = s.most()
		out = append(out, p)
	}
	if !pol.Down.Zero() {
		selected := func(i int) []string {
			if pol.Select.Matches(hosts[i].Labels) {
				return []string{""}
			}
			return nil
		}
		for _, s := range gather(hosts, f, selected, func(string) time.Duration { return 0 }) {
			p := Peak{Budget: "unavailable", Hosts: s.hosts, Limit: pol.Down.Of(s.hosts)}
			p.Most, p.At = s.most()
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Peak) int {
		return cmp.Or(cmp.Compare(b.share(), a.share()), cmp.Compare(a.Budget, b.Budget), cmp.Compare(a.Group, b.Group))
	})
	return out
}

// Lows is the least that each service has in service, by the label service, the
// worst served first. A live patch takes nobody out.
func Lows(pol *policy.Policy, hosts []Work, f Forecast) (out []Low) {
	if !pol.Target.Disrupts() {
		return nil
	}
	service := func(i int) []string {
		if name, ok := hosts[i].Labels["service"]; ok {
			return []string{name}
		}
		return nil
	}
	for name, s := range gather(hosts, f, service, func(string) time.Duration { return 0 }) {
		n, at := s.most()
		out = append(out, Low{Service: name, Hosts: s.hosts, Least: s.hosts - n, At: at})
	}
	slices.SortFunc(out, func(a, b Low) int {
		return cmp.Or(cmp.Compare(a.Least*b.Hosts, b.Least*a.Hosts), cmp.Compare(a.Service, b.Service))
	})
	return out
}
