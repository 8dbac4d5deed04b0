package converge

import (
	"slices"
	"time"

	"afloat/internal/wire"
)

// Evidence is a crash and when it was found.
type Evidence struct {
	Crash wire.Crash `json:"crash"`
	Time  time.Time  `json:"time"`
}

func (j Journal) withCrash(r Record) Journal {
	if r.Crash == nil || j.Knows(r.Crash.ID) {
		return j
	}
	j.Crashes = tail(append(slices.Clone(j.Crashes), Evidence{*r.Crash, r.Time}), maxCrashes)
	return j
}

// Knows says whether crash evidence of that id is journalled.
func (j Journal) Knows(id string) bool {
	return slices.ContainsFunc(j.Crashes, func(e Evidence) bool { return e.Crash.ID == id })
}

// Recent returns the crash evidence found since the given time, oldest first.
func (j Journal) Recent(since time.Time) []wire.Crash {
	var out []wire.Crash
	for _, e := range j.Crashes {
		if !e.Time.Before(since) {
			out = append(out, e.Crash)
		}
	}
	return out
}
