package converge

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/wire"

	"pgregory.net/rapid"
)

var trace = os.Getenv("TRACE") != ""

// errKilled is the agent dying at a point between two effects.
var errKilled = errors.New("killed")

// model is a host in memory: a kernel, a journal on a disk, and an agent that
// may die after any effect.
type model struct {
	t       *rapid.T
	boots   int
	clock   time.Duration
	patches []modelPatch
	modules []string
	journal []Record // on the disk
	state   Journal
	bundles map[bundle.Digest]modelBundle
	have    map[bundle.Digest]bool
	permit  *Permit
	stopped bool
	offered *wire.Desired
	sent    []wire.Desired // by the server, ever
	loads   map[string]int // successful loads by the kernel, per boot and order
	life    int            // effects until the agent is killed, -1 for never
	machine
}

type modelPatch struct {
	Patch
	digest bundle.Digest
	until  time.Duration
	stall  bool
}

type modelBundle struct {
	manifest bundle.Manifest
	takes    time.Duration
	stall    bool
	refused  bool // by the kernel
}

var modelKernel = kernel.ID{Release: "6.1.0-55-amd64", Version: "#1", BuildID: "ab"}

func digestOf(n int) bundle.Digest { return bundle.Digest(fmt.Sprintf("sha256:%064x", n)) }

func newModel(t *rapid.T) *model {
	m := &model{t: t, boots: 1, life: -1, bundles: map[bundle.Digest]modelBundle{}, have: map[bundle.Digest]bool{}, loads: map[string]int{}, machine: newMachine()}
	for n := 1; n <= 4; n++ {
		m.bundles[digestOf(n)] = modelBundle{
			manifest: bundle.Manifest{Kind: bundle.KindLive, Name: fmt.Sprint("p", n), Module: fmt.Sprint("m", (n+1)/2, "_", n%3), Kernel: modelKernel, Replace: true},
			takes:    time.Duration(rapid.IntRange(0, 5).Draw(t, "takes")) * time.Second,
			stall:    n == 3, refused: n == 4,
		}
	}
	m.addTrails()
	return m
}

// addTrails makes digest 2 one that is built on digest 1 and takes over from it.
// Beside that, nothing that changes more than code may be replaced in one step.
func (m *model) addTrails() {
	a, b := bundle.Source{Name: "a", SHA256: "aa"}, bundle.Source{Name: "b", SHA256: "bb"}
	first, second, third := m.bundles[digestOf(1)], m.bundles[digestOf(2)], m.bundles[digestOf(3)]
	first.manifest.Sources = []bundle.Source{a}
	first.manifest.Callbacks = []bundle.Callback{{Object: "vmlinux", Kind: "post_unpatch", Function: "undo"}}
	second.manifest.Sources = []bundle.Source{a, b}
	second.manifest.States = []bundle.State{{ID: 1, Version: 2}}
	third.manifest.Sources = []bundle.Source{b}
	third.manifest.States = []bundle.State{{ID: 1, Version: 1}}
	m.bundles[digestOf(1)], m.bundles[digestOf(2)], m.bundles[digestOf(3)] = first, second, third
}

// mayReplace lists which digest may follow which without anything in between.
var mayReplace = map[[2]bundle.Digest]bool{
	{digestOf(1), digestOf(2)}: true, {digestOf(3), digestOf(2)}: true,
	{digestOf(4), digestOf(1)}: true, {digestOf(4), digestOf(2)}: true, {digestOf(4), digestOf(3)}: true,
}

func (m *model) boot() string { return fmt.Sprint("boot-", m.boots) }

// settle is what the kernel does by itself.
func (m *model) settle() {
	replaced := -1
	for i := range m.patches {
		p := &m.patches[i]
		p.Transition = p.stall || m.clock < p.until
		if p.Enabled && !p.Transition {
			replaced = i
		}
	}
	var left []modelPatch
	for i, p := range m.patches {
		if i >= replaced && (p.Enabled || p.Transition) {
			left = append(left, p)
		}
	}
	m.patches = left
}

func (m *model) observe() Observed {
	m.settle()
	o := Observed{Boot: m.boot(), Modules: slices.Clone(m.modules), Stopped: m.stopped, Ceiling: fleet.ModeAct,
		Bundles: map[bundle.Digest]Bundle{}, Permit: m.permit, Limits: Limits{Stall: 20 * time.Second, Proven: time.Minute, Warm: 5 * time.Minute}}
	m.observeMachine(&o)
	for _, p := range m.patches {
		o.Patches = append(o.Patches, p.Patch)
	}
	for d, b := range m.bundles {
		if m.have[d] {
			o.Bundles[d] = Bundle{Manifest: &b.manifest}
		}
	}
	return o
}

// effect is a point at which the agent may die.
func (m *model) effect() error {
	if m.life == 0 {
		return errKilled
	}
	m.life--
	return nil
}

func (m *model) write(r Record) error {
	if err := m.effect(); err != nil {
		return err
	}
	next, err := m.state.Fold(r)
	if err != nil {
		m.t.Fatalf("%+v after %+v: %v", r, m.state, err)
	}
	m.state = next
	m.journal = append(m.journal, r)
	return nil
}

// step is one step of the agent. It returns false when there is nothing to do but wait.
func (m *model) step() (Action, bool, error) {
	o := m.observe()
	a := Next(m.offered, m.state, o, m.clock)
	if trace {
		fmt.Println("TRACE", m.boot(), m.kernel, m.clock, m.out, m.permit != nil, m.offered != nil, a.Kind, a.Phase, a.Reason)
	}
	if a.Kind == Refuse {
		m.offered = nil
		return a, true, nil
	}
	if a.Record.Kind != "" {
		if err := m.write(a.Record); err != nil {
			return a, false, err
		}
	}
	err := m.effect()
	if err != nil {
		return a, false, err
	}
	switch a.Kind {
	case Fetch:
		m.have[a.Digest] = true
	case Load:
		err = m.load(a)
	case Disable:
		m.disable(a.Module)
	case Unload:
		if !slices.ContainsFunc(m.patches, func(p modelPatch) bool { return p.Name == a.Module }) {
			m.modules = slices.DeleteFunc(m.modules, func(x string) bool { return x == a.Module })
		}
	case Leave, Perform, Probe, Commit, Enter:
		err = m.doOrdered(a)
	case Watch:
		m.clock += min(a.After, time.Second)
	case Wait:
		return a, false, nil
	}
	m.clock += 10 * time.Millisecond
	return a, true, err
}

func (m *model) load(a Action) error {
	b := m.bundles[a.Digest]
	moving := slices.ContainsFunc(m.patches, func(p modelPatch) bool { return p.Transition })
	r := Record{Kind: RecordFailed, Boot: m.boot(), Order: a.Record.Order, Digest: a.Digest, Module: a.Module, Reason: "refused by the kernel"}
	for _, p := range m.patches {
		if p.Enabled && !p.Transition && !mayReplace[[2]bundle.Digest{p.digest, a.Digest}] {
			m.t.Fatalf("%s is loaded over %s, which it must not replace", a.Module, p.Name)
		}
	}
	if !b.refused && !moving && !slices.Contains(m.modules, a.Module) {
		m.modules = append(m.modules, a.Module)
		m.patches = append(m.patches, modelPatch{Patch: Patch{Name: a.Module, Enabled: true, Transition: true}, digest: a.Digest, until: m.clock + b.takes, stall: b.stall})
		key := fmt.Sprint(m.boot(), a.Record.Order)
		m.loads[key]++
		if m.loads[key] > 1 {
			m.t.Fatalf("loaded twice: %s; journal %+v", key, m.journal)
		}
		r.Kind, r.Reason = RecordLoaded, ""
	}
	return m.write(r)
}

func (m *model) disable(name string) {
	for i := range m.patches {
		if p := &m.patches[i]; p.Name == name && p.Enabled {
			p.Enabled, p.stall, p.until = false, false, m.clock+2*time.Second
		}
	}
}

// run steps until there is nothing to do but wait, or the agent is killed.
func (m *model) run() Action {
	for range 2000 {
		a, more, err := m.step()
		if errors.Is(err, errKilled) {
			m.restart()
			return a
		}
		if !more && a.Phase != wire.PhaseWarming && (a.After == 0 || a.After > time.Second) {
			return a
		}
		if !more {
			m.clock += a.After
			m.allow()
		}
	}
	m.t.Fatalf("no end; journal %+v, patches %+v, modules %v", m.journal, m.patches, m.modules)
	return Action{}
}

// restart is the agent's next process: it knows what is on the disk, and no
// more. The permit and the offered order came by the network and are lost.
func (m *model) restart() {
	m.life, m.permit, m.offered = -1, nil, nil
	var j Journal
	for _, r := range m.journal {
		next, err := j.Fold(r)
		if err != nil {
			m.t.Fatalf("journal cannot be read back: %v", err)
		}
		j = next
	}
	m.state = j
}

// reboot is a boot that nobody ordered: it takes the default kernel.
func (m *model) reboot() { m.bootInto(m.standard) }

func (m *model) order(generation uint64, live bundle.Digest) {
	m.offer(wire.Desired{Version: 1, Host: "h", Epoch: 1, Generation: generation, Rollout: "r", Live: live, Mode: fleet.ModeAct})
}

// offer is the server saying something new.
func (m *model) offer(d wire.Desired) {
	m.offered = &d
	m.sent = append(m.sent, d)
}

func (m *model) allow() {
	m.permit = &Permit{Rollout: "r", Epoch: 1, Seq: 1, Until: m.clock + 10*time.Minute}
}

// TestKilledAnywhereItConvergesAndLoadsOnce kills the agent or the host
// between any two effects, then lets it be, and asks for these things: the
// kernel never took two loads for one boot and order, no nonce was acted on
// twice, no host was disrupted in rotation, and in the end the host is what it
// was told, or has said why not.
func TestKilledAnywhereItConvergesAndLoadsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		generation := uint64(0)
		for range rapid.IntRange(1, 12).Draw(t, "turns") {
			switch rapid.SampledFrom([]string{"order", "order", "action", "action", "action", "kill", "kill", "reboot", "clean reboot", "again", "owner", "replay", "time", "local", "stop"}).Draw(t, "event") {
			case "order":
				generation++
				m.order(generation, rapid.SampledFrom([]bundle.Digest{"", digestOf(1), digestOf(2), digestOf(3), digestOf(4)}).Draw(t, "live"))
			case "action":
				generation++
				m.action(generation)
			case "again": // the same nonce under a new generation
				generation++
				if m.offered = nil; m.state.Desired.Nonce != "" {
					d := m.state.Desired
					d.Generation = generation
					m.offer(d)
				}
			case "owner":
				m.owner = !m.owner
			case "kill":
				m.life = rapid.IntRange(0, 12).Draw(t, "life")
			case "reboot":
				m.reboot()
			case "clean reboot":
				m.life = -1
				if m.state.Boot == m.boot() {
					must(t, m.write(Record{Kind: RecordShutdown, Boot: m.boot()}))
				}
				m.reboot()
			case "replay":
				if n := len(m.sent); n > 0 {
					old := m.sent[rapid.IntRange(0, n-1).Draw(t, "old")]
					m.offered = &old
				}
			case "time":
				m.clock += 2 * time.Minute
			case "local":
				if m.life < 0 && m.state.Boot == m.boot() {
					must(t, m.write(Record{Kind: RecordLocal, Boot: m.boot()}))
				}
			case "stop":
				m.stopped = !m.stopped
			}
			m.allow()
			m.run()
		}
		m.life, m.stopped = -1, false
		generation++
		if rapid.Bool().Draw(t, "last is an action") {
			m.action(generation)
			d := *m.offered
			m.allow()
			a := m.run()
			for m.offered == nil { // it booted, and asks again
				m.offered = &d
				m.allow()
				a = m.run()
			}
			m.checkAction(a, d)
			return
		}
		last := rapid.SampledFrom([]bundle.Digest{"", digestOf(1), digestOf(2), digestOf(3), digestOf(4)}).Draw(t, "last")
		m.order(generation, last)
		m.allow()
		a := m.run()
		m.check(a, last)
	})
}

func must(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func (m *model) check(a Action, last bundle.Digest) {
	var enabled []string
	for _, p := range m.observe().Patches {
		enabled = append(enabled, p.Name)
	}
	b := m.bundles[last]
	want := []string{b.manifest.Module}
	switch {
	case m.kernel == sickKernel && m.out && a.Phase == wire.PhaseVerifying && a.Reason != "":
	case last == "":
		if a.Phase != wire.PhaseReverted && a.Phase != wire.PhaseIdle || len(enabled) > 0 || len(m.modules) > 0 {
			m.t.Fatalf("told to run nothing: %+v, patches %v, modules %v", a, enabled, m.modules)
		}
	case m.kernel != modelKernel.Release:
		if a.Phase != wire.PhaseRefused || len(enabled) > 0 {
			m.t.Fatalf("told to run a live patch for another kernel: %+v, patches %v", a, enabled)
		}
	case b.stall || b.refused:
		if a.Phase != wire.PhaseFailed || a.Reason == "" || slices.Contains(enabled, b.manifest.Module) && b.stall {
			m.t.Fatalf("told to run what cannot run: %+v, patches %v", a, enabled)
		}
	case a.Phase != wire.PhaseApplied || !slices.Equal(enabled, want) || !slices.Equal(m.modules, want):
		m.t.Fatalf("told to run %v: %+v, patches %v, modules %v, journal %+v", want, a, enabled, m.modules, m.journal)
	}
}
