package server

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"afloat/internal/audit"
	"afloat/internal/fleet"
	"afloat/internal/store"
	"afloat/internal/wire"
)

// inbox bounds what waits for the owner; NATS drops what does not fit, and the
// hosts repeat themselves.
const inbox = 8192

// subscribe routes what hosts send to the owner until unsubscribe is called.
func (s *Server) subscribe(ctx context.Context) (unsubscribe func(), err error) {
	var subs []*nats.Subscription
	unsubscribe = func() {
		for _, sub := range subs {
			_ = sub.Unsubscribe() // the connection may be gone already
		}
	}
	for subject, handle := range map[string]func(context.Context, *nats.Msg){
		wire.AllReports: s.onReport, wire.AllBeats: s.onBeat, wire.AllRequests: s.onOrders,
	} {
		sub, err := s.nc.QueueSubscribe(subject, "afloat", func(m *nats.Msg) { handle(ctx, m) })
		if err != nil {
			unsubscribe()
			return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		if err := sub.SetPendingLimits(inbox, -1); err != nil {
			unsubscribe()
			return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		subs = append(subs, sub)
	}
	return unsubscribe, s.nc.Flush()
}

// maxRefusals is how many refusals of one report are audited.
const maxRefusals = 64

// onReport takes a Report and acknowledges it once the owner has it.
func (s *Server) onReport(ctx context.Context, m *nats.Msg) {
	id, err := wire.SubjectHost(m.Subject)
	if err != nil {
		return // NATS lets no enrolled host publish there
	}
	r, err := wire.DecodeReport(m.Data)
	if err == nil && r.Host != id {
		err = fmt.Errorf("the report speaks for host %s", r.Host)
	}
	if err != nil {
		s.recorder.refused(ctx, audit.Entry{Who: hostActor(string(id)), What: "host.report", Target: string(id), Reason: err.Error()})
		return
	}
	for _, refusal := range r.Refusals[:min(len(r.Refusals), maxRefusals)] {
		err := s.recorder.record(ctx, audit.Entry{Who: hostActor(string(id)), What: refusal.What + ".apply", Outcome: audit.Refused,
			Target: string(refusal.Digest), Reason: refusal.Reason, Key: string(id) + "/" + refusal.ID})
		if err != nil {
			s.log.Error("refusal not audited", "host", id, "err", err)
			return // not acknowledged: the host tells it again
		}
	}
	now := time.Now()
	if tell(ctx, s, func(o *owner) { o.heard(id, r, now) }) == nil && m.Reply != "" {
		if err := m.Respond(nil); err != nil {
			s.log.Debug("report not acknowledged", "host", id, "err", err)
		}
	}
}

// heard folds one report in. Reports may come late or twice: within one boot
// Seq decides, which an agent never lets fall behind, not even by a restart.
func (o *owner) heard(id fleet.HostID, r wire.Report, now time.Time) {
	h := o.hosts[id]
	if h == nil || !h.reg.Revoked.IsZero() {
		o.log.Warn("report of an unknown host", "host", id)
		return
	}
	h.seen = now
	o.view.Heard(id, now)
	if h.report.Boot == r.Boot && r.Seq < h.report.Seq {
		return
	}
	if r.Epoch > o.epoch && r.Epoch < saneEpoch {
		o.overtaken = max(o.overtaken, r.Epoch)
	}
	changed := differs(h.report, r)
	r.Refusals = nil
	h.report, h.told = r, now
	o.enrol(h) // its labels may be new
	o.view.Report(r, now)
	if !changed {
		return
	}
	o.unsaved[id] = true
	o.log.Info("host reports", "host", id, "phase", r.Phase, "generation", r.Generation, "reason", r.Reason)
	o.dirty = true
}

// saveReports writes what hosts said last, as far as the disk keeps up: the
// newest of each is enough, and a lost one is told again.
func (o *owner) saveReports() {
	for id := range o.unsaved {
		if !o.store.RoomForReport() {
			return
		}
		h := o.hosts[id]
		if err := o.store.SaveReport(store.LastReport{At: h.told, Report: h.report}); err != nil {
			o.log.Warn("report not saved", "host", id, "err", err)
			return
		}
		delete(o.unsaved, id)
	}
}

// saneEpoch bounds the epoch that a host may make the server follow.
const saneEpoch = 1 << 62

// differs tells whether anything that matters to a decision has changed.
func differs(a, b wire.Report) bool {
	return a.Boot != b.Boot || a.Phase != b.Phase || a.Generation != b.Generation || a.Epoch != b.Epoch ||
		a.Mode != b.Mode || a.Stopped != b.Stopped || a.Reason != b.Reason || a.Kernel != b.Kernel ||
		!slices.Equal(a.Live, b.Live) || !slices.Equal(a.Crashes, b.Crashes) ||
		a.Labels.String() != b.Labels.String() || a.Name != b.Name || a.Agent != b.Agent
}

// onBeat notes a sign of life.
func (s *Server) onBeat(ctx context.Context, m *nats.Msg) {
	id, err := wire.SubjectHost(m.Subject)
	if err != nil {
		return
	}
	var b wire.Beat
	if err := wire.Decode(m.Data, &b); err != nil {
		s.recorder.refused(ctx, audit.Entry{Who: hostActor(string(id)), What: "host.beat", Target: string(id), Reason: err.Error()})
		return
	}
	now := time.Now()
	if err := tell(ctx, s, func(o *owner) {
		if h := o.hosts[id]; h != nil {
			h.seen = now
			o.view.Heard(id, now)
		}
	}); err != nil {
		s.log.Debug("beat not taken", "host", id, "err", err)
	}
}

// hostOf is the address without its port, so that a stranger is one stranger.
func hostOf(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}
