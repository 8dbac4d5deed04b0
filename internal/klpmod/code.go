package klpmod

import (
	"debug/elf"
	"slices"

	"afloat/internal/elfdiff"
)

// endbr64 lets kernels with indirect branch tracking call the function; others run it as a no-op.
var endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}

const initSection = ".init.text" // freed once init_module has run

const returnThunk = "__x86_return_thunk"

// exitFunction does nothing; that it exists lets the module be removed. It
// returns as the kernel's own code does, through the thunk where there is one.
func (l *linker) exitFunction(this *elfdiff.Chunk) *elfdiff.Chunk {
	exit := &elfdiff.Chunk{
		Name: "cleanup_module", Section: ".text", Type: elf.SHT_PROGBITS, Flags: code, Align: 16, Function: true, Global: true,
		Data: append(slices.Clone(endbr64), 0xc3, 0xcc),
	}
	_, thunk := l.spec.Kernel.Symvers[returnThunk]
	if thunk {
		exit.Data = append(slices.Clone(endbr64), 0xe9, 0, 0, 0, 0, 0xcc)
		exit.Relocs = []elfdiff.Fixup{exported(5, elf.R_X86_64_PLT32, returnThunk)}
	}
	l.add(exit)
	if thunk {
		l.add(&elfdiff.Chunk{
			Section: ".return_sites", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1, EntSize: 4, Entry: exit, Data: make([]byte, 4),
			Relocs: []elfdiff.Fixup{{Type: elf.R_X86_64_PC32, Target: elfdiff.Target{Chunk: exit}, Addend: 4}},
		})
	}
	this.Relocs = append(this.Relocs, pointer(l.spec.Kernel.Sizes.Module.Offsets["exit"], exit))
	return exit
}

// initFunction is, without and with a build id to compare:
//
//	endbr64                               endbr64
//	                                      mov  $__start_notes+N, %rdi
//	                                      mov  $build_id, %rsi
//	                                      mov  $20, %ecx
//	                                      repe cmpsb
//	                                      jne  other
//	mov  $klp_patch, %rdi                 mov  $klp_patch, %rdi
//	jmp  klp_enable_patch                 jmp  klp_enable_patch
//	                               other: mov  $-ENOEXEC, %eax
//	                                      jmp  cleanup_module+4
func (l *linker) initFunction(this, patch, exit *elfdiff.Chunk) {
	c := &elfdiff.Chunk{
		Name: "init_module", Section: initSection, Type: elf.SHT_PROGBITS, Flags: code, Align: 16, Function: true, Global: true,
		Data: slices.Clone(endbr64),
	}
	const enableSize = 13
	if l.anchor != 0 {
		l.emitCompare(c, enableSize)
	}
	emit(c, []byte{0x48, 0xc7, 0xc7, 0, 0, 0, 0}, elfdiff.Fixup{Offset: 3, Type: elf.R_X86_64_32S, Target: elfdiff.Target{Chunk: patch}})
	emit(c, []byte{0xe9, 0, 0, 0, 0, 0xcc}, exported(1, elf.R_X86_64_PLT32, enablePatch))
	if l.anchor != 0 {
		const noExec = 0xf8 // -8, the low byte
		// Past cleanup_module's endbr64 there is only the return.
		emit(c, []byte{0xb8, noExec, 0xff, 0xff, 0xff, 0xe9, 0, 0, 0, 0, 0xcc}, to(6, exit, len(endbr64)))
	}
	this.Relocs = append(this.Relocs, pointer(l.spec.Kernel.Sizes.Module.Offsets["init"], l.add(c)))
}

// emitCompare compares the running kernel's build id with the module's, and jumps over skip bytes if they differ.
func (l *linker) emitCompare(c *elfdiff.Chunk, skip byte) {
	id := l.spec.Kernel.BuildID
	want := l.add(&elfdiff.Chunk{Section: ".rodata.str", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1, Data: slices.Clone(id)})
	emit(c, []byte{0x48, 0xc7, 0xc7, 0, 0, 0, 0}, elfdiff.Fixup{
		Offset: 3, Type: elf.R_X86_64_32S, Target: elfdiff.Target{Symbol: &elfdiff.External{Name: startNotes}}, Addend: l.idOffset,
	})
	emit(c, []byte{0x48, 0xc7, 0xc6, 0, 0, 0, 0}, elfdiff.Fixup{Offset: 3, Type: elf.R_X86_64_32S, Target: elfdiff.Target{Chunk: want}})
	emit(c, []byte{0xb9, byte(len(id)), 0, 0, 0, 0xf3, 0xa6, 0x75, skip})
}

// emit appends an instruction whose fixups count from its start.
func emit(c *elfdiff.Chunk, instruction []byte, fixups ...elfdiff.Fixup) {
	for _, f := range fixups {
		f.Offset += uint64(len(c.Data))
		c.Relocs = append(c.Relocs, f)
	}
	c.Data = append(c.Data, instruction...)
}
