package web

import (
	"fmt"
	"net/http"
	"time"

	"afloat/internal/api"
	"afloat/internal/audit"
	"afloat/internal/control"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

func (o *operators) start(r *http.Request, who audit.Actor) (any, error) {
	req, err := body[api.StartRollout](r)
	if err != nil {
		return nil, err
	}
	return o.command(r, who, control.Command{Verb: control.Start, Policy: req.Policy})
}

func (o *operators) do(r *http.Request, who audit.Actor) (any, error) {
	req, err := body[api.DoRollout](r)
	if err != nil {
		return nil, err
	}
	switch req.Verb {
	case api.VerbAbort, api.VerbRevert, api.VerbPause, api.VerbResume:
	default:
		return nil, &badRequest{fmt.Errorf("verb %q: abort, revert, pause or resume", req.Verb)}
	}
	return o.command(r, who, control.Command{Verb: control.Verb(req.Verb), Rollout: req.ID, Reason: req.Reason})
}

func (o *operators) command(r *http.Request, who audit.Actor, c control.Command) (any, error) {
	id, err := o.server.Command(r.Context(), who, c)
	if err != nil {
		return nil, err
	}
	st, _, err := o.server.Rollout(r.Context(), id)
	return rolloutOf(st, time.Now()), err
}

func (o *operators) rollouts(r *http.Request, _ audit.Actor) (any, error) {
	all, err := o.server.Rollouts(r.Context())
	if err != nil {
		return nil, err
	}
	now := time.Now()
	out := make([]api.Rollout, len(all))
	for i, st := range all {
		out[i] = rolloutOf(st, now)
	}
	return out, nil
}

func (o *operators) rollout(r *http.Request, _ audit.Actor) (any, error) {
	st, members, err := o.server.Rollout(r.Context(), r.URL.Query().Get("id"))
	if err != nil {
		return nil, err
	}
	d := api.RolloutDetail{Rollout: rolloutOf(st, time.Now()), Members: make([]api.RolloutHost, len(members))}
	for i, m := range members {
		d.Members[i] = api.RolloutHost{ID: m.Host, Name: m.Name, Wave: m.Wave, Phase: string(m.Phase), Reason: m.Reason}
	}
	return d, nil
}

func rolloutOf(st control.Status, now time.Time) api.Rollout {
	r := api.Rollout{ID: st.ID, Name: st.Name, Target: st.Target, State: string(st.Phase), Reason: st.Reason, By: st.By,
		Started: st.Started, Hosts: st.Selected, Phases: map[string]int{}, Waves: make([]api.Wave, len(st.Waves)),
		Ended: st.Phase.Over() || st.Phase == rollout.PhaseComplete, Good: st.Phase == rollout.PhaseComplete,
		Verdict: string(st.Gate.Level), Debt: st.Debt, Reboot: string(st.Reboot), ETA: st.ETA, Unbound: st.Unbound}
	if st.Hold != "" && st.Phase.Open() {
		r.State, r.Reason = "held", st.Hold
	}
	for _, f := range st.Gate.Findings {
		r.Reasons = append(r.Reasons, f.Text)
	}
	taken := 0
	for i, w := range st.Waves {
		r.Waves[i] = waveOf(w, now)
		for phase, n := range r.Waves[i].Phases {
			r.Phases[phase] += n
			taken += n
		}
	}
	if left := st.Selected - taken; left > 0 {
		r.Phases[string(rollout.Waiting)] = left
	}
	return r
}

func waveOf(w control.WaveStatus, now time.Time) api.Wave {
	out := api.Wave{Name: w.Name, State: w.State, Hosts: w.Goal, Phases: map[string]int{}, Reason: w.Why}
	for phase, n := range w.Hosts {
		out.Phases[string(phase)] = n
	}
	if w.State == "soaking" {
		out.SoakLeftS = max(0, w.SoakUntil.Sub(now).Seconds())
	}
	return out
}

func (o *operators) explain(r *http.Request, _ audit.Actor) (any, error) {
	v, err := o.server.Explain(r.Context(), r.URL.Query().Get("id"))
	if err != nil {
		return nil, err
	}
	e := api.Explanation{Host: hostOf(v.Host, time.Now()), Desired: "no live patch", Generation: v.Desired.Generation,
		Rollout: v.Why.Rollout, Phase: string(v.Why.Phase), Reasons: v.Reasons}
	if d := v.Desired.Live; d != "" {
		e.Desired = fmt.Sprintf("live patch %s (bundle %s)", v.Target, d.Short())
	}
	if d := v.Desired; d.Action != wire.ActionLive {
		e.Desired += fmt.Sprintf(", %s %s by order %s", d.Action, d.Object(), d.Nonce)
	}
	if why := v.Why.Reason; why != "" {
		if ends := v.Why.Ends(); ends != "" {
			why += "; this ends " + ends
		}
		e.Reasons = append([]string{why}, e.Reasons...)
	}
	return e, nil
}

func (o *operators) debts(r *http.Request, _ audit.Actor) (any, error) {
	v, err := o.server.Debts(r.Context())
	if err != nil {
		return nil, err
	}
	out := make([]api.Debt, len(v.Ledger))
	for i, d := range v.Ledger {
		out[i] = api.Debt{ID: d.Host, Name: d.Name, Kernel: d.Kernel, Hardware: d.Hardware, Since: d.Since, Patches: d.Patches, Due: d.Due, Proven: d.Proven, Rollout: d.Of}
		for _, x := range v.Outlooks {
			if x.Of == d.Of && x.IsLate(d.Host) {
				out[i].Late, out[i].Outlook = true, x.Text()
			}
		}
	}
	return out, nil
}

func (o *operators) took(r *http.Request, _ audit.Actor) (any, error) {
	all, err := o.server.Took(r.Context())
	if err != nil {
		return nil, err
	}
	out := make([]api.Took, len(all))
	for i, t := range all {
		out[i] = api.Took{Action: t.Action, Hardware: t.Hardware, P90S: t.P90().Seconds(), Hosts: len(t.Times)}
	}
	return out, nil
}
