package control

import (
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/policy"
	"afloat/internal/wire"
)

// View is everything soft: who is enrolled, what each host said last, and what
// the catalog has. Hosts and store tell it again after a restart.
type View struct {
	hosts   map[fleet.HostID]*Seen
	revoked map[fleet.HostID]bool
	ids     []fleet.HostID // sorted, nil when it has to be made again
	catalog map[bundle.Digest]Entry
	changes int // of the catalog
	roster  int // hosts that came and went
	listens time.Time
	dirty   []*Seen // hosts of which something changed since the last turn
	memo    *memo
	rate    policy.Rate // of the fleet
}

// Seen is one host as it is known.
type Seen struct {
	ID     fleet.HostID
	Name   string
	Labels fleet.Labels
	Mode   fleet.Mode // that the server raises it to
	// replaces is the host that it stands in for, by its labels.
	replaces fleet.HostID
	// Report is its last one, zero before the first.
	Report wire.Report
	// Heard is its last sign of life, or since when one is listened for.
	Heard time.Time
	// Down is when it was last heard before its present boot, zero if this
	// server has not seen it boot.
	Down time.Time
	// paused is its last sign of life before the latest pause.
	paused time.Time
	// back is when it was last heard to be back in service after it was out of
	// it, whoever took it out, zero for never.
	back time.Time
	// unheard since it is listened for: it may be alive or not.
	unheard bool
	// relabelled since the planners were told.
	relabelled bool
	at         int32 // its place in the memo, from 1; 0 for none
}

// heard is the last sign of life in Unix nanoseconds, 0 before the first report.
func (h *Seen) heard() int64 {
	if h.Report.Boot == "" {
		return 0
	}
	return h.Heard.UnixNano()
}

// pause is the silence after which a host may have booted: longer than a
// request behind a report, shorter than any boot.
const pause = 5 * time.Second

// outs says that the host says itself that it is not in service.
func (h *Seen) outs() bool {
	_, acting := way(h.Report.Phase) // also one that failed and is not at full strength yet
	return h.Report.Out || acting
}

// hears notes a sign of life. One that ends a silence is a return.
func (v *View) hears(h *Seen, at time.Time) {
	silent := v.memo != nil && h.at > 0 && v.memo.hosts[h.at-1].silent
	if silent || !h.Heard.IsZero() && at.Sub(h.Heard) > policy.DefaultSilent {
		h.back = at
	}
	h.hear(at)
}

// hear notes a sign of life.
func (h *Seen) hear(at time.Time) {
	if at.Sub(h.Heard) > pause {
		h.paused = h.Heard
	}
	h.Heard, h.unheard = later(h.Heard, at), false
}

// booted notes that a report of another boot came: the host was last heard
// before that boot began, whatever it has sent since.
func (h *Seen) booted(r wire.Report, at time.Time) {
	began := at.Add(-time.Duration(r.UptimeS * float64(time.Second)))
	h.Down = began
	for _, heard := range []time.Time{h.Heard, h.paused} {
		if !heard.IsZero() && !heard.After(began) {
			h.Down = heard
			return
		}
	}
}

// Entry is one bundle of the catalog.
type Entry struct {
	Manifest  bundle.Manifest
	Withdrawn bool
}

// NewView is a view of nothing.
func NewView() *View {
	return &View{hosts: map[fleet.HostID]*Seen{}, revoked: map[fleet.HostID]bool{}, catalog: map[bundle.Digest]Entry{}}
}

// Enrol adds a host or changes its name, labels and mode. labels is not copied.
func (v *View) Enrol(id fleet.HostID, name string, labels fleet.Labels, mode fleet.Mode) {
	h := v.hosts[id]
	if h == nil {
		h = &Seen{ID: id}
		v.hosts[id], v.ids = h, nil
		delete(v.revoked, id)
		v.roster++
	}
	h.relabelled = h.relabelled || !maps.Equal(h.Labels, labels)
	if h.relabelled || h.Mode != mode {
		v.dirty = append(v.dirty, h)
	}
	h.Name, h.Labels, h.Mode, h.replaces = name, labels, mode, fleet.HostID(labels[LabelReplaces])
}

// Forget removes a host that was revoked. A caller that begins anew tells of
// those that were revoked before, too: a rollout may still wait for one.
func (v *View) Forget(id fleet.HostID) {
	delete(v.hosts, id)
	v.revoked[id] = true
	v.ids = nil
	v.roster++
}

// Report notes what an enrolled host says. The caller has put reports in order.
func (v *View) Report(r wire.Report, at time.Time) {
	if h := v.hosts[r.Host]; h != nil {
		was, boots := h.outs(), h.Report.Boot != "" && h.Report.Boot != r.Boot
		if boots {
			h.booted(r, at)
		}
		h.Report = r
		v.dirty = append(v.dirty, h)
		if v.hears(h, at); (was || boots) && !h.outs() {
			h.back = at
		}
	}
}

// Heard notes a sign of life.
func (v *View) Heard(id fleet.HostID, at time.Time) {
	if h := v.hosts[id]; h != nil {
		var x *memoHost
		if h.at > 0 {
			x = &v.memo.hosts[h.at-1]
		}
		if x == nil || x.silent || h.unheard || x.batch != nil || at.Sub(h.Heard) > time.Minute { // something may follow from it
			v.dirty = append(v.dirty, h)
		}
		v.hears(h, at)
		if x != nil {
			x.heard = h.heard()
		}
	}
}

// Given notes a sign of life, and that those until a later time are taken as
// given: they need not be told one by one, but Lost must tell when they end.
func (v *View) Given(id fleet.HostID, at, until time.Time) {
	v.Heard(id, at)
	if h := v.hosts[id]; h != nil {
		h.hear(until)
		if h.at > 0 {
			v.memo.hosts[h.at-1].heard = h.heard()
		}
	}
}

// Listen notes that the caller listens from at on, after a restart or a stop in
// between. Until then silence meant nothing, so that of every host counts from
// at on; but none was heard either, and until it is, nobody is admitted who may
// be down, and nothing is concluded from its being well.
func (v *View) Listen(at time.Time) {
	v.listens = at
	for _, h := range v.hosts {
		h.hear(at)
		h.unheard = true
		v.dirty = append(v.dirty, h)
	}
}

// Lost notes that nothing came from the host since the given time, although a
// later sign of life had been noted: its heartbeats were taken as given.
func (v *View) Lost(id fleet.HostID, since time.Time) {
	if h := v.hosts[id]; h != nil {
		h.Heard = since
		v.dirty = append(v.dirty, h)
	}
}

// Limit sets how many hosts may start in a time over all rollouts together, the
// change rate of the fleet: a setting of the server, as no rollout's policy can
// speak for the others, and not part of the State, as an operator may change it
// at any time without rewriting the past. The starts that it counts are in the
// State. The zero Rate bounds nothing.
func (v *View) Limit(r policy.Rate) { v.rate = r }

// Bundle notes an entry of the catalog.
func (v *View) Bundle(d bundle.Digest, m bundle.Manifest, withdrawn bool) {
	v.changes++
	v.catalog[d] = Entry{Manifest: m, Withdrawn: withdrawn}
}

// Host is one host, nil if it is not enrolled. The caller must not change it.
func (v *View) Host(id fleet.HostID) *Seen { return v.hosts[id] }

// name is what people call a host: its id when it is not enrolled, or has no name.
func (v *View) name(id fleet.HostID) string {
	if h := v.hosts[id]; h != nil && h.Name != "" {
		return h.Name
	}
	return string(id)
}

// Hosts are all enrolled hosts in the order of their ids.
func (v *View) Hosts() []fleet.HostID {
	if v.ids == nil {
		v.ids = make([]fleet.HostID, 0, len(v.hosts))
		for id := range v.hosts {
			v.ids = append(v.ids, id)
		}
		slices.Sort(v.ids)
	}
	return v.ids
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// order is the place of a host in a rollout's queue: a hash, so that a wave is
// a sample of the fleet, and another sample in each rollout.
func order(rollout string, id fleet.HostID) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(rollout + "/" + string(id))) // a hash takes everything
	x := h.Sum64()
	x ^= x >> 33 // fnv mixes its last bytes little
	x *= 0xff51afd7ed558ccd
	return x ^ x>>33
}
