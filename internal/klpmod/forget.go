package klpmod

import (
	"debug/elf"
	"encoding/binary"

	"afloat/internal/elfdiff"
)

// Kernels before 6.3 apply a module's klp relocations each time that it is
// loaded, but find the places filled in already from the time before, and refuse
// to load it ("existing value is nonzero"). So on these the live patch empties
// the places itself, in the callback that the kernel calls when it has taken the
// patch off a module. Later kernels do the same in clear_relocate_add, but not
// when an author's pre_patch refuses a module that is being loaded (seen on 6.12):
// then the places are emptied here on these too.

const (
	fieldEntry = 16 // bytes of a table entry: address and width of a place
	textPoke   = "text_poke"
	textMutex  = "text_mutex"
)

// canForget says that the callback can be made: text_poke, which is not
// exported, is in reach, and struct klp_object has the callback's place.
func (l *linker) canForget() bool {
	sizes := l.spec.Kernel.Sizes
	_, callbacks := sizes.KlpObject.Offsets["callbacks"]
	_, unpatch := sizes.KlpCallbacks.Offsets["post_unpatch"]
	for _, name := range []string{"mutex_lock", "mutex_unlock"} {
		if l.spec.Kernel.Symvers[name].Owner != vmlinux {
			return false
		}
	}
	for _, name := range []string{textPoke, textMutex} {
		if addr, ok := l.only(name); !ok || l.imageAddress(name, addr) == 0 {
			return false
		}
	}
	return callbacks && unpatch
}

// forgets says that the kernel itself empties the places.
func (l *linker) forgets() bool { return len(l.spec.Kernel.Kallsyms.Lookup("clear_relocate_add")) > 0 }

// forgetter makes the post_unpatch callback for a target, or returns nil if
// there are no places to empty.
func (l *linker) forgetter(t *Target, exit *elfdiff.Chunk) *elfdiff.Chunk {
	fields := l.fields(t)
	if t.Object == vmlinux || len(fields.Relocs) == 0 || l.forgets() && !l.canForget() {
		return nil
	}
	if !l.canForget() {
		l.note("Once module %s is unloaded, this kernel refuses to load it again until the live patch is off.", t.Object)
		return nil
	}
	return l.forgetFunction(t, l.add(fields), exit)
}

// fields lists the places of a target's klp relocations; an entry of zeros ends it.
func (l *linker) fields(t *Target) *elfdiff.Chunk {
	table := &elfdiff.Chunk{Name: "klp_fields_" + t.Object, Section: ".rodata", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 16}
	for _, c := range l.chunks {
		for _, f := range c.Relocs {
			r := l.resolved[reference{target: c.target, symbol: f.Target.Symbol}]
			if f.Target.Symbol == nil || r.object != t.Object {
				continue
			}
			field := pointer(len(table.Data), c.Chunk)
			field.Addend = int64(f.Offset)
			table.Relocs = append(table.Relocs, field)
			table.Data = binary.LittleEndian.AppendUint64(append(table.Data, make([]byte, 8)...), elfdiff.Width(f.Type))
		}
	}
	table.Data = append(table.Data, make([]byte, fieldEntry)...)
	return table
}

// forgetFunction is:
//
//	       endbr64
//	       push %rbx
//	       mov  $fields, %rbx
//	       mov  $text_mutex, %rdi
//	       call mutex_lock
//	loop:  mov  (%rbx), %rdi
//	       test %rdi, %rdi
//	       je   done
//	       mov  8(%rbx), %rdx
//	       mov  $zeros, %rsi
//	       add  $16, %rbx
//	       call text_poke
//	       jmp  loop
//	done:  mov  $text_mutex, %rdi
//	       call mutex_unlock
//	       pop  %rbx
//	       jmp  cleanup_module+4
func (l *linker) forgetFunction(t *Target, fields, exit *elfdiff.Chunk) *elfdiff.Chunk {
	c := generated("klp_forget_" + t.Object)
	emit(c, []byte{0x53})
	mutex := elfdiff.Fixup{Offset: 3, Type: elf.R_X86_64_32S, Target: elfdiff.Target{Symbol: &elfdiff.External{Name: textMutex}}}
	zeros := elfdiff.Fixup{Offset: 3, Type: elf.R_X86_64_32S, Target: elfdiff.Target{Chunk: fields}, Addend: int64(len(fields.Data)) - fieldEntry}
	call := []byte{0xe8, 0, 0, 0, 0}
	emit(c, []byte{0x48, 0xc7, 0xc3, 0, 0, 0, 0}, elfdiff.Fixup{Offset: 3, Type: elf.R_X86_64_32S, Target: elfdiff.Target{Chunk: fields}})
	emit(c, []byte{0x48, 0xc7, 0xc7, 0, 0, 0, 0}, mutex)
	emit(c, call, exported(1, elf.R_X86_64_PLT32, "mutex_lock"))
	emit(c, []byte{0x48, 0x8b, 0x3b, 0x48, 0x85, 0xff, 0x74, 22, 0x48, 0x8b, 0x53, 0x08})
	emit(c, []byte{0x48, 0xc7, 0xc6, 0, 0, 0, 0}, zeros)
	emit(c, []byte{0x48, 0x83, 0xc3, fieldEntry})
	emit(c, call, exported(1, elf.R_X86_64_PLT32, textPoke))
	emit(c, []byte{0xeb, 0x100 - 30})
	emit(c, []byte{0x48, 0xc7, 0xc7, 0, 0, 0, 0}, mutex)
	emit(c, call, exported(1, elf.R_X86_64_PLT32, "mutex_unlock"))
	emit(c, []byte{0x5b, 0xe9, 0, 0, 0, 0, 0xcc}, to(2, exit, len(endbr64)))
	return l.add(c)
}
