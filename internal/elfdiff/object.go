package elfdiff

import "debug/elf"

// Object is a relocatable object file, checked: every index in it is valid.
type Object struct {
	Sections []*Section // by ELF index; the first is the null section
	Symbols  []*Symbol  // in file order; the first is the null symbol
	// Compiler is the .comment section's first string: "GCC: (Debian 12.2.0-14+deb12u1) 12.2.0".
	Compiler string
	// Groups are the section groups' members by signature.
	Groups map[string][]*Section

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
	// Symbols defined in the section, without its section symbol, sorted by
	// value; of one value functions and data first, globals before locals.
	Symbols []*Symbol

	kind sectionKind // set by Read
}

// Alloc says that the section is part of the running code or data.
func (s *Section) Alloc() bool { return s.Flags&elf.SHF_ALLOC != 0 }

// Code says that the section holds instructions.
func (s *Section) Code() bool { return s.Flags&elf.SHF_EXECINSTR != 0 }

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

// Function says that the symbol is a function.
func (s *Symbol) Function() bool { return s.Type == elf.STT_FUNC }

// Reloc is one RELA entry.
type Reloc struct {
	Offset uint64
	Type   elf.R_X86_64
	Symbol *Symbol
	Addend int64
}

// Width is the number of bytes that a relocation of the type fills in, or 0
// for types that do not occur in kernel objects.
func Width(t elf.R_X86_64) uint64 {
	switch t {
	case elf.R_X86_64_64, elf.R_X86_64_PC64:
		return 8
	case elf.R_X86_64_PC32, elf.R_X86_64_PLT32, elf.R_X86_64_32, elf.R_X86_64_32S:
		return 4
	case elf.R_X86_64_16, elf.R_X86_64_PC16:
		return 2
	case elf.R_X86_64_8, elf.R_X86_64_PC8:
		return 1
	}
	return 0
}

// PCRelative says that a relocation counts from its own place.
func PCRelative(t elf.R_X86_64) bool {
	switch t {
	case elf.R_X86_64_PC64, elf.R_X86_64_PC32, elf.R_X86_64_PLT32, elf.R_X86_64_PC16, elf.R_X86_64_PC8:
		return true
	}
	return false
}
