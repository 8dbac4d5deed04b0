package main

import "fmt"

// study is a world with its name in the report.
type study struct {
	name string
	w    world
	// promised says that the gate's error rate is guaranteed here; the others
	// show what happens outside.
	promised bool
}

// table is the world of the reference table: the baseline known exactly, looks
// and admissions every hour, a day for each stage with its five admissions.
func table(rate float64) world {
	return world{
		hosts:   100_000,
		stages:  []int{10, 100, 1000, 10_000, 50_000, 100_000},
		batches: 5,
		bake:    24 - 5,
		looks:   1,
		rate:    rate,
		spread:  1,
		truth:   1,
	}
}

// product is the same fleet as afloat runs it: the baseline an interval, a
// look at each report, batches that wait for the one before.
func product(rate float64) world {
	w := table(rate)
	w.looks, w.limit, w.spread, w.bake = 0, minute, 0, 24
	return w
}

func with(w world, change func(*world)) world {
	change(&w)
	return w
}

func stressed(w *world) {
	w.rackLoss, w.rowLoss = 0.2, 0.05
	w.delay, w.limit = [2]float64{minute, 30 * minute}, 30*minute
	w.lostReports, w.lostExposure = 0.05, 0.05
	w.swing = 0.8
}

// goodPatches are the worlds in which every stop is a false one.
func goodPatches() []study {
	var out []study
	for _, b := range []float64{0.05, 0.2} {
		add := func(promised bool, name string, base world, change func(*world)) {
			out = append(out, study{name: fmt.Sprintf("b=%v, %s", b, name), w: with(base, change), promised: promised})
		}
		add(true, "reference table, 1-day bakes", table(b), func(*world) {})
		add(true, "reference table, 7-day bakes", table(b), func(w *world) { w.bake = 7*24 - 5 })
		add(true, "true rate a third", product(b), func(w *world) { w.truth = 1.0 / 3 })
		add(true, "true rate as estimated", product(b), func(*world) {})
		add(true, "true rate 3 times (interval's end)", product(b), func(w *world) { w.truth = 3 })
		add(true, "3 times, 7-day bakes", product(b), func(w *world) { w.truth, w.bake = 3, 7*24 })
		add(true, "outages, waves spread over racks", product(b), func(w *world) { w.rackLoss, w.rowLoss = 0.2, 0.05 })
		add(true, "outages, waves rack by rack", product(b), func(w *world) { w.rackLoss, w.rowLoss, w.together = 0.2, 0.05, true })
		add(true, "reports 1 to 30 min late", product(b), func(w *world) { w.delay, w.limit = [2]float64{minute, 30 * minute}, 30*minute })
		add(true, "3 times, reports 1 to 30 min late", product(b), func(w *world) {
			w.truth, w.delay, w.limit = 3, [2]float64{minute, 30 * minute}, 30*minute
		})
		add(true, "5 % of telemetry lost", product(b), func(w *world) { w.lostReports, w.lostExposure = 0.05, 0.05 })
		add(true, "3 times, 5 % of telemetry lost", product(b), func(w *world) { w.truth, w.lostReports, w.lostExposure = 3, 0.05, 0.05 })
		add(true, "daily wave of 80 %", product(b), func(w *world) { w.swing = 0.8 })
		add(true, "daily wave, peak at the interval's end", product(b), func(w *world) { w.truth, w.swing = 3/1.8, 0.8 })
		add(true, "outages, late, lost and daily wave at once", product(b), stressed)
		add(true, "3 times, 5 % of exposure lost, no crash lost", product(b), func(w *world) { w.truth, w.lostExposure = 3, 0.05 })
		add(false, "3 times with a daily wave of 80 % on top", product(b), func(w *world) { w.truth, w.swing = 3, 0.8 })
	}
	return out
}

// harms are the bad patches, worst last among those on apply.
func harms() []study {
	at := func(perMille float64) harm { return harm{onApply: perMille / 1000} }
	var out []study
	for _, h := range []study{
		{name: "0.3/1000 on apply", w: world{patch: at(0.3)}},
		{name: "1/1000 on apply", w: world{patch: at(1)}},
		{name: "10/1000 on apply", w: world{patch: at(10)}},
		{name: "100/1000 on apply", w: world{patch: at(100)}},
		{name: "steady rate x3", w: world{patch: harm{ratio: 3}}},
		{name: "steady rate x10", w: world{patch: harm{ratio: 10}}},
		{name: "leak: 1 % die after 36-60 h", w: world{patch: harm{leak: 0.01}}},
	} {
		h.promised = h.w.patch.onApply >= 0.001
		out = append(out, h)
	}
	return out
}

// badPatches are all harms in the world that setting makes of each rate.
func badPatches(setting func(float64) world, rates ...float64) []study {
	var out []study
	for _, b := range rates {
		for _, h := range harms() {
			w := setting(b)
			w.patch = h.w.patch
			out = append(out, study{name: fmt.Sprintf("b=%v, %s", b, h.name), w: w, promised: h.promised})
		}
	}
	return out
}

// patient are slow harms inside the baseline's interval, where only the
// control arm can see them, with longer bakes.
func patient() []study {
	var out []study
	for _, days := range []float64{1, 3, 7} {
		w := product(0.05)
		w.bake, w.patch = 24*days, harm{ratio: 3}
		out = append(out, study{name: fmt.Sprintf("b=0.05, steady rate x3, %v-day bakes", days), w: w})
	}
	return out
}

// hardest are 1/1000 on apply in every bad circumstance with reports within a minute.
func hardest() []study {
	var out []study
	for _, b := range []float64{0.05, 0.2} {
		add := func(name string, change func(*world)) {
			w := with(product(b), change)
			w.patch = harm{onApply: 0.001}
			out = append(out, study{name: fmt.Sprintf("b=%v, 1/1000, %s", b, name), w: w, promised: true})
		}
		add("true rate a third", func(w *world) { w.truth = 1.0 / 3 })
		add("true rate 3 times", func(w *world) { w.truth = 3 })
		add("reports up to 1 min late", func(w *world) { w.delay = [2]float64{0, minute} })
		add("5 % of telemetry lost", func(w *world) { w.lostReports, w.lostExposure = 0.05, 0.05 })
		add("outages", func(w *world) { w.rackLoss, w.rowLoss = 0.2, 0.05 })
		add("daily wave of 80 %", func(w *world) { w.swing = 0.8 })
	}
	return out
}

// delays are 1/1000 on apply with ever later reports, once with batches that
// wait for them and once with batches that wait only to settle.
func delays() []study {
	var out []study
	for _, late := range []float64{1, 5, 10, 20, 30} {
		for _, limit := range []float64{late, settle / minute} {
			w := product(0.05)
			w.patch = harm{onApply: 0.001}
			w.delay, w.limit = [2]float64{late / 2 * minute, late * minute}, limit*minute
			out = append(out, study{name: fmt.Sprintf("%v-%v min late, batches wait %v min", late/2, late, max(limit, settle/minute)), w: w})
			if late == 1 {
				break // both wait for settle
			}
		}
	}
	w := product(0.05)
	w.patch = harm{onApply: 0.001, late: true}
	return append(out, study{name: "crashes anywhere in the 10-minute window", w: w})
}

// small are fleets of 2,000.
func small() []study {
	var out []study
	for _, h := range append([]study{{name: "good patch"}}, harms()...) {
		w := product(0.05)
		w.hosts, w.stages = 2000, []int{10, 100, 500, 1000, 2000}
		w.patch = h.w.patch
		out = append(out, study{name: h.name, w: w})
	}
	return out
}
