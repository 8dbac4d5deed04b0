package sim

import (
	"fmt"
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/control"
	"afloat/internal/converge"
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
	patch  string // name of its live patch
	digest bundle.Digest
	id     string // once started
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
		if p.Target.Disrupts() {
			return nil, fmt.Errorf("simulate rollout: target %s: only live targets run on virtual hosts; afloat plan forecasts the others", p.Target)
		}
		out = append(out, ordered{Start: s, patch: p.Target.Name, digest: digestOf(n)})
	}
	return out, nil
}

// stock fills the catalog: every target for the kernel of the first group.
func (w *world) stock() {
	if w.bundles == nil {
		w.bundles = map[bundle.Digest]map[bundle.Digest]converge.Bundle{}
		for n, o := range w.orders {
			m := bundle.Manifest{Kind: bundle.KindLive, Name: o.patch, Module: "sim_target", Replace: true, Kernel: kernelOf(w.hosts[0].group)}
			if n > 0 {
				m.Module = fmt.Sprintf("sim_target_%d", n+1)
			}
			w.bundles[o.digest] = map[bundle.Digest]converge.Bundle{o.digest: {Manifest: &m}}
		}
	}
	for _, o := range w.orders {
		w.view.Bundle(o.digest, *w.bundles[o.digest][o.digest].Manifest, false)
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
