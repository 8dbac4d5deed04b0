package plan

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/policy"
)

func reboot(t testing.TB, rest string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte("name: x\ntarget: {kernel: 6.1.192-2}\n" + waved(rest)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// waved adds one wave of all hosts to a policy that names none.
func waved(rest string) string {
	if strings.Contains(rest, "waves:") {
		return rest
	}
	return "waves: [{size: 100%}]\n" + rest
}

func works(n int, takes time.Duration, labels func(i int) fleet.Labels) []Work {
	out := make([]Work, n)
	for i := range out {
		out[i] = Work{Takes: takes, Labels: labels(i)}
	}
	return out
}

func service(name string) func(int) fleet.Labels {
	return func(int) fleet.Labels { return fleet.Labels{"service": name} }
}

var saturday = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)

// TestFieldStories are the cases that operators tell of, with their numbers.
func TestFieldStories(t *testing.T) {
	for _, tt := range []struct {
		name    string
		policy  string
		hosts   []Work
		started time.Duration
		done    time.Duration
		peak    int
	}{
		{"300 search proxies, cold for half an hour, at most 20 % cold in any 30 minutes",
			"budgets: [{name: cache, select: service=search, starts: 60 per 30m}]",
			works(300, time.Minute, service("search")), 2 * time.Hour, 2*time.Hour + time.Minute, 60},
		{"the same, where a proxy that is down counts as cold too",
			"budgets: [{name: cache, select: service=search, unavailable: 20%, warm: 30m}]",
			works(300, time.Minute, service("search")), 4 * 31 * time.Minute, 4*31*time.Minute + time.Minute, 60},
		{"100 machines, half an hour each, one at a time", "unavailable: 1",
			works(100, 30*time.Minute, service("any")), 99 * 30 * time.Minute, 50 * time.Hour, 1},
		{"quorum of three", "budgets: [{name: q, groupBy: service, unavailable: quorum}]",
			works(3, 10*time.Minute, service("etcd")), 20 * time.Minute, 30 * time.Minute, 1},
		{"quorum of five with one to spare", "budgets: [{name: q, groupBy: service, unavailable: quorum-1}]",
			works(5, 10*time.Minute, service("etcd")), 40 * time.Minute, 50 * time.Minute, 1},
		{"quorum of five without", "budgets: [{name: q, groupBy: service, unavailable: quorum}]",
			works(5, 10*time.Minute, service("etcd")), 20 * time.Minute, 30 * time.Minute, 2},
		{"RAID groups of four: one of each group, all groups at once", "budgets: [{name: raid, groupBy: group, unavailable: 1}]",
			works(40, 10*time.Minute, func(i int) fleet.Labels { return fleet.Labels{"group": fmt.Sprint(i / 4)} }), 30 * time.Minute, 40 * time.Minute, 10},
		{"active-passive pairs, the passive one first", "budgets: [{name: ha, groupBy: pair, unavailable: 1, order: role}]",
			works(20, 10*time.Minute, func(i int) fleet.Labels {
				return fleet.Labels{"pair": fmt.Sprint(i / 2), "role": []string{"active", "passive"}[i%2]}
			}), 10 * time.Minute, 20 * time.Minute, 10},
		{"three racks of four, one rack at a time", "budgets: [{name: racks, groupBy: rack, domains: 1}]",
			works(12, 10*time.Minute, func(i int) fleet.Labels { return fleet.Labels{"rack": fmt.Sprint(i / 4)} }), 20 * time.Minute, 30 * time.Minute, 4},
		{"blue-green, 5 % first", "unavailable: 100%\nwaves: [{size: 5%, soak: 1h}, {size: 100%}]",
			works(100, time.Minute, service("web")), time.Hour + time.Minute, time.Hour + 2*time.Minute, 95},
		{"only at night, over the change to winter time",
			"windows: ['Mon-Sun 00:00-04:00 Europe/Paris']\nunavailable: 1", works(9, time.Hour, service("x")), 0, 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := reboot(t, tt.policy)
			f := Ahead(p, tt.hosts, saturday)
			if f.Stuck != "" || f.Hosts != len(tt.hosts) {
				t.Fatalf("stuck: %q, %d hosts", f.Stuck, f.Hosts)
			}
			if tt.done != 0 && (f.Started != tt.started || f.Done != tt.done || f.Peak != tt.peak) {
				t.Errorf("last start %s, done %s, peak %d; want %s, %s, %d", f.Started, f.Done, f.Peak, tt.started, tt.done, tt.peak)
			}
			if f.Gap() < -1e-9 {
				t.Errorf("done in %s, below its bound %+v", f.Done, f.Bounds[0])
			}
			for _, s := range f.Times {
				if open, why, _ := p.Open(saturday.Add(s.At)); !open {
					t.Errorf("host %d starts at %s, %s", s.Host, s.At, why)
				}
			}
		})
	}
}

func TestFourHostsAtNinetyPercent(t *testing.T) {
	hosts := works(4, 10*time.Minute, func(int) fleet.Labels { return fleet.Labels{"service": "db", "load": "90%"} })
	f := Ahead(reboot(t, "budgets: [{name: peak, groupBy: service, headroom: 100%, load: load}]"), hosts, saturday)
	const want = "budget peak (service db): with one more out, 3 hosts would carry 120 % of their capacity, at most 100 % is allowed"
	if f.Left != 4 || f.Stuck != want {
		t.Errorf("%d left: %q, want 4 and %q", f.Left, f.Stuck, want)
	}
	for i := range hosts {
		hosts[i].Labels["load"] = "70%"
	}
	if f := Ahead(reboot(t, "budgets: [{name: peak, groupBy: service, headroom: 100%, load: load}]"), hosts, saturday); f.Left != 0 || f.Peak != 1 {
		t.Errorf("at 70 %% load %d are left and %d out at once, want none and one", f.Left, f.Peak)
	}
}

// TestMillionByReboot is the cap that stretches a reboot of a million hosts to
// 45 days, half an hour each.
func TestMillionByReboot(t *testing.T) {
	if testing.Short() {
		t.Skip("a million hosts take seconds")
	}
	n := 1_000_000
	if raceEnabled {
		n = 100_000
	}
	l := fleet.Labels{"service": "x"}
	f := Ahead(reboot(t, "unavailable: 0.0463%"), works(n, 30*time.Minute, func(int) fleet.Labels { return l }), saturday)
	if days := f.Done.Hours() / 24; days < 44.5 || days > 46 {
		t.Errorf("%d hosts take %.1f days, want 45", n, days)
	}
	if f.Gap() > 0.001 {
		t.Errorf("%.2f %% above the bound %s", f.Gap()*100, f.Bounds[0].Least)
	}
}

// TestMillionLive is the same million hosts live patched, in six waves of which
// each soaks for an hour: hours instead of weeks, and nobody out of service.
func TestMillionLive(t *testing.T) {
	if testing.Short() {
		t.Skip("a million hosts take seconds")
	}
	n := 1_000_000
	if raceEnabled {
		n = 100_000
	}
	p, err := policy.Parse([]byte(`name: x
target: {live: y}
waves:
  - {size: 0.001%, soak: 1h}
  - {size: 0.01%, soak: 1h}
  - {size: 0.1%, soak: 1h}
  - {size: 1%, soak: 1h}
  - {size: 10%, soak: 1h}
  - {size: 100%, soak: 1h}
`))
	if err != nil {
		t.Fatal(err)
	}
	l := fleet.Labels{"service": "x"}
	f := Ahead(p, works(n, 1500*time.Millisecond, func(int) fleet.Labels { return l }), saturday)
	if f.Stuck != "" || len(f.Waves) != 6 || f.Started < 5*time.Hour || f.Done > 9*time.Hour {
		t.Errorf("%d hosts in %d waves: the last starts after %s and is done after %s; stuck: %q", n, len(f.Waves), f.Started, f.Done, f.Stuck)
	}
	t.Logf("%d hosts: last start after %s, done after %s", n, f.Started, f.Done)
}

// randomFleet draws services and racks under three kinds of caps.
func randomFleet(t testing.TB, r *rand.Rand, n int, equal bool) (*policy.Policy, []Work) {
	services, racks := 1+r.IntN(max(1, n/8)), 1+r.IntN(max(1, n/10))
	p := reboot(t, fmt.Sprintf("budgets: [{name: s, groupBy: service, unavailable: %d%%}, {name: r, groupBy: rack, unavailable: %d}]\nunavailable: %d%%\n",
		10+r.IntN(30), 1+r.IntN(4), 5+r.IntN(45)))
	return p, works(n, 0, func(int) fleet.Labels {
		return fleet.Labels{"service": fmt.Sprint(r.IntN(services)), "rack": fmt.Sprint(r.IntN(racks))}
	})
}

// TestMakespan compares forecasts with their lower bounds.
func TestMakespan(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	var gaps []float64
	worst, binding := -1.0, ""
	for range 200 {
		p, hosts := randomFleet(t, r, 50+r.IntN(1000), false)
		for i := range hosts {
			hosts[i].Takes = time.Duration(10+r.IntN(3)*5) * time.Minute
		}
		f := Ahead(p, hosts, saturday)
		if f.Stuck != "" || f.Gap() < -1e-9 {
			t.Fatalf("stuck %q, gap %.3f", f.Stuck, f.Gap())
		}
		gaps = append(gaps, f.Gap()*100)
		if f.Gap() > worst {
			worst, binding = f.Gap(), f.Bounds[0].Name
		}
	}
	slices.Sort(gaps)
	fmt.Fprintf(os.Stdout, "bench makespan_gap_pct_p50 %.2f %%\nbench makespan_gap_pct_p95 %.2f %%\n", gaps[100], gaps[190])
	t.Logf("worst gap %.1f %% with bound %s", worst*100, binding)
	if gaps[100] > 5 {
		t.Errorf("median gap %.2f %%, want at most 5", gaps[100])
	}
}

// TestMakespanAgainstOptimum compares with every possible schedule of small
// fleets whose hosts take equally long.
func TestMakespanAgainstOptimum(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	var gaps []float64
	for range 50 {
		p, hosts := randomFleet(t, r, 4+r.IntN(9), true)
		for i := range hosts {
			hosts[i].Takes = time.Minute
		}
		f := Ahead(p, hosts, saturday)
		best := optimum(p, hosts)
		gap := float64(f.Done)/float64(time.Duration(best)*time.Minute) - 1
		if gap < -1e-9 {
			t.Fatalf("forecast %s beats the optimum of %d rounds", f.Done, best)
		}
		gaps = append(gaps, gap*100)
	}
	slices.Sort(gaps)
	fmt.Fprintf(os.Stdout, "bench makespan_opt_gap_pct_p95 %.2f %%\n", gaps[47])
	if gaps[47] > 5 {
		t.Errorf("p95 of the gap to the optimum is %.2f %%, want at most 5", gaps[47])
	}
}

// optimum is the least number of rounds, by trying all.
func optimum(p *policy.Policy, hosts []Work) int {
	n := len(hosts)
	ok := make([]bool, 1<<n)
	sums := groupSums(p, hosts)
	for set := range ok {
		ok[set] = bits.OnesCount(uint(set)) <= p.Down.Of(n)
		count := map[groupKey]int{}
		for i := range n {
			if set>>i&1 == 1 {
				for _, k := range sums.of[i] {
					count[k]++
				}
			}
		}
		for k, c := range count {
			ok[set] = ok[set] && c <= sums.groups[k].limit(&p.Budgets[k.budget])
		}
	}
	rounds := make([]int, 1<<n)
	for set := 1; set < 1<<n; set++ {
		rounds[set] = n + 1
		for sub := set; sub > 0; sub = (sub - 1) & set {
			if ok[sub] {
				rounds[set] = min(rounds[set], rounds[set&^sub]+1)
			}
		}
	}
	return rounds[1<<n-1]
}
