package server

import (
	"context"
	"slices"
	"strings"
	"sync"
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
	var owing control.Owing
	var rest control.Rest
	var owes, going bool
	st, err := ask(ctx, s, func(o *owner) (control.Status, error) {
		now := time.Now()
		st, ok := control.StatusOf(o.state, o.view, id, now)
		if !ok {
			return st, refuse("afloat rollout list shows what there is", "cannot find rollout %q", id)
		}
		members = o.members(o.state.Rollout(id), now)
		owing, owes = control.Deadlines(o.state, o.view, id, now)
		rest, going = control.RestOf(o.state, o.view, id, now)
		return st, nil
	})
	if err != nil {
		return st, nil, err
	}
	if owes {
		st.Debt = s.outlooks.of(owing, time.Now()).Text()
	}
	if going {
		st.ETA = s.outlooks.eta(id, rest, time.Now()).Text()
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
	var debt control.Debtor
	var owing control.Owing
	v, err := ask(ctx, s, func(o *owner) (ExplainView, error) {
		if debt = control.DebtOf(o.state, o.view, id); debt.Of != "" {
			owing, _ = control.Deadlines(o.state, o.view, debt.Of, time.Now())
		}
		return o.explain(o.hosts[id], time.Now()), nil
	})
	if debt.Since.IsZero() || err != nil {
		return v, err
	}
	why := "it owes a reboot since " + debt.Since.UTC().Format(time.RFC3339)
	if !debt.Due.IsZero() {
		why += ", due " + debt.Due.UTC().Format(time.RFC3339)
		if o := s.outlooks.of(owing, time.Now()); o.IsLate(id) {
			why += ". " + o.Text()
		}
	}
	v.Reasons = append(v.Reasons, why)
	return v, nil
}

// outlooks keeps what was played ahead for a while: a listing that is asked
// for four times a second need not play a fleet each time.
type outlooks struct {
	mu   sync.Mutex
	all  map[string]outlook
	etas map[string]eta
}

type eta struct {
	control.ETA
	at   time.Time
	rest control.Rest
}

func (x *outlooks) eta(id string, rest control.Rest, now time.Time) control.ETA {
	x.mu.Lock()
	defer x.mu.Unlock()
	last, ok := x.etas[id]
	if !ok || now.Sub(last.at) > fresh || !rest.Like(last.rest) {
		last = eta{rest.ETA(now), now, rest}
		if x.etas == nil {
			x.etas = map[string]eta{}
		}
		x.etas[id] = last
	}
	return last.ETA
}

type outlook struct {
	control.Outlook
	at    time.Time
	owing control.Owing
}

// fresh is how long an outlook is good for while nothing else has changed.
const fresh = 15 * time.Second

func (x *outlooks) of(o control.Owing, now time.Time) control.Outlook {
	x.mu.Lock()
	defer x.mu.Unlock()
	last, ok := x.all[o.Of]
	if !ok || now.Sub(last.at) > fresh || !o.Like(last.owing) {
		last = outlook{o.Outlook(now), now, o}
		if x.all == nil {
			x.all = map[string]outlook{}
		}
		x.all[o.Of] = last
	}
	return last.Outlook
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
