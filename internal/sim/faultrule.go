package sim

import (
	"fmt"
	"slices"
	"time"
)

// part says whether a fault takes a part of its text.
type part uint8

const (
	without part = iota
	may
	must
)

// rule is which parts a fault takes.
type rule struct {
	share, at, lasts part
	unbounded        bool // its share may be above 1
}

// rules by the fault's name: those of Faults.
func rules() map[string]rule {
	each := rule{share: may}
	timed := rule{share: may, at: may, lasts: may}
	return map[string]rule{
		"crash-on-apply": each, "oops-on-apply": each, "apply-fails": each, "breaks-next-boot": each, "boots-old-kernel": each,
		"stuck-drain": each, "probe-fails": each, "lost": each, "twice": each, "never-returns": each,
		"leak": {share: must, lasts: may, unbounded: true},
		"late": {share: may, lasts: must}, "skew": {share: may, lasts: must},
		"cut": timed, "down": timed, "blind": timed, "owner-drains": timed,
		"server-crash": {at: may, lasts: may},
		"abort":        {share: may, at: may, unbounded: true}, "revert": {share: may, at: may, unbounded: true},
		"pause": {share: may, at: may, lasts: may, unbounded: true},
		"join":  {share: may, at: may},
	}
}

// check refuses a part that means nothing for the fault, and one that is missing.
func (f Fault) check(share, at, lasts bool) error {
	r := rules()[f.Name]
	for _, p := range []struct {
		is   part
		has  bool
		what string
	}{{r.share, share, ":SHARE"}, {r.at, at, "@TIME"}, {r.lasts, lasts, "+DURATION"}} {
		switch {
		case p.is == without && p.has:
			return fmt.Errorf("%s takes no %s", f.Name, p.what)
		case p.is == must && !p.has:
			return fmt.Errorf("%s does nothing without %s", f.Name, p.what)
		}
	}
	switch {
	case f.At < 0 || f.For < 0:
		return fmt.Errorf("a time below zero")
	case f.At > forever || f.For > forever:
		return fmt.Errorf("a time above %s", forever.Round(time.Hour))
	case !r.unbounded && f.Share > 1:
		return fmt.Errorf("a share of %v, at most 1", f.Share)
	}
	return nil
}

// check refuses options of which a part would mean nothing.
func (o Options) check() error {
	if o.Horizon < 0 {
		return fmt.Errorf("cannot simulate: the horizon %s is below zero", o.Horizon)
	}
	for _, f := range o.Faults {
		switch f.Name {
		case "abort", "pause", "revert":
			if n := 1 + len(o.Also); f.Share < 1 || f.Share > float64(n) || f.Share != float64(int(f.Share)) {
				return fmt.Errorf("cannot simulate fault %q: there is no rollout %v of %d", f, f.Share, n)
			}
		}
	}
	return nil
}

// aims refuses faults that no host of the fleet can have.
func (w *world) aims() error {
	for _, f := range w.faults {
		if !slices.ContainsFunc(w.shards, func(s shard) bool { return s.any(f) }) {
			return fmt.Errorf("cannot simulate fault %q: no host of the fleet matches its selector", f)
		}
	}
	return nil
}

// any says that a host of the shard matches the fault's selector.
func (s *shard) any(f Fault) bool {
	for i := range s.hosts {
		if f.On.Matches(s.hosts[i].labels) {
			return true
		}
	}
	return false
}
