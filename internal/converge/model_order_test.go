package converge

import (
	"fmt"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/wire"

	"pgregory.net/rapid"
)

// machine is the part of the model that ordered actions change.
type machine struct {
	kernel, standard string // running, and booted by default
	image            string
	made             Made
	out              bool          // by afloat's order
	owner            bool          // by its owner's hand
	leaves           time.Duration // when it is out, once it was asked to leave
	probed           bool
	acts             map[string]int // how often each nonce was acted on
}

const (
	goodKernel   = "6.1.0-56-amd64"
	brokenKernel = "6.1.0-57-amd64" // never comes up
	sickKernel   = "6.1.0-58-amd64" // comes up, and its probes fail
)

func newMachine() machine {
	return machine{kernel: modelKernel.Release, standard: modelKernel.Release, image: "image-0", acts: map[string]int{}}
}

func (m *model) observeMachine(o *Observed) {
	if m.leaves != 0 && m.clock >= m.leaves {
		m.out, m.leaves = true, 0
	}
	o.Kernel = kernel.ID{Release: m.kernel, Version: modelKernel.Version, BuildID: modelKernel.BuildID}
	o.Abilities, o.Out, o.Default, o.Image, o.Made = wire.Actions(), m.out || m.owner, m.standard, m.image, m.made
	o.Hot = []string{"child"}
	if m.owner {
		o.OutBy = "its owner"
	}
	if m.probed {
		o.Probes.Known = true
		if m.kernel == sickKernel {
			o.Probes.Failed = "the web server does not answer"
		}
	}
}

// doOrdered is what the machine does for an action.
func (m *model) doOrdered(a Action) error {
	switch a.Kind {
	case Leave:
		if m.leaves == 0 && !m.out {
			m.leaves = m.clock + 3*time.Second
		}
		m.clock += time.Second
	case Probe:
		m.probed = true
	case Commit:
		m.standard = a.Object
	case Enter:
		m.out, m.leaves = false, 0
	case Perform:
		return m.perform(a)
	}
	return nil
}

func (m *model) perform(a Action) error {
	hot := a.Does == wire.ActionModule && a.Object == "child"
	if !m.out && !m.owner && !hot {
		m.t.Fatalf("%s %s though the host is in rotation", a.Does, a.Object)
	}
	if m.acts[a.Nonce]++; m.acts[a.Nonce] > 1 {
		m.t.Fatalf("nonce %s acted on twice; journal %+v", a.Nonce, m.journal)
	}
	switch a.Does {
	case wire.ActionReboot:
		release := a.Object
		if release == "" {
			release = m.kernel
		}
		if release == brokenKernel {
			release = m.standard
		}
		m.bootInto(release)
		return nil
	case wire.ActionReplace:
		m.image, m.made = a.Object, Made{a.Nonce, m.state.Desired.Generation}
		m.standard = modelKernel.Release
		m.journal, m.state = nil, Journal{} // another machine, another disk
		m.have, m.loads = map[bundle.Digest]bool{}, map[string]int{}
		m.bootInto(m.standard)
		return nil
	}
	m.probed = false
	if err := m.effect(); err != nil {
		return err
	}
	var err error
	if a.Object == "broken" {
		err = fmt.Errorf("it does not start")
	}
	return m.write(Acted(a, m.observe(), err))
}

// bootInto ends the boot and starts another kernel.
func (m *model) bootInto(release string) {
	m.boots++
	m.kernel, m.probed = release, false
	m.clock, m.patches, m.modules = time.Second, nil, nil
	if m.leaves != 0 {
		m.out, m.leaves = true, 0
	}
	m.restart()
}

// action offers an ordered action.
func (m *model) action(generation uint64) {
	d := wire.Desired{Version: 1, Host: "h", Epoch: 1, Generation: generation, Rollout: "r", Mode: fleet.ModeAct, Nonce: fmt.Sprint("n", generation)}
	d.Action = rapid.SampledFrom(wire.Actions()).Draw(m.t, "action")
	d.Out = rapid.IntRange(0, 4).Draw(m.t, "out") == 0
	switch d.Action {
	case wire.ActionReboot:
		d.Kernel = rapid.SampledFrom([]string{"", modelKernel.Release, goodKernel, brokenKernel, sickKernel}).Draw(m.t, "kernel")
	case wire.ActionReplace:
		d.Replace = fmt.Sprint("image-", generation%3)
	case wire.ActionModule:
		d.Module = rapid.SampledFrom([]string{"child", "parent", "broken"}).Draw(m.t, "module")
	case wire.ActionRestart:
		d.Restart = rapid.SampledFrom([]string{"web.service", "broken"}).Draw(m.t, "unit")
	}
	if d.Action != wire.ActionReboot || d.Kernel == modelKernel.Release {
		d.Live = rapid.SampledFrom([]bundle.Digest{"", digestOf(1), digestOf(2)}).Draw(m.t, "live")
	}
	m.offer(d)
}

// checkAction is what must hold once an action was ordered and nothing came between.
func (m *model) checkAction(a Action, d wire.Desired) {
	fails := d.Object() == "broken"
	switch {
	case d.Action == wire.ActionReboot && d.Kernel == brokenKernel:
		fails = m.standard != brokenKernel
	case m.kernel == sickKernel: // perhaps it was out, and sick, before
		fails = fails || m.acts[d.Nonce] > 0 || a.Phase == wire.PhaseFailed
	}
	if d.Live != "" && m.kernel != modelKernel.Release {
		if a.Phase != wire.PhaseRefused && a.Phase != wire.PhaseFailed {
			m.t.Fatalf("%+v: a live patch for another kernel: %+v", d, a)
		}
		return
	}
	if fails {
		if a.Phase != wire.PhaseFailed || a.Reason == "" || !m.out && !m.owner && d.Object() != "broken" {
			m.t.Fatalf("%+v cannot be met: %+v, %+v", d, a, m.machine)
		}
		return
	}
	if a.Phase != wire.PhaseApplied || m.state.Met != d.Nonce || m.out != (d.Out && !m.owner) && !m.owner {
		m.t.Fatalf("%+v: %+v, %+v, journal %+v", d, a, m.machine, m.state)
	}
	if d.Kernel != "" && m.kernel != d.Kernel || d.Kernel != "" && m.standard != d.Kernel && m.acts[d.Nonce] > 0 || d.Replace != "" && m.image != d.Replace {
		m.t.Fatalf("%+v: %+v", d, m.machine)
	}
}
