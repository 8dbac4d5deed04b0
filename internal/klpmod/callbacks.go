package klpmod

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"

	"afloat/internal/elfdiff"
)

// Callback is a function of the patch's author that the kernel calls when the
// live patch comes to an object or leaves it.
type Callback struct {
	Object   string
	Kind     elfdiff.CallbackKind
	Function string
	Source   string // file:line of its AFLOAT_CALLBACKS
}

// State is a klp_state of the live patch.
type State struct {
	ID      uint64
	Version uint32
	Source  string // file:line
}

// callbackSets lists the sets of a target's parts in order, and tells of them in the stats.
func (l *linker) callbackSets(t *Target) []elfdiff.Callbacks {
	var sets []elfdiff.Callbacks
	for i := range t.Parts {
		p := &t.Parts[i]
		for _, set := range p.Diff.Callbacks {
			sets = append(sets, set)
			for kind, f := range set.Functions {
				if f.Code != nil {
					l.stats.Callbacks = append(l.stats.Callbacks,
						Callback{t.Object, elfdiff.CallbackKind(kind), f.Name, fmt.Sprintf("%s:%d", p.Source, set.Line)})
				}
			}
		}
	}
	return sets
}

// addCallbacks fills in the callbacks of a target's klp_object entry at offset
// at of table: the author's, and what older kernels need to forget a module.
func (l *linker) addCallbacks(t *Target, table *elfdiff.Chunk, at int, exit *elfdiff.Chunk) {
	sets := l.callbackSets(t)
	var calls [elfdiff.CallbackKinds]*elfdiff.Chunk
	var forget *elfdiff.Chunk
	if !l.forgets() || len(functionsOf(sets, elfdiff.PrePatch)) > 0 {
		forget = l.forgetter(t, exit)
	}
	calls[elfdiff.PrePatch] = l.prePatch(t, sets, forget, exit)
	for _, kind := range []elfdiff.CallbackKind{elfdiff.PostPatch, elfdiff.PreUnpatch, elfdiff.PostUnpatch} {
		list := functionsOf(sets, kind)
		if kind != elfdiff.PostPatch {
			slices.Reverse(list)
		}
		if kind == elfdiff.PostUnpatch && forget != nil && !l.forgets() {
			list = append(list, forget) // last: the author's functions still use what it empties
		}
		calls[kind] = l.chain(fmt.Sprintf("klp_%s_%s", kind, t.Object), list)
	}
	sizes := l.spec.Kernel.Sizes
	base, ok := sizes.KlpObject.Offsets["callbacks"]
	for kind, c := range calls {
		member, has := sizes.KlpCallbacks.Offsets[elfdiff.CallbackKind(kind).String()]
		switch {
		case c == nil:
		case !ok || !has:
			l.refuse(elfdiff.Refusal{Class: elfdiff.ClassAuthor, Symbol: c.Name, Why: "this kernel has no callbacks for live patches",
				Hint: "do without callbacks on this kernel"})
		default:
			table.Relocs = append(table.Relocs, pointer(at+base+member, c))
		}
	}
}

func functionsOf(sets []elfdiff.Callbacks, kind elfdiff.CallbackKind) []*elfdiff.Chunk {
	var list []*elfdiff.Chunk
	for _, set := range sets {
		if c := set.Functions[kind].Code; c != nil {
			list = append(list, c)
		}
	}
	return list
}

// chain returns a function that calls all of the list with its own argument.
// A single one is called by the kernel itself.
//
//	endbr64
//	push %rbx
//	mov  %rdi, %rbx
//	call FIRST
//	mov  %rbx, %rdi     for each of the others
//	call NEXT
//	...
//	pop  %rbx           before the last, which returns for all
//	jmp  LAST
func (l *linker) chain(name string, list []*elfdiff.Chunk) *elfdiff.Chunk {
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	c := generated(name)
	emit(c, []byte{0x53, 0x48, 0x89, 0xfb})
	for i, f := range list {
		if i > 0 {
			emit(c, []byte{0x48, 0x89, 0xdf})
		}
		if i == len(list)-1 {
			emit(c, []byte{0x5b, 0xe9, 0, 0, 0, 0, 0xcc}, to(2, f, 0))
			break
		}
		emit(c, []byte{0xe8, 0, 0, 0, 0}, to(1, f, 0))
	}
	return l.add(c)
}

// prePatch returns a function that calls the sets' pre_patch functions until
// one fails, and then the post_unpatch functions of the sets before it, and
// forget if that is not nil.
//
//	endbr64
//	push %rbx
//	push %rbp
//	mov  %rdi, %rbx
//	mov  %rbx, %rdi     for each set with a pre_patch
//	call PRE
//	mov  %eax, %ebp
//	test %ebp, %ebp
//	jne  fail of this set
//	...
//	jmp  end
//	fail of set N:
//	mov  %rbx, %rdi     for each set from N-1 down to 0 with a post_unpatch
//	call POST
//	call FORGET
//	end:
//	mov  %ebp, %eax
//	pop  %rbp
//	pop  %rbx
//	jmp  cleanup_module+4
func (l *linker) prePatch(t *Target, sets []elfdiff.Callbacks, forget, exit *elfdiff.Chunk) *elfdiff.Chunk {
	first := slices.IndexFunc(sets, func(s elfdiff.Callbacks) bool { return s.Functions[elfdiff.PrePatch].Code != nil })
	if first < 0 {
		return nil
	}
	if pre := functionsOf(sets, elfdiff.PrePatch); len(pre) == 1 && len(functionsOf(sets[:first], elfdiff.PostUnpatch)) == 0 && forget == nil {
		return pre[0]
	}
	c := generated("klp_pre_patch_" + t.Object)
	emit(c, []byte{0x53, 0x55, 0x48, 0x89, 0xfb})
	jumps := map[int]int{} // set to the field of its jump
	for i, set := range sets {
		if f := set.Functions[elfdiff.PrePatch].Code; f != nil {
			emit(c, []byte{0x48, 0x89, 0xdf, 0xe8, 0, 0, 0, 0, 0x89, 0xc5, 0x85, 0xed, 0x0f, 0x85, 0, 0, 0, 0}, to(4, f, 0))
			jumps[i] = len(c.Data) - 4
		}
	}
	emit(c, []byte{0xe9, 0, 0, 0, 0})
	end := len(c.Data) - 4
	for i := len(sets) - 1; i >= 0; i-- {
		if field, ok := jumps[i]; ok {
			land(c, field)
		}
		if i == 0 {
			break
		}
		if f := sets[i-1].Functions[elfdiff.PostUnpatch].Code; f != nil {
			emit(c, []byte{0x48, 0x89, 0xdf, 0xe8, 0, 0, 0, 0}, to(4, f, 0))
		}
	}
	if forget != nil {
		emit(c, []byte{0xe8, 0, 0, 0, 0}, to(1, forget, 0))
	}
	land(c, end)
	emit(c, []byte{0x89, 0xe8, 0x5d, 0x5b, 0xe9, 0, 0, 0, 0, 0xcc}, to(5, exit, len(endbr64)))
	return l.add(c)
}

// land makes the jump whose field is at an offset go to the end of what is written so far.
func land(c *elfdiff.Chunk, field int) {
	binary.LittleEndian.PutUint32(c.Data[field:], uint32(len(c.Data)-field-4))
}

// generated begins a function of the linker's own.
func generated(name string) *elfdiff.Chunk {
	return &elfdiff.Chunk{
		Name: name, Section: ".text", Type: elf.SHT_PROGBITS, Flags: code, Align: 16, Function: true, Data: slices.Clone(endbr64),
	}
}

// to is the operand of a call or jump, at an offset of the instruction, to an offset of a function.
func to(offset uint64, f *elfdiff.Chunk, at int) elfdiff.Fixup {
	return elfdiff.Fixup{Offset: offset, Type: elf.R_X86_64_PLT32, Target: elfdiff.Target{Chunk: f}, Addend: int64(at) - 4}
}

// states writes the klp_state table, or returns nil if the patch has none. The
// same statement in two files counts once; an entry without an id ends the table.
func (l *linker) states() *elfdiff.Chunk {
	for _, t := range l.spec.Targets {
		for _, p := range t.Parts {
			for _, s := range p.Diff.States {
				l.addState(State{s.ID, s.Version, fmt.Sprintf("%s:%d", p.Source, s.Line)})
			}
		}
	}
	if len(l.stats.States) == 0 {
		return nil
	}
	lay := l.spec.Kernel.Sizes.KlpState
	id, ok1 := lay.Offsets["id"]
	version, ok2 := lay.Offsets["version"]
	if _, ok := l.spec.Kernel.Sizes.KlpPatch.Offsets["states"]; !ok || !ok1 || !ok2 || id+8 > lay.Size || version+4 > lay.Size {
		l.refuse(elfdiff.Refusal{Class: elfdiff.ClassAuthor, Symbol: "AFLOAT_STATE", Source: l.stats.States[0].Source,
			Why: "this kernel has no states for live patches", Hint: "do without states on this kernel"})
		return nil
	}
	table := &elfdiff.Chunk{Name: "klp_states", Section: ".data", Type: elf.SHT_PROGBITS, Flags: writable, Align: 32}
	for _, s := range l.stats.States {
		entry := make([]byte, lay.Size)
		binary.LittleEndian.PutUint64(entry[id:], s.ID)
		binary.LittleEndian.PutUint32(entry[version:], s.Version)
		table.Data = append(table.Data, entry...)
	}
	table.Data = append(table.Data, make([]byte, lay.Size)...)
	return l.add(table)
}

func (l *linker) addState(s State) {
	for _, have := range l.stats.States {
		switch {
		case have.ID != s.ID:
		case have.Version == s.Version:
			return
		default:
			l.refuse(elfdiff.Refusal{Class: elfdiff.ClassAuthor, Symbol: fmt.Sprintf("state %#x", s.ID), Source: s.Source,
				Why:  fmt.Sprintf("it has version %d here and version %d in %s", s.Version, have.Version, have.Source),
				Hint: "state each id once: change the earlier statement's version"})
			return
		}
	}
	l.stats.States = append(l.stats.States, s)
}
