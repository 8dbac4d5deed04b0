package control

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"afloat/internal/fleet"
	"afloat/internal/rollout"
)

// busy is how many guests are not in service by order, or never came back.
func (l *lab) busy() int {
	n := 0
	for _, g := range l.hosts {
		if g.report.Out || g.deed.nonce != "" {
			n++
		}
	}
	return n
}

// heal lets everything that was lost come back, and succeed from now on.
func (l *lab) heal() {
	for _, g := range l.hosts {
		g.silent, g.fails = false, false
		g.deed.lost, g.deed.stubborn, g.deed.sick = false, false, false
	}
}

// admissions are the hosts that a log let start, by rollout.
func (l *lab) admissions(from int) map[string][]fleet.HostID {
	out := map[string][]fleet.HostID{}
	for _, data := range l.log[from:] {
		var rec Record
		if err := json.Unmarshal(data, &rec); err != nil {
			l.t.Fatal(err)
		}
		for _, m := range rec.Moves {
			if m.To == rollout.Admitted {
				out[m.Rollout] = append(out[m.Rollout], m.Hosts...)
			}
		}
	}
	return out
}

// trouble happens to one guest.
func (l *lab) trouble(t *rapid.T) {
	g := l.hosts[rapid.SampledFrom(l.ids).Draw(t, "host")]
	switch rapid.SampledFrom([]string{"none", "silent", "heard", "fails", "lost", "stubborn", "sick", "heal"}).Draw(t, "trouble") {
	case "silent":
		g.silent = true
	case "heard":
		g.silent = false
	case "fails":
		g.fails = true
	case "lost":
		g.deed.lost = true
	case "stubborn":
		g.deed.stubborn = true
	case "sick":
		g.deed.sick = true
	case "heal":
		g.silent, g.fails, g.deed.lost, g.deed.stubborn, g.deed.sick = false, false, false, false, false
	}
}

// TestAnyTargetKeepsItsPromises plays random trouble and commands over rollouts
// of every target: hosts move as the table says, no more are out than the budget
// lets, nobody acts twice on a nonce, an abort admits nobody, the log replays to
// the same state, and a revert in the end brings every host back.
func TestAnyTargetKeepsItsPromises(t *testing.T) {
	targets := []string{
		"{kernel: 6.1.192-2}", "{live: good}\nfallback: reboot\nfallbackKernel: 6.1.192-2", "{live: good}\ndebt: {reboot: within 3d}",
		"{live: good}\ndebt: {reboot: within 3d, kernel: 6.1.192-2}", "{module: nvme, from: old}", "{replace: img-2, from: img-1}", "{restart: app.service}",
	}
	rapid.Check(t, func(t *rapid.T) {
		l := newRebootLab(t, 6)
		for i, id := range l.ids {
			if rapid.Bool().Draw(t, "other kernel") && i < 2 {
				l.hosts[id].report.Kernel = kernelB
			}
		}
		l.tick(0)
		id := l.begin(fmt.Sprintf("name: x\ntarget: %s\nbudgets: [{name: two, unavailable: 2}]\ngate: {onRevert: %s}\nwaves: [{size: 1, soak: 5m}, {size: 100%%, soak: 5m}]",
			rapid.SampledFrom(targets).Draw(t, "target"), rapid.SampledFrom([]string{"revert", "pause"}).Draw(t, "onRevert")))
		for range rapid.IntRange(5, 30).Draw(t, "steps") {
			l.trouble(t)
			switch rapid.SampledFrom([]string{"", "", "", "stop", "failover"}).Draw(t, "server") {
			case "stop":
				l.v.Listen(l.now)
			case "failover":
				l.restart()
			}
			l.turn()
			verb := rapid.SampledFrom([]Verb{"", "", "", Pause, Resume, Resume, Abort, Revert}).Draw(t, "command")
			if verb != "" {
				_, _ = l.do(Command{Verb: verb, By: "op", Rollout: id}) // many make no sense, and are refused
			}
			aborted, from := l.s.Rollout(id).Phase == rollout.PhaseAborted, len(l.log)
			for range rapid.IntRange(1, 12).Draw(t, "minutes") {
				l.tick(time.Minute)
				if n := l.busy(); n > 2 {
					t.Fatalf("%d hosts are out of service, at most 2 may be", n)
				}
			}
			if got := l.admissions(from)[id]; aborted && len(got) > 0 {
				t.Fatalf("%v were admitted after the abort", got)
			}
		}
		l.checkReplay()
		l.home(id)
	})
}

// home reverts everything and waits for all hosts to be what they were.
func (l *lab) home(id string) {
	l.heal()
	l.minutes(30)
	_, _ = l.do(Command{Verb: Revert, By: "op", Rollout: id}) // it may be reverted already
	for range 120 {
		l.tick(time.Minute)
		l.heal()
	}
	for _, r := range l.s.Rollouts() {
		if (r.Phase != rollout.PhaseReverted && r.Phase != rollout.PhaseAborted) || r.AnyActing() {
			l.t.Errorf("rollout %s is %s in the end (%s): %v", r.ID, r.Phase, r.Reason, r.Waves)
		}
	}
	for _, host := range l.ids {
		r, h := l.hosts[host].report, l.s.Host(host)
		if loaded(r) != "" || r.Out {
			l.t.Errorf("%s runs %v, out %v: %s", host, r.Live, r.Out, h.Phase)
		}
		if r.Kernel == kernelNew && (h.Phase != rollout.Failed || !h.Act.Back) && l.s.Rollout(id).Policy.Target.Action == "kernel" {
			l.t.Errorf("%s still runs the new kernel: %s, %s", host, h.Phase, h.Reason)
		}
	}
}
