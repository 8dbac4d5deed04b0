package server

import (
	"context"
	"fmt"

	"afloat/internal/audit"
	"afloat/internal/control"
	"afloat/internal/rollout"
)

// auditDecision writes what the server itself decided into the audit trail.
// Each entry's key follows from the event's place in the log, so that a start
// after a crash adds what is missing and nothing twice.
func (o *owner) auditDecision(ctx context.Context, seq uint64, r control.Record) {
	for i, e := range decisions(r) {
		e.Who, e.Outcome, e.Key = serverActor(), audit.Done, fmt.Sprintf("event/%d/%d", seq, i)
		if err := o.server.recorder.record(ctx, e); err != nil {
			o.log.Error("decision not audited yet", "what", e.What, "target", e.Target, "err", err)
		}
	}
}

// decisions are what a record says, in entries for the audit. Commands are
// audited where they come in, with who gave them.
func decisions(r control.Record) []audit.Entry {
	var out []audit.Entry
	for _, c := range r.Changes {
		what, reason := "rollout."+string(c.Phase), c.Reason
		if c.Hold != "" {
			what, reason = "rollout.held", c.Hold
		}
		out = append(out, audit.Entry{What: what, Target: c.Rollout, Reason: reason})
	}
	for _, w := range r.Waves {
		reason := w.Why
		if w.Verdict != "" {
			reason = string(w.Verdict) + ": " + w.Why
		}
		out = append(out, audit.Entry{What: "wave." + string(w.What), Target: fmt.Sprintf("%s wave %d", w.Rollout, w.Wave+1), Reason: reason})
	}
	for _, m := range r.Moves {
		if m.Orders() || m.To == rollout.Reverted {
			out = append(out, audit.Entry{What: "host." + string(m.To), Target: targets(m), Reason: m.Reason})
		}
	}
	for _, c := range r.Crashes {
		out = append(out, audit.Entry{What: "host.crash", Target: string(c.Host), Reason: fmt.Sprintf("%s: %s", c.Kind, c.Text)})
	}
	for _, a := range r.Adopts {
		out = append(out, audit.Entry{What: "host.adopted", Target: string(a.Host), Reason: fmt.Sprintf("generation %d, live patch %s", a.Generation, a.Live)})
	}
	return out
}

// targets names the rollout and as many hosts as fit; the event log has them all.
func targets(m control.Move) string {
	const most = 20
	text := m.Rollout + ":"
	for i, id := range m.Hosts {
		if i == most {
			return fmt.Sprintf("%s and %d more", text, len(m.Hosts)-most)
		}
		text += " " + string(id)
	}
	return text
}
