package agent_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"afloat/internal/agent"
	"afloat/internal/agent/agenttest"
	"afloat/internal/bundle"
	"afloat/internal/converge"
	"afloat/internal/fleet"
	"afloat/internal/livepatch"
	"afloat/internal/wire"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	agenttest.Main()
	goleak.VerifyTestMain(m)
}

// testHost is a host with a pretended kernel.
type testHost struct {
	t      *testing.T
	server *testServer
	pub    publisher
	folder agent.Folder
	kernel *agenttest.Kernel
	id     fleet.HostID
	limits converge.Limits
	stop   func()
}

// joined enrols a host; its agent does not run yet.
func joined(t *testing.T, s *testServer, pub publisher) *testHost {
	t.Helper()
	dir := t.TempDir()
	h := &testHost{
		t: t, server: s, pub: pub, folder: agent.Folder{State: filepath.Join(dir, "state"), Config: filepath.Join(dir, "etc")},
		limits: converge.Limits{Stall: 300 * time.Millisecond, Proven: 200 * time.Millisecond},
		stop:   func() {},
	}
	var err error
	h.kernel, err = agenttest.NewKernel(filepath.Join(dir, "kernel"))
	must(t, err)
	id, err := agent.Join(t.Context(), agent.JoinOptions{
		Folder: h.folder, Server: s.url, Token: s.token(), PublisherKey: pub.path,
		Settings: agent.Settings{Name: "web1", Labels: fleet.Labels{"zone": "a"}, Ceiling: fleet.ModeAct},
	})
	must(t, err)
	h.id = id.Host
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *testHost) options() agent.Options {
	return agent.Options{
		Folder: h.folder, Kernel: h.kernel, Machine: h.kernel, Crash: h.kernel, Version: "test", Limits: h.limits,
		Log:    slog.New(slog.NewTextHandler(h.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Timing: agent.Timing{Orders: 2 * time.Second, Beat: 100 * time.Millisecond, Look: 50 * time.Millisecond, Ack: time.Second},
	}
}

// start runs the agent until stop.
func (h *testHost) start() {
	h.t.Helper()
	a, err := agent.New(h.options())
	must(h.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := a.Run(ctx); err != nil {
			h.t.Error(err)
		}
	})
	h.stop = func() { cancel(); run.Wait(); h.stop = func() {} }
}

// bundle seals one live patch.
func (h *testHost) bundle(m agenttest.Module, change ...func(*bundle.Manifest)) []byte {
	h.t.Helper()
	manifest := bundle.Manifest{
		Kind: bundle.KindLive, Name: strings.ReplaceAll(m.Name, "_", "-"), Module: m.Name, Kernel: agenttest.DefaultID(), Replace: true,
	}
	for _, f := range change {
		f(&manifest)
	}
	file, err := bundle.Seal(h.pub.key, manifest, m.Bytes())
	must(h.t, err)
	return file
}

func (h *testHost) desired(generation uint64, live bundle.Digest) wire.Desired {
	return wire.Desired{Host: h.id, Epoch: 1, Generation: generation, Rollout: "r1", Live: live, Mode: fleet.ModeAct}
}

func (h *testHost) allow(rollout string) {
	h.server.permit(h.id, wire.Permit{Rollout: rollout, Epoch: 1, Seq: 1, TTL: time.Minute})
}

func (h *testHost) wait(phase wire.Phase, generation uint64, reason string) wire.Report {
	h.t.Helper()
	return h.server.wait(h.id, string(phase)+" "+reason, func(r wire.Report) bool {
		if reason == "proven" { // not "not yet proven"
			return r.Phase == phase && r.Generation == generation && r.Reason == reason
		}
		return r.Phase == phase && r.Generation == generation && strings.Contains(r.Reason, reason)
	})
}

func (h *testHost) loads() int {
	h.t.Helper()
	loads, err := h.kernel.Loads()
	must(h.t, err)
	n := 0
	for _, l := range loads {
		if l.Errno == 0 {
			n++
		}
	}
	return n
}

func TestAppliesProvesReplacesAndReverts(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.start()
	one := h.server.publish(h.bundle(agenttest.Module{Name: "one", Transition: 30 * time.Millisecond}))
	two := h.server.publish(h.bundle(agenttest.Module{Name: "two", Transition: 30 * time.Millisecond}))
	h.server.order(h.desired(1, one))
	h.wait(wire.PhaseWaiting, 1, "no permit for rollout r1")
	if h.loads() != 0 {
		t.Fatal("loaded without a permit")
	}
	h.allow("r1")
	r := h.wait(wire.PhaseApplied, 1, "proven")
	if r.ApplyMS < 30 || r.Name != "web1" || r.Labels["zone"] != "a" || r.Mode != fleet.ModeAct {
		t.Errorf("report is %+v", r)
	}
	h.server.order(h.desired(2, two))
	h.wait(wire.PhaseApplied, 2, "proven")
	modules, err := h.kernel.Modules()
	must(t, err)
	if len(modules) != 1 || modules[0] != "two" {
		t.Errorf("modules are %v, want the replaced one unloaded", modules)
	}
	h.server.order(h.desired(3, one)) // a revert to the one before
	h.wait(wire.PhaseApplied, 3, "proven")
	h.server.order(h.desired(4, ""))
	r = h.wait(wire.PhaseReverted, 4, "")
	if len(r.Live) != 0 || h.loads() != 3 {
		t.Errorf("live %v after %d loads", r.Live, h.loads())
	}
	if modules, err = h.kernel.Modules(); err != nil || len(modules) != 0 {
		t.Errorf("modules are %v, %v", modules, err)
	}
}

// TestBackWithAGap goes up in one step, and back by taking the newer live patch
// off first, under one permit that is not renewed in between.
func TestBackWithAGap(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.start()
	publish := func(name string, version uint32) bundle.Digest {
		return h.server.publish(h.bundle(agenttest.Module{Name: name, Transition: 30 * time.Millisecond, States: map[uint64]uint32{7: version}},
			func(m *bundle.Manifest) { m.States = []bundle.State{{ID: 7, Version: version}} }))
	}
	one, two := publish("one", 1), publish("two", 2)
	h.allow("r1")
	h.server.order(h.desired(1, one))
	h.wait(wire.PhaseApplied, 1, "proven")
	h.server.order(h.desired(2, two))
	if r := h.wait(wire.PhaseApplied, 2, "proven"); r.UnpatchedMS != 0 {
		t.Errorf("unpatched for %d ms on the way up", r.UnpatchedMS)
	}
	h.server.order(h.desired(3, one))
	r := h.wait(wire.PhaseApplied, 3, "proven; unpatched for")
	if r.UnpatchedMS < 60 || len(r.Live) != 1 || r.Live[0].Bundle != one {
		t.Errorf("report is %+v, want two transitions of 30 ms without a live patch", r)
	}
	loads, err := h.kernel.Loads()
	must(t, err)
	for _, l := range loads {
		if l.Errno != 0 {
			t.Errorf("the kernel was asked for %s, which it refuses: %v", l.Module, l.Errno)
		}
	}
}

func TestObserveAndStopHoldStill(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.start()
	h.allow("r1")
	d := h.desired(1, h.server.publish(h.bundle(agenttest.Module{Name: "one"})))
	d.Mode = fleet.ModeObserve
	h.server.order(d)
	h.wait(wire.PhaseWaiting, 1, "observe mode")
	stop := filepath.Join(h.folder.Config, "stop")
	must(t, os.WriteFile(stop, nil, 0o644))
	h.server.order(h.desired(2, d.Live))
	if r := h.wait(wire.PhaseWaiting, 2, "stop file"); !r.Stopped {
		t.Error("not reported as stopped")
	}
	if h.loads() != 0 {
		t.Error("it acted")
	}
	must(t, os.Remove(stop))
	h.wait(wire.PhaseApplied, 2, "")
}

func TestRefusals(t *testing.T) {
	s := startServer(t)
	pub := newPublisher(t)
	for _, tc := range []struct {
		name   string
		offer  func(*testHost) bundle.Digest
		reason string
	}{
		{"flipped bit", func(h *testHost) bundle.Digest {
			file := h.bundle(agenttest.Module{Name: "one"})
			d := bundle.DigestOf(file)
			file[len(file)-1] ^= 1
			s.locked(func() { s.bundles[d] = file })
			return d
		}, "bundle is damaged"},
		{"unknown signer", func(h *testHost) bundle.Digest {
			h.pub = newPublisher(t)
			return s.publish(h.bundle(agenttest.Module{Name: "one"}))
		}, "signed by no publisher this host trusts"},
		{"other kernel", func(h *testHost) bundle.Digest {
			return s.publish(h.bundle(agenttest.Module{Name: "one"}, func(m *bundle.Manifest) { m.Kernel.Release = "6.1.0-55-cloud-amd64" }))
		}, "built for another kernel: release"},
		{"foreign live patch", func(h *testHost) bundle.Digest {
			must(t, h.kernel.AddForeign("kpatch_site"))
			return s.publish(h.bundle(agenttest.Module{Name: "one"}))
		}, "live patch kpatch_site"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := joined(t, s, pub)
			d := tc.offer(h)
			h.allow("r1")
			h.server.order(h.desired(1, d))
			h.start()
			h.wait(wire.PhaseRefused, 1, tc.reason)
			s.wait(h.id, "a refusal of "+tc.name, func(r wire.Report) bool {
				return len(r.Refusals) == 1 && r.Refusals[0].What == "bundle" && r.Refusals[0].Digest == d &&
					strings.Contains(r.Refusals[0].Reason, tc.reason)
			})
			s.wait(h.id, "no refusals once acknowledged", func(r wire.Report) bool { return len(r.Refusals) == 0 })
			if h.loads() != 0 {
				t.Error("loaded")
			}
		})
	}
}

// TestRefusesWhatItCannotDo: this agent loads live patches and nothing else; it
// says so, and does not pass over what it is ordered beside them.
func TestRefusesWhatItCannotDo(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.start()
	one := h.server.publish(h.bundle(agenttest.Module{Name: "one"}))
	h.allow("r1")
	for n, tc := range []struct {
		order  wire.Desired
		reason string
	}{
		{wire.Desired{Action: wire.ActionReboot, Nonce: "n1", Kernel: "6.1.0-56-amd64"}, "cannot reboot this host into 6.1.0-56-amd64: this agent is not able to"},
		{wire.Desired{Action: wire.ActionReplace, Nonce: "n2", Replace: "image-2"}, "cannot replace this host by image-2"},
		{wire.Desired{Action: wire.ActionModule, Nonce: "n3", Module: "child"}, "cannot exchange module child"},
		{wire.Desired{Action: wire.ActionRestart, Nonce: "n4", Restart: "web.service"}, "cannot restart web.service"},
		{wire.Desired{Out: true}, "cannot leave rotation"},
	} {
		d := h.desired(uint64(n+1), one)
		d.Action, d.Nonce, d.Out = tc.order.Action, tc.order.Nonce, tc.order.Out
		d.Kernel, d.Replace, d.Module, d.Restart = tc.order.Kernel, tc.order.Replace, tc.order.Module, tc.order.Restart
		h.server.order(d)
		r := h.wait(wire.PhaseRefused, d.Generation, tc.reason)
		if len(r.Abilities) > 0 || r.Nonce != "" || r.Out || h.loads() != 0 {
			t.Errorf("%s: abilities %v, nonce %q, out %v, %d loads", tc.reason, r.Abilities, r.Nonce, r.Out, h.loads())
		}
		if len(r.Refusals) == 0 || !strings.Contains(r.Refusals[len(r.Refusals)-1].Reason, tc.reason) {
			t.Errorf("%s: not among the refusals: %+v", tc.reason, r.Refusals)
		}
	}
	h.server.order(h.desired(9, one))
	h.wait(wire.PhaseApplied, 9, "")
}

func TestReplayedAndForgedOrdersAreRefused(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.start()
	h.allow("r1")
	one := h.server.publish(h.bundle(agenttest.Module{Name: "one"}))
	d := h.desired(1, one)
	d.Version = wire.Version
	replay, err := wire.Sign(h.server.identity.OrdersKey(), wire.ContextDesired, d)
	must(t, err)
	h.server.send(h.id, replay)
	h.wait(wire.PhaseApplied, 1, "")
	h.server.order(h.desired(2, ""))
	h.wait(wire.PhaseReverted, 2, "")

	refused := func(what string, s wire.Signed) {
		t.Helper()
		h.server.send(h.id, s)
		h.server.wait(h.id, what, func(r wire.Report) bool {
			return len(r.Refusals) == 1 && r.Refusals[0].What == "desired" && strings.Contains(r.Refusals[0].Reason, what)
		})
	}
	refused("generation 1 is below 2", replay)
	old := h.desired(9, one)
	old.Version, old.Epoch = wire.Version, 0
	signed, err := wire.Sign(h.server.identity.OrdersKey(), wire.ContextDesired, old)
	must(t, err)
	refused("epoch 0 is below 1", signed)
	signed, err = wire.Sign(newPublisher(t).key, wire.ContextDesired, d)
	must(t, err)
	refused("signature does not verify", signed)
	if h.loads() != 1 {
		t.Errorf("%d loads", h.loads())
	}
}

func TestLapsedPermitStartsNothing(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.start()
	h.server.permit(h.id, wire.Permit{Rollout: "r1", Epoch: 1, Seq: 1, TTL: time.Nanosecond})
	h.server.order(h.desired(1, h.server.publish(h.bundle(agenttest.Module{Name: "one"}))))
	h.wait(wire.PhaseWaiting, 1, "has lapsed")
	h.server.permit(h.id, wire.Permit{Rollout: "r1", Epoch: 1, Seq: 2, TTL: time.Minute})
	h.wait(wire.PhaseApplied, 1, "")
}

func TestStalledTransitionIsReversedAndNamed(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.start()
	h.allow("r1")
	one := h.server.publish(h.bundle(agenttest.Module{Name: "one"}))
	h.server.order(h.desired(1, one))
	h.wait(wire.PhaseApplied, 1, "")
	stuck := h.server.publish(h.bundle(agenttest.Module{Name: "two", Stall: []livepatch.Task{{PID: 42, Comm: "stuck-thread"}}}))
	h.server.order(h.desired(2, stuck))
	r := h.wait(wire.PhaseFailed, 2, "held up by stuck-thread (pid 42)")
	if len(r.Live) != 1 || r.Live[0].Name != "one" || !r.Live[0].Enabled {
		t.Errorf("live is %+v, want the one before", r.Live)
	}
	modules, err := h.kernel.Modules()
	if err != nil || len(modules) != 1 {
		t.Errorf("modules are %v, %v", modules, err)
	}
}

func TestKernelRefusalFailsOnce(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.start()
	h.allow("r1")
	h.server.order(h.desired(1, h.server.publish(h.bundle(agenttest.Module{Name: "one", Errno: unix.ENOEXEC}))))
	h.wait(wire.PhaseFailed, 1, "invalid module format")
	loads, err := h.kernel.Loads()
	if err != nil || len(loads) != 1 {
		t.Errorf("loads %v, %v", loads, err)
	}
}

func TestAfterABoot(t *testing.T) {
	s := startServer(t)
	pub := newPublisher(t)
	t.Run("proven re-applies without the server", func(t *testing.T) {
		h := joined(t, s, pub)
		h.start()
		h.allow("r1")
		h.server.order(h.desired(1, s.publish(h.bundle(agenttest.Module{Name: "one"}))))
		h.wait(wire.PhaseApplied, 1, "proven")
		h.stop()
		must(t, h.kernel.Reboot())
		s.locked(func() { delete(s.desired, h.id) }) // the server says nothing
		h.start()
		r := s.wait(h.id, "applied in boot-2", func(r wire.Report) bool {
			return r.Boot == "boot-2" && r.Phase == wire.PhaseApplied
		})
		if len(r.Crashes) != 1 || r.Crashes[0].Kind != wire.CrashUnorderedBoot || r.Crashes[0].Boot != "boot-1" {
			t.Errorf("crashes are %+v", r.Crashes)
		}
	})
	t.Run("unproven after an unclean boot is not loaded again", func(t *testing.T) {
		h := joined(t, s, pub)
		h.limits.Proven = time.Hour
		h.start()
		h.allow("r1")
		one := s.publish(h.bundle(agenttest.Module{Name: "one"}))
		h.server.order(h.desired(1, one))
		h.wait(wire.PhaseApplied, 1, "not yet proven")
		h.stop()
		must(t, h.kernel.Reboot())
		h.start()
		r := s.wait(h.id, "failed in boot-2", func(r wire.Report) bool {
			return r.Boot == "boot-2" && r.Phase == wire.PhaseFailed
		})
		if len(r.Crashes) != 1 || r.Crashes[0].Live != one || h.loads() != 1 {
			t.Errorf("crashes %+v, %d loads", r.Crashes, h.loads())
		}
		h.server.order(h.desired(2, one)) // a higher generation may try again
		h.wait(wire.PhaseApplied, 2, "")
	})
	t.Run("an ordered boot is no crash", func(t *testing.T) {
		h := joined(t, s, pub)
		h.limits.Proven = time.Hour
		h.start()
		h.allow("r1")
		h.server.order(h.desired(1, s.publish(h.bundle(agenttest.Module{Name: "one"}))))
		h.wait(wire.PhaseApplied, 1, "")
		h.stop()
		must(t, agent.NewLocal(h.options()).MarkShutdown(t.Context()))
		must(t, h.kernel.Reboot())
		h.start()
		r := s.wait(h.id, "applied in boot-2", func(r wire.Report) bool {
			return r.Boot == "boot-2" && r.Phase == wire.PhaseApplied
		})
		if len(r.Crashes) != 0 {
			t.Errorf("crashes are %+v", r.Crashes)
		}
	})
	t.Run("a load that takes the host down is not repeated", func(t *testing.T) {
		h := joined(t, s, pub)
		h.start()
		h.allow("r1")
		h.server.order(h.desired(1, s.publish(h.bundle(agenttest.Module{Name: "one", Crash: true}))))
		s.wait(h.id, "failed in boot-2", func(r wire.Report) bool {
			return r.Boot == "boot-2" && r.Phase == wire.PhaseFailed && len(r.Crashes) == 1
		})
		if h.loads() != 1 {
			t.Errorf("%d loads", h.loads())
		}
	})
}

func TestOopsIsReportedAgainstWhatWasLoaded(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.start()
	h.allow("r1")
	one := h.server.publish(h.bundle(agenttest.Module{Name: "one"}))
	h.server.order(h.desired(1, one))
	h.wait(wire.PhaseApplied, 1, "")
	must(t, h.kernel.Write("BUG: kernel NULL pointer dereference, address: 0000000000000000\nRIP: 0010:bad_func+0x1/0x10 [one]\n---[ end trace 0000000000000000 ]---"))
	r := h.server.wait(h.id, "an oops", func(r wire.Report) bool { return len(r.Crashes) == 1 })
	if c := r.Crashes[0]; c.Kind != wire.CrashOops || c.Live != one || c.Signature == "" || !strings.Contains(c.Text, "bad_func") {
		t.Errorf("crash is %+v", c)
	}
}
