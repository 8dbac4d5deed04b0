package plan

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"afloat/internal/fleet"
)

// TestPeaks: what a forecast uses of each budget, in the words of a small one.
func TestPeaks(t *testing.T) {
	pol := reboot(t, "budgets: [{name: web, select: service=web, unavailable: 2, warm: 5m}, {name: db, select: service=db, unavailable: quorum}]\nunavailable: 50%")
	var hosts []Work
	for i := range 9 {
		w := Work{Labels: fleet.Labels{"service": "web"}, Takes: 10 * time.Minute, Order: uint64(i + 1)}
		if i >= 6 {
			w.Labels = fleet.Labels{"service": "db"}
		}
		hosts = append(hosts, w)
	}
	hosts[0].Out, hosts[0].Done = true, true
	f := Ahead(pol, hosts, saturday)
	want := []Peak{{"db", "", 3, 1, 1, 0}, {"web", "", 6, 2, 2, 0}, {"unavailable", "", 9, 4, 3, 0}}
	if diff := cmp.Diff(want, Peaks(pol, hosts, f)); diff != "" {
		t.Errorf("budgets (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Low{{"db", 3, 2, 0}, {"web", 6, 4, 0}}, Lows(pol, hosts, f)); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
}

// TestPeaksKeepToTheLimits: no forecast of a fleet in service has more out than
// may be, and one that is held up by a budget uses all of it.
func TestPeaksKeepToTheLimits(t *testing.T) {
	pol := reboot(t, "budgets: [{name: s, groupBy: service, unavailable: 30%, warm: 4m}, {name: r, groupBy: rack, unavailable: 1}]\nunavailable: 40%")
	rapid.Check(t, func(t *rapid.T) {
		hosts := make([]Work, rapid.IntRange(1, 60).Draw(t, "hosts"))
		for i := range hosts {
			hosts[i] = Work{Takes: time.Duration(rapid.IntRange(1, 20).Draw(t, "takes")) * time.Minute, Labels: fleet.Labels{
				"service": fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "service")), "rack": fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "rack"))}}
		}
		f := Ahead(pol, hosts, saturday)
		peaks := Peaks(pol, hosts, f)
		for _, p := range peaks {
			if p.Most > p.Limit || p.Most == 0 || p.Limit > p.Hosts {
				t.Fatalf("%+v", p)
			}
			if p.Budget == "unavailable" && p.Most != f.Peak {
				t.Fatalf("%+v, the forecast has %d out at once", p, f.Peak)
			}
		}
		if len(hosts) > 1 && peaks[0].Most != peaks[0].Limit {
			t.Fatalf("nothing is used up: %+v", peaks)
		}
	})
}
