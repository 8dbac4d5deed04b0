package elfdiff

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Sections in which kernels from 6.11 list the instructions that carry a variable's
// value as an immediate, written into vmlinux at boot (asm/runtime-const.h). Nothing
// writes it into a module.
const (
	runtimePointer = "runtime_ptr_"
	runtimeShift   = "runtime_shift_"
)

// constant is an immediate of a function that the kernel's boot sets to a variable's value.
type constant struct {
	off      uint64 // of the immediate, in the function
	section  string // runtime_ptr_VARIABLE or runtime_shift_VARIABLE
	variable string
}

func runtimeConstants(section string) bool {
	return strings.HasPrefix(section, runtimePointer) || strings.HasPrefix(section, runtimeShift)
}

// addConstants gives each place of such a section to its function.
func (g *graph) addConstants(s *Section) {
	_, variable, _ := strings.Cut(strings.TrimPrefix(s.Name, "runtime_"), "_")
	for _, r := range s.Relocs {
		to := g.resolve(s, r, 0)
		if to.node == nil || !to.node.function() || to.addend < 0 || uint64(to.addend) >= to.node.size {
			g.refuse(Refusal{Class: ClassSpecial, Section: s.Name, Why: fmt.Sprintf("the entry at %#x is about code that is in no function", r.Offset),
				Hint: "this kernel lays the section out in a way that is not known yet"})
			continue
		}
		// In order of place: that of the sections depends on the rest of the file.
		c := constant{uint64(to.addend), s.Name, variable}
		at, _ := slices.BinarySearchFunc(to.node.constants, c, func(a, b constant) int { return cmp.Compare(a.off, b.off) })
		to.node.constants = slices.Insert(to.node.constants, at, c)
	}
}

// readVariables has a carried function read, from the variables themselves, what
// vmlinux's own code has as immediates. They do not change after boot. It returns the
// references that this takes on top of the function's own.
func (k *carrier) readVariables(n *node) []ref {
	if len(n.constants) == 0 {
		return nil
	}
	var refs []ref
	code := bytes.Clone(n.chunk.Data)
	for _, c := range n.constants {
		field, ok := loadVariable(code, c)
		if !ok {
			k.c.refuse(Refusal{Class: ClassSpecial, Symbol: n.name, Section: c.section, Source: k.c.patched.object.lineAt(n.section, n.off+c.off),
				Why:  fmt.Sprintf("it holds the value of %s, which boot writes into the kernel's own code and into no module's", c.variable),
				Hint: "leave this function as it is, and change its callers"})
			continue
		}
		refs = append(refs, k.variable(c.variable, field))
	}
	n.chunk.Data = code
	return refs
}

// variable is a reference to a variable of the object, or of another one, counted from the field's end.
func (k *carrier) variable(name string, field uint64) ref {
	r := ref{off: field, kind: elf.R_X86_64_PC32, addend: -4}
	if own := k.c.patched.byName[name]; len(own) == 1 && own[0].kind == kindData {
		r.node = own[0]
		return r
	}
	at := slices.IndexFunc(k.c.patched.object.Symbols, func(s *Symbol) bool { return s.Undefined() && s.Name == name })
	if at >= 0 {
		r.symbol = k.c.patched.object.Symbols[at]
	} else {
		r.symbol = &Symbol{Name: name, Index: elf.SHN_UNDEF, Bind: elf.STB_GLOBAL}
	}
	return r
}

// loadVariable turns "movabs $value, %reg" into "mov variable(%rip), %reg" and a nop of
// the three bytes that are left, and returns where the displacement is. It says
// false for every other instruction, such as a shift by the value.
func loadVariable(code []byte, c constant) (field uint64, ok bool) {
	const movabs, load, rexW, rexB, rexR = 0xb8, 0x8b, 0x48, 0x01, 0x04
	if !strings.HasPrefix(c.section, runtimePointer) || c.off < 2 || c.off+8 > uint64(len(code)) {
		return 0, false
	}
	insn := code[c.off-2 : c.off+8]
	rex, reg := insn[0], insn[1]&7
	if rex&^rexB != rexW || insn[1]&^7 != movabs {
		return 0, false
	}
	rex = rexW | (rex&rexB)*rexR // the register is in another field of the instruction
	copy(insn, []byte{rex, load, reg<<3 | 5})
	binary.LittleEndian.PutUint32(insn[3:], 0)
	copy(insn[7:], []byte{0x0f, 0x1f, 0x00})
	return c.off + 1, true
}
