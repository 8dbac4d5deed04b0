package converge

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"afloat/internal/wire"
)

// Deed is an ordered action that was begun on this host.
type Deed struct {
	Nonce  string      `json:"nonce"`
	Action wire.Action `json:"action"`
	Object string      `json:"object,omitempty"`
	Order  Order       `json:"order,omitzero"` // under which it was begun
	// Boot in which it was begun, "" on a machine that it made, and Began, the
	// CLOCK_BOOTTIME of that.
	Boot  string        `json:"boot,omitempty"`
	Began time.Duration `json:"began_ns,omitempty"`
	// Done: carried out. Of what ends the boot another boot is the proof.
	Done bool `json:"done,omitempty"`
	// Failed says why it did not come to what was ordered, "" if it did or is under way.
	Failed string `json:"failed,omitempty"`
}

// endsBoot says that the action cannot be over in the boot it began in.
func (d Deed) endsBoot() bool {
	return d.Action == wire.ActionReboot || d.Action == wire.ActionReplace
}

// open says that the action may be under way.
func (d Deed) open() bool { return !d.Done && d.Failed == "" }

// Deeds are what a journal knows of ordered actions.
type Deeds struct {
	Deed *Deed `json:"deed,omitempty"` // the newest
	// Nonces that were acted on, oldest first. None is acted on again.
	Nonces []string `json:"nonces,omitempty"`
	Did    string   `json:"did,omitempty"` // the last nonce whose action was carried out, or had nothing left to do
	Met    string   `json:"met,omitempty"` // the last nonce whose order was reached
	// Floor is the generation that had this machine made; lower ones are refused.
	Floor uint64 `json:"floor,omitempty"`
}

// Turning is what afloat is doing about the host's place in rotation.
type Turning string

const (
	TurningNot Turning = ""    // nothing: if the host is out, somebody else took it out
	TurningOut Turning = "out" // afloat takes, or has taken, it out
	TurningIn  Turning = "in"  // afloat puts it back in
)

// Rotation is what a journal knows of the host's place in rotation.
type Rotation struct {
	Turning Turning `json:"turning,omitempty"`
	// Cold: disrupted since it left.
	Cold bool `json:"cold,omitempty"`
	// Entered is the CLOCK_BOOTTIME of this boot at which it came back cold, 0 for never.
	Entered time.Duration `json:"entered_ns,omitempty"`
}

// maxNonces is how many nonces a journal remembers. An older one cannot come
// back: its generation is long refused.
const maxNonces = 64

// foldBegun is law 4 for ordered actions: at most one per nonce.
func foldBegun(j Journal, r Record) (Journal, error) {
	switch {
	case r.Nonce == "" || r.Action == wire.ActionLive:
		return j, errors.New("without nonce or action")
	case slices.Contains(j.Nonces, r.Nonce):
		return j, fmt.Errorf("nonce %s was acted on before", r.Nonce)
	}
	if r.Permit != nil {
		j.Permit = r.Permit
	}
	j.Nonces = tail(append(slices.Clone(j.Nonces), r.Nonce), maxNonces)
	j.Deed = &Deed{Nonce: r.Nonce, Action: r.Action, Object: r.Object, Order: r.Order, Boot: r.Boot, Began: r.Uptime}
	return j, nil
}

func foldActed(j Journal, r Record) (Journal, error) {
	if j.Deed == nil || j.Deed.Nonce != r.Nonce || !j.Deed.open() || j.Deed.endsBoot() && r.Reason == "" {
		return j, fmt.Errorf("no action of nonce %s is under way", r.Nonce)
	}
	if r.Reason != "" {
		return j.deedFailed(r.Reason), nil
	}
	return j.deedDone(), nil
}

func foldUnmet(j Journal, r Record) (Journal, error) {
	if j.Deed == nil || j.Deed.Nonce != r.Nonce || !j.Deed.Done || r.Reason == "" {
		return j, fmt.Errorf("no action of nonce %s was carried out, or no reason", r.Nonce)
	}
	return j.deedFailed(r.Reason), nil
}

func foldEntering(j Journal, _ Record) (Journal, error) {
	if j.Turning != TurningOut {
		return j, errors.New("afloat did not take the host out of rotation")
	}
	j.Turning = TurningIn
	return j, nil
}

func foldEntered(j Journal, r Record) (Journal, error) {
	if j.Turning != TurningIn {
		return j, errors.New("afloat was not putting the host back in rotation")
	}
	j.Turning = TurningNot
	if j.Cold {
		j.Cold, j.Entered = false, r.Uptime
	}
	return j, nil
}

// bootOrdered says whether the journal expects the present boot to end.
func (j Journal) bootOrdered() bool {
	return j.Deed != nil && j.Deed.open() && j.Deed.endsBoot()
}

// deedOver is what a new boot means for the deed: it proves one that ends the
// boot, and takes the ground from under any other.
func (j Journal) deedOver(r Record) Journal {
	j.Entered = 0
	switch {
	case r.Nonce != "" && j.Boot == "": // this machine was made on order
		j.Nonces, j.Floor = []string{r.Nonce}, r.Order.Generation
		j.Deed = &Deed{Nonce: r.Nonce, Action: wire.ActionReplace}
		j.Turning = TurningOut
		return j.deedDone()
	case j.bootOrdered():
		return j.deedDone()
	case j.Deed == nil || j.Deed.Failed != "" || j.Met == j.Deed.Nonce:
	case !j.Deed.Done:
		return j.deedFailed("the host went down while it was under way")
	case !r.Clean:
		return j.deedFailed("the host went down again before it was verified")
	}
	return j
}

func (j Journal) deedDone() Journal {
	deed := *j.Deed
	deed.Done = true
	j.Deed, j.Did, j.Cold = &deed, deed.Nonce, true
	return j
}

func (j Journal) deedFailed(reason string) Journal {
	deed := *j.Deed
	deed.Failed = reason
	j.Deed = &deed
	return j
}
