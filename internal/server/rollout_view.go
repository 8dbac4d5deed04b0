package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"afloat/internal/control"
	"afloat/internal/fleet"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// MemberView is one host of a rollout.
type MemberView struct {
	Host   fleet.HostID
	Name   string
	Wave   string
	Phase  rollout.HostPhase
	Reason string
}

// Rollouts lists all rollouts, oldest first.
func (s *Server) Rollouts(ctx context.Context) ([]control.Status, error) {
	return ask(ctx, s, func(o *owner) ([]control.Status, error) {
		now := time.Now()
		out := []control.Status{}
		for _, r := range o.state.Rollouts() {
			if st, ok := control.StatusOf(o.state, o.view, r.ID, now); ok {
				out = append(out, st)
			}
		}
		return out, nil
	})
}

// Rollout is one rollout with its hosts.
func (s *Server) Rollout(ctx context.Context, id string) (control.Status, []MemberView, error) {
	var members []MemberView
	st, err := ask(ctx, s, func(o *owner) (control.Status, error) {
		now := time.Now()
		st, ok := control.StatusOf(o.state, o.view, id, now)
		if !ok {
			return st, refuse("afloat rollout list shows what there is", "cannot find rollout %q", id)
		}
		members = o.members(o.state.Rollout(id), now)
		return st, nil
	})
	if err != nil {
		return st, nil, err
	}
	return st, members, nil
}

// explained is how many waiting hosts of a rollout get their reason in a
// listing; `afloat explain host` gives it for any.
const explained = 100

// members lists the hosts that the rollout has taken or selects, by name and id.
func (o *owner) members(r *rollout.Rollout, now time.Time) []MemberView {
	out := []MemberView{}
	asked := 0
	for _, id := range o.view.Hosts() {
		seen := o.view.Host(id)
		h := o.state.Host(id)
		m := MemberView{Host: id, Name: seen.Name, Phase: rollout.Waiting}
		switch {
		case h.Rollout == r.ID:
			m.Wave, m.Phase, m.Reason = r.Waves[h.Wave].Name, r.HostPhase(h.Phase, h.Wave), h.Reason
			if m.Reason == "" && m.Phase.Acting() && seen.Report.Generation == h.Generation {
				m.Reason = seen.Report.Reason // what the host itself waits for
			}
		case !r.Policy.Select.Matches(seen.Labels):
			continue
		case asked < explained && !r.Phase.Over():
			asked++
			if e := control.Explain(o.state, o.view, id, now); e.Rollout == r.ID {
				m.Wave, m.Reason = e.Wave, e.Reason
			}
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b MemberView) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(string(a.Host), string(b.Host))
	})
	return out
}

// ExplainView is everything that says why a host is as it is.
type ExplainView struct {
	Host    HostView
	Desired wire.Desired
	// Target names the live patch in Desired, "" for none.
	Target  string
	Why     control.Explanation
	Reasons []string // beside Why
}

// Explain says what a host is, what it should be, and what it waits for.
func (s *Server) Explain(ctx context.Context, name string) (ExplainView, error) {
	id, err := s.FindHost(ctx, name)
	if err != nil {
		return ExplainView{}, err
	}
	return ask(ctx, s, func(o *owner) (ExplainView, error) { return o.explain(o.hosts[id], time.Now()), nil })
}

func (o *owner) explain(h *host, now time.Time) ExplainView {
	id := h.reg.Host
	v := ExplainView{
		Host:    HostView{Registration: h.reg, Labels: h.labels(), Report: h.report, Told: h.told, Seen: h.seen},
		Desired: o.desired(h), Why: control.Explain(o.state, o.view, id, now),
	}
	if e, ok := o.catalog[v.Desired.Live]; ok {
		v.Target = e.Manifest.Name
	}
	switch {
	case !h.reg.Revoked.IsZero():
		v.Reasons = append(v.Reasons, "it was revoked at "+h.reg.Revoked.Format(time.RFC3339))
	case h.report.Reason != "":
		v.Reasons = append(v.Reasons, "its agent says "+string(h.report.Phase)+": "+h.report.Reason)
	}
	if o.held != "" {
		v.Reasons = append(v.Reasons, o.held)
	}
	return v
}
