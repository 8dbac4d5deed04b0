package converge

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/wire"
)

// load is the way to a live patch that is not loaded. Each check returns
// false to let it pass; the order matters: what forbids it for good comes first,
// what only delays it comes last, and the bundle is fetched in between.
func (t *turn) load() bool {
	for _, check := range []func() bool{
		t.once, t.withdrawn, t.foreign, t.fetched, t.fits, t.nameFree, t.tries, t.settled, t.permitted, t.makeWay,
	} {
		if check() {
			return true
		}
	}
	m := t.o.Bundles[t.target].Manifest
	r := t.record(RecordIntent)
	r.Order, r.Digest, r.Module = t.order, t.target, m.Module
	r.Permit, r.Trail = t.permitToUse(), TrailOf(m)
	return t.do(Action{Kind: Load, Phase: wire.PhaseApplying, Digest: t.target, Module: m.Module, Record: r, Reason: "loading " + m.Name})
}

// once is law 4.
func (t *turn) once() bool {
	if !slices.Contains(t.j.Loads, Key{t.o.Boot, t.order}) {
		return false
	}
	return t.wait(wire.PhaseFailed, 0, "was loaded once in this boot and generation and is gone; not loaded again")
}

func (t *turn) withdrawn() bool {
	if !slices.Contains(t.j.Withdrawn, t.target) {
		return false
	}
	return t.refuse("cannot load bundle %s: withdrawn by its publisher", t.target.Short())
}

// foreign is law 8: an atomic replace would take somebody else's live patch off.
func (t *turn) foreign() bool {
	if names := t.j.Foreign(t.o.Patches); len(names) > 0 {
		return t.refuse("cannot load bundle %s: this host carries live patch %s, which afloat did not load", t.target.Short(), strings.Join(names, ", "))
	}
	return false
}

// Foreign names the live patches in the kernel that afloat did not load.
func (j Journal) Foreign(patches []Patch) []string {
	var names []string
	for _, p := range patches {
		if j.own(p.Name) < 0 && (j.Open == nil || j.Open.Module != p.Name) {
			names = append(names, p.Name)
		}
	}
	return names
}

func (t *turn) fetched() bool {
	b := t.o.Bundles[t.target]
	switch {
	case b.Refused != "":
		return t.refuse("cannot load bundle %s: %s", t.target.Short(), b.Refused)
	case b.Manifest != nil:
		return false
	case b.Failing != "" && t.now < b.Retry:
		return t.wait(wire.PhaseWaiting, b.Retry-t.now, "cannot fetch bundle %s yet: %s", t.target.Short(), b.Failing)
	}
	return t.do(Action{Kind: Fetch, Phase: wire.PhaseApplying, Digest: t.target, Reason: "fetching bundle " + t.target.Short()})
}

func (t *turn) fits() bool {
	m := t.o.Bundles[t.target].Manifest
	if reason := Unfit(*m, t.o); reason != "" {
		return t.refuse("cannot load %s: %s", m.Name, reason)
	}
	return false
}

// Unfit says why a bundle can never be loaded on this host, or "".
func Unfit(m bundle.Manifest, o Observed) string {
	switch mismatch := m.Kernel.Mismatch(o.Kernel); {
	case m.Kind != bundle.KindLive:
		return fmt.Sprintf("kind %q is not a live patch", m.Kind)
	case mismatch != "":
		return "built for another kernel: " + mismatch
	case !m.Replace:
		return "it does not atomically replace earlier live patches"
	}
	return ""
}

// nameFree refuses where a module that is not ours has the name.
func (t *turn) nameFree() bool {
	name := t.o.Bundles[t.target].Manifest.Module
	switch {
	case !slices.Contains(t.o.Modules, name) && t.patch(name) == nil:
		return false
	case t.j.own(name) < 0:
		return t.refuse("cannot load bundle %s: a module %s is loaded, and not by afloat", t.target.Short(), name)
	}
	return false
}

func (t *turn) tries() bool {
	if t.j.TryKey == (Key{t.o.Boot, t.order}) && t.j.Tries >= maxTries {
		return t.wait(wire.PhaseFailed, 0, "%d loads were begun in this boot and none succeeded", t.j.Tries)
	}
	return false
}

// settled waits for any transition: the kernel allows one at a time.
func (t *turn) settled() bool {
	for _, p := range t.o.Patches {
		if p.Transition {
			return t.wait(wire.PhaseApplying, soon, "live patch %s is in transition", p.Name)
		}
	}
	return false
}

// permitted holds what would start something new without a valid permit. It
// comes last, so that the bundle is on the disk when the permit arrives.
func (t *turn) permitted() bool {
	if !t.needsPermit() {
		return false
	}
	return t.holdsPermit(wire.PhaseWaiting)
}

// holdsPermit waits, in the given phase, unless a valid permit for the order's
// rollout is held.
func (t *turn) holdsPermit(phase wire.Phase) bool {
	p, rollout := t.o.Permit, t.j.Desired.Rollout
	switch used := t.j.Permit; {
	case p == nil || p.Rollout != rollout:
		return t.wait(phase, 0, "no permit for rollout %s", rollout)
	case p.Epoch < t.j.Epoch:
		return t.wait(phase, 0, "the permit for rollout %s is of epoch %d, a leader that was replaced", rollout, p.Epoch)
	case used != nil && used.Rollout == rollout && used.Epoch == p.Epoch && p.Seq < used.Seq:
		return t.wait(phase, 0, "the permit for rollout %s is older than one used before", rollout)
	case t.now >= p.Until:
		return t.wait(phase, 0, "the permit for rollout %s has lapsed", rollout)
	}
	return false
}

// permitToUse is the permit that loading the target uses up to its seq, or nil.
func (t *turn) permitToUse() *Permit {
	if !t.needsPermit() {
		return nil
	}
	return t.o.Permit
}

// needsPermit: a rollout's new live patch does. The owner's own decision, what
// is proven here, going back to what ran here before, and what another was
// taken off for already do not.
func (t *turn) needsPermit() bool {
	if t.order.Local != 0 || t.j.Desired.Rollout == "" || t.inGap() {
		return false
	}
	if k := t.j.Kept; k != nil && k.Digest == t.target && k.Proven {
		return false
	}
	return !slices.ContainsFunc(t.j.Ran, func(p Past) bool { return p.Digest == t.target && p.Order != t.order })
}

func (t *turn) refuse(format string, args ...any) bool {
	t.wait(wire.PhaseRefused, time.Minute, format, args...)
	t.out.Digest = t.target
	t.out.Refusal = refusal("bundle", t.target, t.order.Generation, t.out.Reason)
	return true
}
