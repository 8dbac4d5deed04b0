package wire

import (
	"fmt"
	"slices"
	"strings"
)

// Action is what a host is ordered to do.
type Action string

const (
	ActionLive    Action = ""        // only what Desired.Live says
	ActionReboot  Action = "reboot"  // boot into Desired.Kernel, or into the same kernel if that is ""
	ActionReplace Action = "replace" // make the machine anew from image Desired.Replace
	ActionModule  Action = "module"  // exchange kernel module Desired.Module
	ActionRestart Action = "restart" // restart systemd unit Desired.Restart
)

// Limits of what names an action, its object and its nonce, in bytes.
const (
	maxName      = 256
	maxNonce     = 64
	maxAbilities = 16
)

// Actions are those that take a nonce.
func Actions() []Action { return []Action{ActionReboot, ActionReplace, ActionModule, ActionRestart} }

func (a Action) String() string {
	if a == ActionLive {
		return "live"
	}
	return string(a)
}

// Object is what the ordered action is about: the kernel, the image, the
// module or the unit. "" for a reboot into the same kernel.
func (d Desired) Object() string {
	switch d.Action {
	case ActionReboot:
		return d.Kernel
	case ActionReplace:
		return d.Replace
	case ActionModule:
		return d.Module
	case ActionRestart:
		return d.Restart
	}
	return ""
}

// Validate refuses a Desired that contradicts itself. OpenDesired calls it.
func (d Desired) Validate() error {
	if d.Live != "" {
		if err := d.Live.Validate(); err != nil {
			return err
		}
	}
	for _, f := range []struct{ field, name string }{
		{"kernel", d.Kernel}, {"module", d.Module}, {"replace", d.Replace}, {"restart", d.Restart},
	} {
		if err := checkName(f.name, maxName); err != nil {
			return fmt.Errorf("%s: %w", f.field, err)
		}
	}
	if err := checkName(d.Nonce, maxNonce); err != nil {
		return fmt.Errorf("nonce: %w", err)
	}
	switch {
	case d.Action != ActionLive && !slices.Contains(Actions(), d.Action):
		return fmt.Errorf("action %q is not known", d.Action)
	case (d.Action == ActionLive) != (d.Nonce == ""):
		return fmt.Errorf("action %q with nonce %q: one needs the other", d.Action, d.Nonce)
	case d.Action != ActionLive && d.Action != ActionReboot && d.Object() == "":
		return fmt.Errorf("action %s does not say of what", d.Action)
	}
	return nil
}

// Can says whether the host's agent is able to carry out an action.
func (r Report) Can(a Action) bool { return a == ActionLive || slices.Contains(r.Abilities, a) }

// checkAction bounds what a host says about actions. An ability that this
// server does not know is one of a newer agent, and does no harm.
func (r Report) checkAction() error {
	if err := checkName(r.Nonce, maxNonce); err != nil {
		return fmt.Errorf("nonce: %w", err)
	}
	if len(r.Abilities) > maxAbilities {
		return fmt.Errorf("%d abilities, at most %d allowed", len(r.Abilities), maxAbilities)
	}
	for _, a := range r.Abilities {
		if err := checkName(string(a), maxName); err != nil {
			return fmt.Errorf("abilities: %w", err)
		}
	}
	return nil
}

// checkName takes printable ASCII without blanks: such a name can stand in a
// command line, a log line and a page.
func checkName(s string, most int) error {
	if len(s) > most {
		return fmt.Errorf("%d bytes, at most %d allowed", len(s), most)
	}
	if i := strings.IndexFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }); i >= 0 {
		return fmt.Errorf("%q has a character that a name cannot have", s)
	}
	return nil
}
