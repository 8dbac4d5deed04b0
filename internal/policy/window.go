package policy

import (
	"regexp"
	"strings"
	"time"
)

// Window is a weekly time in which hosts may start, in its own time zone, so
// that it follows daylight saving time as people there do.
type Window struct {
	text     string
	days     [7]bool       // by time.Weekday
	from, to time.Duration // of the local day; to may lie below from: over midnight
	zone     *time.Location
}

// Freeze is a span of time in which no host may start.
type Freeze struct {
	text        string
	From, Until time.Time
}

func (w Window) String() string { return w.text }
func (f Freeze) String() string { return f.text }

var windowPattern = regexp.MustCompile(`^([A-Za-z,-]+) +([0-9]{2}:[0-9]{2})-([0-9]{2}:[0-9]{2})(?: +([A-Za-z0-9_+/-]+))?$`)

func parseWindow(t text) (Window, error) {
	m := windowPattern.FindStringSubmatch(t.s)
	if m == nil {
		return Window{}, t.errorf("window %q: want for example Mon-Fri 09:00-17:00 Europe/Paris", t.s)
	}
	w := Window{text: t.s}
	var ok1, ok2 bool
	w.from, ok1 = clock(m[2])
	w.to, ok2 = clock(m[3])
	if !ok1 || !ok2 || w.from == w.to {
		return w, t.errorf("window %q: %s-%s is not a span of a day", t.s, m[2], m[3])
	}
	for part := range strings.SplitSeq(m[1], ",") {
		if !w.addDays(part) {
			return w, t.errorf("window %q: %q is not a day such as Mon or a span such as Mon-Fri", t.s, part)
		}
	}
	zone, err := location(m[4])
	if err != nil {
		return w, t.errorf("window %q: time zone %q is not known", t.s, m[4])
	}
	w.zone = zone
	return w, nil
}

func location(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	return time.LoadLocation(name)
}

func clock(s string) (time.Duration, bool) {
	if s == "24:00" {
		return 24 * time.Hour, true
	}
	t, err := time.Parse("15:04", s)
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, err == nil
}

func weekday(s string) (int, bool) {
	for d := range 7 {
		if strings.EqualFold(time.Weekday(d).String()[:3], s) {
			return d, true
		}
	}
	return 0, false
}

func (w *Window) addDays(part string) bool {
	a, b, span := strings.Cut(part, "-")
	if !span {
		b = a
	}
	from, ok1 := weekday(a)
	to, ok2 := weekday(b)
	if !ok1 || !ok2 {
		return false
	}
	for d := from; ; d = (d + 1) % 7 {
		w.days[d] = true
		if d == to {
			return true
		}
	}
}

// span is the window that begins on the local day of t plus days.
func (w Window) span(t time.Time, days int) (from, to time.Time, ok bool) {
	y, m, d := t.In(w.zone).Date()
	at := func(days int, of time.Duration) time.Time {
		return time.Date(y, m, d+days, 0, int(of/time.Minute), 0, 0, w.zone)
	}
	from, to = at(days, w.from), at(days, w.to)
	if w.to < w.from {
		to = at(days+1, w.to)
	}
	return from, to, w.days[at(days, 12*time.Hour).Weekday()] && from.Before(to)
}

// At says whether the window is open at t, and when that changes next.
func (w Window) At(t time.Time) (open bool, until time.Time) {
	for days := -1; days <= 8; days++ {
		from, to, ok := w.span(t, days)
		switch {
		case !ok || !to.After(t):
		case !from.After(t):
			return true, to
		default:
			return false, from
		}
	}
	return false, t.AddDate(0, 0, 7)
}

func parseFreeze(t text) (Freeze, error) {
	fields := strings.Fields(t.s)
	if len(fields) < 1 || len(fields) > 2 {
		return Freeze{}, t.errorf("freeze %q: want for example 2026-12-20..2027-01-03 Europe/Paris", t.s)
	}
	zone := time.UTC
	if len(fields) == 2 {
		var err error
		if zone, err = location(fields[1]); err != nil {
			return Freeze{}, t.errorf("freeze %q: time zone %q is not known", t.s, fields[1])
		}
	}
	a, b, ok := strings.Cut(fields[0], "..")
	from, err1 := day(a, zone, 0)
	until, err2 := day(b, zone, 1)
	if !ok || err1 != nil || err2 != nil || !from.Before(until) {
		return Freeze{}, t.errorf("freeze %q: want for example 2026-12-20..2027-01-03 Europe/Paris", t.s)
	}
	return Freeze{text: t.s, From: from, Until: until}, nil
}

// day reads a date, or a date with a time; end days are whole.
func day(s string, zone *time.Location, days int) (time.Time, error) {
	if t, err := time.ParseInLocation("2006-01-02T15:04", s, zone); err == nil {
		return t, nil
	}
	t, err := time.ParseInLocation(time.DateOnly, s, zone)
	return t.AddDate(0, 0, days), err
}

// Open says whether hosts may start at t by windows and freezes. If not, it
// says what is in the way and when that ends.
func (p *Policy) Open(t time.Time) (open bool, why string, until time.Time) {
	for _, f := range p.Freezes {
		if !t.Before(f.From) && t.Before(f.Until) {
			return false, "freeze " + f.text, f.Until
		}
	}
	if len(p.Windows) == 0 {
		return true, "", time.Time{}
	}
	for _, w := range p.Windows {
		open, next := w.At(t)
		if open {
			return true, "", next
		}
		if until.IsZero() || next.Before(until) {
			why, until = "outside the window "+w.text, next
		}
	}
	return false, why, until
}
