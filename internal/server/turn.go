package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"afloat/internal/control"
	"afloat/internal/store"
)

// snapshotEvery is how many events lie between two snapshots.
const snapshotEvery = 1000

// loadState rebuilds the state from the newest snapshot and the events behind
// it, and begins this leader's epoch in the log.
func (o *owner) loadState(ctx context.Context) error {
	snap, err := o.store.LoadSnapshot(ctx)
	if err != nil {
		return err
	}
	o.state = control.New()
	if snap.Seq > 0 {
		if o.state, err = control.Restore(snap.Data); err != nil {
			return err
		}
	}
	o.saved = snap.Seq
	o.history = history{log: o.store.Events, last: snap.Seq, apply: o.apply}
	if err := o.store.Events.Replay(ctx, snap.Seq, o.history.take); err != nil {
		return fmt.Errorf("rebuild state: %w", err)
	}
	o.auditPending(ctx) // what a crash kept out of the audit
	return o.history.lead(ctx, o.epoch, o.looked)
}

// apply adds an acknowledged event to the state. An entry that begins an epoch decides nothing.
func (o *owner) apply(e event) error {
	if e.Record == nil {
		return nil
	}
	o.pending = append(o.pending, decided{o.history.last + 1, *e.Record})
	return o.state.Apply(*e.Record)
}

// decided is an applied decision and its place in the log.
type decided struct {
	seq    uint64
	record control.Record
}

// auditPending audits what was applied since the last time.
func (o *owner) auditPending(ctx context.Context) {
	for _, d := range o.pending {
		o.auditDecision(ctx, d.seq, d.record)
	}
	o.pending = nil
}

// turnRecords bounds how many decisions one turn stores, so that hosts are answered in between.
const turnRecords = 50

// turn decides until nothing is left to decide now. A store that does not
// answer holds everything; its error ends the server only when another leads.
func (o *owner) turn(ctx context.Context, now time.Time) error {
	if now.Sub(o.looked) > overslept {
		o.log.Warn("server was stopped", "for", now.Sub(o.looked))
		o.view.Listen(now)
	}
	o.looked = now
	o.saveReports()
	if err := o.settle(ctx); err != nil {
		return err
	}
	if err := o.raise(ctx, now); err != nil {
		return o.hold(err)
	}
	for n := 0; o.held == ""; n++ {
		if n == turnRecords {
			o.dirty = true
			return nil
		}
		r := control.Decide(o.state, o.view, now)
		if r.Empty() {
			break
		}
		if err := o.commit(ctx, r); err != nil {
			return o.hold(err)
		}
	}
	return o.snapshot(ctx)
}

// raise begins a higher epoch when hosts have seen one: the store lost its
// tail, and they would refuse what this leader signs.
func (o *owner) raise(ctx context.Context, now time.Time) error {
	if o.overtaken <= o.epoch || o.held != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, appendLimit)
	defer cancel()
	epoch, err := o.server.lease.Raise(ctx, o.overtaken)
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("%w: %w", errDeposed, err)
	}
	if err != nil {
		o.log.Warn("epoch not raised", "to", o.overtaken, "err", err)
		return nil // the next turn tries again
	}
	o.log.Warn("hosts have seen a later epoch than the store", "seen", o.overtaken, "epoch", epoch)
	o.epoch, o.permits = epoch, permits{issued: map[string]issued{}}
	if err := o.history.lead(ctx, epoch, now); err != nil {
		return err
	}
	o.nudgeAll()
	return nil
}

// commit stores a decision, applies it and wakes the hosts that it concerns, in this order.
func (o *owner) commit(ctx context.Context, r control.Record) error {
	if err := o.history.append(ctx, event{At: r.At, Record: &r}); err != nil {
		return err
	}
	o.logRecord(r)
	o.nudge(r.Hosts()...)
	o.auditPending(ctx)
	return nil
}

// settle finds out what the log holds after an append whose outcome is not known.
func (o *owner) settle(ctx context.Context) error {
	if o.history.unsettled == nil {
		return nil
	}
	if err := o.history.settle(ctx); err != nil {
		return o.hold(err)
	}
	o.auditPending(ctx)
	o.log.Info("store answers again", "held", o.held)
	o.held = ""
	o.nudgeAll() // orders that were stored without our knowing
	return nil
}

// hold stops all deciding until the store answers. Hosts keep what they have:
// they get the acknowledged orders and no permits. What is no trouble of the
// store is returned: a deposed leader must end, and so must a broken state.
func (o *owner) hold(err error) error {
	if errors.Is(err, errDeposed) || o.history.unsettled == nil {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return nil // the server ends
	}
	o.held = "the store does not take decisions: " + err.Error()
	o.log.Error("holding", "err", err)
	return nil
}

// snapshot stores the state now and then, so that a start replays little.
func (o *owner) snapshot(ctx context.Context) error {
	if o.held != "" || o.history.last < o.saved+o.every {
		return nil
	}
	data, err := o.state.Snapshot()
	if err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	o.saved = o.history.last // one try per thousand events: the log holds everything anyway
	if err := o.store.SaveSnapshot(ctx, store.Snapshot{Seq: o.history.last, Data: data}); err != nil {
		o.log.Warn("snapshot not saved", "err", err)
	}
	return nil
}

// logRecord says what was decided, after it was stored.
func (o *owner) logRecord(r control.Record) {
	for _, c := range r.Changes {
		o.log.Info("rollout changes", "rollout", c.Rollout, "phase", c.Phase, "reason", c.Reason, "hold", c.Hold)
	}
	for _, w := range r.Waves {
		o.log.Info("wave "+string(w.What), "rollout", w.Rollout, "wave", w.Wave, "verdict", w.Verdict, "why", w.Why)
	}
	for _, m := range r.Moves {
		o.log.Info("hosts move", "rollout", m.Rollout, "wave", m.Wave, "to", m.To, "hosts", len(m.Hosts), "reason", m.Reason)
	}
	for _, c := range r.Crashes {
		o.log.Warn("host crashed", "host", c.Host, "kind", c.Kind, "rollout", c.Patched, "also", c.Also)
	}
	for _, a := range r.Adopts {
		o.log.Warn("host taken over as it is", "host", a.Host, "generation", a.Generation, "live", a.Live)
	}
}
