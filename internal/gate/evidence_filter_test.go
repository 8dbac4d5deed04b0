package gate

import (
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"afloat/internal/fleet"
)

func minute(m float64) time.Time {
	return time.Unix(1_700_000_000, 0).UTC().Add(time.Duration(m * float64(time.Minute)))
}

func TestFilter(t *testing.T) {
	type step struct {
		host    string
		domains []string
		at      float64 // minutes
		want    bool
	}
	r1, r2 := []string{"rack=r1", "power=p1"}, []string{"rack=r2", "power=p1"}
	for name, steps := range map[string][]step{
		"a host in a crash loop counts every ten minutes": {
			{"a", nil, 0, true}, {"a", nil, 4, false}, {"a", nil, 9.9, false}, {"a", nil, 10, true}, {"b", nil, 10, true},
		},
		"a rack that loses power counts once": {
			{"a", r1, 0, true}, {"b", r1, 0.1, false}, {"c", r1, 4.9, false}, {"d", r1, 5, true},
		},
		"racks on one power domain count once": {
			{"a", r1, 0, true}, {"b", r2, 1, false}, {"c", []string{"rack=r3"}, 1, true},
		},
		"a late report of an earlier crash is compared by when it happened": {
			{"a", r1, 60, true}, {"b", r1, 57, false}, {"c", r1, 50, true}, {"d", r1, 53, false},
		},
		"a crash that did not count starts no quiet time": {
			{"a", r1, 0, true}, {"b", r1, 4, false}, {"b", r1, 6, true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var f Filter
			for i, s := range steps {
				if got := f.Count(Event{Host: fleet.HostID(s.host), Domains: s.domains, At: minute(s.at)}); got != s.want {
					t.Errorf("step %d, %s at %v: counts = %v, want %v", i, s.host, s.at, got, s.want)
				}
			}
		})
	}
}

func TestDomainsOfLeavesUnknownOut(t *testing.T) {
	labels := fleet.Labels{"rack": "r1", "power": "", "zone": "a"}
	if diff := cmp.Diff([]string{"rack=r1"}, DomainsOf(labels, "rack", "power", "row")); diff != "" {
		t.Error(diff)
	}
	// Two hosts of unknown place share nothing.
	var f Filter
	for _, host := range []fleet.HostID{"a", "b"} {
		if !f.Count(Event{Host: host, Domains: DomainsOf(nil, "rack"), At: minute(0)}) {
			t.Errorf("the crash of %s does not count", host)
		}
	}
}

func TestFilterForgetsAndClones(t *testing.T) {
	var f Filter
	f.Count(Event{Host: "a", Domains: []string{"rack=r1"}, At: minute(0)})
	branch := f.Clone()
	branch.Count(Event{Host: "b", At: minute(7)})
	if len(f.Counted) != 2 || len(branch.Counted) != 3 {
		t.Errorf("branch is not apart: %v, %v", f.Counted, branch.Counted)
	}
	branch.Forget(minute(5))
	if len(branch.Counted) != 1 || branch.Count(Event{Host: "b", At: minute(8)}) {
		t.Errorf("after Forget: %v", branch.Counted)
	}
}

// No host counts twice within its quiet time, no domain within its own, and a
// Filter restored from JSON goes on as the one that was stored.
func TestFilterProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f Filter
		var counted []Event
		for i := range rapid.IntRange(1, 60).Draw(t, "n") {
			host := rapid.IntRange(0, 5).Draw(t, "host")
			e := Event{
				Host:    fleet.HostID(strconv.Itoa(host)),
				Domains: []string{"rack=" + strconv.Itoa(host/2)},
				At:      minute(rapid.Float64Range(0, 60).Draw(t, "at")),
			}
			if i%7 == 3 {
				f = throughJSON(t, f)
			}
			if f.Count(e) {
				counted = append(counted, e)
			}
		}
		for i, a := range counted {
			for _, b := range counted[:i] {
				apart := a.At.Sub(b.At).Abs()
				if a.Host == b.Host && apart < HostQuiet || a.Domains[0] == b.Domains[0] && apart < DomainQuiet {
					t.Fatalf("%+v and %+v both count", a, b)
				}
			}
		}
	})
}

func throughJSON(t *rapid.T, f Filter) Filter {
	stored, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var back Filter
	if err := json.Unmarshal(stored, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f, back); diff != "" {
		t.Fatalf("JSON changes the filter:\n%s", diff)
	}
	return back
}

func TestBatchWait(t *testing.T) {
	const settle, delay = time.Minute, 20 * time.Minute
	for _, tt := range []struct {
		name  string
		heard int
		now   float64
		delay time.Duration
		want  time.Duration
	}{
		{"just applied, all heard", 100, 0, delay, time.Minute},
		{"settled, all heard", 100, 1, delay, 0},
		{"one host is silent", 99, 1, delay, 19 * time.Minute},
		{"one host stays silent for the whole delay", 99, 20, delay, 0},
		{"long past", 0, 500, delay, 0},
		{"a delay below settle still settles", 99, 0, time.Second, time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := Batch{Applied: minute(0), Hosts: 100, Heard: tt.heard}
			if got := b.Wait(settle, tt.delay, minute(tt.now)); got != tt.want {
				t.Errorf("Wait = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestReportingDelay(t *testing.T) {
	var seen []time.Duration
	for i := range 200 {
		seen = append(seen, time.Duration(200-i)*time.Second)
	}
	if got := ReportingDelay(seen, time.Hour); got != 198*time.Second {
		t.Errorf("P99 of 1..200 s = %v, want 198 s", got)
	}
	if got := ReportingDelay(seen[:19], time.Hour); got != time.Hour {
		t.Errorf("too few: %v, want the fallback", got)
	}
	if got := ReportingDelay(seen[:20], time.Hour); got != 200*time.Second {
		t.Errorf("P99 of 20 = %v, want the largest", got)
	}
}
