package main

import (
	"fmt"
	"io"
	"math"
	"strings"

	"afloat/internal/gate"
)

// bench plays all studies and prints what came of them.
type bench struct {
	runs     int // per good patch
	badRuns  int // per bad patch
	seed     uint64
	parallel int
	out      io.Writer

	falseRevert float64 // highest upper bound, in %
	crashes     float64 // highest p95
	recall      float64 // lowest share caught, in %
}

// report prints every table, then the headline figures.
func (b *bench) report() error {
	b.recall = 100
	for _, part := range []func() error{b.good, b.tables, b.slow, b.hard, b.late, b.worth, b.few} {
		if err := part(); err != nil {
			return err
		}
	}
	fmt.Fprintf(b.out, "bench gate_false_revert_pct_max %.2f %%\n", b.falseRevert)
	fmt.Fprintf(b.out, "bench gate_crashes_p95_max %.0f count\n", b.crashes)
	fmt.Fprintf(b.out, "bench gate_recall_pct_min %.2f %%\n", b.recall)
	return nil
}

func (b *bench) head(title string, columns ...string) {
	fmt.Fprintf(b.out, "### %s\n\n| %s |\n|%s\n", title, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
}

func (b *bench) row(cells ...string) {
	fmt.Fprintf(b.out, "| %s |\n", strings.Join(cells, " | "))
}

// worth prints what the rates above mean for an operator: how many reverts are
// deserved if one rollout in ten is as bad as the row says, and how long the
// gate itself makes a good one.
func (b *bench) worth() error {
	b.head("What a revert is worth, and what the gate costs", "b", "precision if 1 rollout in 10 crashes 1/1000 on apply",
		"recall", "hours of a good rollout p50", "of which bakes", "good rollouts held at any time")
	for _, rate := range []float64{0.05, 0.2} {
		good, err := b.play(product(rate), b.runs)
		if err != nil {
			return err
		}
		w := product(rate)
		w.patch = harm{onApply: 0.001}
		bad, err := b.play(w, b.badRuns)
		if err != nil {
			return err
		}
		recall := float64(stopped(bad, ruleGate)) / float64(len(bad))
		wrong := float64(stopped(good, ruleGate)) / float64(len(good))
		var hours []float64
		for _, o := range good {
			hours = append(hours, o.hours)
		}
		b.row(fmt.Sprint(rate), percent(100*0.1*recall/(0.1*recall+0.9*wrong)), percent(100*recall),
			fmt.Sprintf("%.1f", quantile(hours, 0.5)), fmt.Sprintf("%.0f", w.bake*float64(len(w.stages))), b.share(good, ruleHold))
	}
	fmt.Fprintln(b.out)
	return nil
}

// good prints how often good patches are stopped.
func (b *bench) good() error {
	b.head(fmt.Sprintf("Good patches: false stops in %d rollouts each", b.runs),
		"case", "afloat REVERT (95 % upper bound)", "afloat HOLD", "E>=100 alone", "naive, any n", "naive, n>=1000", "Argo-style, hourly")
	for _, s := range goodPatches() {
		outs, err := b.play(s.w, b.runs)
		if err != nil {
			return err
		}
		n := stopped(outs, ruleGate)
		bound := 100 * upperBound(n, len(outs))
		name := s.name
		if s.promised {
			b.falseRevert = max(b.falseRevert, bound)
		} else {
			name += " (outside the guarantee)"
		}
		b.row(name, fmt.Sprintf("%s (%.2f %%)", share(n, len(outs)), bound), b.share(outs, ruleHold),
			b.share(outs, ruleRevert), b.share(outs, ruleNaive), b.share(outs, ruleNaive1k), b.share(outs, ruleInterval))
	}
	fmt.Fprintln(b.out)
	return nil
}

// tables prints the reference table, and the same for the gate as it runs.
func (b *bench) tables() error {
	if err := b.bad("Bad patches, as in the reference table: baseline known, hourly looks", false, badPatches(table, 0.05, 0.2)); err != nil {
		return err
	}
	return b.bad("Bad patches, the gate as it runs: baseline within 3 times, a look at each report", true, badPatches(product, 0.05, 0.2))
}

func (b *bench) hard() error { return b.bad("1/1000 on apply in bad circumstances", true, hardest()) }
func (b *bench) slow() error {
	return b.bad("Excess inside the baseline's interval: the control arm needs time", false, patient())
}

func (b *bench) late() error {
	return b.bad("1/1000 on apply when crashes are reported late", false, delays())
}

// bad prints what bad patches do before they are stopped. Counted ones go into
// the headline figures.
func (b *bench) bad(title string, counted bool, studies []study) error {
	b.head(title+": caught; hosts exposed p50; crashes p50, p95; hours p50", "case",
		"afloat REVERT", "afloat HOLD", "E>=100 alone", "naive, any n", "naive, n>=1000", "Argo-style, hourly")
	for _, s := range studies {
		outs, err := b.play(s.w, b.badRuns)
		if err != nil {
			return err
		}
		cells := []string{s.name}
		for which := range rules {
			cells = append(cells, b.caught(outs, which))
		}
		b.row(cells...)
		if counted && s.promised {
			b.recall = min(b.recall, 100*float64(stopped(outs, ruleGate))/float64(len(outs)))
			b.crashes = max(b.crashes, quantile(pick(outs, ruleGate, crashesOf), 0.95))
		}
	}
	fmt.Fprintln(b.out)
	return nil
}

// few prints what the gate says to the operator of a small fleet.
func (b *bench) few() error {
	b.head("Fleets of 2,000 hosts, b=0.05: verdict when the last stage has baked", "patch",
		"go", "inconclusive", "hold", "revert", "reverted at any time")
	for _, s := range small() {
		outs, err := b.play(s.w, b.badRuns)
		if err != nil {
			return err
		}
		last := map[gate.Level]int{}
		for _, o := range outs {
			last[o.levels[len(o.levels)-1]]++
		}
		cells := []string{s.name}
		for _, level := range []gate.Level{gate.LevelGo, gate.LevelInconclusive, gate.LevelHold, gate.LevelRevert} {
			cells = append(cells, share(last[level], len(outs)))
		}
		b.row(append(cells, b.share(outs, ruleGate))...)
	}
	fmt.Fprintln(b.out)
	return nil
}

func stopped(outs []outcome, which rule) int {
	n := 0
	for _, o := range outs {
		if o.stops[which].stopped {
			n++
		}
	}
	return n
}

func (b *bench) share(outs []outcome, which rule) string {
	return share(stopped(outs, which), len(outs))
}

func share(n, of int) string { return percent(100 * float64(n) / float64(of)) }

func percent(p float64) string {
	if p == 0 || p == 100 {
		return fmt.Sprintf("%.0f %%", p)
	}
	return fmt.Sprintf("%.*f %%", max(0, min(2, 1-int(math.Floor(math.Log10(p))))), p)
}

func crashesOf(s stop) float64 { return float64(s.crashes) }
func exposedOf(s stop) float64 { return float64(s.exposed) }
func hoursOf(s stop) float64   { return s.hours }

// pick collects one figure of the rollouts that the rule stopped.
func pick(outs []outcome, which rule, of func(stop) float64) []float64 {
	var out []float64
	for _, o := range outs {
		if s := o.stops[which]; s.stopped {
			out = append(out, of(s))
		}
	}
	return out
}

// caught is one cell: share, exposed, crashes, hours.
func (b *bench) caught(outs []outcome, which rule) string {
	if stopped(outs, which) == 0 {
		return "0 %"
	}
	crashes := pick(outs, which, crashesOf)
	return fmt.Sprintf("%s; %.0f; %.0f, %.0f; %.0f", b.share(outs, which), quantile(pick(outs, which, exposedOf), 0.5),
		quantile(crashes, 0.5), quantile(crashes, 0.95), quantile(pick(outs, which, hoursOf), 0.5))
}
