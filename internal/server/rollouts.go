package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"afloat/internal/audit"
	"afloat/internal/control"
	"afloat/internal/policy"
)

// Command carries out what an operator wants done to a rollout, and returns
// the rollout's id. It is refused while the store takes no decisions.
func (s *Server) Command(ctx context.Context, who audit.Actor, c control.Command) (string, error) {
	c.By = who.Name
	what, target := "rollout."+string(c.Verb), c.Rollout
	if c.Verb == control.Release {
		what, target = "host."+string(c.Verb), string(c.Host)
	}
	var id string
	err := s.act(ctx, who, what, target, func() (string, error) {
		var err error
		id, err = ask(ctx, s, func(o *owner) (string, error) { return o.command(ctx, c, time.Now()) })
		if id != "" && c.Reason == "" {
			return id, err
		}
		return c.Reason, err
	})
	return id, err
}

func (o *owner) command(ctx context.Context, c control.Command, now time.Time) (string, error) {
	if o.held != "" {
		return "", fmt.Errorf("held: %s", o.held)
	}
	r, err := control.Do(o.state, o.view, c, now)
	if err != nil {
		return "", asRefusal(err)
	}
	if err := o.commit(ctx, r); err != nil {
		// What became of it is not known: the next turn finds out.
		return "", errors.Join(err, o.hold(err))
	}
	o.dirty = true
	return r.Command.Rollout, nil
}

// Release lets a quarantined host, by id or name, take part again.
func (s *Server) Release(ctx context.Context, who audit.Actor, name, reason string) error {
	id, err := s.FindHost(ctx, name)
	if err != nil {
		return err
	}
	_, err = s.Command(ctx, who, control.Command{Verb: control.Release, Host: id, Reason: reason})
	return err
}

// DebtView is who owes a reboot, the longest first, and whether they will be in time.
type DebtView struct {
	Ledger   []control.Debtor
	Outlooks []control.Outlook
}

// Debts lists the hosts that owe a reboot.
func (s *Server) Debts(ctx context.Context) (DebtView, error) {
	var owing []control.Owing
	ledger, err := ask(ctx, s, func(o *owner) ([]control.Debtor, error) {
		owing = control.Debts(o.state, o.view, time.Now())
		return control.Ledger(o.state, o.view), nil
	})
	v := DebtView{Ledger: ledger}
	for _, o := range owing { // played here: the owner has other things to do
		v.Outlooks = append(v.Outlooks, o.Outlook(time.Now()))
	}
	return v, err
}

// Took lists how long actions have taken, by action and class of hardware.
func (s *Server) Took(ctx context.Context) ([]control.Took, error) {
	return ask(ctx, s, func(o *owner) ([]control.Took, error) { return o.state.Took(), nil })
}

// nextStep is what helps a caller on whose command was refused.
func nextStep(s control.Subject) string {
	switch s {
	case control.AboutID:
		return "afloat rollout list shows what there is"
	case control.AboutPhase:
		return "afloat rollout status ID shows the rollout, with the reason of its phase"
	case control.AboutTarget:
		return "give a target that hosts can do: target: {live: NAME}"
	case control.AboutBudget:
		return "group by a label that hosts have; afloat hosts shows the labels of each"
	case control.AboutRival:
		return "follow it with afloat rollout watch ID; abort it before another one starts: hosts keep what they have and are free then"
	case control.AboutHost:
		return "afloat explain host NAME says what keeps a host from starting"
	case control.AboutMissing:
		return "afloat bundle list shows the catalog; afloat bundle add FILE puts a bundle there"
	case control.AboutBundles:
		return "build the fix again under another --name; what was reverted or withdrawn stays out"
	}
	return ""
}

// asRefusal marks what is the caller's to fix.
func asRefusal(err error) error {
	if refused, ok := errors.AsType[*control.RefusedError](err); ok {
		return refuse(nextStep(refused.Subject), "%s", refused.Error())
	}
	if bad, ok := errors.AsType[*policy.Error](err); ok {
		return refuse("", "cannot start rollout: %s", bad.Error())
	}
	return err
}
