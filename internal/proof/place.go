package proof

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"slices"
	"strings"

	"afloat/internal/elfdiff"
)

// slack is the most padding, in bytes, that the linker puts before a function.
const slack = 64

// placer finds where each section of an object ended up in an image.
type placer struct {
	img   *Image
	bases map[*elfdiff.Section]uint64
	// pins are bases that relocations of proven code and placed data ask for.
	pins map[*elfdiff.Section]map[uint64]bool
	// torn sections have pins that contradict each other: nothing is said about them.
	torn map[*elfdiff.Section]bool
	todo []*elfdiff.Section // placed, relocations not followed yet
}

// place returns the addresses of as many sections as can be told for sure:
// first those with a symbol whose name is unique, then what these refer to, then
// functions that lie between two functions already placed.
func place(img *Image, o *elfdiff.Object) *placer {
	p := &placer{img: img, bases: map[*elfdiff.Section]uint64{}, pins: map[*elfdiff.Section]map[uint64]bool{}, torn: map[*elfdiff.Section]bool{}}
	for _, s := range o.Sections {
		if base, ok := p.byName(s); ok {
			p.set(s, base)
		}
	}
	p.follow()
	for p.byNeighbours(o) {
		p.follow()
	}
	return p
}

// placeable sections keep their content as a whole and stay after boot.
func placeable(s *elfdiff.Section) bool {
	return s.Alloc() && s.Flags&elf.SHF_MERGE == 0 && !gone(s)
}

// gone says that a section's memory is freed or was never loaded.
func gone(s *elfdiff.Section) bool {
	return strings.HasPrefix(s.Name, ".init") || strings.HasPrefix(s.Name, ".exit")
}

func (p *placer) set(s *elfdiff.Section, base uint64) {
	p.bases[s] = base
	p.todo = append(p.todo, s)
}

// byName places a section by those of its symbols whose names are unique in
// the image. Where these disagree, the base under which most functions are
// identical wins; weak symbols, which another object may override, count only
// where their bytes agree.
func (p *placer) byName(s *elfdiff.Section) (uint64, bool) {
	if !placeable(s) {
		return 0, false
	}
	score := map[uint64]int{}
	for _, sym := range s.Symbols {
		at := p.img.lookup(sym.Name, !sym.Local())
		if len(at) != 1 || len(p.img.symbols[sym.Name]) > 1 && sym.Local() {
			continue
		}
		base := at[0] - sym.Value
		switch {
		case sym.Function() && p.img.identical(sym, at[0]):
			score[base] += 2
		case sym.Bind != elf.STB_WEAK && !sym.Function():
			score[base]++
		case sym.Bind != elf.STB_WEAK:
			score[base] += 0
		}
	}
	return best(score)
}

// best returns the key of the highest score, unless two share it.
func best(score map[uint64]int) (uint64, bool) {
	top, tie, found := -1, false, uint64(0)
	for base, n := range score {
		switch {
		case n > top:
			top, tie, found = n, false, base
		case n == top:
			tie = true
		}
	}
	return found, top >= 0 && !tie
}

// follow derives the bases of sections from the relocations of placed ones.
func (p *placer) follow() {
	for len(p.todo) > 0 {
		s := p.todo[0]
		p.todo = p.todo[1:]
		for _, r := range s.Relocs {
			if s.Code() && !p.proven(s, r.Offset) {
				continue
			}
			if target, base, ok := p.pin(s, r); ok {
				p.pinned(target, base)
			}
		}
	}
}

// proven says that the function around an offset of a placed section is identical.
func (p *placer) proven(s *elfdiff.Section, offset uint64) bool {
	for _, sym := range s.Symbols {
		if sym.Function() && offset >= sym.Value && offset-sym.Value < sym.Size {
			return p.img.identical(sym, p.bases[s]+sym.Value)
		}
	}
	return false
}

// pin returns the base that one relocation implies for the section it points into.
func (p *placer) pin(s *elfdiff.Section, r elfdiff.Reloc) (*elfdiff.Section, uint64, bool) {
	target := r.Symbol.Section
	if target == nil || r.Symbol.Bind == elf.STB_WEAK || !placeable(target) || elfdiff.Width(r.Type) < 4 {
		return nil, 0, false
	}
	addr, ok := p.target(s, r)
	return target, addr - r.Symbol.Value, ok
}

// target returns the address of a relocation's symbol, from the image's bytes.
func (p *placer) target(s *elfdiff.Section, r elfdiff.Reloc) (uint64, bool) {
	at := p.bases[s] + r.Offset
	raw, ok := p.img.read(at, elfdiff.Width(r.Type))
	if !ok {
		return 0, false
	}
	var value uint64
	switch {
	case len(raw) == 8:
		value = binary.LittleEndian.Uint64(raw)
	case len(raw) == 4 && r.Type == elf.R_X86_64_32:
		value = uint64(binary.LittleEndian.Uint32(raw))
	case len(raw) == 4:
		value = uint64(int64(int32(binary.LittleEndian.Uint32(raw))))
	default:
		return 0, false
	}
	if elfdiff.PCRelative(r.Type) {
		value += at
	}
	return value - uint64(r.Addend), true
}

// pinned notes a base, and places the section by it if nothing speaks against it.
func (p *placer) pinned(s *elfdiff.Section, base uint64) {
	if known, ok := p.bases[s]; ok || p.torn[s] {
		if ok && known != base && !p.supported(s) {
			p.tear(s)
		}
		return
	}
	if p.pins[s] == nil {
		p.pins[s] = map[uint64]bool{}
	}
	if p.pins[s][base] = true; len(p.pins[s]) > 1 {
		p.tear(s)
		return
	}
	if p.plausible(s, base) {
		p.set(s, base)
	}
}

// supported says that a section's place rests on an identical function of a
// name that is unique: a contradicting relocation is then what differs.
func (p *placer) supported(s *elfdiff.Section) bool {
	base, ok := p.byName(s)
	return ok && base == p.bases[s]
}

func (p *placer) tear(s *elfdiff.Section) {
	p.torn[s] = true
	delete(p.bases, s)
}

// plausible says that the image has the section's symbols at a base: each that
// the image knows by name at all.
func (p *placer) plausible(s *elfdiff.Section, base uint64) bool {
	for _, sym := range s.Symbols {
		if sym.Bind != elf.STB_WEAK && len(p.img.symbols[sym.Name]) > 0 && !p.img.has(sym.Name, base+sym.Value) {
			return false
		}
	}
	return true
}

// identical compares a function's bytes with the image's at addr, relocation fields apart.
func (img *Image) identical(sym *elfdiff.Symbol, addr uint64) bool {
	_, differs, ok := img.compare(sym, addr)
	return ok && !differs
}

// compare returns the offset of the first difference; ok is false if the image has no bytes there.
func (img *Image) compare(sym *elfdiff.Symbol, addr uint64) (at uint64, differs, ok bool) {
	if sym.Section.Data == nil {
		return 0, false, false
	}
	have, ok := img.read(addr, sym.Size)
	if !ok {
		return 0, false, false
	}
	want := bytes.Clone(sym.Section.Data[sym.Value : sym.Value+sym.Size])
	for _, r := range relocsIn(sym) {
		from := r.Offset - sym.Value
		to := min(from+elfdiff.Width(r.Type), sym.Size)
		copy(want[from:to], have[from:to])
	}
	if bytes.Equal(want, have) {
		return 0, false, true
	}
	for want[at] == have[at] {
		at++
	}
	return at, true, true
}

// relocsIn returns the relocations inside a symbol's range.
func relocsIn(sym *elfdiff.Symbol) []elfdiff.Reloc {
	all := sym.Section.Relocs
	byOffset := func(r elfdiff.Reloc, at uint64) int { return cmp.Compare(r.Offset, at) }
	from, _ := slices.BinarySearchFunc(all, sym.Value, byOffset)
	to, _ := slices.BinarySearchFunc(all, sym.Value+sym.Size, byOffset)
	return all[from:to]
}

// byNeighbours places functions by the order that compiler and linker keep: one
// whose name several objects use lies close behind the function before it, or
// close before the one after it. It says whether it found any.
func (p *placer) byNeighbours(o *elfdiff.Object) bool {
	found := false
	for _, run := range runs(o) {
		for i, sym := range run {
			if _, placed := p.bases[sym.Section]; placed || p.torn[sym.Section] {
				continue
			}
			if addr, ok := p.between(run, i); ok {
				p.set(sym.Section, addr-sym.Value)
				found = true
			}
		}
	}
	return found
}

// runs returns an object's functions in file order, those of .text, .text.unlikely and so on apart.
func runs(o *elfdiff.Object) map[string][]*elfdiff.Symbol {
	out := map[string][]*elfdiff.Symbol{}
	for _, s := range o.Sections {
		if !placeable(s) || !s.Code() {
			continue
		}
		kind := ".text"
		for _, prefix := range []string{".text.unlikely", ".text.hot", ".text.startup", ".text.exit"} {
			if s.Name == prefix || strings.HasPrefix(s.Name, prefix+".") {
				kind = prefix
			}
		}
		for _, sym := range s.Symbols {
			if sym.Function() && sym.Size > 0 {
				out[kind] = append(out[kind], sym)
			}
		}
	}
	return out
}

// between returns the one address of run[i]'s name, with its bytes, that lies
// where its placed neighbours leave room for it.
func (p *placer) between(run []*elfdiff.Symbol, i int) (uint64, bool) {
	lo, hi, ok := p.room(run, i)
	if !ok {
		return 0, false
	}
	var found []uint64
	for _, addr := range p.img.lookup(run[i].Name, !run[i].Local()) {
		if addr >= lo && addr <= hi && p.img.identical(run[i], addr) {
			found = append(found, addr)
		}
	}
	if len(found) != 1 {
		return 0, false
	}
	return found[0], true
}

// room returns the addresses where run[i] can begin.
func (p *placer) room(run []*elfdiff.Symbol, i int) (lo, hi uint64, ok bool) {
	hi = ^uint64(0)
	sizes := uint64(0)
	for j := i - 1; j >= 0; j-- {
		sizes += run[j].Size + slack
		if base, placed := p.bases[run[j].Section]; placed {
			end := base + run[j].Value + run[j].Size
			lo, hi, ok = end, base+run[j].Value+sizes, true
			break
		}
	}
	sizes = 0
	for j := i; j+1 < len(run); j++ {
		sizes += run[j].Size + slack
		if base, placed := p.bases[run[j+1].Section]; placed {
			next := base + run[j+1].Value
			lo, hi, ok = max(lo, next-sizes), min(hi, next-run[i].Size), true
			break
		}
	}
	return lo, hi, ok
}
