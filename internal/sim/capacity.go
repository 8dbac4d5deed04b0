package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"afloat/internal/control"
	"afloat/internal/fleet"
)

// Service is how a service is used over the day.
type Service struct {
	// Load of its hosts at each hour of the day (UTC), as a share of what they
	// can carry. It is their label load, for budgets with headroom.
	Load []float64 `yaml:"load"`
}

func (f Fleet) checkServices() error {
	for name, s := range f.Services {
		if len(s.Load) != 24 {
			return fmt.Errorf("read fleet: service %s: load of %d hours, want 24", name, len(s.Load))
		}
		for hour, l := range s.Load {
			if !(l >= 0 && l <= 1) {
				return fmt.Errorf("read fleet: service %s: load %v at hour %d, want 0 to 1", name, l, hour)
			}
		}
	}
	return nil
}

// load is the label of a service's hosts at a time, false if it has none.
func (f Fleet) load(service string, at time.Time) (float64, bool) {
	s, ok := f.Services[service]
	if !ok {
		return 0, false
	}
	return s.Load[at.UTC().Hour()], true
}

func loadLabel(l float64) string { return strconv.FormatFloat(l, 'f', -1, 64) }

// relabel gives the hosts the load of the hour.
func (w *world) relabel() {
	for i := range w.hosts {
		h := &w.hosts[i]
		l, ok := w.o.Fleet.load(h.labels["service"], w.at(w.now))
		if !ok || h.labels["load"] == loadLabel(l) {
			continue
		}
		h.labels = maps.Clone(h.labels)
		h.labels["load"] = loadLabel(l)
		if !h.away {
			w.view.Enrol(h.id, string(h.id), h.labels, fleet.ModeAct)
		}
	}
	next := w.at(w.now).Truncate(time.Hour).Add(time.Hour)
	w.queue.push(event{at: next.Sub(w.start), kind: evHour})
}

// BudgetUse is the most that was used of a budget in one group.
type BudgetUse struct {
	Budget string        `json:"budget"`
	Group  string        `json:"group,omitempty"`
	Hosts  int           `json:"hosts"`
	Limit  int           `json:"limit"` // at that time
	Most   int           `json:"most"`  // out at once, warming up included
	At     time.Duration `json:"at_ns"`
}

func (b BudgetUse) share() float64 { return share(b.Most, b.Limit) }

// share is used over limit; what may not be used at all is used up.
func share(used, limit int) float64 {
	switch {
	case used == 0:
		return 0
	case limit <= 0:
		return 1
	}
	return float64(used) / float64(limit)
}

// ServiceUse is the least that a service had.
type ServiceUse struct {
	Service string        `json:"service"`
	Hosts   int           `json:"hosts"`
	Least   int           `json:"least"` // in service at once
	At      time.Duration `json:"at_ns"`
	// Load is the most that its hosts in service had to carry, as a share of
	// what they can, 0 if the fleet does not say.
	Load float64 `json:"load,omitempty"`
}

type useKey struct{ budget, group string }

// spend notes what is used of the first rollout's budgets.
func (w *world) spend() float64 {
	usage := control.Usage(w.view, "r1", w.at(w.now))
	if usage == nil && len(w.out.Samples) > 0 { // between two turns that plan
		return w.out.Samples[len(w.out.Samples)-1].Spent
	}
	most := 0.0
	for _, u := range usage {
		most = max(most, share(u.Out, u.Limit))
		k := useKey{u.Budget, u.Group}
		b := w.used[k]
		if b == nil {
			b = &BudgetUse{Budget: u.Budget, Group: u.Group, Hosts: u.Hosts, Limit: u.Limit}
			w.used[k] = b
		}
		if share(u.Out, u.Limit) > b.share() {
			b.Hosts, b.Limit, b.Most, b.At = u.Hosts, u.Limit, u.Out, w.now
		}
	}
	return most
}

// enlist numbers the services, so that counting who serves looks no name up.
func (w *world) enlist() {
	known := map[string]int32{}
	for i := range w.hosts {
		h := &w.hosts[i]
		name := h.labels["service"]
		n, ok := known[name]
		if !ok {
			n = int32(len(w.services))
			known[name] = n
			w.services = append(w.services, ServiceUse{Service: name})
		}
		h.service = n
		w.services[n].Hosts++
		w.services[n].Least++
	}
	w.up = make([]int, len(w.services))
}

// serve counts who is in service. It looks at every host.
func (w *world) serve() (least float64) {
	clear(w.up)
	for i := range w.hosts {
		if h := &w.hosts[i]; !h.down && !h.gone && !h.away && !h.out(w.now) {
			w.up[h.service]++
		}
	}
	least = 1
	for n, up := range w.up {
		u := &w.services[n]
		least = min(least, share(up, u.Hosts))
		if up < u.Least {
			u.Least, u.At = up, w.now
		}
		if l, ok := w.o.Fleet.load(u.Service, w.at(w.now)); ok && up > 0 {
			u.Load = max(u.Load, l*float64(u.Hosts)/float64(up))
		}
	}
	return least
}

// capacity lists what was used, the most used first.
func (w *world) capacity() ([]BudgetUse, []ServiceUse) {
	var budgets []BudgetUse
	for _, b := range w.used {
		budgets = append(budgets, *b)
	}
	slices.SortFunc(budgets, func(a, b BudgetUse) int {
		return cmp.Or(cmp.Compare(b.share(), a.share()), cmp.Compare(a.Budget, b.Budget), cmp.Compare(a.Group, b.Group))
	})
	services := slices.Clone(w.services)
	slices.SortFunc(services, func(a, b ServiceUse) int {
		return cmp.Or(cmp.Compare(b.Load, a.Load), cmp.Compare(share(a.Least, a.Hosts), share(b.Least, b.Hosts)), cmp.Compare(a.Service, b.Service))
	})
	return budgets, services
}
