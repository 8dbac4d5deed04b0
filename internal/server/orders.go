package server

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// onOrders answers a host that asks what it should be.
func (s *Server) onOrders(ctx context.Context, m *nats.Msg) {
	id, err := wire.SubjectHost(m.Subject)
	if err != nil {
		return
	}
	now := time.Now()
	orders, err := ask(ctx, s, func(o *owner) (wire.Orders, error) { return o.orders(id, now) })
	if err != nil {
		s.log.Warn("orders not given", "host", id, "err", err)
		return
	}
	data, err := json.Marshal(orders)
	if err != nil {
		s.log.Error("orders not given", "host", id, "err", err)
		return
	}
	if err := m.Respond(data); err != nil {
		s.log.Debug("orders not sent", "host", id, "err", err)
	}
}

// orders signs what one host should be, as the acknowledged state says it.
func (o *owner) orders(id fleet.HostID, now time.Time) (wire.Orders, error) {
	h := o.hosts[id]
	if h == nil || !h.reg.Revoked.IsZero() {
		return wire.Orders{}, fmt.Errorf("host %s is not known here", id)
	}
	h.seen = now
	o.view.Heard(id, now)
	d := o.desired(h)
	signed, err := wire.Sign(o.key, wire.ContextDesired, d)
	if err != nil {
		return wire.Orders{}, err
	}
	permit, err := o.permit(d.Rollout, now)
	return wire.Orders{Desired: signed, Permit: permit}, err
}

// nudge wakes hosts so that they ask.
func (o *owner) nudge(ids ...fleet.HostID) {
	for _, id := range ids {
		if err := o.server.nc.Publish(wire.NudgeSubject(id), nil); err != nil {
			o.log.Warn("nudge not sent", "host", id, "err", err)
		}
	}
}
