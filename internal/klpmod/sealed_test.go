package klpmod

import (
	"debug/elf"
	"errors"
	"strings"
	"testing"

	"afloat/internal/elfdiff"
	"afloat/internal/proof"
)

// A pointer to a function that boot closes is refused; a call of it is not, nor a
// pointer to its neighbour of the same name, nor into the middle of anything.
func TestPointerToSealedFunction(t *testing.T) {
	k := testKernel()
	k.Sealed = []uint64{image + 0x400, image + 0x600, image + 0xa00}
	first, second := &elfdiff.Symbol{Name: "twice"}, &elfdiff.Symbol{Name: "twice"}
	places := proof.Places{first: {Addr: image + 0x400, Sympos: 1}, second: {Addr: image + 0x500, Sympos: 2}}
	local := func(s *elfdiff.Symbol) elfdiff.Target {
		return elfdiff.Target{Symbol: &elfdiff.External{Name: s.Name, Local: true, Defined: true, Original: s}}
	}
	hidden := external("hidden", false, false)
	lea, call, jump := []byte{0x48, 0x8d, 0x3d}, []byte{0x90, 0x90, 0xe8}, []byte{0x90, 0x0f, 0x84}
	for name, tt := range map[string]struct {
		insn    []byte // before a field of four bytes
		kind    elf.R_X86_64
		addend  int64
		target  elfdiff.Target
		refused bool
	}{
		"mov $hidden, %rdi":          {[]byte{0x48, 0xc7, 0xc7}, elf.R_X86_64_32S, 0, hidden, true},
		"lea hidden(%rip), %rdi":     {lea, elf.R_X86_64_PC32, -4, hidden, true},
		"its first namesake":         {lea, elf.R_X86_64_PC32, -4, local(first), true},
		"its second namesake":        {lea, elf.R_X86_64_PC32, -4, local(second), false},
		"the function replaced":      {lea, elf.R_X86_64_PC32, -4, external("victim", false, true), true},
		"an open function":           {lea, elf.R_X86_64_PC32, -4, external("shown", false, false), false},
		"data":                       {lea, elf.R_X86_64_PC32, -4, external("datum", true, true), false},
		"inside of it":               {lea, elf.R_X86_64_PC32, 12, hidden, false},
		"call hidden":                {call, elf.R_X86_64_PLT32, -4, hidden, false},
		"call hidden, old assembler": {call, elf.R_X86_64_PC32, -4, hidden, false},
		"je hidden, old assembler":   {jump, elf.R_X86_64_PC32, -4, hidden, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := codeChunk("victim")
			c.Data = append(append(tt.insn, 0, 0, 0, 0), c.Data...)
			c.Size = uint64(len(c.Data))
			c.Relocs = []elfdiff.Fixup{{Offset: 3, Type: tt.kind, Target: tt.target, Addend: tt.addend}}
			p := part(c)
			p.Places = places
			_, _, err := Link(vmlinuxSpec(k, p))
			refused, is := errors.AsType[*elfdiff.RefusedError](err)
			switch {
			case !tt.refused && err != nil:
				t.Fatal(err)
			case tt.refused && (!is || refused.Refusals[0].Class != elfdiff.ClassReference || refused.Refusals[0].Hint == "" ||
				!strings.Contains(refused.Error(), tt.target.Symbol.Name)):
				t.Fatalf("got %v, want a refusal", err)
			}
			open := k
			open.Sealed = nil
			if _, _, err := Link(vmlinuxSpec(open, p)); err != nil {
				t.Errorf("a kernel without: %v", err)
			}
		})
	}
}
