package control

import (
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/health"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// together is how close in time hosts of one domain must have gone for it to
// be the domain's doing, late is from when on a host without a sign of life
// counts as gone for that.
const (
	together = 5 * time.Minute
	late     = 90 * time.Second
	// lone is up to how many crashes of one record the domains of a host without
	// the patch are looked at, which costs a look at the fleet: more at once are
	// no coincidence, and each of their domains is suspect.
	lone = 8
)

// outage names the failure domain of the host of which at least two hosts
// without the patch, and half of those there are, went down with it: a rack
// that loses power says nothing about a patch. If there is none it lists the
// domains that may have had a part in the crash: not those that stood. A crash
// that is held against no rollout (patched is nil) is nobody's to excuse.
func (t *turn) outage(patched *rollout.Rollout, seen *Seen, c health.Crash) (outage string, suspects []string) {
	lives := c.Kind == wire.CrashOops && !c.At.Before(t.now) // so do the power and the network around it
	for i, n := range t.neighbourhoods(seen, c, patched) {
		domain := c.Domains[i]
		if patched != nil && n.gone >= 2 && 2*n.gone >= n.without {
			return domain, c.Domains
		}
		if wide := health.Wide(domain); !n.stood() && !(wide && (lives || n.mostlyStood())) {
			suspects = append(suspects, domain)
		}
	}
	return "", suspects
}

// neighbourhood is the other hosts of a failure domain when one of it crashed.
type neighbourhood struct {
	with, without int // the patch
	gone, alive   int // of those without: at about the same time, or heard well after
	well          int // of all: alive in this sense
}

// stood says that a domain had no part in a crash: two in three of its hosts
// do not have the patch, and all of those were heard well after it. Had the
// domain done it, it would have spared them all by chance.
func (n neighbourhood) stood() bool {
	const few, times = 3, 2
	return n.alive == n.without && n.without >= few && n.without >= times*n.with
}

// mostlyStood says of a domain that spans racks that nine in ten of its hosts,
// with or without the patch, were heard well after the crash: it did not fall,
// and what did is one of the smaller ones. Else a region would count one crash
// in five minutes once all of it has the patch.
func (n neighbourhood) mostlyStood() bool {
	const few, share = 10, 0.9
	all := n.with + n.without
	return all >= few && float64(n.well) >= share*float64(all)
}

// neighbourhoods are those of each of the crash's domains.
func (t *turn) neighbourhoods(seen *Seen, c health.Crash, r *rollout.Rollout) []neighbourhood {
	out := make([]neighbourhood, len(c.Domains))
	for d, domain := range c.Domains {
		for _, i := range t.m.members(domain) {
			if x := &t.m.hosts[i]; x.seen != seen {
				out[d].add(t.neighbour(x, c, r))
			}
		}
	}
	return out
}

// members are the hosts of a failure domain. Whose label has which value is
// found out once, and again when a host gets other labels.
func (m *memo) members(domain string) []int32 {
	key, value, _ := strings.Cut(domain, "=")
	by := m.labelled[key]
	if by == nil {
		by = map[string][]int32{}
		for i := range m.hosts {
			if v, ok := m.hosts[i].seen.Labels[key]; ok {
				by[v] = append(by[v], int32(i))
			}
		}
		if m.labelled == nil {
			m.labelled = map[string]map[string][]int32{}
		}
		m.labelled[key] = by
	}
	return by[value]
}

// neighbour is what one other host is to a neighbourhood.
func (t *turn) neighbour(x *memoHost, c health.Crash, r *rollout.Rollout) (n neighbourhood) {
	gone := t.wentWith(x.seen, c.At)
	if well := !gone && !x.unheard && x.seen.Heard.Sub(c.At) > late; well {
		n.well = 1
	}
	switch {
	case r != nil && (x.host.alike(r, c.Live) || r.CrashedHost(x.seen.ID)):
		n.with = 1
	case gone:
		n.without, n.gone = 1, 1
	default:
		n.without, n.alive = 1, n.well
	}
	return n
}

// alike says that a host runs what crashed another of the rollout, or went down for it by order.
func (h *Host) alike(r *rollout.Rollout, live bundle.Digest) bool {
	return h != nil && (live != "" && h.Live == live || h.Rollout == r.ID && r.HostPhase(h.Phase, h.Wave).Acted())
}

func (n *neighbourhood) add(o neighbourhood) {
	n.with, n.without, n.gone, n.alive, n.well = n.with+o.with, n.without+o.without, n.gone+o.gone, n.alive+o.alive, n.well+o.well
}

// wentWith says that the host was lost at about the given time.
func (t *turn) wentWith(seen *Seen, at time.Time) bool {
	if !seen.Down.IsZero() && seen.Down.Sub(at).Abs() < together {
		return true
	}
	return t.now.Sub(seen.Heard) > late && seen.Heard.Sub(at).Abs() < together
}
