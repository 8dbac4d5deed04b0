package converge

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"afloat/internal/bundle"
)

// Trail is what a loaded live patch has changed beyond code, and so what another
// must know to replace it: when the kernel replaces a live patch, the replaced
// one's callbacks do not run. It is empty for a live patch without states and
// without callbacks that undo something.
type Trail struct {
	States []bundle.State `json:"states,omitempty"`
	// Undoes are its pre_unpatch and post_unpatch callbacks, as "object kind function file".
	Undoes []string `json:"undoes,omitempty"`
	// Series is the hash of its diffs, in order.
	Series string `json:"series,omitempty"`
}

// TrailOf reads a live patch's trail from its manifest.
func TrailOf(m *bundle.Manifest) Trail {
	undoes := undoing(m)
	if len(undoes) == 0 && len(m.States) == 0 {
		return Trail{}
	}
	return Trail{States: m.States, Undoes: undoes, Series: series(m.Sources)}
}

func undoing(m *bundle.Manifest) []string {
	var out []string
	for _, c := range m.Callbacks {
		if c.Kind == "pre_unpatch" || c.Kind == "post_unpatch" {
			file, _, _ := strings.Cut(c.Source, ":") // lines move
			out = append(out, strings.TrimSpace(c.Object+" "+c.Kind+" "+c.Function+" "+file))
		}
	}
	return out
}

func series(sources []bundle.Source) string {
	h := sha256.New()
	for _, s := range sources {
		fmt.Fprintln(h, s.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Hinders says why a live patch must not replace the one of this trail in one
// step, or "". The kernel asks for all of its states, none in a lower version.
// One that does not begin with the same diffs is not made to take over either:
// it must have the same callbacks, or what they undo would stay done.
func (tr Trail) Hinders(m *bundle.Manifest) string {
	for _, s := range tr.States {
		i := slices.IndexFunc(m.States, func(other bundle.State) bool { return other.ID == s.ID })
		switch {
		case i < 0:
			return fmt.Sprintf("it does not know state %#x", s.ID)
		case m.States[i].Version < s.Version:
			return fmt.Sprintf("it has state %#x in version %d, below %d", s.ID, m.States[i].Version, s.Version)
		}
	}
	for n := range m.Sources {
		if series(m.Sources[:n+1]) == tr.Series {
			return ""
		}
	}
	has := undoing(m)
	for _, u := range tr.Undoes {
		if !slices.Contains(has, u) {
			return fmt.Sprintf("it does not have callback %q", u)
		}
	}
	return ""
}

// Gap is a live patch that was taken off to make way for another, which is
// not applied yet.
type Gap struct {
	Order  Order         `json:"order"`
	Digest bundle.Digest `json:"digest"` // of the coming one
	// Since is the CLOCK_BOOTTIME from which on tasks run unpatched.
	Since time.Duration `json:"since_ns"`
}

// inGap says that the target's predecessor was taken off for it already.
func (t *turn) inGap() bool {
	x := t.j.Gap
	return x != nil && x.Order == t.order && x.Digest == t.target
}

// makeWay takes off what the target cannot replace in one step. It is the last
// check before a load: from here until the target is applied, tasks run unpatched.
func (t *turn) makeWay() bool {
	m := t.o.Bundles[t.target].Manifest
	for _, own := range slices.Backward(t.j.Own) {
		why := own.Trail.Hinders(m)
		if own.Module == m.Module {
			why = "both have that name"
		}
		if own.Removing || why == "" {
			continue
		}
		t.takeOff(own)
		t.out.Record.For, t.out.Record.Permit = t.target, t.permitToUse()
		t.out.Phase = t.cleanPhase()
		t.out.Reason = fmt.Sprintf("disabling %s, which %s cannot replace in one step: %s", own.Module, m.Name, why)
		return true
	}
	return false
}
