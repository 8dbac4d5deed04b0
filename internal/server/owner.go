package server

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/control"
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
	// view is what the decisions rest on and state what they have made: state
	// follows from the history and nothing else.
	view    *control.View
	state   *control.State
	history history
	permits permits
	pending []decided             // applied and not audited yet
	unsaved map[fleet.HostID]bool // hosts whose last report is not in the store

	// dirty: something changed that a decision may rest on.
	dirty bool
	// overtaken is the highest epoch that a host has reported above this leader's.
	overtaken uint64
	// held is why nothing is decided now, "" when it is.
	held string
	// saved is the sequence of the newest snapshot, every how many events lie
	// between two.
	saved, every uint64
	// looked is when the owner last looked at the clock.
	looked time.Time
}

// host is what the server knows about one host.
type host struct {
	reg    enrol.Registration
	report wire.Report // zero until the first one
	told   time.Time   // when the report came, zero for never
	seen   time.Time   // last sign of life
}

// labels are what the host is selected by: what it says, overridden by what
// its token bound, and its id, which nothing overrides.
func (h *host) labels() fleet.Labels {
	out := fleet.Labels{"name": h.reg.Name}
	maps.Copy(out, h.report.Labels)
	delete(out, control.LabelReplaces) // only a token may say so
	maps.Copy(out, h.reg.Labels)
	out["host"] = string(h.reg.Host)
	return out
}

func newOwner(ctx context.Context, s *Server) (*owner, error) {
	o := &owner{
		server: s, store: s.store, log: s.log, key: s.identity.OrdersKey(), epoch: s.lease.Epoch(),
		hosts: map[fleet.HostID]*host{}, catalog: map[bundle.Digest]store.CatalogEntry{},
		view: control.NewView(), permits: permits{issued: map[string]issued{}}, looked: time.Now(), every: snapshotEvery,
		unsaved: map[fleet.HostID]bool{},
	}
	o.view.Limit(s.cfg.Rate)
	for _, load := range []func(context.Context) error{o.loadHosts, o.loadCatalog, o.loadState} {
		if err := load(ctx); err != nil {
			return nil, err
		}
	}
	return o, o.revoke()
}

func (o *owner) loadHosts(ctx context.Context) error {
	regs, err := o.store.Hosts(ctx)
	if err != nil {
		return err
	}
	for _, r := range regs {
		o.hosts[r.Host] = &host{reg: r}
	}
	reports, err := o.store.Reports(ctx)
	if err != nil {
		return err
	}
	for _, r := range reports {
		if h := o.hosts[r.Report.Host]; h != nil {
			h.report, h.told, h.seen = r.Report, r.At, r.At
		}
	}
	for _, h := range o.hosts {
		o.enrol(h)
		if !h.told.IsZero() {
			o.view.Report(h.report, o.looked)
		}
	}
	o.view.Listen(o.looked)
	return nil
}

// enrol tells the view who the host is.
func (o *owner) enrol(h *host) {
	if !h.reg.Revoked.IsZero() {
		o.view.Forget(h.reg.Host)
		return
	}
	o.view.Enrol(h.reg.Host, h.reg.Name, h.labels(), h.reg.Mode)
}

func (o *owner) loadCatalog(ctx context.Context) error {
	entries, err := o.store.Catalog(ctx)
	if err != nil {
		return err
	}
	for _, e := range entries {
		o.list(e)
	}
	return nil
}

// list notes a catalog entry.
func (o *owner) list(e store.CatalogEntry) {
	o.catalog[e.Digest] = e
	o.view.Bundle(e.Digest, e.Manifest, e.State == store.BundleWithdrawn)
	o.dirty = true
}

const (
	// tickEvery is how often the owner looks at the clock.
	tickEvery = time.Second
	// settleFor lets more reports come in before a turn decides on all of them.
	settleFor = 20 * time.Millisecond
	// overslept is a gap between two looks at the clock after which the
	// process was stopped, not idle.
	overslept = 15 * tickEvery
)

// run is the owner's goroutine. It returns nil when ctx ends, and an error
// when it may not go on.
func (o *owner) run(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	soon := time.NewTimer(0)
	defer soon.Stop()
	waiting := true // soon is running
	for {
		select {
		case <-ctx.Done():
			return nil
		case do := <-o.server.work:
			do(o)
			if o.dirty && !waiting {
				soon.Reset(settleFor)
				waiting = true
			}
			continue
		case <-soon.C:
			waiting = false
		case <-tick.C:
		}
		o.dirty = false
		if err := o.turn(ctx, time.Now()); err != nil {
			return err
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
