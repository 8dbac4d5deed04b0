package elfdiff

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"
	"strings"
)

// carrier collects what a live patch takes along, from the changed functions outwards.
type carrier struct {
	c         *comparison
	chunks    []*Chunk
	literals  map[string]*Chunk
	externals map[string]*External
	originals map[string]*Symbol // undefined symbols of the original object by name
	todo      []*node
	boot      []bootChange
	terminal  []byte // ORC record that ends a function
}

func (c *comparison) carry() {
	k := &carrier{c: c, boot: c.boot, literals: map[string]*Chunk{}, externals: map[string]*External{}, originals: map[string]*Symbol{}}
	for _, s := range c.orig.object.Symbols {
		if s.Undefined() && s.Name != "" {
			k.originals[s.Name] = s
		}
	}
	k.terminal = terminator(c.patched)
	for _, n := range c.patched.nodes {
		if !n.subject() {
			continue
		}
		switch {
		case n.verdict == changed && bootOnly(n):
			k.boot = append(k.boot, k.bootFunction(n))
		case n.verdict == changed && k.replaceable(n), n.verdict == fresh && !n.symbol.Local() && !discarded(n.section.Name):
			k.include(n)
		}
	}
	k.carryCallbacks()
	for len(k.todo) > 0 {
		n := k.todo[0]
		k.todo = k.todo[1:]
		n.chunk.Relocs = k.fixups(n, append(slices.Clip(n.refs), k.readVariables(n)...), false)
		k.includeEntries(n)
	}
	k.settleBoot()
	k.settleExports()
	c.carrier = k
}

// replaceable refuses changed functions that nothing can redirect.
func (k *carrier) replaceable(n *node) bool {
	r := Refusal{Symbol: n.name, Section: n.section.Name, Source: k.c.patched.object.declared(n.symbol)}
	switch {
	case discarded(n.section.Name) || discarded(n.pair.section.Name):
		r.Class, r.Why = ClassInit, "it runs only at boot, at module load or at unload"
		r.Hint = "leave this change out: it takes effect with the next kernel; what must happen now belongs into a callback (AFLOAT_CALLBACKS, AFLOAT_IGNORE_FUNCTION)"
	case k.c.grouped(n) != "":
		r.Class, r.Why = ClassGroup, "it is in section group "+k.c.grouped(n)+", of which several objects have one, and the linker kept any"
		r.Hint = "leave this function as it is, and call a new one of another name"
	case n.section.Name == ".static_call.text":
		r.Class, r.Why, r.Hint = ClassStaticCall, "it is the trampoline of a static call", "leave static calls as they are"
	case !n.pair.hooked:
		r.Class, r.Why = ClassNoHook, "it has no entry hook (notrace, noinstr, or built without tracing), so it cannot be redirected"
		r.Hint = "change its callers instead, or leave the change to the next kernel"
		if !n.symbol.Local() && !n.pair.symbol.Local() {
			k.c.diff.Unhooked = append(k.c.diff.Unhooked, n.pair.name)
		}
	default:
		return true
	}
	k.c.refuse(r)
	return false
}

// include makes chunks of a node and, for a function, of its .cold parts.
func (k *carrier) include(n *node) *Chunk {
	if n.chunk != nil {
		return n.chunk
	}
	if n.kind != kindCode || !n.function() {
		return k.add(n)
	}
	for _, part := range n.head().unit() {
		if part.padding != nil {
			// Directly before the function: a linker keeps the order of chunks.
			k.add(part.padding)
		}
		k.add(part)
		if part.broken != "" {
			k.c.refuse(Refusal{Class: ClassAssembly, Symbol: part.name, Section: part.section.Name,
				Why: "it cannot be cut out of its section: " + part.broken, Hint: "leave this function as it is"})
		}
	}
	return n.chunk
}

func (k *carrier) add(n *node) *Chunk {
	c := &Chunk{Name: n.name, Type: elf.SHT_PROGBITS, Align: n.section.Align, Size: n.size, Data: n.data, Function: n.function()}
	if n.pair != nil {
		c.Name = n.pair.name
	}
	if n.symbol != nil {
		c.Global = !n.symbol.Local()
	}
	c.Section, c.Flags = place(n)
	if n.data == nil {
		c.Type = elf.SHT_NOBITS
	}
	if n.function() {
		c.Align = max(16, c.Align)
	}
	if n.off%c.Align != 0 {
		// Cut out of a shared section: what it needs is not more than what its position had.
		c.Align = n.off & -n.off
	}
	n.chunk = c
	k.chunks = append(k.chunks, c)
	k.todo = append(k.todo, n)
	return c
}

// place is the section of the linked module that a node goes to.
func place(n *node) (string, elf.SectionFlag) {
	name, flags := n.section.Name, n.section.Flags&(elf.SHF_ALLOC|elf.SHF_WRITE|elf.SHF_EXECINSTR)
	switch {
	case n.kind == kindCode:
		return ".text", flags
	case n.kind == kindSupport, name == "__dyndbg", strings.HasPrefix(name, ".data..percpu"), name == ".data..ro_after_init":
		return name, flags
	case n.section.Type == elf.SHT_NOBITS:
		return ".bss", flags
	case flags&elf.SHF_WRITE != 0:
		return ".data", flags
	}
	return ".rodata", flags
}

// fixups turns references into relocations of the live patch. Direct ones must
// reach the carried code itself, as the entries of special sections do.
func (k *carrier) fixups(from *node, refs []ref, direct bool) []Fixup {
	out := make([]Fixup, 0, len(refs))
	for _, r := range refs {
		target, err := k.target(from, r, direct)
		if err != nil {
			k.c.refuse(*err)
			continue
		}
		addend := r.addend
		out = append(out, Fixup{Offset: r.off, Type: r.kind, Target: target, Addend: addend})
	}
	return out
}

func (k *carrier) target(from *node, r ref, direct bool) (Target, *Refusal) {
	if r.node == nil {
		if r.symbol.Index != elf.SHN_UNDEF || r.symbol.Name == "" {
			return Target{}, k.reference(from, r, "it refers to a place that is in no section of the object")
		}
		return Target{Symbol: k.undefined(r.symbol)}, nil
	}
	switch r.node.kind {
	case kindCode:
		return k.code(from, r, direct)
	case kindSupport:
		return Target{Chunk: k.include(r.node)}, nil
	case kindStrings, kindConsts:
		if r.node.symbol == nil {
			return Target{Chunk: k.literal(r.node)}, nil
		}
	}
	return k.datum(from, r)
}

func (k *carrier) reference(from *node, r ref, why string) *Refusal {
	return &Refusal{Class: ClassReference, Symbol: from.name, Section: from.section.Name,
		Source: k.c.patched.object.lineAt(from.section, from.off+r.off), Why: why, Hint: "write this part of the patch another way"}
}

// code resolves a reference to a function. Calls between carried functions stay
// inside the live patch. A stored pointer to a replaced function is to the
// original: it must stay valid when the live patch is gone, and is redirected until then.
func (k *carrier) code(from *node, r ref, direct bool) (Target, *Refusal) {
	n := r.node
	if !n.function() {
		return Target{}, k.reference(from, r, "it refers to code that is in no function")
	}
	head := n.head()
	inside := from.kind == kindCode && from.head() == head
	call := !direct && isBranch(from, r) // an entry's offsets are not the function's
	pointer := !call && (r.addend == 0 || PCRelative(r.kind) && r.addend == -4)
	switch {
	case direct, inside && !pointer, inside && n.parent != nil, from.kind == kindSupport && head.chunk != nil && !pointer:
		return Target{Chunk: k.include(n)}, nil
	case head.verdict == fresh && n.section.Name == ".static_call.text":
		return Target{}, &Refusal{Class: ClassStaticCall, Symbol: n.name, Section: n.section.Name,
			Why: "it is a new static call, which is set up only at boot", Hint: "use a function pointer instead"}
	case head.verdict == fresh && discarded(n.section.Name):
		return Target{}, k.reference(from, r, "it calls "+n.name+", which is thrown away after boot")
	case head.verdict == fresh, head.verdict == changed && call:
		return Target{Chunk: k.include(n)}, nil
	case n.parent != nil:
		return Target{}, k.reference(from, r, "it jumps into "+n.name+", a part of another function")
	}
	return Target{Symbol: k.existing(n)}, nil
}

// isBranch says that the relocation is the operand of a call or jump. The byte
// before a displacement from RIP is otherwise a ModRM byte below 0x40.
func isBranch(from *node, r ref) bool {
	if !PCRelative(r.kind) || from.kind != kindCode && from.kind != kindSupport || r.off == 0 {
		return false
	}
	before := from.data[r.off-1]
	return before == 0xe8 || before == 0xe9 || before&0xf0 == 0x80 && r.off > 1 && from.data[r.off-2] == 0x0f
}

// datum resolves a reference to a variable or constant.
func (k *carrier) datum(from *node, r ref) (Target, *Refusal) {
	n := r.node
	switch {
	case n.pair != nil:
		return Target{Symbol: k.existing(n)}, nil
	case n.kind == kindRegistry:
		return Target{}, &Refusal{Class: ClassSection, Symbol: n.name, Section: n.section.Name,
			Why: "it is new in a section that is read only at boot or module load", Hint: "do without it in a live patch"}
	case discarded(n.section.Name):
		return Target{}, &Refusal{Class: ClassInit, Symbol: n.name, Section: n.section.Name,
			Why: "it is thrown away after boot", Hint: "do not use __init data in code that runs later"}
	case n.symbol == nil && n.section.Flags&elf.SHF_WRITE != 0 && !sanitizer(n.section.Name):
		return Target{}, k.reference(from, r, "it refers to unnamed data in "+n.section.Name)
	case n.symbol != nil && n.staticLocal() && !copied(n.name, n.section.Name) && k.forked(n):
		return Target{}, &Refusal{Class: ClassStaticLocal, Symbol: n.name, Section: n.section.Name,
			Source: k.c.patched.object.declared(n.symbol),
			Why:    "it cannot be told which static variable of that name in the running kernel it is",
			Hint:   "give the variable of the patch another name, or keep its uses as they were"}
	}
	if n.chunk == nil {
		k.c.diff.Data = append(k.c.diff.Data, Datum{Name: n.name, Section: n.section.Name, Size: n.size,
			Copy: n.symbol == nil || copied(n.name, n.section.Name)})
	}
	return Target{Chunk: k.include(n)}, nil
}

// forked says that the running kernel may have the static variable already, in
// which case a new one would begin with a state of its own.
func (k *carrier) forked(n *node) bool {
	base := baseName(n.name)
	if k.c.pairing.torn[base] {
		return true
	}
	return slices.ContainsFunc(k.c.orig.nodes, func(o *node) bool {
		return o.pair == nil && o.symbol != nil && o.kind != kindCode && o.staticLocal() && baseName(o.name) == base
	})
}

// literal returns the chunk of a string or constant, one for each content.
func (k *carrier) literal(n *node) *Chunk {
	section := ".rodata"
	if n.kind == kindStrings {
		section = ".rodata.str"
	}
	key := fmt.Sprint(section, n.section.Align, len(n.refs)) + string(n.data)
	if c, ok := k.literals[key]; ok && len(n.refs) == 0 {
		return c
	}
	align := n.section.Align
	if n.kind == kindStrings && n.off%align != 0 {
		align = 1
	}
	c := &Chunk{Section: section, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: align, Size: n.size, Data: n.data}
	k.literals[key] = c
	k.chunks = append(k.chunks, c)
	return c
}

func (k *carrier) undefined(s *Symbol) *External {
	if e, ok := k.externals[s.Name]; ok {
		return e
	}
	e := &External{Name: s.Name, Original: k.originals[s.Name]}
	k.externals[s.Name] = e
	return e
}

// existing refers to what the running kernel has.
func (k *carrier) existing(n *node) *External {
	s := n.pair.symbol
	key := s.Name
	if s.Local() {
		key = fmt.Sprintf("%s@%p", s.Name, s)
	}
	if e, ok := k.externals[key]; ok {
		return e
	}
	e := &External{Name: s.Name, Defined: true, Local: s.Local(), Function: n.function(), Original: s}
	k.externals[key] = e
	return e
}

// includeEntries takes along what the special sections say about a carried function.
func (k *carrier) includeEntries(n *node) {
	if n.kind != kindCode && n.kind != kindSupport {
		return
	}
	for _, t := range tables() {
		list := entriesOf(n, t.name)
		if n.pads && t.name != ".orc_unwind_ip" {
			continue // what the compiler says of padding, the kernel's own link drops too
		}
		for _, e := range list {
			k.includeEntry(n, e)
		}
		if t.name == ".orc_unwind_ip" {
			k.endFrames(n, list)
		}
	}
}

func (k *carrier) includeEntry(n *node, e *entry) {
	s := k.c.patched.sectionNamed(e.table)
	if e.replacement != nil {
		k.include(e.replacement)
	}
	c := &Chunk{
		Section: e.table, Type: elf.SHT_PROGBITS, Flags: s.Flags & (elf.SHF_ALLOC | elf.SHF_WRITE), Align: s.Align,
		EntSize: uint64(len(e.data)), Size: uint64(len(e.data)), Data: e.data, Entry: n.chunk,
	}
	c.Relocs = k.fixups(n, e.refs, true)
	k.chunks = append(k.chunks, c)
	k.c.diff.Special[e.table]++
	if e.orc != nil {
		k.addORC(n, e.orc)
	}
}

func (k *carrier) addORC(n *node, record []byte) {
	k.chunks = append(k.chunks, &Chunk{
		Section: ".orc_unwind", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1,
		EntSize: uint64(len(record)), Size: uint64(len(record)), Data: record, Entry: n.chunk,
	})
}

// endFrames ends the unwind information at the function's end, as objtool does
// at the end of a section: the function's neighbour is another one now.
func (k *carrier) endFrames(n *node, list []*entry) {
	if n.pads || len(list) == 0 || k.terminal == nil || slices.ContainsFunc(list, func(e *entry) bool { return e.at == n.size }) {
		return
	}
	k.includeEntry(n, &entry{
		table: ".orc_unwind_ip", data: make([]byte, len(list[0].data)), owner: n, at: n.size, orc: k.terminal,
		refs: []ref{{kind: elf.R_X86_64_PC32, addend: int64(n.size), node: n}},
	})
}

// terminator finds the record that objtool puts at the end of each section.
func terminator(g *graph) []byte {
	for _, e := range g.entries {
		if e.orc != nil && e.owner.off+e.at == e.owner.section.Size {
			return bytes.Clone(e.orc)
		}
	}
	return nil
}

func (g *graph) sectionNamed(name string) *Section {
	for _, s := range g.object.Sections {
		if s.Name == name {
			return s
		}
	}
	return nil
}
