package main

import (
	"math"
	"math/rand/v2"
)

// world is one case: a fleet, its bad luck, and what the patch does. Times are
// in hours, rates in crashes per host-year.
type world struct {
	hosts   int
	stages  []int // hosts that have the patch when the stage is full
	batches int   // admissions per stage
	bake    float64
	looks   float64 // 0: at every report; else verdicts and admissions only every so many hours
	limit   float64 // delay that an admission batch waits for

	rate   float64 // point estimate that the gate is told
	spread float64 // interval that the gate is told
	truth  float64 // true rate over the point estimate
	swing  float64 // daily wave: rate times 1+swing*sin

	delay        [2]float64 // reporting delay, uniform between
	lostReports  float64    // share of crash reports that never arrive
	lostExposure float64    // share of exposure that is never reported

	rackLoss, rowLoss float64 // per rack (40 hosts) and row (400) and year
	together          bool    // waves go rack by rack, not spread over racks

	patch harm
}

// harm is what the patch does to hosts; the zero value is a good patch.
type harm struct {
	onApply float64 // share of hosts that crash on apply
	late    bool    // anywhere in the apply window rather than within a minute
	ratio   float64 // steady crash rate over the true baseline; 0 means 1
	leak    float64 // share of hosts that die 36 to 60 h after apply
}

const (
	rackHosts = 40
	rowHosts  = 400
	window    = 1.0 / 6 // gate.ApplyWindow in hours
	settle    = 2.0 / 60
	minute    = 1.0 / 60
	year      = 365.0 * 24
)

// crash is one host going down. Its reporting is what the gate sees.
type crash struct {
	at, known float64
	rank      int // place of the host in the order of admission
	outage    int // number of the rack or row outage it belongs to, 0 for none
	caused    bool
	lost      bool
}

// cohort is one admitted batch: the hosts with ranks [from, to).
type cohort struct {
	at       float64
	from, to int
}

// luck draws what happens to the fleet.
type luck struct {
	w       world
	rng     *rand.Rand
	outages int
}

// reported adds the telemetry: a delay, or loss.
func (l *luck) reported(c crash) crash {
	c.known = c.at + l.w.delay[0] + l.rng.Float64()*(l.w.delay[1]-l.w.delay[0])
	c.lost = l.rng.Float64() < l.w.lostReports
	return c
}

// between draws the crashes in [from, to) that do not come from applying: the
// baseline over the whole fleet, what the patch adds on the admitted hosts,
// and outages.
func (l *luck) between(from, to float64, admitted int) []crash {
	rate := l.w.rate * l.w.truth / year
	out := l.stream(from, to, rate*float64(l.w.hosts), func() crash {
		return crash{rank: l.rng.IntN(l.w.hosts)}
	})
	if l.w.patch.ratio > 1 {
		out = append(out, l.stream(from, to, rate*(l.w.patch.ratio-1)*float64(admitted), func() crash {
			return crash{rank: l.rng.IntN(admitted), caused: true}
		})...)
	}
	out = append(out, l.outage(from, to, l.w.rackLoss, rackHosts)...)
	return append(out, l.outage(from, to, l.w.rowLoss, rowHosts)...)
}

// stream draws a Poisson process with a daily wave, by thinning: points at the
// highest rate, each kept with the share that its hour deserves.
func (l *luck) stream(from, to, perHour float64, draw func() crash) []crash {
	var out []crash
	top := perHour * (1 + l.w.swing)
	for t := from + l.rng.ExpFloat64()/top; t < to; t += l.rng.ExpFloat64() / top {
		wave := 1 + l.w.swing*math.Sin(2*math.Pi*t/24)
		if l.w.swing > 0 && l.rng.Float64()*(1+l.w.swing) > wave {
			continue
		}
		c := draw()
		c.at = t
		out = append(out, l.reported(c))
	}
	return out
}

// outage draws losses of whole racks or rows of that many hosts.
func (l *luck) outage(from, to, perYear float64, size int) []crash {
	if perYear == 0 {
		return nil
	}
	var out []crash
	groups := l.w.hosts / size
	each := perYear / year * float64(groups)
	for t := from + l.rng.ExpFloat64()/each; t < to; t += l.rng.ExpFloat64() / each {
		l.outages++
		group := l.rng.IntN(groups)
		for i := range size {
			rank := l.rng.IntN(l.w.hosts)
			if l.w.together {
				rank = group*size + i
			}
			at := t + l.rng.Float64()*minute/2
			out = append(out, l.reported(crash{at: at, rank: rank, outage: l.outages}))
		}
	}
	return out
}

// applying draws what the patch does to the hosts of one batch because of
// being applied: at once, or as a leak days later.
func (l *luck) applying(c cohort) []crash {
	var out []crash
	l.pick(c, l.w.patch.onApply, func(rank int) {
		after := min(l.rng.ExpFloat64()*minute/4, minute)
		if l.w.patch.late {
			after = l.rng.Float64() * window * 0.99
		}
		out = append(out, l.reported(crash{at: c.at + after, rank: rank, caused: true}))
	})
	l.pick(c, l.w.patch.leak, func(rank int) {
		out = append(out, l.reported(crash{at: c.at + 36 + 24*l.rng.Float64(), rank: rank, caused: true}))
	})
	return out
}

// pick calls hit for each host of the batch with the given chance, by jumps
// with a geometric distribution.
func (l *luck) pick(c cohort, chance float64, hit func(rank int)) {
	if chance == 0 {
		return
	}
	for rank := c.from - 1; ; {
		rank += 1 + int(min(1e9, math.Log(1-l.rng.Float64())/math.Log(1-chance)))
		if rank >= c.to {
			return
		}
		hit(rank)
	}
}
