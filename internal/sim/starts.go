package sim

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/control"
	"afloat/internal/converge"
	"afloat/internal/kernel"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// Start is a rollout that begins in the course of a run.
type Start struct {
	Policy string // YAML
	At     time.Duration
}

// ordered is one rollout of the run: the n-th to be given to the server, which
// may refuse it.
type ordered struct {
	Start
	read   *policy.Policy
	digest bundle.Digest // of its live patch, "" if it is about something else
	id     string        // once started
}

// digestOf is the bundle of the n-th patch; the first one's is goodDigest.
func digestOf(n int) bundle.Digest {
	if n == 0 {
		return goodDigest
	}
	return bundle.Digest("sha256:" + strings.Repeat(fmt.Sprintf("%04x", 0x5ec0+n), 16))
}

// orders reads the policies of a run: errors of all come before the first turn.
func (o Options) orders() ([]ordered, error) {
	var out []ordered
	for n, s := range append([]Start{{Policy: o.Policy}}, o.Also...) {
		p, err := policy.Parse([]byte(s.Policy))
		if err != nil {
			return nil, err
		}
		x := ordered{Start: s, read: p}
		if p.Target.Action == policy.Live {
			x.digest = digestOf(n)
		}
		out = append(out, x)
	}
	return out, nil
}

// blame is the rollout whose target does the harm that faults tell of.
func (w *world) blame() *ordered { return &w.orders[w.o.Blame] }

// built is the kernel that live patches are built for.
func (w *world) built() kernel.ID {
	return kernelOf(cmp.Or(w.o.Fleet.Live, w.o.Fleet.Groups[0].Kernel, usualKernel))
}

// stock fills the catalog: every live patch, for the one kernel.
func (w *world) stock() {
	if w.bundles == nil {
		w.bundles = map[bundle.Digest]map[bundle.Digest]converge.Bundle{}
		for n, o := range w.orders {
			if o.digest == "" {
				continue
			}
			m := bundle.Manifest{Kind: bundle.KindLive, Name: o.read.Target.Name, Module: "sim_target", Replace: true, Kernel: w.built()}
			if n > 0 {
				m.Module = fmt.Sprintf("sim_target_%d", n+1)
			}
			w.bundles[o.digest] = map[bundle.Digest]converge.Bundle{o.digest: {Manifest: &m}}
		}
	}
	for d, b := range w.bundles {
		w.view.Bundle(d, *b[d].Manifest, false)
	}
}

// give starts the n-th rollout.
func (w *world) give(n int) error {
	if w.offline {
		w.queue.push(event{at: w.now + repeat, kind: evOrder, verb: control.Start, fault: n})
		return nil
	}
	rec, err := w.do(control.Command{Verb: control.Start, Policy: w.orders[n].Policy})
	if err != nil {
		w.say("the server refuses rollout %d: %v", n+1, err)
		return err
	}
	w.orders[n].id = rec.Command.Rollout
	return nil
}

// order is a command whose time has come.
func (w *world) order(e event) {
	if e.verb == control.Start {
		_ = w.give(e.fault) // the timeline has the refusal
		return
	}
	w.operate(e.verb, e.fault)
}

// operate gives an operator's command to the rollout that fault n means: the
// second for a share of 2.
func (w *world) operate(v control.Verb, n int) {
	if w.offline { // the operator tries again
		w.queue.push(event{at: w.now + repeat, kind: evOrder, verb: v, fault: n})
		return
	}
	of := max(0, int(w.faults[n].Share)-1)
	if of >= len(w.orders) || w.orders[of].id == "" {
		return
	}
	if _, err := w.do(control.Command{Verb: v, Rollout: w.orders[of].id}); err != nil {
		w.say("the server refuses: %v", err)
	}
}

// do gives a command to the server, and says what came of it.
func (w *world) do(c control.Command) (control.Record, error) {
	c.By = "simulated operator"
	rec, err := control.Do(w.state, w.view, c, w.at(w.now))
	if err == nil {
		w.commit(rec)
	}
	return rec, err
}

// over says that all rollouts have come to rest.
func (w *world) over() bool {
	for _, r := range w.state.Rollouts() {
		if r.Phase != rollout.PhaseComplete && !r.Phase.Over() || r.AnyActing() {
			return false
		}
	}
	return true
}
