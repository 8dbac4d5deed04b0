package sim

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// schedule is one random policy, fleet and set of faults.
func schedule(seed uint64) Options {
	r := rand.New(rand.NewPCG(seed, 1))
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	var b strings.Builder
	b.WriteString("name: x\ntarget: {live: y}\n" + pick("", "select: tier=prod\n", "select: zone!=z1\n"))
	soak := func() string { return pick("0", "2m", "20m") }
	b.WriteString("waves:\n")
	if r.IntN(3) == 0 {
		fmt.Fprintf(&b, "  - {select: tier=rc, soak: %s}\n", soak())
	}
	if r.IntN(2) == 0 {
		fmt.Fprintf(&b, "  - {size: %s, soak: %s}\n", pick("1", "2", "5%"), soak())
	}
	if r.IntN(2) == 0 {
		fmt.Fprintf(&b, "  - {size: %s, soak: %s, failures: %s}\n", pick("20%", "50%"), soak(), pick("0", "1", "50%"))
	}
	fmt.Fprintf(&b, "  - {size: 100%%, soak: %s, stragglers: %s}\n", soak(), pick("0", "10%", "2"))
	b.WriteString(pick("", "budgets: [{name: r, groupBy: rack, unavailable: 1}]\n", "budgets: [{name: s, groupBy: service, unavailable: 30%, warm: 3m}]\n",
		"budgets: [{name: d, groupBy: rack, domains: 1}, {name: s, select: zone=z0, starts: 2 per 5m}]\n", "unavailable: 3\n", "rate: 4 per 1m\n"))
	b.WriteString(pick("", "", "gate: {onRevert: pause}\n", "gate: {onInconclusive: hold}\n", "windows: ['Sat 09:00-09:40', 'Sat 10:00-12:00']\n"))
	f := Generated(5 + r.IntN(30))
	if r.IntN(20) == 0 {
		f = Generated(5 + r.IntN(196))
	}
	f.Groups = append(f.Groups, Group{Name: "odd", Hosts: r.IntN(3), Kernel: "6.1.0-55-cloud-amd64", Labels: f.Groups[0].Labels})
	f.Groups[0].CrashesPerYear = []float64{0.05, 0.05, 500}[r.IntN(3)]
	switch r.IntN(6) {
	case 0:
		f.Groups[0].Boot = "30m"
	case 1:
		f.Groups[len(f.Groups)-1].Foreign = "kpatch_other"
	case 2:
		f.Groups[len(f.Groups)-1].Observe = true
	}
	o := Options{Policy: b.String(), Fleet: f, Seed: seed, Check: true, Horizon: 3 * time.Hour}
	for range r.IntN(4) {
		at := r.IntN(90)
		text := pick("crash-on-apply:30%", "crash-on-apply:2%", "oops-on-apply:10%", "leak:1", "apply-fails:10%", "lost:20%", "late:50%+10m", "twice:30%",
			fmt.Sprintf("cut:30%%@%dm+%dm", at, 1+r.IntN(30)), fmt.Sprintf("down:30%%@%dm+10m", at), fmt.Sprintf("down@%dm+10m?rack=prod-r0", at),
			"never-returns:50%", fmt.Sprintf("server-crash@%dm+%dm", at, r.IntN(5)), fmt.Sprintf("abort@%dm", at),
			fmt.Sprintf("pause@%dm+10m", at), fmt.Sprintf("revert@%dm", at), fmt.Sprintf("join:30%%@%dm", at))
		f, err := ParseFault(text)
		if err != nil {
			panic(err)
		}
		o.Faults = append(o.Faults, f)
	}
	return o
}

// TestSoak plays random schedules and asks that nothing that must always hold
// is ever broken. AFLOAT_SOAK sets how many; AFLOAT_SEED plays a single one.
func TestSoak(t *testing.T) {
	if s := os.Getenv("AFLOAT_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		playSoak(t, seed, true)
		return
	}
	n := uint64(10_000)
	if raceEnabled || testing.Short() {
		n = 500
	}
	if s := os.Getenv("AFLOAT_SOAK"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	var next, broken atomic.Uint64
	var wg sync.WaitGroup
	start := time.Now()
	for range 2 {
		wg.Go(func() {
			for seed := next.Add(1); seed <= n && broken.Load() < 5; seed = next.Add(1) {
				if !playSoak(t, seed, false) {
					broken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if broken.Load() == 0 {
		fmt.Printf("bench soak_schedules %d count\nbench soak_broken 0 count\nbench soak_s %.1f s\n", n, time.Since(start).Seconds())
	}
}

func playSoak(t *testing.T, seed uint64, loud bool) bool {
	t.Helper()
	o := schedule(seed)
	res, err := Run(o)
	if err != nil {
		t.Errorf("seed %d: %v\n%s", seed, err, o.Policy)
		return false
	}
	if len(res.Broken) == 0 && !loud {
		return true
	}
	for _, b := range res.Broken {
		t.Errorf("seed %d: %s", seed, b)
	}
	t.Logf("replay: AFLOAT_SEED=%d go test ./internal/sim -run TestSoak -v\n%s", seed, o.Policy)
	for _, f := range o.Faults {
		t.Logf("fault %s", f)
	}
	if loud {
		for _, m := range res.Moments {
			t.Logf("%10s %s", m.At.Round(time.Second), m.Text)
		}
		t.Logf("%s (%s, hold %q): %d exposed, %d run it", res.Phase, res.Reason, res.Hold, res.Exposed, res.Running)
	}
	return len(res.Broken) == 0
}
