package server

import (
	"time"

	"afloat/internal/wire"
)

// desired is what one host should be, unsigned.
func (o *owner) desired(h *host) (wire.Desired, error) {
	return wire.Desired{
		Version: wire.Version, Host: h.reg.Host, Epoch: o.epoch, Generation: 1,
		Mode: h.reg.Mode, Withdrawn: o.withdrawn(),
	}, nil
}

// permit is the rollout's permit of this period, nil when it may start nothing new.
func (o *owner) permit(rollout string, now time.Time) (*wire.Signed, error) {
	return nil, nil
}
