package control

import (
	"cmp"
	"slices"

	"afloat/internal/bundle"
	"afloat/internal/kernel"
)

// urge is how soon hosts of a patch set must boot by its publisher's word: the
// strictest that a usable bundle of it says.
func (s *State) urge(v *View, set string) bundle.Reboot {
	var most bundle.Reboot
	for d, e := range v.catalog {
		if e.Manifest.Name == set && s.unusable(v, d) == "" {
			most = most.Stricter(e.Manifest.Reboot)
		}
	}
	return most
}

// tooUrgent says that a bundle wants its reboot sooner than the rollout knew
// when it began.
func tooUrgent(set string, m bundle.Manifest, known bundle.Reboot) *Blocker {
	if known.Stricter(m.Reboot) == known {
		return nil
	}
	return blocked(KindBad, "another rollout of "+set, "its bundle was added after the rollout began, and says that a reboot is %s", m.Reboot)
}

// bootFirst says that hosts of a kernel must boot before they take a live patch:
// the publisher said with an earlier one that no live patch is enough.
func (s *State) bootFirst(v *View, m bundle.Manifest, id kernel.ID) *Blocker {
	var by []bundle.Manifest
	for _, e := range v.catalog {
		old := e.Manifest
		if !e.Withdrawn && old.Reboot == bundle.RebootRequired && old.Name != m.Name && old.Created.Before(m.Created) && old.Kernel.Mismatch(id) == "" {
			by = append(by, old)
		}
	}
	if len(by) == 0 {
		return nil
	}
	first := slices.MinFunc(by, func(a, b bundle.Manifest) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	return blocked(KindDebt, "when it has booted another kernel", "it must boot into a fixed kernel first: the publisher of %s says that no live patch for %s is enough without a reboot",
		first.Name, kernelName(id.Release, id.Version))
}
