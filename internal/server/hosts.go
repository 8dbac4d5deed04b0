package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"afloat/internal/audit"
	"afloat/internal/enrol"
	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// HostView is a copy of what the server knows about one host.
type HostView struct {
	Registration enrol.Registration
	Labels       fleet.Labels
	Report       wire.Report // zero when the host never reported
	Told, Seen   time.Time
}

// Silent is how long a host may say nothing before it is shown as silent.
const Silent = 2 * time.Minute

// Hosts lists the hosts that match, by id. Revoked ones are left out.
func (s *Server) Hosts(ctx context.Context, sel fleet.Selector) ([]HostView, error) {
	return ask(ctx, s, func(o *owner) ([]HostView, error) {
		out := []HostView{}
		for _, h := range o.selected(sel) {
			out = append(out, HostView{Registration: h.reg, Labels: h.labels(), Report: h.report, Told: h.told, Seen: h.seen})
		}
		return out, nil
	})
}

// selected returns the live hosts that match, by id.
func (o *owner) selected(sel fleet.Selector) []*host {
	var out []*host
	for _, h := range o.hosts {
		if h.reg.Revoked.IsZero() && sel.Matches(h.labels()) {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b *host) int { return strings.Compare(string(a.reg.Host), string(b.reg.Host)) })
	return out
}

// SetMode raises or lowers how far the selected hosts may go. It returns the
// hosts that were changed. The ceiling on the host itself still holds.
func (s *Server) SetMode(ctx context.Context, who audit.Actor, sel fleet.Selector, mode fleet.Mode) ([]fleet.HostID, error) {
	if mode != fleet.ModeObserve && mode != fleet.ModeAct {
		return nil, refuse("", "cannot set mode %q: observe or act", mode)
	}
	ids, err := ask(ctx, s, func(o *owner) ([]fleet.HostID, error) {
		var ids []fleet.HostID
		for _, h := range o.selected(sel) {
			if h.reg.Mode != mode {
				ids = append(ids, h.reg.Host)
			}
		}
		return ids, nil
	})
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		err := s.act(ctx, who, "host.mode", string(id), func() (string, error) {
			return string(mode), s.changeHost(ctx, id, func(r *enrol.Registration) { r.Mode = mode })
		})
		if err != nil {
			return nil, err
		}
	}
	return ids, tell(ctx, s, func(o *owner) { o.nudge(ids...) })
}

func (s *Server) changeHost(ctx context.Context, id fleet.HostID, change func(*enrol.Registration)) error {
	var now enrol.Registration
	err := s.store.ChangeHost(ctx, id, func(r enrol.Registration) (enrol.Registration, error) {
		change(&r)
		now = r
		return r, nil
	})
	if err != nil {
		return err
	}
	return tell(ctx, s, func(o *owner) {
		if h := o.hosts[id]; h != nil {
			h.reg = now
			o.enrol(h)
			o.dirty = true
		}
	})
}

// RevokeHost takes a host's identity away and drops its connection.
func (s *Server) RevokeHost(ctx context.Context, who audit.Actor, name, reason string) error {
	return s.act(ctx, who, "host.revoke", name, func() (string, error) {
		id, err := s.FindHost(ctx, name)
		if err != nil {
			return "", err
		}
		err = s.changeHost(ctx, id, func(r *enrol.Registration) {
			if r.Revoked.IsZero() {
				r.Revoked = time.Now().UTC()
			}
		})
		if err != nil {
			return "", err
		}
		_, err = ask(ctx, s, func(o *owner) (struct{}, error) { return struct{}{}, o.revoke() })
		return reason, err
	})
}

// FindHost resolves an id, or a name that only one host has.
func (s *Server) FindHost(ctx context.Context, name string) (fleet.HostID, error) {
	return ask(ctx, s, func(o *owner) (fleet.HostID, error) {
		if h := o.hosts[fleet.HostID(name)]; h != nil {
			return h.reg.Host, nil
		}
		var found []fleet.HostID
		for id, h := range o.hosts {
			if h.reg.Revoked.IsZero() && (h.reg.Name == name || h.report.Name == name && name != "") {
				found = append(found, id)
			}
		}
		switch len(found) {
		case 0:
			return "", refuse("afloat hosts shows ids and names", "cannot find host %q", name)
		case 1:
			return found[0], nil
		}
		return "", refuse("use the id: afloat hosts shows it", "cannot tell which host %q is: %d have that name", name, len(found))
	})
}

// nudgeAll wakes every host.
func (o *owner) nudgeAll() {
	for id := range o.hosts {
		o.nudge(id)
	}
}
