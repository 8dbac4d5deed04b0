package elfdiff

import "debug/elf"

// Object is a relocatable object file, checked: every index in it is valid.
type Object struct {
	Sections []*Section // by ELF index; the first is the null section
	Symbols  []*Symbol  // in file order; the first is the null symbol
	// Compiler is the .comment section's first string: "GCC: (Debian 12.2.0-14+deb12u1) 12.2.0".
	Compiler string

	lines lineSource
}

// Section of an Object.
type Section struct {
	Index   int
	Name    string
	Type    elf.SectionType
	Flags   elf.SectionFlag
	Align   uint64
	EntSize uint64
	Size    uint64
	Data    []byte  // nil for SHT_NOBITS and for debug sections
	Relocs  []Reloc // sorted by offset
	// Symbols defined in the section, without its section symbol, sorted by value.
	Symbols []*Symbol
}

// Symbol of an Object.
type Symbol struct {
	Name    string
	Type    elf.SymType
	Bind    elf.SymBind
	Section *Section // nil if undefined, absolute or common
	Index   elf.SectionIndex
	Value   uint64
	Size    uint64
}

// Undefined says that another object defines the symbol.
func (s *Symbol) Undefined() bool { return s.Index == elf.SHN_UNDEF }

// Local says that the symbol is seen only inside its object.
func (s *Symbol) Local() bool { return s.Bind == elf.STB_LOCAL }

// Reloc is one RELA entry.
type Reloc struct {
	Offset uint64
	Type   elf.R_X86_64
	Symbol *Symbol
	Addend int64
}
