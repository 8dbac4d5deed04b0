package server

import (
	"afloat/internal/wire"
)

// desired is what one host should be, unsigned: what the acknowledged state
// says, with this leader's epoch. A host whose withdrawn bundle is still what
// it settled on is told to take it off by control, not here.
func (o *owner) desired(h *host) wire.Desired {
	d := o.state.Desired(h.reg.Host)
	d.Epoch, d.Mode, d.Withdrawn = o.epoch, h.reg.Mode, o.withdrawn()
	return d
}
