package cli

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"afloat/internal/sim"
)

// curves prints how exposure and evidence went, in a line each.
func curves(w io.Writer, res sim.Result) {
	if len(res.Samples) == 0 {
		return
	}
	top, at := 0.0, time.Duration(0)
	for _, s := range res.Samples {
		if s.E > top {
			top, at = s.E, s.At
		}
	}
	hosts := float64(max(1, res.Hosts))
	fmt.Fprintf(w, "exposed   %s  %d of %d hosts\n", spark(res, func(s sim.Sample) float64 { return float64(s.Exposed) / hosts }), res.Exposed, res.Hosts)
	fmt.Fprintf(w, "evidence  %s  at most E=%.3g, after %s; it holds at %.0f and reverts at %.0f\n",
		spark(res, func(s sim.Sample) float64 { return math.Log10(max(1, s.E)) / 2 }), top, at.Round(time.Second), res.Levels.Hold, res.Levels.Revert)
}

// spark draws values from 0 to 1 over the time of the run.
func spark(res sim.Result, value func(sim.Sample) float64) string {
	const columns = 50
	levels := []rune(" ▁▂▃▄▅▆▇█")
	var most [columns]float64
	last := 0.0
	n := 0
	for c := range most {
		end := res.Took * time.Duration(c+1) / columns
		most[c] = last
		for ; n < len(res.Samples) && res.Samples[n].At <= end; n++ {
			last = value(res.Samples[n])
			most[c] = max(most[c], last)
		}
	}
	var b strings.Builder
	for _, v := range most {
		b.WriteRune(levels[int(math.Ceil(min(1, max(0, v))*float64(len(levels)-1)))])
	}
	return b.String()
}

// usesOf is what a forecast uses, in the terms of a run.
func usesOf(f foreseen) (budgets []sim.BudgetUse, services []sim.ServiceUse) {
	for _, b := range f.Budgets {
		budgets = append(budgets, sim.BudgetUse{Budget: b.Budget, Group: b.Group, Hosts: b.Hosts, Limit: b.Limit, Most: b.Most, At: b.At})
	}
	for _, s := range f.Services {
		services = append(services, sim.ServiceUse{Service: s.Service, Hosts: s.Hosts, Least: s.Least, At: s.At})
	}
	return budgets, services
}

// capacity prints what is used of the budgets and what the services have left.
func capacity(w io.Writer, budgets []sim.BudgetUse, services []sim.ServiceUse) {
	const most = 5
	for i, b := range budgets {
		if i == most {
			fmt.Fprintf(w, "          and %d budgets less used\n", len(budgets)-most)
			break
		}
		name := b.Budget
		if b.Group != "" {
			name += " " + b.Group
		}
		fmt.Fprintf(w, "budget    %-24s at most %d of %d were out, %d may be, after %s\n", name, b.Most, b.Hosts, b.Limit, b.At.Round(time.Second))
	}
	for i, s := range services {
		if i == most {
			fmt.Fprintf(w, "          and %d services with more left\n", len(services)-most)
			break
		}
		load := ""
		if s.Load > 0 {
			load = fmt.Sprintf(", which carried up to %.0f %% of what they can", s.Load*100)
		}
		fmt.Fprintf(w, "service   %-24s at least %d of %d hosts in service%s\n", s.Service, s.Least, s.Hosts, load)
	}
}
