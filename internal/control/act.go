package control

import (
	"fmt"

	"afloat/internal/bundle"
	"afloat/internal/kernel"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// Act is the action that a host was ordered to take beyond running its live patch.
type Act struct {
	Action wire.Action `json:"action"`
	// Name of the kernel, module, image or unit; "" boots what is there.
	Name string `json:"name,omitempty"`
	// Was is what the host goes back to: the kernel it ran, or the earlier
	// module or image. "" when there is nothing to go back to.
	Was string `json:"was,omitempty"`
	// Nonce is set when the order is applied: a host acts once on each.
	Nonce string `json:"nonce,omitempty"`
	// Off: called off. A host that had acted before it heard of that says so by the nonce.
	Off bool `json:"off,omitempty"`
	// Met: another machine stands in for the host, which need not act any more.
	Met bool `json:"met,omitempty"`
	// Back: this is the way back.
	Back bool `json:"back,omitempty"`
}

// task is what a host gets from a rollout: a live patch, an action, or both.
type task struct {
	live bundle.Digest
	act  *Act
	// keep leaves the live patch of the host as it is.
	keep bool
}

// Action is what a policy's target orders.
func Action(a policy.Action) wire.Action {
	switch a {
	case policy.Kernel:
		return wire.ActionReboot
	case policy.Replace:
		return wire.ActionReplace
	case policy.Module:
		return wire.ActionModule
	case policy.Restart:
		return wire.ActionRestart
	}
	return wire.ActionLive
}

// disrupts is the order of a target that takes the host out of service.
func disrupts(t policy.Target, running kernel.ID) task {
	act := &Act{Action: Action(t.Action), Name: t.Name, Was: t.From}
	if t.Action == policy.Kernel && t.Name != "" {
		act.Was = running.Release
	}
	// Another kernel, or another machine, has the live patch's fix or takes none of its code.
	moves := t.Action == policy.Kernel && t.Name != "" || t.Action == policy.Replace
	return task{act: act, keep: !moves}
}

// same says whether both are nothing or equal.
func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// fill completes a Desired.
func (d *Act) fill(out *wire.Desired) {
	if d == nil || d.Off || d.Met || d.Nonce == "" {
		return
	}
	out.Action, out.Nonce = d.Action, d.Nonce
	switch d.Action {
	case wire.ActionReboot:
		out.Kernel = d.Name
	case wire.ActionReplace:
		out.Replace = d.Name
	case wire.ActionModule:
		out.Module = d.Name
	case wire.ActionRestart:
		out.Restart = d.Name
	}
}

// nonce is one that no other order of the host has: generations only grow.
func nonce(rollout string, generation uint64) string {
	return fmt.Sprintf("%s-%d", rollout, generation)
}

// done says that a host which has settled has acted on the order, and is what it
// should be after it; or that it needed not act, as it ran that kernel already.
// One that is out of rotation then is so by its owner's hand, not by the order.
func (d *Act) done(r wire.Report) bool {
	switch into := d.Action == wire.ActionReboot && d.Name != ""; {
	case into && !r.Kernel.Named(d.Name):
		return false
	case d.Met || into && r.Phase == wire.PhaseApplied:
		return true
	}
	return r.Nonce == d.Nonce
}

// acted says that the host has acted on its order, or may be at it.
func (h *Host) acted(phase rollout.HostPhase, r wire.Report) bool {
	return h.Act != nil && !h.Act.Off && (phase.Acted() || r.Nonce == h.Act.Nonce)
}

// mayBeDown says that silence is part of what the host was ordered to do.
func (h *Host) mayBeDown(phase rollout.HostPhase) bool {
	if h.Act == nil || h.Act.Off {
		return false
	}
	switch phase {
	case rollout.Admitted, rollout.Draining, rollout.Rebooting, rollout.Reverting:
		return true
	}
	return false
}

// has says that the host got the same from another rollout. A restart or a boot
// of the same kernel is never had: it is wanted again.
func (h *Host) has(o *task) bool {
	if o.act == nil {
		return h.Live == o.live
	}
	if h.Act == nil || h.Act.Off || h.Act.Action != o.act.Action || h.Act.Name != o.act.Name {
		return false
	}
	return o.act.Action == wire.ActionReplace || o.act.Action == wire.ActionModule
}

func (o *task) String() string {
	if o.act == nil {
		return "bundle " + o.live.Short()
	}
	return o.act.String()
}
