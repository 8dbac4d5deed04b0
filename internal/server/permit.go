package server

import (
	"time"

	"afloat/internal/wire"
)

const (
	// permitTTL is how long a host may go on starting new work without a fresh
	// permit: the longest that a halt takes to reach a host that hears nothing.
	permitTTL = time.Minute
	// permitPeriod is how long one signature is given out.
	permitPeriod = 15 * time.Second
)

// permits signs each rollout's permit once per period, not per host.
type permits struct {
	seq    uint64
	issued map[string]issued
}

type issued struct {
	signed wire.Signed
	at     time.Time
}

// permit is the rollout's permit of this period, nil when it may start nothing new.
func (o *owner) permit(rollout string, now time.Time) (*wire.Signed, error) {
	if rollout == "" || o.held != "" || !o.state.Permits(rollout) {
		return nil, nil
	}
	if p, ok := o.permits.issued[rollout]; ok && now.Sub(p.at) < permitPeriod {
		return &p.signed, nil
	}
	o.permits.seq++
	signed, err := wire.Sign(o.key, wire.ContextPermit, wire.Permit{
		Version: wire.Version, Rollout: rollout, Epoch: o.epoch, Seq: o.permits.seq, TTL: permitTTL,
	})
	if err != nil {
		return nil, err
	}
	o.permits.issued[rollout] = issued{signed: signed, at: now}
	return &signed, nil
}
