package klpmod

import (
	"debug/elf"
	"slices"

	"afloat/internal/elfdiff"
)

// checkOpen refuses a pointer to a function of vmlinux that boot has closed to
// calls by one. That a kernel's own code calls it directly is no matter.
func (l *linker) checkOpen(c *chunk, f elfdiff.Fixup) {
	e := f.Target.Symbol
	r := l.resolved[reference{target: c.target, symbol: e}]
	if r.owner != vmlinux || !pointsAtStart(c, f) || !l.sealed(c, e) {
		return
	}
	l.refuse(elfdiff.Refusal{Class: elfdiff.ClassReference, Symbol: e.Name, Source: c.source(),
		Why:  "the patch makes a pointer to it, and boot closed it to calls by a pointer, because the kernel made none: a processor that tracks indirect branches would stop the kernel",
		Hint: "point at a small new function that calls it"})
}

// pointsAtStart says that the fixup makes a pointer to the start of a function,
// if its target is one: a call or jump has PLT32, or its opcode before the field.
func pointsAtStart(c *chunk, f elfdiff.Fixup) bool {
	if !elfdiff.PCRelative(f.Type) {
		return f.Addend == 0
	}
	if f.Type == elf.R_X86_64_PLT32 || f.Addend != -4 || f.Offset == 0 || f.Offset > uint64(len(c.Data)) {
		return false
	}
	before := c.Data[f.Offset-1]
	conditional := f.Offset > 1 && before&0xf0 == 0x80 && c.Data[f.Offset-2] == 0x0f
	return before != 0xe8 && before != 0xe9 && !conditional
}

// sealed says that what the reference means is a closed function.
func (l *linker) sealed(c *chunk, e *elfdiff.External) bool {
	closed := func(addr uint64) bool {
		_, found := slices.BinarySearch(l.spec.Kernel.Sealed, addr)
		return found
	}
	if c.part != nil && e.Original != nil {
		if at, ok := c.part.Places[e.Original]; ok {
			return closed(at.Addr)
		}
	}
	for _, s := range l.spec.Kernel.Kallsyms.Lookup(e.Name) {
		if closed(s.Addr) {
			return true
		}
	}
	return false
}
