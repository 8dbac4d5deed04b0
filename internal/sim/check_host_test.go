package sim

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/control"
	"afloat/internal/converge"
	"afloat/internal/fleet"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// rebooting is a world in the middle of a rollout that boots one host after
// another, with nothing broken so far.
func rebooting(t *testing.T) *world {
	t.Helper()
	o := Options{
		Policy: "name: x\ntarget: {kernel: 6.1.0-56-amd64}\nwaves: [{size: 100%}]\nbudgets: [{name: one, unavailable: 1}]\n",
		Fleet:  Fleet{Groups: []Group{{Name: "a", Hosts: 10}}},
		Seed:   1, Check: true, Horizon: 30 * time.Minute,
	}
	orders, err := o.orders()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(o, orders)
	w.join()
	if err := w.give(0); err != nil {
		t.Fatal(err)
	}
	w.loop()
	if len(w.out.Broken) > 0 || !w.state.Rollouts()[0].AnyActing() {
		t.Fatalf("at %s broken: %q, acting: %v", w.now, w.out.Broken, w.state.Rollouts()[0].AnyActing())
	}
	return w
}

// TestCheckerSeesASecondAct has a host act again on an order that it has acted on.
func TestCheckerSeesASecondAct(t *testing.T) {
	w := rebooting(t)
	for i := range w.hosts {
		h := &w.hosts[i]
		if h.m == nil || h.down {
			continue
		}
		for nonce := range h.m.acts {
			h.perform(w.shard(h.i), converge.Action{Does: wire.ActionReboot, Nonce: nonce}, w.now)
			w.meet()
			got := strings.Join(w.out.Broken, "\n")
			for _, want := range []string{"acted twice on nonce " + nonce, "in rotation"} {
				if !strings.Contains(got, want) {
					t.Errorf("the checker says %q, not %q", got, want)
				}
			}
			return
		}
	}
	t.Error("no host has acted")
}

// TestCheckerSeesTheHosts takes hosts of the rollout out of service behind the
// server's back: the budget counts what is, not what was decided.
func TestCheckerSeesTheHosts(t *testing.T) {
	w := rebooting(t)
	for i := range w.hosts {
		if h := &w.hosts[i]; h.m != nil && !h.down {
			h.m.drained = w.now
		}
	}
	w.check.truth()
	if got := strings.Join(w.out.Broken, "\n"); !strings.Contains(got, "budget one") || !strings.Contains(got, "out by order") {
		t.Errorf("the checker says %q", got)
	}
}

// TestCheckerCountsTheWayBack: a host that a rollout took out of service is out
// by its order still when it is told to go back.
func TestCheckerCountsTheWayBack(t *testing.T) {
	w := rebooting(t)
	took := false
	for i := range w.hosts {
		h := &w.hosts[i]
		if h.outByOrder() {
			w.check.before(control.Record{At: w.at(w.now), Moves: []control.Move{{Rollout: "r1", To: rollout.Reverting,
				Act: &control.Act{Back: true}, Hosts: []fleet.HostID{h.id}}}})
			continue
		}
		if h.m != nil && !h.down && !took { // another one that was through
			h.m.drained, took = w.now, true
		}
	}
	w.check.truth()
	if got := strings.Join(w.out.Broken, "\n"); !took || !strings.Contains(got, "2 of 10 hosts are out by order") {
		t.Errorf("the checker says %q", got)
	}
}
