package agent

import (
	"slices"
	"strings"
	"time"

	"afloat/internal/converge"
	"afloat/internal/wire"
)

// crashAge is how long crash evidence is reported.
const crashAge = 7 * 24 * time.Hour

// publish hands the link what the host is now; it sends it if it has changed.
func (a *Agent) publish() {
	a.refusals = slices.DeleteFunc(a.refusals, func(r wire.Refusal) bool { return a.link.told(r.ID) })
	o, now := a.host.observe(a.host.journal.state)
	a.link.report(Describe(a.host.journal.state, o, now, a.last), a.head())
}

// head is the part of a report that does not depend on the journal.
func (a *Agent) head() wire.Report {
	return wire.Report{
		Version: wire.Version, Host: a.id.Host, Agent: a.o.Version,
		Name: a.settings.hostname(), Labels: a.settings.Labels, Refusals: a.refusals,
	}
}

// Describe says in a Report what a host is, as far as journal, kernel and the
// last action tell.
func Describe(j converge.Journal, o converge.Observed, now time.Duration, last converge.Action) wire.Report {
	order, _ := j.Target()
	r := wire.Report{
		Kernel: o.Kernel, Boot: o.Boot, UptimeS: now.Seconds(),
		Mode: converge.Mode(j.Desired, o.Ceiling), Stopped: o.Stopped,
		Epoch: j.Epoch, Generation: j.Desired.Generation,
		Phase: last.Phase, Reason: last.Reason, Crashes: j.Recent(time.Now().Add(-crashAge)),
		Nonce: j.Did, Out: o.Out, Abilities: o.Abilities, Blind: o.Blind,
	}
	if r.Phase == "" {
		r.Phase = wire.PhaseWaiting
	}
	if order.Local != 0 {
		r.Reason = strings.TrimSuffix("by the owner's decision at the host: "+r.Reason, ": ")
	}
	if j.Ending != nil && j.Ending.Order == order {
		r.ApplyMS, r.UnpatchedMS = j.Ending.MS, j.Ending.UnpatchedMS
	}
	for _, p := range o.Patches {
		r.Live = append(r.Live, livePatch(j, p))
	}
	return r
}

func livePatch(j converge.Journal, p converge.Patch) wire.LivePatch {
	out := wire.LivePatch{Name: p.Name, Enabled: p.Enabled, Transition: p.Transition}
	for _, own := range j.Own {
		if own.Module == p.Name {
			out.Bundle = own.Digest
			out.Proven = j.Kept != nil && j.Kept.Digest == own.Digest && j.Kept.Proven && own.Applied != 0
		}
	}
	return out
}
