package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"afloat/internal/control"
	"afloat/internal/policy"
)

// dice draws random schedules.
type dice struct{ *rand.Rand }

func (d dice) pick(s ...string) string { return s[d.IntN(len(s))] }

// schedule is one random fleet with its rollouts and what goes wrong.
func schedule(seed uint64) Options {
	d := dice{rand.New(rand.NewPCG(seed, 1))}
	o := Options{Policy: d.policy("y"), Fleet: d.fleet(), Seed: seed, Check: true, Horizon: 3 * time.Hour, bare: true}
	for n := range []int{0, 0, 0, 1, 1, 2}[d.IntN(6)] {
		o.Also = append(o.Also, Start{At: time.Duration(d.IntN(60)) * time.Minute, Policy: d.policy(fmt.Sprintf("y%d", n+2))})
	}
	o.Blame = d.IntN(len(o.Also) + 1)
	if d.IntN(4) == 0 {
		o.Rate = policy.Rate{N: 1 + d.IntN(6), Per: time.Duration(1+d.IntN(5)) * time.Minute}
	}
	for range d.IntN(4) {
		f, err := ParseFault(d.fault(1 + len(o.Also)))
		if err != nil {
			panic(err)
		}
		o.Faults = append(o.Faults, f)
	}
	return o
}

func (d dice) policy(target string) string {
	var b strings.Builder
	what := d.target(target) + d.pick("", "", "", "urgency: emergency\nreason: KEV\n")
	fmt.Fprintf(&b, "name: x\n%s%s", what, d.pick("", "", "select: tier=prod\n", "select: zone!=z1\n", "select: zone in (z0,z1)\n"))
	soak := func() string { return d.pick("0", "2m", "20m") }
	b.WriteString("waves:\n")
	if d.IntN(3) == 0 {
		fmt.Fprintf(&b, "  - {select: tier=rc, soak: %s}\n", soak())
	}
	if d.IntN(2) == 0 {
		fmt.Fprintf(&b, "  - {size: %s, soak: %s}\n", d.pick("1", "2", "5%"), soak())
	}
	if d.IntN(2) == 0 {
		fmt.Fprintf(&b, "  - {size: %s, soak: %s, failures: %s}\n", d.pick("20%", "50%"), soak(), d.pick("0", "1", "50%"))
	}
	fmt.Fprintf(&b, "  - {size: 100%%, soak: %s, stragglers: %s}\n", soak(), d.pick("0", "10%", "2"))
	b.WriteString(d.budgets())
	bound := d.pick("", "", "", "unavailable: 3\n", "unavailable: 20%\n")
	if bound == "" && !strings.HasPrefix(what, "target: {live") || strings.Contains(what, "reboot") {
		bound = d.pick("unavailable: 3\n", "unavailable: 20%\n", "unavailable: 60%\n")
	}
	b.WriteString(bound + d.pick("", "", "", "rate: 4 per 1m\n", "minInterval: 30m\n", "minInterval: 2h\n"))
	b.WriteString(d.pick("", "", "gate: {onRevert: pause}\n", "gate: {onInconclusive: hold}\n", "gate: {control: {size: 10%, by: 30m}}\n",
		"windows: ['Sat 09:00-09:40', 'Sat 10:00-12:00']\n", "windows: ['Sat 04:10-05:00 America/New_York', 'Sat 18:30-21:00 Asia/Tokyo']\n"))
	return b.String()
}

// target is what a rollout brings its hosts to: mostly a live patch.
func (d dice) target(patch string) string {
	if d.IntN(5) < 3 {
		return fmt.Sprintf("target: {live: %s}\n", patch) + d.pick("", "", "", "fallback: reboot\n", "fallback: reboot\nfallbackKernel: 6.1.0-56-amd64\n",
			"debt: {reboot: within 2h}\n", "debt: {reboot: within 1h, bootSample: 20% within 30m, kernel: 6.1.0-56-amd64}\n", "reboot: promptly\n")
	}
	return d.pick("target: {kernel: 6.1.0-56-amd64}\n", "target: {kernel: 6.1.0-56-amd64}\nreboot: required\n", "target: {kernel: 6.1.0-54-amd64}\n",
		"target: {replace: image-2}\n", "target: {module: mod-2}\n", "target: {restart: db.service}\n")
}

func (d dice) budgets() string {
	var some []string
	for range []int{0, 1, 1, 2, 3}[d.IntN(5)] {
		some = append(some, d.pick("groupBy: rack, unavailable: 1", "groupBy: service, unavailable: 30%, warm: 3m", "groupBy: rack, domains: 1", "groupBy: zone, domains: 2",
			"select: zone=z0, starts: 2 per 5m", "groupBy: cluster, unavailable: quorum", "groupBy: cluster, unavailable: quorum-1", "groupBy: service, disruptions: 2 per 1h",
			"groupBy: pair, unavailable: 1, order: role", "groupBy: pair, order: role", "groupBy: cluster, headroom: 100%, load: load", "groupBy: zone, unavailable: 10%, warm: 10m"))
	}
	if len(some) == 0 {
		return ""
	}
	return "budgets: [{" + strings.Join(some, "}, {") + "}]\n"
}

func (d dice) fleet() Fleet {
	f := Generated(5 + d.IntN(30))
	if d.IntN(20) == 0 {
		f = Generated(5 + d.IntN(196))
	}
	prod := &f.Groups[0]
	prod.CrashesPerYear = []float64{0.05, 0.05, 500}[d.IntN(3)]
	prod.Labels["cluster"], prod.Labels["load"] = "c{n/5}", d.pick("0.3", "90%", "?")
	prod.Times = Times{Drain: d.pick("", "0s", "5m"), Warm: d.pick("", "4m"), Spread: d.pick("", "30%")}
	switch d.IntN(6) {
	case 0:
		prod.Boot = "30m"
	case 3:
		prod.Abilities = []string{"live"}
	case 4:
		prod.Hot = []string{"mod-2"}
	case 1:
		f.Groups[len(f.Groups)-1].Foreign = "kpatch_other"
	case 2:
		f.Groups[len(f.Groups)-1].Observe = true
	}
	f.Groups = append(f.Groups, Group{Name: "odd", Hosts: d.IntN(3), Kernel: "6.1.0-55-cloud-amd64", Labels: prod.Labels})
	if d.IntN(4) != 0 { // one pair has lost a half
		f.Groups = append(f.Groups, Group{Name: "half", Hosts: 1, Labels: map[string]string{"tier": "prod", "zone": "z0", "rack": "pair-r0", "pair": "p0", "role": "active", "cluster": "pairs"}})
	} else {
		for n, role := range []string{"active", "passive"} {
			f.Groups = append(f.Groups, Group{Name: role, Hosts: 1 + d.IntN(4), Times: Times{Boot: []string{"3m", "10m"}[n]},
				Labels: map[string]string{"tier": "prod", "zone": "z{n%3}", "rack": "pair-r{n/2}", "pair": "p{n}", "role": role, "cluster": "pairs"}})
		}
	}
	return f
}

func (d dice) fault(rollouts int) string {
	at, which := d.IntN(90), 1+d.IntN(rollouts)
	return d.pick("crash-on-apply:30%", "crash-on-apply:2%", "oops-on-apply:10%", "leak:1", "apply-fails:10%", "lost:20%", "late:50%+10m", "twice:30%", "skew:30%+2h",
		fmt.Sprintf("cut:30%%@%dm+%dm", at, 1+d.IntN(30)), fmt.Sprintf("down:30%%@%dm+10m", at), fmt.Sprintf("down@%dm+10m?rack=prod-r0", at), fmt.Sprintf("down@%dm+10m?zone=z1", at), fmt.Sprintf("cut@%dm+20m?zone=z1", at),
		"never-returns:50%", "never-returns:5%", "breaks-next-boot:40%", "boots-old-kernel:20%", "stuck-drain:20%", "probe-fails:20%", fmt.Sprintf("server-crash@%dm+%dm", at, d.IntN(5)), fmt.Sprintf("server-crash@%dm+%dm", at, 5+d.IntN(30)),
		fmt.Sprintf("owner-drains:20%%@%dm+%dm", at, 1+d.IntN(60)), fmt.Sprintf("abort:%d@%dm", which, at),
		fmt.Sprintf("pause:%d@%dm+10m", which, at), fmt.Sprintf("blind:30%%@%dm+%dm", at, 1+d.IntN(30)), fmt.Sprintf("revert:%d@%dm", which, at), fmt.Sprintf("join:30%%@%dm", at))
}

// TestSoak plays random schedules and asks that nothing that must always hold
// is ever broken. AFLOAT_SOAK sets how many, AFLOAT_SOAK_FROM the first seed;
// AFLOAT_SEED plays a single one.
func TestSoak(t *testing.T) {
	if os.Getenv("AFLOAT_SEED") != "" {
		playSoak(t, number(t, "AFLOAT_SEED", 0), true)
		return
	}
	few := uint64(10_000)
	if raceEnabled || testing.Short() {
		few = 500
	}
	n, from := number(t, "AFLOAT_SOAK", few), number(t, "AFLOAT_SOAK_FROM", 1)
	var next, broken atomic.Uint64
	var wg sync.WaitGroup
	start := time.Now()
	for range 2 {
		wg.Go(func() {
			for i := next.Add(1); i <= n && broken.Load() < 5; i = next.Add(1) {
				if !playSoak(t, from+i-1, false) {
					broken.Add(1)
					fmt.Printf("soak: seed %d is broken; what broke is printed at the end\n", from+i-1)
				}
				if i%20_000 == 0 {
					fmt.Printf("soak: %d of %d schedules after %.0f s\n", i, n, time.Since(start).Seconds())
				}
			}
		})
	}
	wg.Wait()
	if broken.Load() == 0 {
		fmt.Printf("bench soak_schedules %d count\nbench soak_broken 0 count\nbench soak_s %.1f s\n", n, time.Since(start).Seconds())
	}
}

// number is what the environment says, or otherwise.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func playSoak(t *testing.T, seed uint64, loud bool) bool {
	t.Helper()
	return playOptions(t, schedule(seed), loud)
}

func playOptions(t *testing.T, o Options, loud bool) bool {
	t.Helper()
	seed := o.Seed
	res, err := Run(o)
	if _, refused := errors.AsType[*control.RefusedError](err); refused { // no host can do it
		return true
	}
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
	for _, s := range o.Also {
		t.Logf("at %s\n%s", s.At, s.Policy)
	}
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
