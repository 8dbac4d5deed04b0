package converge

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/wire"
)

const testNow = 10 * time.Minute

// situation is a host that may load digest 1 at once; each test changes it.
type situation struct {
	desired *wire.Desired
	j       Journal
	o       Observed
	now     time.Duration
}

func ready() situation {
	return situation{
		now: testNow,
		j: Journal{Boot: "b", Epoch: 3, Desired: wire.Desired{
			Epoch: 3, Generation: 7, Rollout: "r", Live: digestOf(1), Mode: fleet.ModeAct,
		}},
		o: Observed{
			Boot: "b", Kernel: modelKernel, Ceiling: fleet.ModeAct, Limits: DefaultLimits(),
			Permit: &Permit{Rollout: "r", Epoch: 3, Seq: 2, Until: testNow + time.Second},
			Bundles: map[bundle.Digest]Bundle{digestOf(1): {Manifest: &bundle.Manifest{
				Kind: bundle.KindLive, Name: "p1", Module: "m1", Kernel: modelKernel, Replace: true,
			}}},
		},
	}
}

// running is ready, with digest 1 applied at minute 1.
func running() situation {
	s := ready()
	order := Order{Generation: 7}
	s.j.Own = []Own{{Digest: digestOf(1), Module: "m1", Order: order, Started: 59 * time.Second, Applied: time.Minute}}
	s.j.Loads = []Key{{"b", order}}
	s.j.Kept = &Kept{Digest: digestOf(1), Module: "m1"}
	s.j.Ending = &Ending{Order: order, Phase: wire.PhaseApplied, Digest: digestOf(1)}
	s.o.Patches, s.o.Modules = []Patch{{Name: "m1", Enabled: true}}, []string{"m1"}
	return s
}

// succeeding is running, and told to run digest 2, which has digest 1's state in a lower version.
func succeeding() situation {
	s := running()
	s.j.Own[0].Trail = Trail{States: []bundle.State{{ID: 1, Version: 2}}}
	s.j.Desired.Generation, s.j.Desired.Live = 8, digestOf(2)
	s.o.Bundles[digestOf(2)] = Bundle{Manifest: &bundle.Manifest{
		Kind: bundle.KindLive, Name: "p2", Module: "m2", Kernel: modelKernel, Replace: true, States: []bundle.State{{ID: 1, Version: 1}},
	}}
	return s
}

func order(epoch, generation uint64, live bundle.Digest) *wire.Desired {
	return &wire.Desired{Epoch: epoch, Generation: generation, Rollout: "r", Live: live, Mode: fleet.ModeAct}
}

func TestNext(t *testing.T) {
	for _, tc := range []struct {
		name   string
		from   func() situation
		change func(*situation)
		kind   Kind
		phase  wire.Phase
		reason string // part of it
	}{
		{"loads", ready, func(s *situation) {}, Load, wire.PhaseApplying, "loading p1"},
		{"cannot read the host", ready, func(s *situation) { s.o.Problem = "sysfs is odd" }, Wait, wire.PhaseWaiting, "cannot read this host: sysfs is odd"},
		{"no boot id", ready, func(s *situation) { s.o.Boot = "" }, Wait, wire.PhaseWaiting, "no boot id"},
		{"observe, says the server", ready, func(s *situation) { s.j.Desired.Mode = fleet.ModeObserve }, Wait, wire.PhaseWaiting, "observe mode"},
		{"observe, says the owner", ready, func(s *situation) { s.o.Ceiling = fleet.ModeObserve }, Wait, wire.PhaseWaiting, "observe mode"},
		{"a mode that is not known", ready, func(s *situation) { s.j.Desired.Mode = "hurry" }, Wait, wire.PhaseWaiting, "observe mode"},
		{"stop file", ready, func(s *situation) { s.o.Stopped = true }, Wait, wire.PhaseWaiting, "stop file"},
		{"stop file holds a revert too", running, func(s *situation) { s.o.Stopped = true; s.j.Desired.Live = "" }, Wait, wire.PhaseWaiting, "stop file"},
		{"the owner reverts in spite of the stop file", running, func(s *situation) {
			s.o.Stopped, s.o.ByHand, s.j.Local = true, true, &Local{Seq: 1, Generation: 7}
		}, Disable, wire.PhaseReverting, "m1"},
		{"no permit", ready, func(s *situation) { s.o.Permit = nil }, Wait, wire.PhaseWaiting, "no permit for rollout r"},
		{"permit of another rollout", ready, func(s *situation) { s.o.Permit.Rollout = "x" }, Wait, wire.PhaseWaiting, "no permit for rollout r"},
		{"permit lapses on the dot", ready, func(s *situation) { s.o.Permit.Until = testNow }, Wait, wire.PhaseWaiting, "lapsed"},
		{"permit of a replaced leader", ready, func(s *situation) { s.o.Permit.Epoch = 2 }, Wait, wire.PhaseWaiting, "replaced"},
		{"permit older than one used", ready, func(s *situation) { s.j.Permit = &Permit{Rollout: "r", Epoch: 3, Seq: 3} }, Wait, wire.PhaseWaiting, "older"},
		{"no rollout, no permit needed", ready, func(s *situation) { s.j.Desired.Rollout, s.o.Permit = "", nil }, Load, wire.PhaseApplying, ""},
		{"back to an earlier one needs no permit", ready, func(s *situation) {
			s.o.Permit, s.j.Ran = nil, []Past{{digestOf(1), Order{Generation: 4}}}
		}, Load, wire.PhaseApplying, ""},
		{"proven needs no permit after a boot", ready, func(s *situation) {
			s.o.Permit, s.j.Kept = nil, &Kept{Digest: digestOf(1), Proven: true}
		}, Load, wire.PhaseApplying, ""},
		{"unproven needs one after an ordered boot", ready, func(s *situation) {
			s.o.Permit, s.j.Kept = nil, &Kept{Digest: digestOf(1)}
			s.j.Ran = []Past{{digestOf(1), Order{Generation: 7}}}
		}, Wait, wire.PhaseWaiting, "no permit"},
		{"foreign live patch", ready, func(s *situation) { s.o.Patches = []Patch{{Name: "kpatch_x", Enabled: true}} }, Wait, wire.PhaseRefused, "live patch kpatch_x"},
		{"a live patch of ours from before a boot is foreign", ready, func(s *situation) {
			s.j.Kept, s.o.Patches = &Kept{Digest: digestOf(1), Module: "m1", Proven: true}, []Patch{{Name: "m1", Enabled: true}}
		}, Wait, wire.PhaseRefused, "live patch m1"},
		{"a module of that name", ready, func(s *situation) { s.o.Modules = []string{"m1"} }, Wait, wire.PhaseRefused, "a module m1 is loaded"},
		{"withdrawn", ready, func(s *situation) { s.j.Withdrawn = []bundle.Digest{digestOf(1)} }, Wait, wire.PhaseRefused, "withdrawn"},
		{"other release", ready, func(s *situation) { s.o.Kernel.Release = "6.1.0-55-cloud-amd64" }, Wait, wire.PhaseRefused, "built for another kernel: release"},
		{"other version", ready, func(s *situation) { s.o.Kernel.Version = "#2" }, Wait, wire.PhaseRefused, "built for another kernel: version"},
		{"other build", ready, func(s *situation) { s.o.Kernel.BuildID = "cd" }, Wait, wire.PhaseRefused, "built for another kernel: build id"},
		{"no build id", ready, func(s *situation) { s.o.Kernel = kernel.ID{Release: modelKernel.Release, Version: modelKernel.Version} }, Wait, wire.PhaseRefused, "incomplete"},
		{"does not replace", ready, func(s *situation) { s.o.Bundles[digestOf(1)].Manifest.Replace = false }, Wait, wire.PhaseRefused, "atomically replace"},
		{"bundle refused", ready, func(s *situation) { s.o.Bundles[digestOf(1)] = Bundle{Refused: "damaged"} }, Wait, wire.PhaseRefused, "damaged"},
		{"bundle not there", ready, func(s *situation) { s.o.Bundles = nil; s.o.Permit = nil }, Fetch, wire.PhaseApplying, "fetching"},
		{"fetch failed just now", ready, func(s *situation) {
			s.o.Bundles[digestOf(1)] = Bundle{Failing: "no route", Retry: testNow + 1}
		}, Wait, wire.PhaseWaiting, "no route"},
		{"fetch failed a while ago", ready, func(s *situation) { s.o.Bundles[digestOf(1)] = Bundle{Failing: "no route", Retry: testNow} }, Fetch, wire.PhaseApplying, ""},
		{"loaded once already", ready, func(s *situation) { s.j.Loads = []Key{{"b", Order{Generation: 7}}} }, Wait, wire.PhaseFailed, "once in this boot"},
		{"failed already", ready, func(s *situation) {
			s.j.Ending = &Ending{Order: Order{Generation: 7}, Phase: wire.PhaseFailed, Reason: "it crashed"}
		}, Wait, wire.PhaseFailed, "it crashed"},
		{"failed under an older order", ready, func(s *situation) {
			s.j.Ending = &Ending{Order: Order{Generation: 6}, Phase: wire.PhaseFailed, Reason: "it crashed"}
		}, Load, wire.PhaseApplying, ""},
		{"tried often enough", ready, func(s *situation) { s.j.Tries, s.j.TryKey = maxTries, Key{"b", Order{Generation: 7}} }, Wait, wire.PhaseFailed, "3 loads were begun"},
		{"nothing asked", ready, func(s *situation) { s.j.Desired = wire.Desired{} }, Wait, wire.PhaseIdle, "nothing asked"},
		{"nothing wanted and nothing there", ready, func(s *situation) { s.j.Desired.Live = "" }, Note, "", "no live patch of ours is left"},

		{"open load, in the kernel", ready, func(s *situation) {
			s.j.Open = &Intent{Order: Order{Generation: 7}, Digest: digestOf(1), Module: "m1"}
			s.o.Patches = []Patch{{Name: "m1", Enabled: true, Transition: true}}
		}, Note, "", "interrupted load"},
		{"open load, not in the kernel", ready, func(s *situation) {
			s.j.Open = &Intent{Order: Order{Generation: 7}, Digest: digestOf(1), Module: "m1"}
		}, Note, "", "interrupted load"},
		{"new boot", ready, func(s *situation) { s.o.Boot = "c" }, Note, "", "new boot"},

		{"steady", running, func(s *situation) {}, Wait, wire.PhaseApplied, "not yet proven"},
		{"time to be proven", running, func(s *situation) { s.now = 11 * time.Minute }, Note, "", "proven"},
		{"not proven by an agent that sees no crashes", running, func(s *situation) {
			s.now, s.o.Blind = 11*time.Minute, "no kernel log"
		}, Wait, wire.PhaseApplied, "crash evidence cannot be seen: no kernel log"},
		{"not proven after an oops", running, func(s *situation) {
			s.now = 11 * time.Minute
			s.j.Crashes = []Evidence{{Crash: wire.Crash{Kind: wire.CrashOops, Boot: "b", Live: digestOf(1)}}}
		}, Wait, wire.PhaseApplied, "crash evidence"},
		{"proven in spite of a warning", running, func(s *situation) {
			s.now = 11 * time.Minute
			s.j.Crashes = []Evidence{{Crash: wire.Crash{Kind: wire.CrashWarning, Boot: "b", Live: digestOf(1)}}}
		}, Note, "", "proven"},
		{"disabled by somebody else", running, func(s *situation) { s.o.Patches[0].Enabled = false }, Wait, wire.PhaseFailed, "disabled by somebody else"},
		{"taken off by somebody else", running, func(s *situation) { s.o.Patches, s.o.Modules = nil, nil }, Note, "", "off"},
		{"in transition", running, func(s *situation) {
			s.j.Own[0].Applied, s.j.Own[0].Started, s.o.Patches[0].Transition = 0, testNow-time.Second, true
		}, Watch, wire.PhaseApplying, "in transition"},
		{"stalled", running, func(s *situation) {
			s.j.Own[0].Applied, s.j.Own[0].Started, s.o.Patches[0].Transition = 0, testNow-time.Minute, true
			s.o.Tasks = []Task{{PID: 9, Comm: "kthread"}}
		}, Disable, wire.PhaseReverting, "held up by kthread (pid 9)"},
		{"revert", running, func(s *situation) { s.j.Desired.Live = "" }, Disable, wire.PhaseReverting, "m1"},
		{"revert beside a foreign one", running, func(s *situation) {
			s.j.Desired.Live = ""
			s.o.Patches = append(s.o.Patches, Patch{Name: "kpatch_x", Enabled: true})
		}, Disable, wire.PhaseReverting, "m1"},
		{"another, in one step", succeeding, func(s *situation) { s.o.Bundles[digestOf(2)].Manifest.States[0].Version = 2 }, Load, wire.PhaseApplying, "loading p2"},
		{"another, not in one step", succeeding, func(s *situation) {}, Disable, wire.PhaseApplying, "disabling m1, which p2 cannot replace in one step: it has state 0x1 in version 1, below 2"},
		{"another, but not without a permit", succeeding, func(s *situation) { s.o.Permit = nil }, Wait, wire.PhaseWaiting, "no permit"},
		{"another, but not before it is there", succeeding, func(s *situation) { delete(s.o.Bundles, digestOf(2)) }, Fetch, wire.PhaseApplying, "fetching"},
		{"another, after the permit lapsed between the steps", succeeding, func(s *situation) {
			s.o.Permit, s.j.Own, s.o.Patches, s.o.Modules = nil, nil, nil, nil
			s.j.Gap = &Gap{Order: Order{Generation: 8}, Digest: digestOf(2)}
		}, Load, wire.PhaseApplying, "loading p2"},
		{"a permit for one gap is none for the next", succeeding, func(s *situation) {
			s.o.Permit, s.j.Own, s.o.Patches, s.o.Modules = nil, nil, nil, nil
			s.j.Gap = &Gap{Order: Order{Generation: 7}, Digest: digestOf(2)}
		}, Wait, wire.PhaseWaiting, "no permit"},
		{"another of the same name", succeeding, func(s *situation) {
			s.j.Own[0].Trail = Trail{}
			s.o.Bundles[digestOf(2)].Manifest.Module = "m1"
		}, Disable, wire.PhaseApplying, "both have that name"},
		{"disabled, in transition", running, func(s *situation) {
			s.j.Own[0].Removing, s.j.Desired.Live, s.o.Patches = true, "", []Patch{{Name: "m1", Transition: true}}
		}, Watch, wire.PhaseReverting, "in transition out"},
		{"disabled, module left", running, func(s *situation) { s.j.Own[0].Removing, s.j.Desired.Live, s.o.Patches = true, "", nil }, Unload, wire.PhaseReverting, "m1"},

		{"order of a replaced leader", running, func(s *situation) { s.desired = order(2, 8, "") }, Refuse, "", "epoch 2 is below 3"},
		{"replayed order", running, func(s *situation) { s.desired = order(3, 6, "") }, Refuse, "", "generation 6 is below 7"},
		{"same generation, other content", running, func(s *situation) { s.desired = order(4, 7, "") }, Refuse, "", "another content"},
		{"generation 0", func() situation { s := ready(); s.j.Desired, s.j.Epoch = wire.Desired{}, 0; return s }, func(s *situation) { s.desired = order(1, 0, "") }, Refuse, "", "no order"},
		{"higher generation", running, func(s *situation) { s.desired = order(3, 8, "") }, Note, "", "accepted"},
		{"same order, later leader", running, func(s *situation) { s.desired = order(4, 7, digestOf(1)) }, Note, "", "accepted"},
		{"same order again", running, func(s *situation) { s.desired = order(3, 7, digestOf(1)) }, Wait, wire.PhaseApplied, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := tc.from()
			tc.change(&s)
			a := Next(s.desired, s.j, s.o, s.now)
			if a.Kind != tc.kind || a.Phase != tc.phase || !strings.Contains(a.Reason, tc.reason) {
				t.Errorf("got %s, phase %q: %s", a.Kind, a.Phase, a.Reason)
			}
			if refuses := a.Kind == Refuse || a.Phase == wire.PhaseRefused; refuses != (a.Refusal != nil) {
				t.Errorf("refusal is %+v", a.Refusal)
			}
			if a.Record.Kind != "" {
				if _, err := s.j.Fold(a.Record); err != nil {
					t.Errorf("its record does not fold: %v", err)
				}
			}
			if again := Next(s.desired, s.j, s.o, s.now); again.Kind != a.Kind || again.Reason != a.Reason {
				t.Errorf("asked again: %s: %s", again.Kind, again.Reason)
			}
		})
	}
}

func TestUnprovenIsBlamedForAnUncleanBoot(t *testing.T) {
	for _, tc := range []struct {
		name    string
		change  func(*situation)
		crash   bool
		blamed  bool
		strikes int
	}{
		{"unproven", func(*situation) {}, true, true, 0},
		{"ordered", func(s *situation) { s.j.Ended = true }, false, false, 0},
		{"proven", func(s *situation) { s.j.Own[0].Proven, s.j.Kept.Proven = true, true }, true, false, 0},
		{"proven before, not yet again", func(s *situation) { s.j.Kept.Proven = true }, true, false, 1},
		{"proven before, third time down", func(s *situation) { s.j.Kept.Proven, s.j.Kept.Strikes = true, 2 }, true, true, 0},
		{"while loading", func(s *situation) {
			s.j.Own, s.j.Kept = nil, nil
			s.j.Open = &Intent{Order: Order{Generation: 7}, Digest: digestOf(1), Module: "m1"}
		}, true, true, 0},
		{"nothing of ours", func(s *situation) { s.j.Own, s.j.Kept, s.j.Ending = nil, nil, nil }, true, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := running()
			tc.change(&s)
			s.o.Boot = "c"
			a := Next(nil, s.j, s.o, s.now)
			j, err := s.j.Fold(a.Record)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(j.Crashes) == 1 && j.Crashes[0].Crash.Kind == wire.CrashUnorderedBoot; got != tc.crash {
				t.Errorf("crashes are %+v", j.Crashes)
			}
			blamed := j.Ending != nil && j.Ending.Phase == wire.PhaseFailed
			if blamed != tc.blamed || blamed && j.Kept != nil {
				t.Errorf("ending is %+v, kept %+v", j.Ending, j.Kept)
			}
			if j.Kept != nil && j.Kept.Strikes != tc.strikes {
				t.Errorf("strikes are %d", j.Kept.Strikes)
			}
		})
	}
}

func TestAdmit(t *testing.T) {
	held := &Permit{Rollout: "r", Epoch: 2, Seq: 5, Until: time.Hour}
	for _, tc := range []struct {
		name string
		p    wire.Permit
		ok   bool
	}{
		{"newer", wire.Permit{Rollout: "r", Epoch: 2, Seq: 6, TTL: time.Second}, true},
		{"the same again", wire.Permit{Rollout: "r", Epoch: 2, Seq: 5, TTL: time.Second}, true},
		{"older", wire.Permit{Rollout: "r", Epoch: 2, Seq: 4, TTL: time.Second}, false},
		{"later leader", wire.Permit{Rollout: "r", Epoch: 3, Seq: 1, TTL: time.Second}, true},
		{"replaced leader", wire.Permit{Rollout: "r", Epoch: 1, Seq: 9, TTL: time.Second}, false},
		{"another rollout", wire.Permit{Rollout: "s", Epoch: 2, Seq: 1, TTL: time.Second}, true},
	} {
		got, err := Admit(held, tc.p, time.Minute)
		if (err == nil) != tc.ok {
			t.Errorf("%s: error is %v", tc.name, err)
		}
		if tc.ok && got.Until != time.Minute+time.Second {
			t.Errorf("%s: lasts until %v", tc.name, got.Until)
		}
		if !tc.ok && got != held {
			t.Errorf("%s: the held permit changed", tc.name)
		}
	}
}

func TestUndo(t *testing.T) {
	s := ready()
	a := Next(nil, s.j, s.o, s.now)
	if undo, ok := a.Undo(); !ok || undo.Kind != Disable || undo.Module != "m1" {
		t.Errorf("undo of a load is %+v, %v", undo, ok)
	}
	if _, ok := (Action{Kind: Wait}).Undo(); ok {
		t.Error("waiting has an undo")
	}
}
