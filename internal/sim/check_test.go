package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"afloat/internal/control"
	"afloat/internal/converge"
	"afloat/internal/fleet"
	"afloat/internal/health"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// forger gives a checker records that the engine would never make.
type forger struct {
	t *testing.T
	w *world
}

// forge is a world at its beginning: rollouts r1 and r2 have been started and
// have done nothing yet.
func forge(t *testing.T, rest string, rate policy.Rate) *forger {
	t.Helper()
	text := func(name string) string {
		waves := "waves: [{size: 50%}, {size: 100%}]\n"
		return fmt.Sprintf("name: x\ntarget: {live: %s}\n%s%s\n", name, waves, rest)
	}
	f := Fleet{Groups: []Group{
		{Name: "a", Hosts: 8, Labels: map[string]string{"rack": "r{n/4}", "role": "active", "load": "90%", "service": "s"}},
		{Name: "p", Hosts: 2, Labels: map[string]string{"rack": "r{n}", "role": "passive", "load": "0.3", "service": "s"}},
	}}
	o := Options{Policy: text("one"), Also: []Start{{Policy: text("two")}}, Fleet: f, Seed: 1, Check: true, Horizon: time.Hour, Rate: rate}
	orders, err := o.orders()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(o, orders)
	w.join()
	for n := range orders {
		if err := w.give(n); err != nil {
			t.Fatal(err)
		}
	}
	return &forger{t, w}
}

func (f *forger) record(rec control.Record) {
	rec.Seq, rec.At = f.w.state.Seq()+1, f.w.at(f.w.now)
	f.w.check.before(rec)
	f.w.check.after(rec)
}

func (f *forger) move(id string, to rollout.HostPhase, hosts ...fleet.HostID) {
	n := 0
	if id == "r2" {
		n = 1
	}
	f.record(control.Record{Moves: []control.Move{{Rollout: id, To: to, Live: digestOf(n), Hosts: hosts}}})
}

func (f *forger) admit(hosts ...fleet.HostID) { f.move("r1", rollout.Admitted, hosts...) }

func (f *forger) wave(id string, n int, what rollout.WaveWhat) {
	f.record(control.Record{Waves: []control.WaveEvent{{Rollout: id, WaveEvent: rollout.WaveEvent{Wave: n, What: what}}}})
}

func (f *forger) command(v control.Verb) {
	f.record(control.Record{Command: &control.Command{Verb: v, Rollout: "r1"}})
}

// applied takes hosts to where they have the patch.
func (f *forger) applied(hosts ...fleet.HostID) {
	f.admit(hosts...)
	f.move("r1", rollout.Soaking, hosts...)
}

func (f *forger) pass(d time.Duration) { f.w.now += d }

// says changes what a host has reported.
func (f *forger) says(id fleet.HostID, change func(*wire.Report)) {
	r := f.w.view.Host(id).Report
	r.Seq++
	change(&r)
	f.w.view.Report(r, f.w.at(forever))
}

func (f *forger) host(id fleet.HostID) *host { return &f.w.hosts[f.w.index[id]] }

// TestCheckerSees is the negative control of the soak: each thing that must
// never happen is made to happen, and the checker has to say so, and to say
// nothing before.
func TestCheckerSees(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy string
		rate   policy.Rate
		before func(*forger)
		breaks func(*forger)
		want   string
	}{
		{"too many out", "budgets: [{groupBy: rack, unavailable: 1}]", policy.Rate{}, func(f *forger) { f.admit("a-0", "a-4") },
			func(f *forger) { f.admit("a-1") }, "2 of 5 are out and 0 cold, at most 1 may be"},
		{"a host that is down counts", "budgets: [{groupBy: rack, unavailable: 1}]", policy.Rate{}, func(f *forger) { f.w.view.Lost("a-0", f.w.at(-time.Hour)); f.admit("a-4") },
			func(f *forger) { f.admit("a-1") }, "2 of 5 are out"},
		{"a host of another rollout counts", "budgets: [{groupBy: rack, unavailable: 1}]", policy.Rate{}, func(f *forger) { f.wave("r2", 0, rollout.WaveOpens); f.move("r2", rollout.Admitted, "a-0") },
			func(f *forger) { f.admit("a-1") }, "2 of 5 are out"},
		{"a host that is not selected counts", "select: role=active\nbudgets: [{groupBy: rack, unavailable: 20%}]", policy.Rate{}, func(f *forger) { f.w.view.Lost("p-1", f.w.at(-time.Hour)) },
			func(f *forger) { f.admit("a-4") }, "2 of 5 are out and 0 cold, at most 1 may be"},
		{"cold hosts", "budgets: [{groupBy: rack, unavailable: 1, warm: 10m}]", policy.Rate{}, func(f *forger) { f.applied("a-0"); f.pass(11 * time.Minute); f.applied("a-1"); f.pass(9 * time.Minute) },
			func(f *forger) { f.admit("a-2") }, "1 of 5 are out and 1 cold, at most 1 may be"},
		{"quorum", "budgets: [{groupBy: rack, unavailable: quorum}]", policy.Rate{}, func(f *forger) { f.admit("a-0", "a-1") },
			func(f *forger) { f.admit("a-2") }, "3 of 5 are out and 0 cold, at most 2 may be"},
		{"headroom", "budgets: [{groupBy: service, headroom: 100%, load: load}]", policy.Rate{}, func(f *forger) { f.admit("a-0", "a-1") },
			func(f *forger) { f.admit("a-2") }, "7 hosts carry a load of 7.8"},
		{"starts in a window", "budgets: [{select: service=s, starts: 2 per 5m}]", policy.Rate{}, func(f *forger) { f.applied("a-0"); f.pass(6 * time.Minute); f.applied("a-1", "a-2") },
			func(f *forger) { f.admit("a-3") }, "3 started in 5m0s, at most 2 may"},
		{"disruptions, of another rollout too", "budgets: [{groupBy: service, disruptions: 2 per 1w}]", policy.Rate{}, func(f *forger) {
			f.applied("a-0")
			f.wave("r2", 0, rollout.WaveOpens)
			f.move("r2", rollout.Admitted, "a-1")
			f.pass(24 * time.Hour)
		}, func(f *forger) { f.admit("a-3") }, "3 disruptions in 168h0m0s, at most 2 may be"},
		{"domains", "budgets: [{groupBy: rack, domains: 1}]", policy.Rate{}, func(f *forger) { f.admit("a-0", "a-1") },
			func(f *forger) { f.admit("a-4") }, "2 domains are out, at most 1 may be"},
		{"active before passive", "budgets: [{groupBy: rack, unavailable: 3, order: role}]", policy.Rate{}, func(f *forger) { f.applied("p-0"); f.admit("a-0") },
			func(f *forger) { f.admit("a-4") }, "an active host goes before p-1"},
		{"two of a group with an order", "budgets: [{groupBy: rack, unavailable: 3, order: role}]", policy.Rate{}, func(f *forger) { f.admit("p-0") },
			func(f *forger) { f.admit("a-0") }, "2 of 5 are out and 0 cold, at most 1 may be"},
		{"the rollout's own cap", "unavailable: 20%", policy.Rate{}, func(f *forger) { f.admit("a-0", "a-4") },
			func(f *forger) { f.admit("a-1") }, "3 of 10 hosts are out, at most 2 may be"},
		{"the rollout's own rate", "rate: 2 per 1m", policy.Rate{}, func(f *forger) { f.admit("a-0", "a-4"); f.pass(time.Minute) },
			func(f *forger) { f.admit("a-1", "a-2", "a-3") }, "3 hosts started in 1m0s, at most 2 may"},
		{"the fleet's rate, over two rollouts", "", policy.Rate{N: 2, Per: time.Minute}, func(f *forger) {
			f.wave("r2", 0, rollout.WaveOpens)
			f.move("r2", rollout.Admitted, "a-7")
			f.admit("a-0")
		},
			func(f *forger) { f.admit("a-1") }, "fleet rate: more than 2 hosts started in 1m0s"},
		{"minimum interval", "minInterval: 1h", policy.Rate{}, func(f *forger) { f.applied("a-0"); f.pass(time.Minute); f.wave("r2", 0, rollout.WaveOpens) },
			func(f *forger) { f.move("r2", rollout.Admitted, "a-0") }, "is disrupted 1m0s after the last time, at least 1h0m0s must lie between"},
		{"two actions on one host", "", policy.Rate{}, func(f *forger) { f.admit("a-0"); f.wave("r2", 0, rollout.WaveOpens) },
			func(f *forger) { f.move("r2", rollout.Admitted, "a-0") }, "host a-0 is admitted while admitted in rollout r1"},
		{"moved by a stranger", "", policy.Rate{}, func(f *forger) { f.admit("a-0") },
			func(f *forger) { f.move("r2", rollout.Reverting, "a-0") }, `moved to reverting by rollout r2, it belongs to "r1"`},
		{"a leap", "", policy.Rate{}, func(f *forger) { f.admit("a-0") },
			func(f *forger) { f.move("r1", rollout.Reverted, "a-0") }, "goes from admitted to reverted"},
		{"two waves", "", policy.Rate{}, func(*forger) {},
			func(f *forger) { f.wave("r1", 1, rollout.WaveOpens) }, "2 waves of rollout r1 are open"},
		{"a wave that is not open", "", policy.Rate{}, func(f *forger) { f.wave("r1", 0, rollout.WaveCloses); f.admit("a-0") },
			func(f *forger) {
				f.record(control.Record{Moves: []control.Move{{Rollout: "r1", Wave: 1, To: rollout.Admitted, Hosts: []fleet.HostID{"a-1"}}}})
			}, "admitted to wave 1, which is not open"},
		{"abort", "", policy.Rate{}, func(f *forger) { f.admit("a-0"); f.command(control.Abort) },
			func(f *forger) { f.admit("a-1") }, "after the command to abort"},
		{"pause", "", policy.Rate{}, func(f *forger) {
			f.command(control.Pause)
			f.command(control.Resume)
			f.admit("a-0")
			f.command(control.Pause)
		}, func(f *forger) { f.admit("a-1") }, "after the command to pause"},
		{"a rollout that is not open", "", policy.Rate{}, func(*forger) {},
			func(f *forger) { f.move("r3", rollout.Admitted, "a-1") }, "admitted to rollout r3 which is not open"},
		{"a version that was reverted", "", policy.Rate{}, func(f *forger) { f.applied("a-0"); f.command(control.Revert); f.wave("r2", 0, rollout.WaveOpens) },
			func(f *forger) {
				f.record(control.Record{Moves: []control.Move{{Rollout: "r2", To: rollout.Admitted, Live: goodDigest, Hosts: []fleet.HostID{"a-1"}}}})
			}, "which rollout r1 reverted"},
		{"going back to a version that was reverted", "", policy.Rate{}, func(f *forger) {
			f.applied("a-0")
			f.record(control.Record{Changes: []control.Change{{Rollout: "r1", Change: rollout.Change{Phase: rollout.PhaseReverting}}}})
			f.wave("r2", 0, rollout.WaveOpens)
			f.move("r2", rollout.Admitted, "a-0")
		}, func(f *forger) {
			f.record(control.Record{Moves: []control.Move{{Rollout: "r2", To: rollout.Reverting, Live: goodDigest, Hosts: []fleet.HostID{"a-0"}}}})
		}, "which rollout r1 reverted"},
		{"a host that keeps what was reverted", "", policy.Rate{}, func(f *forger) {
			if _, err := f.w.do(control.Command{Verb: control.Abort, Rollout: "r2"}); err != nil {
				f.t.Fatal(err)
			}
			f.w.o.Horizon = 5 * time.Minute
			f.w.loop()
		}, func(f *forger) {
			f.record(control.Record{Changes: []control.Change{{Rollout: "r1", Change: rollout.Change{Phase: rollout.PhaseReverted}}}})
		}, "is told to run its 600d600d600d"},
		{"no data", "", policy.Rate{}, func(f *forger) { f.w.view.Enrol("new", "new", nil, fleet.ModeAct) },
			func(f *forger) { f.admit("new") }, "host new is admitted on no data"},
		{"silence", "", policy.Rate{}, func(f *forger) { f.w.view.Lost("a-0", f.w.at(-time.Hour)) },
			func(f *forger) { f.admit("a-0") }, "admitted though silent"},
		{"true silence", "", policy.Rate{}, func(f *forger) {
			f.admit("a-1")
			f.host("a-0").given = false
			f.pass(time.Hour)
		},
			func(f *forger) { f.admit("a-0") }, "admitted though truly silent since 0s"},
		{"an action back in silence", "", policy.Rate{}, func(f *forger) {
			f.admit("a-0")
			f.host("a-0").given = false
			f.pass(time.Hour)
		}, func(f *forger) {
			f.record(control.Record{Moves: []control.Move{{Rollout: "r1", To: rollout.Reverting, Act: &control.Act{Back: true}, Hosts: []fleet.HostID{"a-0"}}}})
		}, "host a-0 is taken back by an action though truly silent since 0s"},
		{"not heard since a failover", "", policy.Rate{}, func(f *forger) {
			f.admit("a-1")
			f.host("a-0").die(f.w.shard(0), f.w.now, time.Hour)
			f.w.meet()
			f.pass(time.Minute)
			f.w.failOver()
			f.host("a-2").given = true
			f.admit("a-2")
		}, func(f *forger) { f.admit("a-0") }, "it was last heard at 0s, and the server leads since 1m0s"},
		{"a budget beside one not heard since a failover", "unavailable: 10%", policy.Rate{}, func(f *forger) {
			f.pass(time.Minute)
			f.w.failOver()
			f.w.play(f.w.now + time.Minute)
		}, func(f *forger) {
			f.host("a-0").given, f.w.check.host("a-0").heard = false, 0
			f.admit("a-1")
		}, "2 of 10 hosts are out, at most 1 may be"},
		{"a wave that ends unheard", "", policy.Rate{}, func(f *forger) { f.applied("a-0"); f.pass(time.Minute); f.w.failOver() },
			func(f *forger) { f.wave("r1", 0, rollout.WaveCloses) }, "host a-0 has not been heard since the server leads"},
		{"a wave that ends unsoaked", "", policy.Rate{}, func(f *forger) { f.applied("a-0") },
			func(f *forger) { f.admit("a-1"); f.wave("r1", 0, rollout.WaveCloses) }, "ends with 1 hosts that have not soaked, at most 0 may"},
		{"its owner's stop file", "", policy.Rate{}, func(f *forger) { f.says("a-0", func(r *wire.Report) { r.Stopped = true }) },
			func(f *forger) { f.admit("a-0") }, "against its owner's will"},
		{"blind", "", policy.Rate{}, func(f *forger) { f.says("a-0", func(r *wire.Report) { r.Blind = "no kernel log" }) },
			func(f *forger) { f.admit("a-0") }, "its crash evidence cannot be seen"},
		{"not selected", "select: rack=r0", policy.Rate{}, func(f *forger) { f.admit("a-0") },
			func(f *forger) { f.admit("a-4") }, "host a-4 is admitted and not selected"},
		{"somebody else's live patch", "", policy.Rate{}, func(f *forger) {
			f.says("a-0", func(r *wire.Report) { r.Live = []wire.LivePatch{{Name: "kpatch_x", Enabled: true}} })
		}, func(f *forger) { f.admit("a-0") }, "the foreign live patch kpatch_x"},
		{"outside the window", "windows: ['Sat 09:00-09:30']", policy.Rate{}, func(f *forger) { f.admit("a-0"); f.pass(time.Hour) },
			func(f *forger) { f.admit("a-1") }, "outside the window"},
		{"a crash under the patch as one without it", "", policy.Rate{}, func(f *forger) { f.applied("a-0") }, func(f *forger) {
			crash := control.CrashEvent{Crash: health.Crash{Host: "a-0", ID: "x", Kind: wire.CrashOops, Live: digestOf(0)}, Control: []control.Bystander{{Rollout: "r1", Hosts: 9}}}
			f.record(control.Record{Crashes: []control.CrashEvent{crash}})
		}, "counts as one without the patch in rollout r1"},
		{"exposure of nobody", "", policy.Rate{}, func(f *forger) { f.applied("a-0") },
			func(f *forger) { f.w.state.Rollout("r1").Exposure.Add(2, f.w.at(f.w.now)); f.w.check.exposure() }, "2 hosts count as exposed in rollout r1, 0 have its patch"},
		{"a generation that goes back", "", policy.Rate{}, func(f *forger) { f.w.check.told(f.host("a-0"), wire.Desired{Generation: 3}) },
			func(f *forger) { f.w.check.told(f.host("a-0"), wire.Desired{Generation: 2}) }, "generation 2 after 3"},
		{"a log that lost a record", "", policy.Rate{}, func(f *forger) { f.w.turn(); f.w.check.end() },
			func(f *forger) { f.w.log = f.w.log[:len(f.w.log)-1]; f.w.check.end() }, "records differs"},
		{"a record that was changed", "", policy.Rate{}, func(f *forger) { f.w.turn() },
			func(f *forger) {
				last := len(f.w.log) - 1
				f.w.log[last] = []byte(strings.Replace(string(f.w.log[last]), "a-", "b-", 1))
				f.w.check.end()
			}, "differs"},
		{"a snapshot that forgets", "", policy.Rate{}, func(f *forger) {
			c := f.w.check
			f.w.turn()
			c.snapshot, c.tail = c.take(f.w.state), len(f.w.log)
			c.end()
		}, func(f *forger) {
			c := f.w.check
			c.snapshot = []byte(strings.Replace(string(c.snapshot), `"phase":"admitted"`, `"phase":"failed"`, 1))
			c.end()
		}, "a snapshot and the 0 records after it differ"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := forge(t, tt.policy, tt.rate)
			if tt.name != "a host that keeps what was reverted" && tt.want != "records differs" && tt.want != "differs" && !strings.HasPrefix(tt.want, "a snapshot") {
				f.wave("r1", 0, rollout.WaveOpens)
			}
			tt.before(f)
			f.w.meet()
			if len(f.w.out.Broken) > 0 {
				t.Fatalf("it complains too early: %q", f.w.out.Broken)
			}
			tt.breaks(f)
			f.w.meet()
			if got := strings.Join(f.w.out.Broken, "\n"); !strings.Contains(got, tt.want) {
				t.Errorf("the checker says %q, want %q", got, tt.want)
			}
		})
	}
}

// TestCheckerSeesASecondLoad is the same for what hosts do: one that loads again
// in the boot and generation in which it has loaded already.
func TestCheckerSeesASecondLoad(t *testing.T) {
	f := forge(t, "", policy.Rate{})
	f.w.o.Horizon = 5 * time.Minute
	f.w.loop()
	if len(f.w.out.Broken) > 0 || f.w.out.Applied == 0 {
		t.Fatalf("%d applied, broken: %q", f.w.out.Applied, f.w.out.Broken)
	}
	for i := range f.w.hosts {
		h := &f.w.hosts[i]
		for key := range h.loads {
			h.load(f.w.shard(h.i), converge.Action{Record: converge.Record{Order: key.Order}}, f.w.now)
			f.w.meet()
			if got := strings.Join(f.w.out.Broken, "\n"); !strings.Contains(got, "loaded twice in boot "+key.Boot) {
				t.Errorf("the checker says %q", got)
			}
			return
		}
	}
}
