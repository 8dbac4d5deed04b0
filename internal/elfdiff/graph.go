package elfdiff

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"afloat/internal/kernel"
)

// node is a run of bytes that is compared and carried as a whole: a function,
// a datum, a literal, a block of support code.
type node struct {
	name    string
	symbol  *Symbol // nil for literals and unnamed bytes
	aliases []*Symbol
	section *Section
	kind    sectionKind
	off     uint64
	size    uint64
	data    []byte // nil for SHT_NOBITS
	refs    []ref

	entries   []*entry
	constants []constant
	hooked    bool  // ftrace can redirect the function
	parent    *node // of a .cold part
	parts     []*node
	padding   *node // the bytes before the function that the kernel may patch: __pfx_NAME
	pads      bool  // this is such padding

	pair    *node
	verdict verdict
	chunk   *Chunk
	broken  string // why the function cannot be cut out of its section
}

type verdict byte

const (
	unseen verdict = iota
	same
	changed
	fresh // only in the patched object
)

// ref is a relocation whose target has been found.
type ref struct {
	off    uint64
	kind   elf.R_X86_64
	addend int64 // from the target's start, with what the type subtracts
	node   *node
	symbol *Symbol // undefined symbol, if node is nil
}

func (n *node) function() bool { return n.kind == kindCode && n.symbol != nil && n.symbol.Function() }
func (n *node) end() uint64    { return n.off + n.size }

// graph is an object as nodes that refer to each other.
type graph struct {
	object    *Object
	nodes     []*node              // named ones, by section and offset
	bySection map[*Section][]*node // sorted by offset, without overlaps
	byName    map[string][]*node
	entries   []*entry
	problems  []Refusal
	ends      map[*Section]map[uint64]uint64 // relocation offset -> end of its instruction
}

func newGraph(o *Object, sizes kernel.Sizes) *graph {
	g := &graph{object: o, bySection: map[*Section][]*node{}, byName: map[string][]*node{}, ends: map[*Section]map[uint64]uint64{}}
	for _, s := range o.Sections {
		switch s.kind {
		case kindCode, kindData, kindRegistry, kindAuthor:
			g.addNamed(s)
		case kindConsts, kindStrings:
			g.addNamed(s)
		}
	}
	g.addSupport()
	for _, s := range o.Sections {
		if s.kind == kindTable {
			g.addEntries(s, sizes)
		}
		if s.kind == kindRuntime {
			g.addConstants(s)
		}
	}
	for _, n := range slices.Clone(g.nodes) {
		g.addRefs(n)
	}
	g.linkParts()
	g.inferHooks()
	return g
}

func (g *graph) refuse(r Refusal) { g.problems = append(g.problems, r) }

// addNamed makes a node of each range that a symbol names.
func (g *graph) addNamed(s *Section) {
	var last *node
	for _, sym := range s.Symbols {
		if sym.Type == elf.STT_NOTYPE && sym.Size == 0 && last != nil && sym.Value < last.end() {
			continue // a label inside
		}
		if last != nil && sym.Value == last.off && (sym.Size == last.size || sym.Size == 0) {
			last.aliases = append(last.aliases, sym)
			g.byName[sym.Name] = append(g.byName[sym.Name], last)
			continue
		}
		if sym.Type == elf.STT_NOTYPE && s.kind != kindRegistry || sym.Size == 0 && sym.Type == elf.STT_FUNC {
			continue // a label of assembler code: part of the unnamed bytes
		}
		if last != nil && sym.Value < last.end() {
			if s.kind == kindCode {
				last.broken = fmt.Sprintf("it overlaps with %s", sym.Name)
			}
			continue
		}
		last = g.addNode(s, sym.Value, sym.Size)
		last.symbol, last.name = sym, sym.Name
		g.nodes = append(g.nodes, last)
		g.byName[sym.Name] = append(g.byName[sym.Name], last)
	}
}

func (g *graph) addNode(s *Section, off, size uint64) *node {
	n := &node{section: s, kind: s.kind, off: off, size: size}
	if s.Data != nil {
		n.data = s.Data[off : off+size]
	}
	list := g.bySection[s]
	at, _ := slices.BinarySearchFunc(list, n, byOffset)
	g.bySection[s] = slices.Insert(list, at, n)
	return n
}

func byOffset(a, b *node) int { return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.size, b.size)) }

// addRefs finds the targets of a node's relocations.
func (g *graph) addRefs(n *node) {
	s := n.section
	first, _ := slices.BinarySearchFunc(s.Relocs, n.off, func(r Reloc, off uint64) int { return cmp.Compare(r.Offset, off) })
	for _, r := range s.Relocs[first:] {
		if r.Offset >= n.end() {
			break
		}
		if r.Offset+Width(r.Type) > n.end() {
			g.refuse(Refusal{Class: ClassReference, Symbol: n.name, Section: s.Name,
				Why: fmt.Sprintf("its relocation at %#x reaches beyond its end", r.Offset-n.off), Hint: "the object is damaged: compile it again"})
			continue
		}
		n.refs = append(n.refs, g.resolve(s, r, n.off))
	}
	if n.function() && n.size < s.Size {
		g.absorbBranches(n)
	}
}

// resolve finds what a relocation of section s points at; the offset becomes relative to base.
func (g *graph) resolve(s *Section, r Reloc, base uint64) ref {
	out := ref{off: r.Offset - base, kind: r.Type, addend: r.Addend}
	sec := r.Symbol.Section
	if sec == nil {
		out.symbol = r.Symbol
		return out
	}
	// The number in the relocation: what the instruction means, less what the
	// processor adds because it counts from the instruction's end.
	pos := r.Symbol.Value + uint64(r.Addend)
	switch {
	case r.Symbol.Type != elf.STT_SECTION && g.whole(r.Symbol) != nil:
		out.node = g.whole(r.Symbol)
	case g.only(sec) != nil:
		out.node = g.only(sec)
	case PCRelative(r.Type) && s.Code():
		out.node = g.at(sec, pos+g.bias(s, r.Offset))
	default:
		out.node = g.at(sec, pos)
	}
	if out.node == nil {
		out.symbol = r.Symbol
		return out
	}
	out.addend = int64(pos - out.node.off)
	return out
}

// whole returns the node that a symbol names, or nil for a label.
func (g *graph) whole(sym *Symbol) *node {
	for _, n := range g.byName[sym.Name] {
		if n.section == sym.Section && n.off == sym.Value {
			return n
		}
	}
	return nil
}

// only returns the node that fills its section, or nil: then it takes the exact
// position to tell what is meant.
func (g *graph) only(s *Section) *node {
	switch s.kind {
	case kindStrings, kindConsts, kindSupport:
		return nil
	}
	if nodes := g.bySection[s]; len(nodes) == 1 && nodes[0].off == 0 && nodes[0].size == s.Size {
		return nodes[0]
	}
	return nil
}

// bias is the distance from a PC-relative field to the end of its instruction.
func (g *graph) bias(s *Section, off uint64) uint64 {
	ends, ok := g.ends[s]
	if !ok {
		ends = g.instructionEnds(s)
		g.ends[s] = ends
	}
	if end, ok := ends[off]; ok {
		return end - off
	}
	return 4
}

// instructionEnds decodes a section's functions, and what no symbol names, and
// returns where the instruction of each relocation ends.
func (g *graph) instructionEnds(s *Section) map[uint64]uint64 {
	ends := make(map[uint64]uint64, len(s.Relocs))
	next := 0
	for at := uint64(0); at < s.Size && next < len(s.Relocs); {
		insn, err := decode(s.Data[at:])
		if err != nil {
			at++ // data between instructions; the next relocation decides whether this went well
			continue
		}
		end := at + uint64(insn.size)
		for next < len(s.Relocs) && s.Relocs[next].Offset < end {
			ends[s.Relocs[next].Offset] = end
			next++
		}
		at = end
	}
	return ends
}

// at returns the node at a position of a section, and makes one if no symbol names it.
func (g *graph) at(s *Section, pos uint64) *node {
	if pos > s.Size {
		return nil
	}
	list := g.bySection[s]
	i, found := slices.BinarySearchFunc(list, pos, func(n *node, pos uint64) int { return cmp.Compare(n.off, pos) })
	if found {
		return list[i]
	}
	if i > 0 && (pos < list[i-1].end() || pos == s.Size) {
		return list[i-1]
	}
	start, end := uint64(0), s.Size
	if i > 0 {
		start = list[i-1].end()
	}
	if i < len(list) {
		end = list[i].off
	}
	return g.unnamed(s, pos, start, end)
}

// unnamed makes a node for bytes between start and end that no symbol names:
// the literal at pos, or all of them.
func (g *graph) unnamed(s *Section, pos, start, end uint64) *node {
	switch s.kind {
	case kindStrings:
		if s.Data == nil || pos >= end {
			return nil
		}
		length := bytes.IndexByte(s.Data[pos:end], 0)
		if length < 0 {
			return nil
		}
		return &node{section: s, kind: kindStrings, off: pos, size: uint64(length) + 1, data: s.Data[pos : pos+uint64(length)+1]}
	case kindConsts:
		start = pos - pos%s.EntSize
		end = min(start+s.EntSize, s.Size)
	case kindIgnored, kindTable, kindRuntime:
		return nil
	}
	n := g.addNode(s, start, end-start)
	g.addRefs(n)
	return n
}

// absorbBranches gives a function of a shared section relocations for its
// branches to other functions there, which the assembler has resolved.
func (g *graph) absorbBranches(n *node) {
	copied := false
	var added []ref
	for at := uint64(0); at < n.size; {
		insn, err := decode(n.data[at:])
		if err != nil {
			n.broken = fmt.Sprintf("its instruction at %#x is not known", at)
			return
		}
		field := at + uint64(insn.imm)
		at += uint64(insn.size)
		if !insn.branch() || g.relocated(n, field) {
			continue
		}
		to := int64(n.off+at) + displacement(n.data[field:], insn.immSize)
		if to >= int64(n.off) && to < int64(n.end()) {
			continue
		}
		target := g.branchTarget(n.section, to)
		if target == nil || insn.immSize != 4 {
			n.broken = "it jumps into code beside it in " + n.section.Name
			return
		}
		if !copied {
			n.data, copied = bytes.Clone(n.data), true
		}
		clear(n.data[field : field+4])
		added = append(added, ref{off: field, kind: elf.R_X86_64_PLT32, addend: to - int64(target.off) - 4, node: target})
	}
	n.refs = append(n.refs, added...)
	slices.SortStableFunc(n.refs, func(a, b ref) int { return cmp.Compare(a.off, b.off) })
}

func (g *graph) branchTarget(s *Section, to int64) *node {
	if to < 0 || to >= int64(s.Size) {
		return nil
	}
	return g.at(s, uint64(to))
}

func (g *graph) relocated(n *node, field uint64) bool {
	_, found := slices.BinarySearchFunc(n.section.Relocs, n.off+field, func(r Reloc, off uint64) int { return cmp.Compare(r.Offset, off) })
	return found
}

func displacement(b []byte, size int) int64 {
	if size == 1 {
		return int64(int8(b[0]))
	}
	return int64(int32(binary.LittleEndian.Uint32(b)))
}

// linkParts joins each .cold part to the function it was split from. Both jump
// into each other's middle, so they are one unit.
func (g *graph) linkParts() {
	for _, n := range g.nodes {
		if !n.function() {
			continue
		}
		if padding(n.name) {
			g.linkPadding(n)
			continue
		}
		name, ok := parentName(n.name)
		if !ok {
			continue
		}
		for _, p := range g.byName[name] {
			if p.function() && p != n {
				n.parent = p
				p.parts = append(p.parts, n)
				break
			}
		}
	}
}

// padding says that a symbol is one that objtool makes for the padding before a
// function (CONFIG_PREFIX_SYMBOLS), or clang for the type number there (kCFI).
func padding(name string) bool {
	return strings.HasPrefix(name, "__pfx_") || strings.HasPrefix(name, "__cfi_")
}

func (g *graph) linkPadding(pad *node) {
	list := g.bySection[pad.section]
	i, found := slices.BinarySearchFunc(list, pad.end(), func(n *node, off uint64) int { return cmp.Compare(n.off, off) })
	if found && list[i].function() && list[i] != pad {
		list[i].padding, pad.pads = pad, true
	}
}

// subject says that the node is a function that gets a verdict of its own.
func (n *node) subject() bool { return n.function() && n.parent == nil && !n.pads }

// unit is the function itself and its .cold parts.
func (n *node) unit() []*node { return append([]*node{n}, n.parts...) }

// head is the function that a .cold part belongs to, or n itself.
func (n *node) head() *node {
	for seen := 0; n.parent != nil && seen < 4; seen++ {
		n = n.parent
	}
	return n
}
