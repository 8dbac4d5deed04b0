package elfdiff

import (
	"fmt"
	"slices"

	"afloat/internal/kernel"
)

// addSupport cuts .altinstr_aux and .fixup into the blocks that code jumps to,
// or that an exception leads to: a block reaches to the next one that something
// refers to. Kernels up to 5.15 have .fixup.
func (g *graph) addSupport() {
	cuts := map[*Section][]uint64{}
	for _, s := range g.object.Sections {
		for _, r := range s.Relocs {
			to := r.Symbol.Section
			switch {
			case to == nil || to.Name != ".altinstr_aux" && to.Name != ".fixup" || to == s || !PCRelative(r.Type):
			case s.Code():
				// A jump: its field is the last of the instruction.
				cuts[to] = append(cuts[to], r.Symbol.Value+uint64(r.Addend)+4)
			case s.Name == "__ex_table":
				cuts[to] = append(cuts[to], r.Symbol.Value+uint64(r.Addend))
			}
		}
	}
	for s, at := range cuts {
		slices.Sort(at)
		at = slices.DeleteFunc(slices.Compact(at), func(pos uint64) bool { return pos >= s.Size })
		for i, start := range at {
			end := s.Size
			if i+1 < len(at) {
				end = at[i+1]
			}
			g.nodes = append(g.nodes, g.addNode(s, start, end-start))
		}
	}
}

// addEntries parses a special section and gives each entry to the function it is about.
func (g *graph) addEntries(s *Section, sizes kernel.Sizes) {
	i := slices.IndexFunc(tables(), func(t table) bool { return t.name == s.Name })
	size, err := entrySize(tables()[i], s, sizes)
	if err != nil {
		g.refuse(Refusal{Class: ClassSpecial, Section: s.Name, Why: err.Error(), Hint: "build against a kernel with BTF"})
		return
	}
	if s.Size == 0 {
		return
	}
	orc := g.orcRecords(s, size)
	relocs, data := s.Relocs, s.Data
	if rest := len(data) % size; rest > 0 {
		data = slices.Concat(data, make([]byte, size-rest))
	}
	fromEntry := s.Name == "__bug_table" && filesFromEntry(s, uint64(size))
	for off := uint64(0); off < s.Size; off += uint64(size) {
		n := 0
		for n < len(relocs) && relocs[n].Offset < off+uint64(size) {
			n++
		}
		e := &entry{table: s.Name, data: data[off : off+uint64(size)], fromEntry: fromEntry}
		if orc != nil {
			e.orc = orc.at(off / uint64(size))
		}
		g.addEntry(e, s, off, relocs[:n])
		relocs = relocs[n:]
	}
}

func entrySize(t table, s *Section, sizes kernel.Sizes) (int, error) {
	size := t.size(sizes)
	if s.Size == 0 {
		return max(size, 1), nil
	}
	if s.Data == nil {
		return 0, fmt.Errorf("section %s has no content", s.Name)
	}
	if size == 0 {
		var err error
		if size, err = inferSize(t, s); err != nil {
			return 0, err
		}
	}
	if _, whole := t.count(s, size); !whole {
		return 0, fmt.Errorf("section %s: %d bytes are not whole entries of %d", s.Name, s.Size, size)
	}
	return size, nil
}

func (g *graph) addEntry(e *entry, s *Section, off uint64, relocs []Reloc) {
	if len(relocs) == 0 {
		return // objtool clears entries of code that must not be traced
	}
	if relocs[0].Offset != off {
		g.refuse(Refusal{Class: ClassSpecial, Section: s.Name,
			Why:  fmt.Sprintf("the entry at %#x does not begin with a reference to code", off),
			Hint: "this kernel lays the section out in a way that is not known yet"})
		return
	}
	for _, r := range relocs {
		if r.Offset+Width(r.Type) > off+uint64(len(e.data)) {
			g.refuse(Refusal{Class: ClassSpecial, Section: s.Name,
				Why:  fmt.Sprintf("the relocation at %#x reaches beyond its entry", r.Offset),
				Hint: "this kernel lays the section out in a way that is not known yet"})
			return
		}
		e.refs = append(e.refs, g.entryRef(e, s, r, off))
	}
	e.owner = e.refs[0].node
	if e.owner == nil {
		g.refuse(Refusal{Class: ClassSpecial, Section: s.Name,
			Why:  fmt.Sprintf("the entry at %#x is about code outside of this object", off),
			Hint: "move the change into another object"})
		return
	}
	e.at = uint64(e.refs[0].addend)
	if s.Name == ".altinstructions" {
		g.addReplacement(e, relocs)
	}
	if e.table == "__mcount_loc" || e.table == "__patchable_function_entries" {
		e.owner.hooked = e.owner.hooked || e.at <= endbrSize
	}
	e.owner.entries = append(e.owner.entries, e)
	g.entries = append(g.entries, e)
}

// inferHooks finds the calls of the hook in an object that has no list of them:
// clang leaves that to a later step of the kernel's build, which afloat does itself.
func (g *graph) inferHooks() {
	if g.sectionNamed("__mcount_loc") != nil || g.sectionNamed("__patchable_function_entries") != nil {
		return
	}
	for _, n := range g.nodes {
		if !n.function() || len(n.refs) == 0 {
			continue
		}
		first := n.refs[0]
		n.hooked = first.node == nil && first.symbol.Name == "__fentry__" && first.off <= endbrSize+1 && isBranch(n, first)
	}
}

// endbrSize: with IBT, a function begins with ENDBR64 and the call of the hook follows.
const endbrSize = 4

// addReplacement finds the code that an alternative may put in place. struct
// alt_instr is {s32 instr, s32 repl, u16 cpuid, u8 instrlen, u8 replacementlen};
// up to 5.12 a u8 padlen follows, from 6.3 a u16 of flags stands before instrlen.
func (g *graph) addReplacement(e *entry, relocs []Reloc) {
	lenAt := 11
	if len(e.data) >= 14 {
		lenAt = 13
	}
	if len(relocs) < 2 || len(e.data) <= lenAt {
		return
	}
	r := relocs[1]
	sec, size := r.Symbol.Section, uint64(e.data[lenAt])
	start := r.Symbol.Value + uint64(r.Addend)
	if sec == nil || sec.Data == nil || start > sec.Size || size > sec.Size-start {
		g.refuse(Refusal{Class: ClassSpecial, Section: ".altinstructions", Why: "an entry's replacement lies outside of its section",
			Hint: "this kernel lays the section out in a way that is not known yet"})
		return
	}
	n := &node{section: sec, kind: kindSupport, off: start, size: size, data: sec.Data[start : start+size]}
	g.addRefs(n)
	e.replacement = n
	e.refs[1].node, e.refs[1].addend = n, 0
}

// entryRef resolves a reference of an entry. Where fields count from the entry's
// start, not from their own place, the number in the relocation is that much larger.
func (g *graph) entryRef(e *entry, s *Section, r Reloc, off uint64) ref {
	if !e.fromEntry {
		return g.resolve(s, r, off)
	}
	r.Addend -= int64(r.Offset - off)
	out := g.resolve(s, r, off)
	out.addend += int64(out.off)
	return out
}

// filesFromEntry says how a __bug_table refers to the names of source files: up
// to 5.18 by their distance from the entry, later from the field. The names are
// whole strings, so only one of both can be meant.
func filesFromEntry(s *Section, size uint64) bool {
	found := false
	for _, r := range s.Relocs {
		field, to := r.Offset%size, r.Symbol.Section
		if field == 0 || to == nil || to.kind != kindStrings || !PCRelative(r.Type) {
			continue
		}
		pos := r.Symbol.Value + uint64(r.Addend)
		if startsString(to, pos) {
			return false
		}
		found = found || startsString(to, pos-field)
	}
	return found
}

func startsString(s *Section, pos uint64) bool {
	return pos < uint64(len(s.Data)) && (pos == 0 || s.Data[pos-1] == 0)
}

type records struct {
	data []byte
	size uint64
}

func (r *records) at(i uint64) []byte { return r.data[i*r.size : (i+1)*r.size] }

// orcRecords returns the section that runs in parallel with .orc_unwind_ip.
func (g *graph) orcRecords(s *Section, size int) *records {
	if s.Name != ".orc_unwind_ip" {
		return nil
	}
	count := s.Size / uint64(size)
	for _, o := range g.object.Sections {
		if o.Name != ".orc_unwind" {
			continue
		}
		if count > 0 && o.Data != nil && o.Size%count == 0 && o.Size/count >= 2 && len(o.Relocs) == 0 {
			return &records{o.Data, o.Size / count}
		}
		break
	}
	g.refuse(Refusal{Class: ClassSpecial, Section: ".orc_unwind", Why: "it does not match .orc_unwind_ip", Hint: "run objtool on both objects"})
	return nil
}
