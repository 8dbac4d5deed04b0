package e2e

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afloat/internal/wire"
)

// TestPowerAndKilledServers is what happens to hosts and server that lose their
// power at the worst moment, on three guests that stay up throughout.
func TestPowerAndKilledServers(t *testing.T) {
	w := newWorld(t)
	w.kit(amd64)
	// Two patch sets with one effect: rollouts go from one to the other and back.
	patches := []built{
		w.build(amd64, "version-a", w.example("proc-version.patch")),
		w.build(amd64, "version-b", w.example("proc-version.patch")),
	}
	w.up(3)
	w.afloat("bundle", "add", patches[0].file, patches[1].file)

	t.Run("unproven", func(t *testing.T) { w.in(t).unprovenIsACrash("h1", patches[0]) })
	t.Run("proven", func(t *testing.T) { w.in(t).provenComesBackAlone("h2", patches[0]) })
	t.Run("killed server", func(t *testing.T) { w.in(t).killedServer(patches) })
	for _, h := range []string{"h1", "h2", "h3"} {
		for key, n := range w.loads(h) {
			if n > 1 {
				t.Errorf("%s loaded %d times for %+v", h, n, key)
			}
		}
	}
}

// in is the same world inside a subtest.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.T = t
	return &sub
}

// unprovenIsACrash cuts the power right after an unproven patch loaded. After
// its boot the host must not load it again, and must report a crash.
func (w *world) unprovenIsACrash(host string, p built) {
	h := w.host(host)
	before, err := h.BootID(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	id := w.start("unproven", p.name(), "name="+host)
	w.until("the patch to be enabled", time.Minute, func() bool { return w.runs(host, p.module) })
	w.until("the journal to know", 10*time.Second, func() bool {
		return strings.Contains(w.guest(host, "cat", "/var/lib/afloat/journal"), `"kind":"applied"`)
	})
	w.powerCycle(host, before)
	w.until("a crash to be reported", 2*time.Minute, func() bool {
		r, _ := w.report(host)
		for _, c := range r.Crashes {
			if c.Kind == wire.CrashUnorderedBoot && c.Boot == before && c.Live == p.digest {
				return true
			}
		}
		return false
	})
	w.until("the rollout to revert", time.Minute, func() bool { return w.rollout(id).State == "reverted" })
	if w.runs(host, p.module) {
		w.Error("the unproven patch was loaded again")
	}
	if got := strings.Count(w.guest(host, "dmesg"), "livepatch: enabling patch"); got != 0 {
		w.Errorf("%d live patches were enabled after the boot, want none", got)
	}
}

// provenComesBackAlone cuts the power after a patch was proven, with no server
// to ask: the host must load it from its own disk.
func (w *world) provenComesBackAlone(host string, p built) {
	h := w.host(host)
	before, err := h.BootID(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	p = w.again(p, "proven")
	w.start("proven", p.name(), "name="+host)
	w.until("the patch to be proven", 2*time.Minute, func() bool {
		return strings.Contains(w.guest(host, "cat", "/var/lib/afloat/journal"), `"kind":"proven"`)
	})
	if err := w.lab.KillServer(w.Context()); err != nil {
		w.Fatal(err)
	}
	w.powerCycle(host, before)
	w.until("the proven patch to come back", 2*time.Minute, func() bool { return w.runs(host, p.module) })
	w.startServer()
	// Not its phase: the server counts the power cut as a crash with the patch
	// on, and may by then have taken it off.
	w.until("the host to report its new boot", 2*time.Minute, func() bool {
		r, _ := w.report(host)
		return r.Boot != "" && r.Boot != before
	})
}

// killedServer kills the server at random moments of five rollouts.
func (w *world) killedServer(patches []built) {
	seed := uint64(time.Now().UnixNano())
	w.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	set := []built{w.again(patches[0], "kill-a"), w.again(patches[1], "kill-b")}
	for round := range 5 {
		p := set[round%2]
		id := w.start("kill-"+string(rune('1'+round)), p.name(), "")
		pause := time.NewTimer(time.Duration(random.IntN(3500)) * time.Millisecond)
		<-pause.C
		if err := w.lab.KillServer(w.Context()); err != nil {
			w.Fatal(err)
		}
		w.startServer()
		w.until("the rollout to end", 3*time.Minute, func() bool { return w.rollout(id).Ended })
		if d := w.rollout(id); !d.Good || d.Phases["done"] != 3 {
			w.Fatalf("round %d: rollout %s is %s: %s: %v", round, id, d.State, d.Reason, d.Phases)
		}
		for _, h := range w.lab.Hosts() {
			if !w.runs(h.Name, p.module) {
				w.Errorf("round %d: %s does not run %s", round, h.Name, p.module)
			}
		}
	}
	w.afloat("audit", "--verify")
}

// again builds the same diff as another patch set, for a bundle that no rollout has reverted.
func (w *world) again(p built, name string) built {
	w.Helper()
	b := w.build(amd64, name, w.example("proc-version.patch"))
	w.afloat("bundle", "add", b.file)
	return b
}

// name of the patch set a bundle belongs to.
func (b built) name() string {
	return strings.TrimSuffix(filepath.Base(b.file), "-"+strings.TrimPrefix(amd64, "debian:")+".afloat")
}

func (w *world) powerCycle(host, boot string) {
	w.Helper()
	h := w.host(host)
	if err := h.PowerOff(w.Context()); err != nil {
		w.Fatal(err)
	}
	if err := h.Start(); err != nil {
		w.Fatal(err)
	}
	if _, err := h.WaitBoot(w.Context(), boot); err != nil {
		w.Fatal(err)
	}
}

func (w *world) startServer() {
	w.Helper()
	if err := w.lab.StartServer(filepath.Join(bin, "afloat")); err != nil {
		w.Fatal(err)
	}
	w.until("the server to answer", time.Minute, func() bool {
		_, err := w.try("hosts")
		return err == nil
	})
}
