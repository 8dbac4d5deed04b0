package plan

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"afloat/internal/policy"
)

// loads are what hosts carry, by each of the labels that budgets read it from.
type loads struct {
	labels []string
	column []int     // by budget: its label, or none
	all    []float32 // as many for each host as there are labels
}

func newLoads(budgets []policy.Budget) loads {
	x := loads{column: make([]int, len(budgets))}
	for i, b := range budgets {
		x.column[i] = none
		if b.Load == "" {
			continue
		}
		if x.column[i] = slices.Index(x.labels, b.Load); x.column[i] < 0 {
			x.column[i], x.labels = len(x.labels), append(x.labels, b.Load)
		}
	}
	return x
}

// grow makes room for n hosts.
func (x *loads) grow(n int) { x.all = slices.Grow(x.all, n*len(x.labels)) }

func (x *loads) set(budget, host int32, load float64) {
	for want := (int(host) + 1) * len(x.labels); len(x.all) < want; {
		x.all = append(x.all, 0)
	}
	x.all[int(host)*len(x.labels)+x.column[budget]] = float32(load)
}

// of is the load of a host in a budget, 0 if the budget reads none.
func (x *loads) of(budget, host int32) float64 {
	if x.column[budget] == none {
		return 0
	}
	return float64(x.all[int(host)*len(x.labels)+x.column[budget]])
}

// load reads a share such as 0.9 or 90%. A host of unknown load is full.
func load(s string) float64 {
	percent := strings.HasSuffix(s, "%")
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if percent {
		v /= 100
	}
	if err != nil || math.IsNaN(v) || v < 0 {
		return 1
	}
	return v
}
