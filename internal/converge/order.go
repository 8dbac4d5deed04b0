package converge

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/wire"
)

// refuseDesired says why d may not follow what the journal has accepted, or
// "". The same order again, signed by the same or a later leader, is fine.
func refuseDesired(j Journal, d wire.Desired) string {
	old := j.Desired
	switch {
	case d.Epoch < j.Epoch:
		return fmt.Sprintf("epoch %d is below %d, which this host has accepted: signed by a leader that was replaced", d.Epoch, j.Epoch)
	case d.Generation < old.Generation:
		return fmt.Sprintf("generation %d is below %d, which this host has accepted: replayed", d.Generation, old.Generation)
	case d.Generation < j.Floor:
		return fmt.Sprintf("generation %d is below %d, which had this machine made: replayed", d.Generation, j.Floor)
	case d.Generation == 0:
		return "generation 0 is no order"
	case d.Generation > old.Generation:
		return ""
	case content(d) != content(old):
		return fmt.Sprintf("generation %d was accepted with another content", d.Generation)
	}
	return ""
}

// content is what a generation says, and says for ever.
func content(d wire.Desired) [9]string {
	return [...]string{
		d.Rollout, string(d.Live), d.Kernel, d.Module, d.Replace, d.Restart, string(d.Action), d.Nonce, strconv.FormatBool(d.Out),
	}
}

// news says whether d tells more than what the journal has accepted.
func news(j Journal, d wire.Desired) bool {
	return d.Epoch != j.Epoch || d.Generation != j.Desired.Generation || d.Mode != j.Desired.Mode ||
		len(union(j.Withdrawn, d.Withdrawn)) != len(j.Withdrawn)
}

// refusal gives what was turned down an ID that is the same each time.
func refusal(what string, digest bundle.Digest, generation uint64, reason string) *wire.Refusal {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d\n%s", what, digest, generation, reason))
	return &wire.Refusal{ID: hex.EncodeToString(sum[:8]), What: what, Digest: digest, Reason: reason}
}

// RefuseOrder is the refusal of an order that could not be opened at all.
func RefuseOrder(reason string) *wire.Refusal { return refusal("desired", "", 0, reason) }

// Target is what the host is told to run now, and by which order.
func (j Journal) Target() (Order, bundle.Digest) {
	order := Order{Generation: j.Desired.Generation}
	if j.Local == nil || j.Local.Cleared {
		return order, j.Desired.Live
	}
	order.Local = j.Local.Seq
	return order, j.Local.Live
}

// Admit takes a verified permit that answers a request sent at the given
// CLOCK_BOOTTIME. It refuses one that is older than the one held: seq only
// grows within an epoch, and epochs only grow.
func Admit(held *Permit, p wire.Permit, sent time.Duration) (*Permit, error) {
	if held != nil && (p.Epoch < held.Epoch || p.Epoch == held.Epoch && p.Rollout == held.Rollout && p.Seq < held.Seq) {
		return held, fmt.Errorf("permit %d of epoch %d is older than %d of epoch %d: replayed", p.Seq, p.Epoch, held.Seq, held.Epoch)
	}
	return &Permit{Rollout: p.Rollout, Epoch: p.Epoch, Seq: p.Seq, Until: sent + p.TTL}, nil
}

// LiveAt is the live patch of ours that was loaded at a time of this boot, or "".
func (j Journal) LiveAt(at time.Duration) bundle.Digest {
	for _, own := range slices.Backward(j.Own) {
		if at == 0 || own.Started <= at {
			return own.Digest
		}
	}
	return ""
}
