package server

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/enrol"
	"afloat/internal/fleet"
	"afloat/internal/store"
	"afloat/internal/wire"
)

// owner is the one goroutine that decides and writes. Nothing else touches its fields.
type owner struct {
	server *Server
	store  *store.Store
	log    *slog.Logger
	key    ed25519.PrivateKey
	epoch  uint64

	hosts   map[fleet.HostID]*host
	catalog map[bundle.Digest]store.CatalogEntry
	// dirty: something changed that a decision may rest on.
	dirty bool
	// held is why nothing is decided now, "" when it is.
	held string
}

// host is what the server knows about one host.
type host struct {
	reg    enrol.Registration
	report wire.Report // zero until the first one
	told   time.Time   // when the report came, zero for never
	seen   time.Time   // last sign of life
	beat   wire.Beat
}

// labels are what the host is selected by: what it says, overridden by what its token bound.
func (h *host) labels() fleet.Labels {
	out := fleet.Labels{"host": string(h.reg.Host), "name": h.reg.Name}
	for _, from := range []fleet.Labels{h.report.Labels, h.reg.Labels} {
		for k, v := range from {
			out[k] = v
		}
	}
	return out
}

func newOwner(ctx context.Context, s *Server) (*owner, error) {
	o := &owner{
		server: s, store: s.store, log: s.log, key: s.identity.OrdersKey(), epoch: s.lease.Epoch,
		hosts: map[fleet.HostID]*host{}, catalog: map[bundle.Digest]store.CatalogEntry{},
	}
	regs, err := s.store.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range regs {
		o.hosts[r.Host] = &host{reg: r}
	}
	reports, err := s.store.Reports(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range reports {
		if h := o.hosts[r.Report.Host]; h != nil {
			h.report, h.told, h.seen = r.Report, r.At, r.At
		}
	}
	entries, err := s.store.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		o.catalog[e.Digest] = e
	}
	return o, o.revoke()
}

// tickEvery is how often the owner looks at the clock.
const tickEvery = time.Second

// run is the owner's goroutine.
func (o *owner) run(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case do := <-o.server.work:
			do(o)
		case <-tick.C:
		}
	}
}

// ask runs fn in the owner's goroutine and returns what it returned.
func ask[T any](ctx context.Context, s *Server, fn func(*owner) (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	reply := make(chan answer, 1) // one answer, which must not block the owner
	var zero T
	select {
	case <-ctx.Done():
		return zero, fmt.Errorf("ask server: %w", context.Cause(ctx))
	case <-s.ended:
		return zero, errEnded
	case s.work <- func(o *owner) { v, err := fn(o); reply <- answer{v, err} }:
	}
	select {
	case <-ctx.Done():
		return zero, fmt.Errorf("ask server: %w", context.Cause(ctx))
	case <-s.ended:
		return zero, errEnded
	case a := <-reply:
		return a.v, a.err
	}
}

// errEnded answers whoever asks a server that no longer runs.
var errEnded = errors.New("ask server: it has ended")

// tell is ask without a result.
func tell(ctx context.Context, s *Server, fn func(*owner)) error {
	_, err := ask(ctx, s, func(o *owner) (struct{}, error) { fn(o); return struct{}{}, nil })
	return err
}

// revoke tells NATS of every revoked key.
func (o *owner) revoke() error {
	revoked := map[string]time.Time{}
	for _, h := range o.hosts {
		if !h.reg.Revoked.IsZero() {
			revoked[h.reg.NKey] = h.reg.Revoked
		}
	}
	return o.server.embedded.Revoke(revoked)
}

// withdrawn lists the digests that hosts must refuse.
func (o *owner) withdrawn() []bundle.Digest {
	var out []bundle.Digest
	for d, e := range o.catalog {
		if e.State == store.BundleWithdrawn {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return out
}
