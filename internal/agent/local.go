package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/converge"
	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// Local is the host's owner at the machine. It needs no server, no identity
// and no daemon; with a daemon running, the two take turns.
type Local struct{ host *host }

// RefusedError says why the host will not do what its owner asked.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// NewLocal opens the host. Of o only Folder, Kernel, Machine, Log and Limits count.
func NewLocal(o Options) *Local {
	if o.Limits == (converge.Limits{}) {
		o.Limits = converge.DefaultLimits()
	}
	h := newHost(o, Settings{Ceiling: fleet.ModeAct})
	h.byHand = true
	return &Local{host: h}
}

// Apply loads a bundle by hand, with every refusal that holds for an order of the server.
func (l *Local) Apply(ctx context.Context, file []byte, progress func(converge.Action)) (converge.Action, error) {
	d := bundle.DigestOf(file)
	b, err := l.host.bundles.verify(d, file)
	if err != nil {
		return converge.Action{}, &RefusedError{fmt.Sprintf("cannot apply bundle %s: %v", d.Short(), err)}
	}
	if err := os.MkdirAll(l.host.journal.dir, 0o700); err != nil {
		return converge.Action{}, err
	}
	err = l.decide(ctx, d, func(j converge.Journal, o converge.Observed) error {
		reason := converge.Unfit(b.Manifest, o)
		switch foreign := j.Foreign(o.Patches); {
		case reason != "":
		case len(foreign) > 0:
			reason = fmt.Sprintf("this host carries live patch %s, which afloat did not load", foreign[0])
		case o.Stopped:
			reason = "the stop file " + l.host.stop + " is there"
		default:
			_, err := l.host.bundles.put(d, file)
			return err
		}
		return &RefusedError{fmt.Sprintf("cannot apply %s: %s", b.Manifest.Name, reason)}
	})
	if err != nil {
		return converge.Action{}, err
	}
	return l.finish(ctx, progress, wire.PhaseApplied)
}

// Revert takes afloat's own live patches off and keeps them off until the
// server gives a higher generation.
func (l *Local) Revert(ctx context.Context, progress func(converge.Action)) (converge.Action, error) {
	if err := os.MkdirAll(l.host.journal.dir, 0o700); err != nil {
		return converge.Action{}, err
	}
	err := l.decide(ctx, "", func(converge.Journal, converge.Observed) error { return nil })
	if err != nil {
		return converge.Action{}, err
	}
	return l.finish(ctx, progress, wire.PhaseReverted, wire.PhaseIdle)
}

// decide journals the owner's decision, unless check refuses it.
func (l *Local) decide(ctx context.Context, d bundle.Digest, check func(converge.Journal, converge.Observed) error) error {
	return l.host.journal.do(ctx, func(t *tx) error {
		for {
			o, now := l.host.observe(t.state())
			if o.Problem != "" {
				return errors.New(o.Problem)
			}
			if o.Boot != t.state().Boot { // note the boot first: only then is what we own known
				a := converge.Next(nil, t.state(), o, now)
				if err := l.host.act(t, a); err != nil {
					return err
				}
				continue
			}
			if err := check(t.state(), o); err != nil {
				return err
			}
			return t.append(converge.Record{Kind: converge.RecordLocal, Boot: o.Boot, Uptime: now, Digest: d})
		}
	})
}

func (l *Local) finish(ctx context.Context, progress func(converge.Action), good ...wire.Phase) (converge.Action, error) {
	a, err := l.host.settle(ctx, progress)
	if err != nil {
		return a, err
	}
	if slices.Contains(good, a.Phase) {
		return a, nil
	}
	return a, &RefusedError{fmt.Sprintf("%s: %s", a.Phase, a.Reason)}
}

// MarkShutdown journals that this boot is about to end in order, so that the
// next one is no crash. An agent that is started again in this boot takes it back.
func (l *Local) MarkShutdown(ctx context.Context) error {
	boot, err := l.host.machine.Boot()
	if err != nil {
		return err
	}
	return l.host.journal.do(ctx, func(t *tx) error {
		if t.state().Boot != boot {
			return errors.New("the agent has not run in this boot")
		}
		return t.append(converge.Record{Kind: converge.RecordShutdown, Boot: boot})
	})
}

// Status is what the host is, from journal and kernel alone.
type Status struct {
	Report  wire.Report      `json:"report"`
	Journal converge.Journal `json:"journal"`
	Foreign []string         `json:"foreign,omitempty"`
	Server  string           `json:"server,omitempty"`
	Problem string           `json:"problem,omitempty"`
}

// Status changes nothing.
func (l *Local) Status(f Folder) (Status, error) {
	j, err := ReadJournal(f.State)
	if err != nil {
		return Status{}, err
	}
	s, err := loadSettings(f.Config)
	if err != nil {
		return Status{}, err
	}
	h := *l.host
	h.ceiling, h.byHand = s.Ceiling, false
	o, now := h.observe(j)
	st := Status{Journal: j, Foreign: j.Foreign(o.Patches), Problem: o.Problem}
	st.Report = Describe(j, o, now, settled(j, o, now))
	st.Report.Name, st.Report.Labels = s.hostname(), s.Labels
	id, err := LoadIdentity(f.State)
	switch {
	case err == nil:
		st.Server, st.Report.Host = id.Server, id.Host
	case !errors.Is(err, ErrNotJoined):
		return Status{}, err
	}
	return st, nil
}

// settled is where the host stands after the notes that the agent would make
// of what it sees.
func settled(j converge.Journal, o converge.Observed, now time.Duration) converge.Action {
	for {
		a := converge.Next(nil, j, o, now)
		if a.Kind != converge.Note {
			return a
		}
		next, err := j.Fold(a.Record)
		if err != nil {
			return converge.Action{Kind: converge.Wait, Phase: wire.PhaseWaiting, Reason: err.Error()}
		}
		j = next
	}
}
