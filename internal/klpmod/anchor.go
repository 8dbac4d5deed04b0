package klpmod

import (
	"slices"

	"afloat/internal/kernel"
)

const (
	enablePatch = "klp_enable_patch"
	startNotes  = "__start_notes"
	maxBuildID  = 64 // bytes; GNU ld writes 20
)

// findAnchor decides whether vmlinux symbols can be referred to by distance.
func (l *linker) findAnchor() {
	k := l.spec.Kernel
	if len(k.BuildID) == 0 || len(k.BuildID) > maxBuildID || k.Symvers[enablePatch].Owner != vmlinux {
		return
	}
	notes, ok1 := l.only(startNotes)
	anchor, ok2 := l.only(enablePatch)
	first, ok3 := l.only("_text")
	end, ok4 := l.only("_end")
	const reach = 1 << 20 // bytes; .notes is some hundred
	if !ok1 || !ok2 || !ok3 || !ok4 || k.BuildIDAddr < notes || k.BuildIDAddr-notes > reach || anchor < first || anchor >= end {
		return
	}
	l.anchor, l.image, l.idOffset = anchor, [2]uint64{first, end}, int64(k.BuildIDAddr-notes)
}

// only returns the address of a name that vmlinux has once.
func (l *linker) only(name string) (uint64, bool) {
	list := l.spec.Kernel.Kallsyms.Lookup(name)
	if len(list) != 1 {
		return 0, false
	}
	return list[0].Addr, true
}

// imageAddress returns addr if the symbol there moves with the kernel's image.
// Absolute symbols do not, and the value of a per-CPU symbol is an offset.
func (l *linker) imageAddress(name string, addr uint64) uint64 {
	if l.anchor == 0 || addr < l.image[0] || addr >= l.image[1] {
		return 0
	}
	moves := slices.ContainsFunc(l.spec.Kernel.Kallsyms.Lookup(name), func(s kernel.Symbol) bool {
		return s.Addr == addr && s.Type != 'A' && s.Type != 'a'
	})
	if !moves {
		return 0
	}
	return addr
}

// byDistance says that a reference from c is written as a distance from the
// anchor: not where init_module finds the build id.
func (l *linker) byDistance(c *chunk, r resolution) bool {
	return l.anchor != 0 && r.addr != 0 && r.object == vmlinux && c.Section != initSection && c.Entry == nil && !slices.Contains(keyed, c.Section)
}
