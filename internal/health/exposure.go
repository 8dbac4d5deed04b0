package health

import "time"

// Exposure is how many hosts have run a patch since when. Hosts are counted in
// cohorts of one minute, so that a million of them take a few kilobytes. The
// zero value is ready for use.
type Exposure struct {
	// Cohorts are the hosts by when they were applied, oldest first.
	Cohorts []Cohort `json:"cohorts,omitempty"`
	// Exposed is how many hosts ever ran it: it never falls.
	Exposed int `json:"exposed"`
	// Seen is up to when Advance has counted.
	Seen time.Time `json:"seen,omitzero"`
}

// Cohort is the hosts applied in one minute that still run the patch.
type Cohort struct {
	At    time.Time `json:"at"`
	Hosts int       `json:"hosts"`
	Ever  int       `json:"ever"`
}

const cohortWidth = time.Minute

// Add counts n hosts applied at the given time, which is not before earlier ones.
func (e *Exposure) Add(n int, at time.Time) {
	key := at.Truncate(cohortWidth)
	e.Exposed += n
	if last := len(e.Cohorts) - 1; last >= 0 && e.Cohorts[last].At.Equal(key) {
		e.Cohorts[last].Hosts += n
		e.Cohorts[last].Ever += n
		return
	}
	e.Cohorts = append(e.Cohorts, Cohort{At: key, Hosts: n, Ever: n})
}

// Remove takes n hosts, applied at the given time, out: they no longer run it.
func (e *Exposure) Remove(n int, applied time.Time) {
	key := applied.Truncate(cohortWidth)
	for i := len(e.Cohorts) - 1; i >= 0; i-- {
		if c := &e.Cohorts[i]; c.At.Equal(key) {
			c.Hosts = max(0, c.Hosts-n)
			return
		}
	}
}

// Running is how many hosts run the patch.
func (e *Exposure) Running() int {
	n := 0
	for _, c := range e.Cohorts {
		n += c.Hosts
	}
	return n
}

// Steady is how many of them were applied more than window ago.
func (e *Exposure) Steady(now time.Time, window time.Duration) int {
	n := 0
	for _, c := range e.Cohorts {
		if now.Sub(c.At) > window {
			n += c.Hosts
		}
	}
	return n
}

// Advance returns the host-hours since the last call, in the window after
// apply and after it, and counts on from now.
func (e *Exposure) Advance(now time.Time, window time.Duration) (apply, steady float64) {
	if !now.After(e.Seen) {
		return 0, 0
	}
	for _, c := range e.Cohorts {
		edge := c.At.Add(window)
		apply += float64(c.Hosts) * overlap(e.Seen, now, c.At, edge)
		steady += float64(c.Hosts) * overlap(e.Seen, now, edge, now)
	}
	e.Seen = now
	return apply, steady
}

// Within is the host-hours of all hosts ever exposed, each at most the given
// time after its apply.
func (e *Exposure) Within(now time.Time, limit time.Duration) float64 {
	hours := 0.0
	for _, c := range e.Cohorts {
		hours += float64(c.Ever) * min(now.Sub(c.At), limit).Hours()
	}
	return max(0, hours)
}

// Clone returns an Exposure that shares nothing with e.
func (e *Exposure) Clone() Exposure {
	out := *e
	out.Cohorts = append([]Cohort(nil), e.Cohorts...)
	return out
}

// overlap is the hours that [a1,b1] and [a2,b2] share.
func overlap(a1, b1, a2, b2 time.Time) float64 {
	if a2.After(a1) {
		a1 = a2
	}
	if b2.Before(b1) {
		b1 = b2
	}
	return max(0, b1.Sub(a1).Hours())
}
