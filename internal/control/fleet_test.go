package control

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// tester is what both testing.T and rapid.T do.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// lab is a small fleet whose hosts obey, and a caller that does its duties.
type lab struct {
	t     tester
	s     *State
	v     *View
	now   time.Time
	log   [][]byte
	hosts map[fleet.HostID]*guest
	ids   []fleet.HostID
}

// guest is a host that does what it is told at once.
type guest struct {
	report wire.Report
	silent bool
	fails  bool // every apply
	asleep bool // reports, and does nothing
	asked  uint64
	deed   deed
}

var kernelA = kernel.ID{Release: "6.1.0-55-amd64", Version: "#1 Debian 6.1.192-1", BuildID: "aa"}
var kernelB = kernel.ID{Release: "6.1.0-55-cloud-amd64", Version: "#1 Debian 6.1.192-1", BuildID: "bb"}

func digest(c byte) bundle.Digest {
	b := make([]byte, 64)
	for i := range b {
		b[i] = c
	}
	return "sha256:" + bundle.Digest(b)
}

func newLab(t tester, n int) *lab {
	l := &lab{t: t, s: New(), v: NewView(), now: time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC), hosts: map[fleet.HostID]*guest{}}
	for i := range n {
		l.join(fleet.HostID(fmt.Sprintf("h%d", i+1)), fleet.Labels{"env": "prod", "rack": fmt.Sprintf("r%d", i%4)})
	}
	l.v.Bundle(digest('a'), bundle.Manifest{Name: "good", Kernel: kernelA}, false)
	l.v.Bundle(digest('b'), bundle.Manifest{Name: "bad", Kernel: kernelA}, false)
	l.tick(0)
	return l
}

func (l *lab) join(id fleet.HostID, labels fleet.Labels) *guest {
	g := &guest{report: wire.Report{Version: wire.Version, Host: id, Boot: "boot-1-" + string(id), Kernel: kernelA, Mode: fleet.ModeAct, Phase: wire.PhaseIdle}}
	l.hosts[id], l.ids = g, append(l.ids, id)
	l.v.Enrol(id, string(id), labels, fleet.ModeAct)
	return g
}

// obey makes a guest what it is told to be.
func (l *lab) obey(id fleet.HostID, g *guest) {
	d := l.s.Desired(id)
	if d.Generation < g.asked {
		l.t.Fatalf("host %s: generation went back from %d to %d", id, g.asked, d.Generation)
	}
	g.asked = d.Generation
	r := &g.report
	if l.act(g, d) {
		return
	}
	if r.Generation >= d.Generation || r.Mode != fleet.ModeAct || g.asleep {
		return
	}
	r.Seq++
	r.Generation = d.Generation
	switch {
	case d.Live != "" && g.fails:
		r.Live, r.Phase, r.Reason = nil, wire.PhaseFailed, "transition stalled"
	case d.Live != "":
		r.Live, r.Phase, r.Reason = []wire.LivePatch{{Name: "afloat", Enabled: true, Bundle: d.Live}}, wire.PhaseApplied, ""
	case len(r.Live) > 0:
		r.Live, r.Phase = nil, wire.PhaseReverted
	default:
		r.Phase = wire.PhaseIdle
	}
}

// tick lets time pass, with many signs of life from all hosts on the way.
func (l *lab) tick(d time.Duration) {
	l.t.Helper()
	for step := max(30*time.Second, d/30); d > step; d -= step {
		l.beat(step)
	}
	l.beat(d)
}

// beat lets time pass, all hosts act and report, and decides until nothing follows.
func (l *lab) beat(d time.Duration) {
	l.t.Helper()
	l.now = l.now.Add(d)
	for range 100 {
		for _, id := range l.ids {
			g := l.hosts[id]
			if !g.silent {
				l.obey(id, g)
			}
			if !g.silent && !g.deed.down {
				l.v.Report(g.report, l.now)
			}
		}
		if l.turn() == 0 {
			return
		}
	}
	l.t.Fatal("decisions do not end")
}

func (l *lab) turn() int {
	l.t.Helper()
	n := 0
	for {
		rec := l.decide()
		if rec.Empty() {
			return n
		}
		l.commit(rec)
		if n++; n > 1000 {
			l.t.Fatalf("decisions do not end: %+v", rec)
		}
	}
}

// decide is Decide, checked against one that remembers nothing.
func (l *lab) decide() Record {
	l.t.Helper()
	rec := Decide(l.s, l.v, l.now)
	kept := l.v.memo
	l.v.memo = nil
	if diff := cmp.Diff(Decide(l.s, l.v, l.now), rec); diff != "" {
		l.t.Fatalf("at %s (-from scratch +incremental):\n%s", l.now, diff)
	}
	l.v.memo = kept
	return rec
}

func (l *lab) commit(rec Record) {
	l.t.Helper()
	data, err := json.Marshal(rec)
	if err != nil {
		l.t.Fatal(err)
	}
	if len(data) > 512<<10 {
		l.t.Fatalf("a record of %d bytes", len(data))
	}
	l.log = append(l.log, data)
	if err := l.s.Apply(rec); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) do(c Command) (string, error) {
	l.t.Helper()
	rec, err := Do(l.s, l.v, c, l.now)
	if err != nil {
		return "", err
	}
	l.commit(rec)
	return rec.Command.Rollout, nil
}

func (l *lab) start(set, waves string) string {
	l.t.Helper()
	id, err := l.do(Command{Verb: Start, By: "op", Policy: policyFor(set, waves)})
	if err != nil {
		l.t.Fatal(err)
	}
	return id
}

func policyFor(set, rest string) string {
	return fmt.Sprintf("name: %s\ntarget: {live: %s}\n%s\n", set, set, rest)
}

const canaryThenAll = "waves: [{name: canary, size: 1, soak: 10m}, {size: 100%, soak: 10m}]"

// running are the hosts that run the bundle.
func (l *lab) running(d bundle.Digest) []fleet.HostID {
	var out []fleet.HostID
	for _, id := range l.ids {
		if loaded(l.hosts[id].report) == d {
			out = append(out, id)
		}
	}
	return out
}

func (l *lab) wantPhase(id string, want rollout.Phase) {
	l.t.Helper()
	if r := l.s.Rollout(id); r.Phase != want {
		l.t.Errorf("rollout %s is %s (%s, hold %q), want %s", id, r.Phase, r.Reason, r.Hold, want)
	}
}

func (l *lab) crash(id fleet.HostID, c wire.Crash) {
	g := l.hosts[id]
	g.report.Seq++
	g.report.Crashes = append(g.report.Crashes, c)
}

// checkReplay rebuilds the state from the log and from a snapshot.
func (l *lab) checkReplay() {
	l.t.Helper()
	want, err := l.s.Snapshot()
	if err != nil {
		l.t.Fatal(err)
	}
	again := New()
	for i, data := range l.log {
		var rec Record
		if err := json.Unmarshal(data, &rec); err != nil {
			l.t.Fatal(err)
		}
		if err := again.Apply(rec); err != nil {
			l.t.Fatal(err)
		}
		if i == len(l.log)/2 { // go on from a snapshot
			snap, err := again.Snapshot()
			if err != nil {
				l.t.Fatal(err)
			}
			if again, err = Restore(snap); err != nil {
				l.t.Fatal(err)
			}
		}
	}
	got, err := again.Snapshot()
	if err != nil {
		l.t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		l.t.Errorf("replay differs (-want +got):\n%s", diff)
	}
}
