package converge

import (
	"errors"
	"strings"
	"testing"
	"time"

	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// ordered is a host that may begin to reboot into goodKernel at once: it is out.
func ordered() situation {
	s := ready()
	s.j.Desired.Live, s.j.Desired.Action, s.j.Desired.Kernel, s.j.Desired.Nonce = "", wire.ActionReboot, goodKernel, "n7"
	s.j.Turning = TurningOut
	s.o.Abilities, s.o.Out, s.o.Default = wire.Actions(), true, modelKernel.Release
	s.o.Limits.Warm = 30 * time.Minute
	return s
}

// booted is ordered, after the boot.
func booted() situation {
	s := ordered()
	s.j.Deed = &Deed{Nonce: "n7", Action: wire.ActionReboot, Object: goodKernel, Order: Order{Generation: 7}, Boot: "a", Done: true}
	s.j.Nonces, s.j.Did, s.j.Cold = []string{"n7"}, "n7", true
	s.j.Ending = &Ending{Order: Order{Generation: 7}, Phase: wire.PhaseIdle}
	s.o.Kernel.Release = goodKernel
	return s
}

// exchanging is ordered, but to exchange a module, which was begun.
func exchanging() situation {
	s := ordered()
	s.j.Desired.Action, s.j.Desired.Kernel, s.j.Desired.Module = wire.ActionModule, "", "child"
	s.j.Deed = &Deed{Nonce: "n7", Action: wire.ActionModule, Object: "child", Order: Order{Generation: 7}, Boot: "b"}
	s.j.Nonces = []string{"n7"}
	return s
}

func TestNextOfOrders(t *testing.T) {
	for _, tc := range []struct {
		name   string
		from   func() situation
		change func(*situation)
		kind   Kind
		phase  wire.Phase
		reason string
	}{
		{"boots", ordered, func(s *situation) {}, Perform, wire.PhaseRebooting, "reboot this host into " + goodKernel},
		{"leaves first", ordered, func(s *situation) { s.o.Out, s.j.Turning = false, TurningNot }, Leave, wire.PhaseDraining, "leaving"},
		{"still draining", ordered, func(s *situation) { s.o.Out = false }, Leave, wire.PhaseDraining, "leaving"},
		{"out by somebody else's hand", ordered, func(s *situation) { s.j.Turning = TurningNot }, Perform, wire.PhaseRebooting, ""},
		{"not able to", ordered, func(s *situation) { s.o.Abilities = nil }, Wait, wire.PhaseRefused, "cannot reboot this host into " + goodKernel + ": this agent is not able to"},
		{"able to other things", ordered, func(s *situation) { s.o.Abilities = []wire.Action{wire.ActionRestart} }, Wait, wire.PhaseRefused, "not able to"},
		{"not able to leave", ordered, func(s *situation) {
			s.j.Desired.Action, s.j.Desired.Nonce, s.j.Desired.Out, s.o.Abilities = wire.ActionLive, "", true, nil
		}, Wait, wire.PhaseRefused, "cannot leave rotation"},
		{"no permit", ordered, func(s *situation) { s.o.Permit = nil }, Wait, wire.PhaseDraining, "no permit"},
		{"no permit to leave", ordered, func(s *situation) { s.o.Permit, s.o.Out, s.j.Turning = nil, false, TurningNot }, Wait, wire.PhaseWaiting, "no permit"},
		{"no rollout, no permit needed", ordered, func(s *situation) { s.o.Permit, s.j.Desired.Rollout = nil, "" }, Perform, wire.PhaseRebooting, ""},
		{"observe mode", ordered, func(s *situation) { s.o.Ceiling = fleet.ModeObserve }, Wait, wire.PhaseWaiting, "observe mode: not rebooting"},
		{"stop file", ordered, func(s *situation) { s.o.Stopped = true }, Wait, wire.PhaseWaiting, "stop file"},
		{"stop file holds the owner's agent too", ordered, func(s *situation) { s.o.Stopped, s.o.ByHand = true, true }, Wait, wire.PhaseWaiting, "stop file"},
		{"is on that kernel", ordered, func(s *situation) { s.o.Kernel.Release, s.o.Out, s.j.Turning = goodKernel, false, TurningNot }, Note, "", "no live patch"},
		{"agent died before the boot ended", ordered, func(s *situation) {
			s.j.Nonces, s.j.Deed = []string{"n7"}, &Deed{Nonce: "n7", Action: wire.ActionReboot, Object: goodKernel, Boot: "b"}
		}, Perform, wire.PhaseRebooting, ""},
		{"nonce of long ago", ordered, func(s *situation) {
			s.j.Nonces, s.j.Deed = []string{"n7", "n8"}, &Deed{Nonce: "n8", Action: wire.ActionReboot, Done: true}
		}, Wait, wire.PhaseFailed, "nonce n7 was used before"},
		{"by the owner's hand: no boot", ordered, func(s *situation) { s.j.Local = &Local{Seq: 1, Generation: 7} }, Note, "", "no live patch of ours"},

		{"probes", booted, func(s *situation) {}, Probe, wire.PhaseVerifying, ""},
		{"old kernel came back", booted, func(s *situation) { s.o.Kernel.Release = modelKernel.Release }, Note, "", "not met"},
		{"probe fails", booted, func(s *situation) { s.o.Probes = Probes{true, "no answer"} }, Note, "", "not met"},
		{"probes pass", booted, func(s *situation) { s.o.Probes.Known = true }, Commit, wire.PhaseVerifying, "becomes the default"},
		{"is the default", booted, func(s *situation) { s.o.Probes.Known, s.o.Default = true, goodKernel }, Enter, wire.PhaseVerifying, ""},
		{"stop file keeps it out", booted, func(s *situation) { s.o.Probes.Known, s.o.Default, s.o.Stopped = true, goodKernel, true }, Wait, wire.PhaseWaiting, "stop file"},
		{"is to stay out", booted, func(s *situation) { s.o.Probes.Known, s.o.Default, s.j.Desired.Out = true, goodKernel, true }, Note, "", "what was ordered"},
		{"back in rotation", booted, func(s *situation) { s.j.Turning, s.o.Out = TurningIn, false }, Note, "", "back in rotation"},
		{"its owner keeps it out", booted, func(s *situation) { s.j.Turning, s.o.OutBy = TurningIn, "its owner" }, Note, "", "back in rotation"},
		{"warming", booted, func(s *situation) {
			s.j.Turning, s.o.Out, s.j.Entered, s.o.Probes.Known, s.o.Default = TurningNot, false, testNow-time.Minute, true, goodKernel
		}, Wait, wire.PhaseWarming, "warming"},
		{"warm", booted, func(s *situation) {
			s.j.Turning, s.o.Out, s.j.Entered, s.o.Probes.Known, s.o.Default = TurningNot, false, time.Second, true, goodKernel
			s.now = 31 * time.Minute
		}, Note, "", "what was ordered"},
		{"reached", booted, func(s *situation) {
			s.j.Met, s.j.Turning, s.o.Out = "n7", TurningNot, false
			s.j.Ending.Phase = wire.PhaseApplied
		}, Wait, wire.PhaseApplied, ""},
		{"fell back later", booted, func(s *situation) {
			s.j.Met, s.j.Turning, s.o.Out, s.o.Kernel.Release = "n7", TurningNot, false, modelKernel.Release
		}, Wait, wire.PhaseFailed, "again, though it was booted into"},

		{"module outcome unknown", exchanging, func(s *situation) {}, Note, "", "not carried out, as far as is known"},
		{"hot module needs no way out", exchanging, func(s *situation) {
			s.j.Deed, s.j.Nonces, s.j.Turning, s.o.Out, s.o.Hot = nil, nil, TurningNot, false, []string{"child"}
		}, Perform, wire.PhaseRebooting, "exchange module child"},
		{"cold module does", exchanging, func(s *situation) { s.j.Deed, s.j.Nonces, s.j.Turning, s.o.Out = nil, nil, TurningNot, false }, Leave, wire.PhaseDraining, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := tc.from()
			tc.change(&s)
			a := Next(s.desired, s.j, s.o, s.now)
			if a.Kind != tc.kind || a.Phase != tc.phase || !strings.Contains(a.Reason, tc.reason) {
				t.Errorf("got %s, phase %q: %s", a.Kind, a.Phase, a.Reason)
			}
			if a.Record.Kind != "" {
				if _, err := s.j.Fold(a.Record); err != nil {
					t.Errorf("its record does not fold: %v", err)
				}
			}
		})
	}
}

// TestBootsOfAnOrder: which ends of a boot are crashes, and what they do to the order.
func TestBootsOfAnOrder(t *testing.T) {
	open := func(s *situation) {
		s.j.Deed, s.j.Nonces = &Deed{Nonce: "n7", Action: wire.ActionReboot, Object: goodKernel, Boot: "b"}, []string{"n7"}
	}
	for _, tc := range []struct {
		name   string
		from   func() situation
		change func(*situation)
		crash  bool
		did    bool
		failed string
	}{
		{"ordered", ordered, open, false, true, ""},
		{"before it was begun", ordered, func(s *situation) {}, true, false, ""},
		{"while being verified", booted, func(s *situation) {}, true, true, "again before it was verified"},
		{"by hand while being verified", booted, func(s *situation) { s.j.Ended = true }, false, true, ""},
		{"long after", booted, func(s *situation) { s.j.Met = "n7" }, true, true, ""},
		{"in the middle of an exchange", exchanging, func(s *situation) {}, true, false, "while it was under way"},
		{"long after it was replaced", ordered, func(s *situation) {
			open(s)
			s.j.Desired.Nonce, s.now = "n8", time.Hour
			a := Next(nil, s.j, s.o, s.now)
			s.j, _ = s.j.Fold(a.Record)
		}, true, false, "replaced by another order"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := tc.from()
			tc.change(&s)
			s.o.Boot = "c"
			j, err := s.j.Fold(Next(nil, s.j, s.o, s.now).Record)
			if err != nil {
				t.Fatal(err)
			}
			if (len(j.Crashes) > 0) != tc.crash || (j.Did == "n7") != tc.did {
				t.Errorf("crashes %v, did %q", j.Crashes, j.Did)
			}
			if j.Deed != nil && !strings.Contains(j.Deed.Failed, tc.failed) || j.Deed == nil && tc.failed != "" || j.Deed != nil && tc.failed == "" && j.Deed.Failed != "" {
				t.Errorf("deed is %+v", j.Deed)
			}
		})
	}
}

func TestFoldRefusesASecondAct(t *testing.T) {
	begun := Record{Kind: RecordBegun, Boot: "b", Nonce: "n7", Action: wire.ActionReboot}
	j, err := ordered().j.Fold(begun)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]Record{
		"the same nonce":           begun,
		"no nonce":                 {Kind: RecordBegun, Boot: "b", Action: wire.ActionReboot},
		"no action":                {Kind: RecordBegun, Boot: "b", Nonce: "n9"},
		"outcome of a boot":        {Kind: RecordActed, Boot: "b", Nonce: "n7"},
		"outcome of another":       {Kind: RecordActed, Boot: "b", Nonce: "n9", Reason: "x"},
		"unmet and not yet booted": {Kind: RecordUnmet, Boot: "b", Nonce: "n7", Reason: "x"},
		"in, and never in":         {Kind: RecordEntered, Boot: "b"},
	} {
		if _, err := j.Fold(r); !errors.Is(err, ErrImpossible) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMadeOnOrder: a machine that was made on order neither has itself made
// again nor takes an older order.
func TestMadeOnOrder(t *testing.T) {
	s := ordered()
	s.j = Journal{}
	s.o.Made, s.o.Image = Made{Nonce: "n7", Generation: 7}, "image-2"
	j, err := s.j.Fold(Next(nil, s.j, s.o, s.now).Record)
	if err != nil {
		t.Fatal(err)
	}
	if a := Next(order(3, 6, digestOf(1)), j, s.o, s.now); a.Kind != Refuse || !strings.Contains(a.Reason, "had this machine made") {
		t.Errorf("an older order: %s: %s", a.Kind, a.Reason)
	}
	d := order(3, 7, "")
	d.Action, d.Nonce, d.Replace = wire.ActionReplace, "n7", "image-2"
	for range 20 {
		a := Next(d, j, s.o, s.now)
		if a.Kind == Perform {
			t.Fatal("replaced again")
		}
		if a.Record.Kind != "" {
			if j, err = j.Fold(a.Record); err != nil {
				t.Fatal(err)
			}
		}
		s.o.Probes.Known = s.o.Probes.Known || a.Kind == Probe
		s.o.Out = s.o.Out && a.Kind != Enter
		s.now += 10 * time.Minute
	}
	if j.Met != "n7" || j.Did != "n7" {
		t.Errorf("journal is %+v", j)
	}
	s.o.Image = "image-1"
	j.Met = ""
	if a := Next(nil, j, s.o, s.now); a.Record.Kind == "" || a.Record.Kind != RecordUnmet {
		t.Errorf("another image: %+v", a)
	}
}
