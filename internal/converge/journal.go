package converge

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/wire"
)

// Order names one thing the host was told to be: the server's generation, and
// the count of local decisions taken since the journal began. Local is 0 for
// the server's own orders.
type Order struct {
	Generation uint64 `json:"generation"`
	Local      uint64 `json:"local,omitempty"`
}

// Key is what at most one successful load may happen for (law 4).
type Key struct {
	Boot  string `json:"boot"`
	Order Order  `json:"order"`
}

// RecordKind says what a Record tells.
type RecordKind string

const (
	RecordBoot     RecordKind = "boot"     // the agent runs in a boot it has not seen; says how the last one ended
	RecordShutdown RecordKind = "shutdown" // this boot is about to end in order
	RecordResumed  RecordKind = "resumed"  // it did not end after all: the agent was started in it again
	RecordDesired  RecordKind = "desired"  // an order of the server is accepted
	RecordLocal    RecordKind = "local"    // the host's owner decided by hand
	RecordIntent   RecordKind = "intent"   // a module is about to be loaded
	RecordLoaded   RecordKind = "loaded"   // the kernel took it: the one successful load of its Key
	RecordFailed   RecordKind = "failed"   // the kernel did not take it
	RecordApplied  RecordKind = "applied"  // transition over and enabled
	RecordProven   RecordKind = "proven"   // applied, and up for long enough
	RecordStalled  RecordKind = "stalled"  // the transition is about to be reversed
	RecordRemoving RecordKind = "removing" // one of our live patches is about to be disabled
	RecordRemoved  RecordKind = "removed"  // the kernel no longer has it
	RecordReached  RecordKind = "reached"  // the order is carried out; Phase says how
	RecordCrash    RecordKind = "crash"    // crash evidence of this boot
	RecordLeaving  RecordKind = "leaving"  // about to leave rotation
	RecordEntering RecordKind = "entering" // about to go back into rotation
	RecordEntered  RecordKind = "entered"  // back in rotation
	RecordBegun    RecordKind = "begun"    // an ordered action is about to be carried out: the one time for its nonce
	RecordActed    RecordKind = "acted"    // what came of one that does not end the boot; Reason if it failed
	RecordUnmet    RecordKind = "unmet"    // carried out, and the host is not what was ordered
)

// Record is one line of the host's journal. Which fields count depends on Kind.
type Record struct {
	Kind RecordKind `json:"kind"`
	// Time is the wall clock: for people, and for the age of crash evidence.
	Time time.Time `json:"time"`
	Boot string    `json:"boot"`
	// Uptime is CLOCK_BOOTTIME when the record was made.
	Uptime time.Duration `json:"uptime_ns,omitempty"`
	Order  Order         `json:"order,omitzero"`
	Digest bundle.Digest `json:"digest,omitempty"`
	Module string        `json:"module,omitempty"`
	Reason string        `json:"reason,omitempty"`
	Phase  wire.Phase    `json:"phase,omitempty"`
	Clean  bool          `json:"clean,omitempty"` // boot: the last boot ended in order
	Retry  bool          `json:"retry,omitempty"` // failed: worth another try in this boot
	MS     int64         `json:"ms,omitempty"`    // applied: load and transition
	Permit *Permit       `json:"permit,omitempty"`
	// For is what a live patch is removed for: the one that cannot replace it.
	For     bundle.Digest `json:"for,omitempty"`
	Trail   Trail         `json:"trail,omitzero"` // intent
	Desired *wire.Desired `json:"desired,omitempty"`
	Crash   *wire.Crash   `json:"crash,omitempty"`
	// Nonce, Action and Object are those of an ordered action; boot: of the
	// order that made this machine; reached: of the order that is met.
	Nonce  string      `json:"nonce,omitempty"`
	Action wire.Action `json:"action,omitempty"`
	Object string      `json:"object,omitempty"`
}

// Own is a live patch that afloat loaded in the current boot and that the
// kernel still has, as far as the journal knows.
type Own struct {
	Digest   bundle.Digest `json:"digest"`
	Module   string        `json:"module"`
	Order    Order         `json:"order"`
	Started  time.Duration `json:"started_ns"`           // CLOCK_BOOTTIME when the load began
	Applied  time.Duration `json:"applied_ns,omitempty"` // CLOCK_BOOTTIME when the transition ended, 0 before
	Proven   bool          `json:"proven,omitempty"`     // in this boot
	Removing bool          `json:"removing,omitempty"`
	Trail    Trail         `json:"trail,omitzero"`
}

// Kept is the live patch the host had when the last boot ended.
type Kept struct {
	Digest bundle.Digest `json:"digest"`
	Module string        `json:"module"`
	Proven bool          `json:"proven"`
	// Strikes counts the boots in a row that ended uncleanly before it was proven again.
	Strikes int `json:"strikes,omitempty"`
}

// Ending is how an order ended.
type Ending struct {
	Order  Order         `json:"order"`
	Phase  wire.Phase    `json:"phase"` // applied, reverted, idle or failed
	Digest bundle.Digest `json:"digest,omitempty"`
	Reason string        `json:"reason,omitempty"`
	MS     int64         `json:"ms,omitempty"`
	// UnpatchedMS is how long tasks ran without any live patch, because the
	// one before could not be replaced in one step.
	UnpatchedMS int64 `json:"unpatched_ms,omitempty"`
}

// Past is a live patch that was applied here, and the first order that named it.
type Past struct {
	Digest bundle.Digest `json:"digest"`
	Order  Order         `json:"order"`
}

// Intent is a load of which the journal does not know how it went.
type Intent struct {
	Order   Order         `json:"order"`
	Digest  bundle.Digest `json:"digest"`
	Module  string        `json:"module"`
	Started time.Duration `json:"started_ns"`
	Trail   Trail         `json:"trail,omitzero"`
}

// Local is the host owner's decision. It holds until the server's generation
// is higher than the one it was taken at.
type Local struct {
	Seq        uint64        `json:"seq"`
	Generation uint64        `json:"generation"`
	Live       bundle.Digest `json:"live,omitempty"`
	// Cleared: a higher generation came.
	Cleared bool `json:"cleared,omitempty"`
}

// Journal is what a host's records add up to. Fold makes it; its zero value is
// the journal of a host that was just enrolled.
type Journal struct {
	Boot      string          `json:"boot"`
	Ended     bool            `json:"ended,omitempty"` // Boot has a shutdown record
	Desired   wire.Desired    `json:"desired"`
	Epoch     uint64          `json:"epoch"`
	Withdrawn []bundle.Digest `json:"withdrawn,omitempty"`
	Local     *Local          `json:"local,omitempty"`
	Open      *Intent         `json:"open,omitempty"`
	Own       []Own           `json:"own,omitempty"` // oldest first
	Kept      *Kept           `json:"kept,omitempty"`
	Gap       *Gap            `json:"gap,omitempty"`
	// Undone is the order under which something was taken off last.
	Undone Order   `json:"undone,omitzero"`
	Ending *Ending `json:"ending,omitempty"` // of the newest order that ended
	Loads  []Key   `json:"loads,omitempty"`  // successful loads, oldest first
	Tries  int     `json:"tries,omitempty"`  // loads begun for TryKey
	TryKey Key     `json:"try_key,omitzero"`
	// Ran holds what was applied here and under which the host did not go down
	// unproven: going back to one of them starts nothing new.
	Ran     []Past     `json:"ran,omitempty"`
	Permit  *Permit    `json:"permit,omitempty"` // the highest that a load has used
	Crashes []Evidence `json:"crashes,omitempty"`
	Rotation
	Deeds
}

// Limits of what a journal remembers.
const (
	maxLoads   = 512
	maxRan     = 16
	maxCrashes = 32
	maxTries   = 3
	maxStrikes = 3
)

// ErrImpossible says that a record cannot follow the journal before it.
var ErrImpossible = errors.New("impossible journal record")

// Fold adds one record. It never changes j's slices in place. On an error,
// which wraps ErrImpossible, the returned journal is j.
func (j Journal) Fold(r Record) (Journal, error) {
	fold, known := folds[r.Kind]
	if !known {
		return j, fmt.Errorf("%w: kind %q is not known", ErrImpossible, r.Kind)
	}
	if r.Boot == "" {
		return j, fmt.Errorf("%w: %s without a boot id", ErrImpossible, r.Kind)
	}
	if r.Kind != RecordBoot && r.Boot != j.Boot {
		return j, fmt.Errorf("%w: %s of boot %s in boot %s", ErrImpossible, r.Kind, r.Boot, j.Boot)
	}
	next, err := fold(j, r)
	if err != nil {
		return j, fmt.Errorf("%w: %s: %w", ErrImpossible, r.Kind, err)
	}
	return next, nil
}

var folds = map[RecordKind]func(Journal, Record) (Journal, error){
	RecordBoot:     foldBoot,
	RecordShutdown: func(j Journal, _ Record) (Journal, error) { j.Ended = true; return j, nil },
	RecordResumed:  func(j Journal, _ Record) (Journal, error) { j.Ended = false; return j, nil },
	RecordDesired:  foldDesired,
	RecordLocal:    foldLocal,
	RecordIntent:   foldIntent,
	RecordLoaded:   foldLoaded,
	RecordFailed:   foldFailed,
	RecordApplied:  foldApplied,
	RecordProven:   foldProven,
	RecordStalled:  foldStalled,
	RecordRemoving: foldRemoving,
	RecordRemoved:  foldRemoved,
	RecordReached:  foldReached,
	RecordCrash:    func(j Journal, r Record) (Journal, error) { return j.withCrash(r), nil },
	RecordLeaving:  func(j Journal, _ Record) (Journal, error) { j.Turning = TurningOut; return j, nil },
	RecordEntering: foldEntering,
	RecordEntered:  foldEntered,
	RecordBegun:    foldBegun,
	RecordActed:    foldActed,
	RecordUnmet:    foldUnmet,
}

// foldBoot ends the boot before: what was loaded then is gone, and if it had
// not been proven when the boot ended uncleanly, its order has failed.
func foldBoot(j Journal, r Record) (Journal, error) {
	if r.Boot == j.Boot {
		return j, errors.New("the same boot twice")
	}
	if !r.Clean {
		j = j.withCrash(r).blame(r)
	}
	j = j.deedOver(r)
	j.Boot, j.Ended = r.Boot, false
	j.Own, j.Open, j.Gap = nil, nil, nil
	return j, nil
}

// blame gives up what was not proven in a boot that ended uncleanly.
func (j Journal) blame(r Record) Journal {
	suspect, order, ok := j.suspect()
	if !ok {
		return j
	}
	if j.Kept != nil && j.Kept.Digest == suspect && j.Kept.Proven && j.Kept.Strikes+1 < maxStrikes {
		kept := *j.Kept
		kept.Strikes++
		j.Kept = &kept
		return j
	}
	if j.Kept != nil && j.Kept.Digest == suspect {
		j.Kept = nil
	}
	j.Ran = without(j.Ran, suspect)
	j.Ending = &Ending{Order: order, Phase: wire.PhaseFailed, Digest: suspect, Reason: r.Reason}
	return j
}

// suspect is the live patch that was being loaded, or was loaded and not yet
// proven in this boot.
func (j Journal) suspect() (bundle.Digest, Order, bool) {
	if j.Open != nil {
		return j.Open.Digest, j.Open.Order, true
	}
	if n := len(j.Own); n > 0 && !j.Own[n-1].Proven {
		return j.Own[n-1].Digest, j.Own[n-1].Order, true
	}
	return "", Order{}, false
}

func foldDesired(j Journal, r Record) (Journal, error) {
	if r.Desired == nil {
		return j, errors.New("without a desired")
	}
	d := *r.Desired
	if reason := refuseDesired(j, d); reason != "" {
		return j, errors.New(reason)
	}
	if j.Local != nil && d.Generation > j.Local.Generation {
		local := *j.Local
		local.Cleared = true
		j.Local = &local
	}
	j.Withdrawn = union(j.Withdrawn, d.Withdrawn)
	j.Desired, j.Epoch = d, d.Epoch
	return j, nil
}

func foldLocal(j Journal, r Record) (Journal, error) {
	seq := uint64(1)
	if j.Local != nil {
		seq = j.Local.Seq + 1
	}
	j.Local = &Local{Seq: seq, Generation: j.Desired.Generation, Live: r.Digest}
	return j, nil
}

func foldIntent(j Journal, r Record) (Journal, error) {
	key := Key{r.Boot, r.Order}
	switch {
	case j.Open != nil:
		return j, errors.New("a load is open already")
	case slices.Contains(j.Loads, key):
		return j, fmt.Errorf("second load for boot %s and generation %d", key.Boot, key.Order.Generation)
	case r.Module == "" || r.Digest == "":
		return j, errors.New("without module or digest")
	}
	if j.TryKey != key {
		j.TryKey, j.Tries = key, 0
	}
	j.Tries++
	if r.Permit != nil {
		j.Permit = r.Permit
	}
	j.Open = &Intent{Order: r.Order, Digest: r.Digest, Module: r.Module, Started: r.Uptime, Trail: r.Trail}
	return j, nil
}

func foldLoaded(j Journal, r Record) (Journal, error) {
	if j.Open == nil || j.Open.Order != r.Order || j.Open.Module != r.Module {
		return j, errors.New("no such load was begun")
	}
	key := Key{r.Boot, r.Order}
	if slices.Contains(j.Loads, key) {
		return j, fmt.Errorf("second load for boot %s and generation %d", key.Boot, key.Order.Generation)
	}
	j.Loads = tail(append(slices.Clone(j.Loads), key), maxLoads)
	j.Own = append(slices.Clone(j.Own), Own{
		Digest: j.Open.Digest, Module: j.Open.Module, Order: j.Open.Order, Started: j.Open.Started, Trail: j.Open.Trail,
	})
	j.Open = nil
	return j, nil
}

func foldFailed(j Journal, r Record) (Journal, error) {
	if j.Open == nil || j.Open.Order != r.Order {
		return j, errors.New("no such load was begun")
	}
	if !r.Retry {
		j.Ending = &Ending{Order: r.Order, Phase: wire.PhaseFailed, Digest: j.Open.Digest, Reason: r.Reason}
		if j.Gap != nil {
			j.Ending.Reason += "; the live patch before it had to come off first, so none is applied"
		}
	}
	j.Open = nil
	return j, nil
}

func foldApplied(j Journal, r Record) (Journal, error) {
	i := j.own(r.Module)
	if i < 0 {
		return j, fmt.Errorf("module %s is not ours", r.Module)
	}
	j.Own = slices.Clone(j.Own)
	own := &j.Own[i]
	own.Applied = r.Uptime
	for k := range i { // an atomic replace took the older ones off
		j.Own[k].Removing = true
	}
	kept := Kept{Digest: own.Digest, Module: own.Module}
	if j.Kept != nil && j.Kept.Digest == own.Digest {
		kept = *j.Kept
	}
	j.Kept = &kept
	if !slices.ContainsFunc(j.Ran, func(p Past) bool { return p.Digest == own.Digest }) {
		j.Ran = tail(append(slices.Clone(j.Ran), Past{own.Digest, own.Order}), maxRan)
	}
	j.Ending = &Ending{Order: own.Order, Phase: wire.PhaseApplied, Digest: own.Digest, MS: r.MS}
	if x := j.Gap; x != nil {
		j.Ending.UnpatchedMS = max(1, (r.Uptime - x.Since).Milliseconds())
		j.Gap = nil
	}
	return j, nil
}

func foldProven(j Journal, r Record) (Journal, error) {
	i := j.own(r.Module)
	if i < 0 || j.Own[i].Applied == 0 || j.Kept == nil || j.Kept.Digest != j.Own[i].Digest {
		return j, fmt.Errorf("module %s is not applied", r.Module)
	}
	j.Own = slices.Clone(j.Own)
	j.Own[i].Proven = true
	j.Kept = &Kept{Digest: j.Own[i].Digest, Module: r.Module, Proven: true}
	return j, nil
}

func foldStalled(j Journal, r Record) (Journal, error) {
	next, err := foldRemoving(j, r)
	if err != nil {
		return j, err
	}
	own := next.Own[next.own(r.Module)]
	next.Ending = &Ending{Order: r.Order, Phase: wire.PhaseFailed, Digest: own.Digest, Reason: r.Reason}
	return next, nil
}

func foldRemoving(j Journal, r Record) (Journal, error) {
	i := j.own(r.Module)
	if i < 0 {
		return j, fmt.Errorf("module %s is not ours", r.Module)
	}
	j.Own = slices.Clone(j.Own)
	j.Own[i].Removing = true
	j.Undone = r.Order
	if r.For != "" {
		since := r.Uptime
		if j.Gap != nil {
			since = j.Gap.Since
		}
		j.Gap = &Gap{Order: r.Order, Digest: r.For, Since: since}
		if r.Permit != nil {
			j.Permit = r.Permit
		}
	}
	return j, nil
}

// foldRemoved also covers a live patch that somebody else took off: then
// Reason says so and its order has failed.
func foldRemoved(j Journal, r Record) (Journal, error) {
	i := j.own(r.Module)
	if i < 0 {
		return j, fmt.Errorf("module %s is not ours", r.Module)
	}
	own := j.Own[i]
	if r.Reason != "" {
		j.Ending = &Ending{Order: r.Order, Phase: wire.PhaseFailed, Digest: own.Digest, Reason: r.Reason}
		if j.Kept != nil && j.Kept.Digest == own.Digest {
			j.Kept = nil
		}
	}
	j.Own = slices.Delete(slices.Clone(j.Own), i, i+1)
	return j, nil
}

func foldReached(j Journal, r Record) (Journal, error) {
	switch r.Phase {
	case wire.PhaseReverted, wire.PhaseIdle:
		if len(j.Own) > 0 {
			return j, errors.New("live patches of ours are still loaded")
		}
		j.Kept, j.Gap = nil, nil
	case wire.PhaseApplied:
	default:
		return j, fmt.Errorf("phase %q does not end an order", r.Phase)
	}
	if r.Nonce != "" {
		j.Met, j.Did = r.Nonce, r.Nonce
	}
	j.Ending = &Ending{Order: r.Order, Phase: r.Phase, Digest: r.Digest, MS: r.MS}
	return j, nil
}

// own is the index of the module among ours, or -1.
func (j Journal) own(module string) int {
	return slices.IndexFunc(j.Own, func(o Own) bool { return o.Module == module })
}

func without(list []Past, d bundle.Digest) []Past {
	return slices.DeleteFunc(slices.Clone(list), func(p Past) bool { return p.Digest == d })
}

func union(a, b []bundle.Digest) []bundle.Digest {
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}

func tail[T any](list []T, n int) []T { return list[max(0, len(list)-n):] }
