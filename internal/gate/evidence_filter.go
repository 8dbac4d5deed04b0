package gate

import (
	"slices"
	"time"

	"afloat/internal/fleet"
)

const (
	// HostQuiet is the time in which one host counts once: a host that
	// crashes in a loop is one crash.
	HostQuiet = 10 * time.Minute
	// DomainQuiet is the time in which one failure domain counts once: a rack
	// that loses power takes forty hosts, and that is not forty crashes.
	DomainQuiet = 5 * time.Minute
)

// Event is one crash of one host before attribution.
type Event struct {
	Host fleet.HostID
	// Domains are what the host shares fate with: rack=r12, power=p3. Give
	// the label's key too, or a rack and a zone of one name become one.
	Domains []string
	// At is when the host crashed, not when that became known.
	At time.Time
}

// DomainsOf lists a host's failure domains by label keys such as rack and
// power. Keys the host does not carry are left out: "rack=" would tie all
// hosts of unknown place together, and hide nearly all of their crashes.
func DomainsOf(labels fleet.Labels, keys ...string) []string {
	var out []string
	for _, k := range keys {
		if v := labels[k]; v != "" {
			out = append(out, k+"="+v)
		}
	}
	return out
}

// Filter keeps what chance correlates from passing for many independent
// crashes. It must see the crashes of both arms, in the order they became
// known: were each arm filtered for itself, a wave spread thinly over racks
// would count nearly every rack's power cut, and its share of crashes would
// grow far above its share of hosts. The zero value is ready for use. Like a
// map it is shared by its copies: use Clone to branch off.
type Filter struct {
	// Counted holds the times of counted crashes by "host=ID" and by domain.
	Counted map[string][]time.Time `json:"counted,omitempty"`
}

// Count says whether the crash counts, and remembers it if so. Times are
// compared in both directions, as reports come late and out of order.
func (f *Filter) Count(e Event) bool {
	host := "host=" + string(e.Host)
	if f.near(host, e.At, HostQuiet) {
		return false
	}
	for _, d := range e.Domains {
		if f.near(d, e.At, DomainQuiet) {
			return false
		}
	}
	if f.Counted == nil {
		f.Counted = map[string][]time.Time{}
	}
	f.Counted[host] = append(f.Counted[host], e.At)
	for _, d := range e.Domains {
		f.Counted[d] = append(f.Counted[d], e.At)
	}
	return true
}

func (f *Filter) near(key string, at time.Time, quiet time.Duration) bool {
	return slices.ContainsFunc(f.Counted[key], func(t time.Time) bool {
		return at.Sub(t).Abs() < quiet
	})
}

// Forget drops crashes from before the given time. Call it with a time that no
// report can still reach back to.
func (f *Filter) Forget(before time.Time) {
	for key, times := range f.Counted {
		times = slices.DeleteFunc(times, func(t time.Time) bool { return t.Before(before) })
		if len(times) == 0 {
			delete(f.Counted, key)
			continue
		}
		f.Counted[key] = times
	}
}

// Clone returns a Filter that shares nothing with f.
func (f *Filter) Clone() Filter {
	c := Filter{Counted: make(map[string][]time.Time, len(f.Counted))}
	for key, times := range f.Counted {
		c.Counted[key] = slices.Clone(times)
	}
	return c
}

// Batch is the hosts that were admitted together, as far as the next
// admission cares: what they can still say about the patch.
type Batch struct {
	// Applied is when the last of them had the patch.
	Applied time.Time `json:"applied"`
	Hosts   int       `json:"hosts"`
	// Heard is how many of them were heard from at least settle after they
	// had the patch, whether alive or by a crash.
	Heard int `json:"heard"`
}

// Wait says how much longer the next batch has to wait for this one: until
// settle has passed, and then until every host was heard from or delay has
// passed, within which crashes of the class become known. A dead host is
// silent until it is back, so in a good batch nobody waits for delay and in a
// bad one its crashes are counted before more hosts get the patch.
func (b Batch) Wait(settle, delay time.Duration, now time.Time) time.Duration {
	until := b.Applied.Add(settle)
	if b.Heard < b.Hosts {
		until = b.Applied.Add(max(settle, delay))
	}
	return max(0, until.Sub(now))
}

// ReportingDelay is the delay to wait for: the 99th percentile (nearest rank)
// of the delays seen between crash and report, and fallback when there are
// fewer than 20 to go by.
func ReportingDelay(seen []time.Duration, fallback time.Duration) time.Duration {
	if len(seen) < 20 {
		return fallback
	}
	sorted := slices.Sorted(slices.Values(seen))
	return sorted[(len(sorted)*99+99)/100-1]
}
