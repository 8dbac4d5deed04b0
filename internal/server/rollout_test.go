package server

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"afloat/internal/audit"
	"afloat/internal/control"
	"afloat/internal/enrol"
	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// until waits for a condition that the server brings about by itself.
func (g *guest) until(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
		<-tick.C
	}
}

// readyForRollout lets one host act, gives the catalog a bundle named p, and
// puts a log that can fail in front of the store's.
func (r *running) readyForRollout(t *testing.T) (*guest, *flakyLog) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.AddBundle(t.Context(), operator, seal(t, key, "p")); err != nil {
		t.Fatal(err)
	}
	g := r.join(t, enrol.TokenOptions{Mode: fleet.ModeAct})
	g.say(t, nil)
	log := &flakyLog{}
	err = tell(t.Context(), r.Server, func(o *owner) {
		for range o.history.last {
			log.entries = append(log.entries, nil)
		}
		o.history.log = log
	})
	if err != nil {
		t.Fatal(err)
	}
	return g, log
}

const onePolicy = "name: p\ntarget: {live: p}\nwaves:\n  - {name: all, size: 100%}\n"

func TestRolloutOfOtherKernelIsRefusedForThatHost(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	g, _ := s.readyForRollout(t)
	cloud := s.join(t, enrol.TokenOptions{Mode: fleet.ModeAct})
	cloud.say(t, func(r *wire.Report) {
		r.Kernel = kernel.ID{Release: "6.1.0-55-cloud-amd64", Version: testKernel.Version, BuildID: "ff"}
	})
	foreign := s.join(t, enrol.TokenOptions{Mode: fleet.ModeAct})
	foreign.say(t, func(r *wire.Report) { r.Live = []wire.LivePatch{{Name: "kpatch_cve", Enabled: true}} })
	if _, err := s.Command(t.Context(), operator, control.Command{Verb: control.Start, Policy: onePolicy}); err != nil {
		t.Fatal(err)
	}
	g.until(t, func() bool { d, permit := g.orders(t); return d.Live != "" && permit != nil })
	for who, want := range map[*guest]string{cloud: "bundles only for 6.1.0-55-amd64", foreign: "kpatch_cve"} {
		if d, _ := who.orders(t); d.Live != "" {
			t.Errorf("host %s was told to run %s", who.id, d.Live)
		}
		e, err := s.Explain(t.Context(), string(who.id))
		if err != nil || !strings.Contains(e.Why.Reason, want) {
			t.Errorf("explained by %q, want %q (%v)", e.Why.Reason, want, err)
		}
	}
}

func TestWithdrawnBundleComesOff(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	g, _ := s.readyForRollout(t)
	if _, err := s.Command(t.Context(), operator, control.Command{Verb: control.Start, Policy: onePolicy}); err != nil {
		t.Fatal(err)
	}
	var d wire.Desired
	g.until(t, func() bool { d, _ = g.orders(t); return d.Live != "" })
	g.say(t, func(r *wire.Report) {
		r.Phase, r.Generation = wire.PhaseApplied, d.Generation
		r.Live = []wire.LivePatch{{Name: "afloat_test", Enabled: true, Bundle: d.Live}}
	})
	if _, err := s.Withdraw(t.Context(), operator, d.Live.Short(), "oops"); err != nil {
		t.Fatal(err)
	}
	g.until(t, func() bool {
		now, _ := g.orders(t)
		return now.Live == "" && now.Generation > d.Generation && slices.Contains(now.Withdrawn, d.Live)
	})
	s.trail(t, "rollout.reverting", func(r audit.Record) bool {
		return r.Who.Kind == audit.ActorServer && strings.Contains(r.Reason, "withdrawn")
	})
}

func TestRefusedCommandsAreAudited(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	for policy, want := range map[string]string{
		"name: x\ntarget: {live: nope}\nwaves: [{size: 100%}]\n": "no bundle named nope",
		"nonsense: 1\n": "line 1",
	} {
		_, err := s.Command(t.Context(), operator, control.Command{Verb: control.Start, Policy: policy})
		if _, ok := errors.AsType[*RefusedError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("err = %v, want a refusal with %q", err, want)
		}
	}
	if rec := s.trail(t, "rollout.start", func(r audit.Record) bool { return r.Outcome == audit.Refused }); rec.Who.Name != "root" {
		t.Errorf("record %+v", rec)
	}
}

func TestPermitsAreSignedOncePerPeriod(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	g, _ := s.readyForRollout(t)
	id, err := s.Command(t.Context(), operator, control.Command{Verb: control.Start, Policy: onePolicy})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	var seqs []uint64
	for _, after := range []time.Duration{0, permitPeriod / 2, permitPeriod, 3 * permitPeriod} {
		signed, err := ask(t.Context(), s.Server, func(o *owner) (*wire.Signed, error) { return o.permit(id, now.Add(after)) })
		if err != nil || signed == nil {
			t.Fatal(signed, err)
		}
		p, err := wire.OpenPermit(g.reply.ServerKey, *signed)
		if err != nil || p.TTL != permitTTL || p.Rollout != id {
			t.Errorf("permit %+v, %v", p, err)
		}
		seqs = append(seqs, p.Seq)
	}
	if seqs[0] != seqs[1] || seqs[1] >= seqs[2] || seqs[2] >= seqs[3] {
		t.Errorf("sequences %v", seqs)
	}
	if _, err := s.Command(t.Context(), operator, control.Command{Verb: control.Pause, Rollout: id}); err != nil {
		t.Fatal(err)
	}
	if _, permit := g.orders(t); permit != nil {
		t.Errorf("a paused rollout has permit %+v", permit)
	}
	st, _, err := s.Rollout(t.Context(), id)
	if err != nil || st.Phase != rollout.PhasePaused {
		t.Errorf("rollout is %s, %v", st.Phase, err)
	}
}

func TestLostTailIsMadeUpFor(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	g := s.join(t, enrol.TokenOptions{Mode: fleet.ModeAct})
	live := wire.LivePatch{Name: "old", Enabled: true, Bundle: "sha256:" + "00000000000000000000000000000000" + "00000000000000000000000000000000"}
	g.say(t, func(r *wire.Report) {
		r.Epoch, r.Generation, r.Phase, r.Live = 41, 7, wire.PhaseApplied, []wire.LivePatch{live}
	})
	g.until(t, func() bool {
		d, _ := g.orders(t)
		return d.Epoch == 42 && d.Generation == 8 && d.Live == live.Bundle
	})
	s.stop()
	again := start(t, s.dir, nil)
	g.connect(t, again.url(t))
	if d, _ := g.orders(t); d.Epoch != 43 || d.Generation != 8 || d.Live != live.Bundle {
		t.Errorf("after the restart: %+v", d)
	}
}

func TestStartFromSnapshot(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	if err := tell(t.Context(), s.Server, func(o *owner) { o.every = 5 }); err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddBundle(t.Context(), operator, seal(t, key, "p")); err != nil {
		t.Fatal(err)
	}
	g := s.join(t, enrol.TokenOptions{Mode: fleet.ModeAct})
	g.say(t, nil)
	id, err := s.Command(t.Context(), operator, control.Command{Verb: control.Start, Policy: onePolicy})
	if err != nil {
		t.Fatal(err)
	}
	var was wire.Desired
	g.until(t, func() bool { was, _ = g.orders(t); return was.Live != "" })
	for range 4 {
		for _, verb := range []control.Verb{control.Pause, control.Resume} {
			if _, err := s.Command(t.Context(), operator, control.Command{Verb: verb, Rollout: id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var saved uint64
	g.until(t, func() bool {
		err := tell(t.Context(), s.Server, func(o *owner) {
			if o.history.last < o.saved+o.every { // nothing more to save
				saved = o.saved
			}
		})
		return err == nil && saved > 0
	})
	s.stop()
	again := start(t, s.dir, nil)
	var from uint64
	if err := tell(t.Context(), again.Server, func(o *owner) { from = o.saved }); err != nil {
		t.Fatal(err)
	}
	if from != saved {
		t.Errorf("started from the snapshot at %d, want %d", from, saved)
	}
	g.connect(t, again.url(t))
	if d, permit := g.orders(t); d.Live != was.Live || d.Generation != was.Generation || permit == nil {
		t.Errorf("after the restart %+v with permit %v, before %+v", d, permit, was)
	}
	records, err := again.Audit(t.Context(), 0, 10000)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, r := range records {
		if r.Key != "" && keys[r.Key] {
			t.Errorf("%s is in the audit twice", r.Key)
		}
		keys[r.Key] = true
	}
}

// A server that was restarted knows of no host that it lives until it speaks: a
// dead one gets no order, and the others wait for no more than their own word.
func TestRestartedServerWaitsToHear(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	g, _ := s.readyForRollout(t)
	dead := s.join(t, enrol.TokenOptions{Mode: fleet.ModeAct})
	dead.say(t, nil)
	g.until(t, func() bool { kept, err := s.store.Reports(t.Context()); return err == nil && len(kept) == 2 })
	s.stop()
	again := start(t, s.dir, nil)
	id, err := again.Command(t.Context(), operator, control.Command{Verb: control.Start, Policy: onePolicy})
	if err != nil {
		t.Fatal(err)
	}
	waits := func(host fleet.HostID) bool {
		var x control.Explanation
		if err := tell(t.Context(), again.Server, func(o *owner) { x = control.Explain(o.state, o.view, host, time.Now()) }); err != nil {
			t.Fatal(err)
		}
		return x.Rollout == id && x.Phase == rollout.Waiting && strings.Contains(x.Reason, "not heard yet")
	}
	if !waits(g.id) || !waits(dead.id) {
		t.Error("a host was admitted before it was heard")
	}
	g.connect(t, again.url(t))
	g.until(t, func() bool { d, _ := g.orders(t); return d.Live != "" })
	if !waits(dead.id) {
		t.Error("the dead host was admitted")
	}
}
