package elfdiff

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// Bounds on what Read accepts: far above the largest kernel object.
const (
	maxSections = 1 << 20
	maxSection  = 256 << 20 // bytes
	symbolSize  = 24        // Elf64_Sym
	relaSize    = 24        // Elf64_Rela
)

// ErrNoObject says that a file is no x86-64 relocatable object.
var ErrNoObject = errors.New("not an x86-64 relocatable object")

// Read parses an object file. The bytes may be anything: what is malformed is
// an error that names the place. The file must stay readable as long as the
// Object's source lines may be asked for.
func Read(r io.ReaderAt) (o *Object, err error) {
	defer func() {
		// debug/elf has panicked on malformed input before (go.dev/issue/10052).
		if p := recover(); p != nil {
			o, err = nil, fmt.Errorf("read object: malformed: %v", p)
		}
	}()
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("read object: %w: %s", ErrNoObject, whatIs(r, err))
	}
	switch {
	case f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB || f.Machine != elf.EM_X86_64:
		return nil, fmt.Errorf("read object: %w: it is for %s, %s", ErrNoObject, f.Machine, f.Class)
	case f.Type != elf.ET_REL:
		return nil, fmt.Errorf("read object: %w: it is linked already (%s)", ErrNoObject, f.Type)
	}
	rd := reader{file: f, object: &Object{Groups: map[string][]*Section{}, lines: lineSource{file: r, once: &sync.Once{}, variablesOnce: &sync.Once{}}}}
	for _, step := range []func() error{rd.readSections, rd.readSymbols, rd.readRelocs, rd.readGroups} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("read object: %w", err)
		}
	}
	return rd.object, nil
}

// whatIs says what a file is that is no ELF file, or no whole one.
func whatIs(r io.ReaderAt, err error) string {
	head := make([]byte, 8)
	n, readErr := r.ReadAt(head, 0)
	head = head[:max(n, 0)]
	switch {
	case n == 0 && errors.Is(readErr, io.EOF):
		return "it is empty"
	case n == 0:
		return readErr.Error()
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return "it is a damaged ELF file: " + err.Error()
	case bytes.HasPrefix(head, []byte("!<arch>")), bytes.HasPrefix(head, []byte("!<thin>")):
		return "it is an archive of objects, which ar x takes apart"
	case bytes.HasPrefix(head, []byte("BC\xc0\xde")):
		return "it is LLVM bitcode, which a compiler makes for link-time optimisation"
	}
	return "it is no ELF file"
}

type reader struct {
	file   *elf.File
	object *Object
}

func (rd *reader) readSections() error {
	if len(rd.file.Sections) > maxSections {
		return fmt.Errorf("%d sections", len(rd.file.Sections))
	}
	for i, s := range rd.file.Sections {
		sec := &Section{
			Index: i, Name: s.Name, Type: s.Type, Flags: s.Flags, Align: max(1, s.Addralign), EntSize: s.Entsize, Size: s.Size,
		}
		if sec.Align&(sec.Align-1) != 0 || sec.Align > 1<<20 {
			return fmt.Errorf("section %s: alignment %d", s.Name, sec.Align)
		}
		if wantsData(sec) {
			data, err := content(s)
			if err != nil {
				return err
			}
			sec.Data = data
		}
		sec.kind = kindOf(sec)
		rd.object.Sections = append(rd.object.Sections, sec)
		if sec.Name == ".comment" {
			first, _, _ := bytes.Cut(bytes.TrimLeft(sec.Data, "\x00"), []byte{0})
			rd.object.Compiler = string(first)
		}
	}
	return nil
}

// wantsData leaves out debug sections, which are most of an object.
func wantsData(s *Section) bool {
	switch s.Type {
	case elf.SHT_NOBITS, elf.SHT_NULL, elf.SHT_SYMTAB, elf.SHT_STRTAB, elf.SHT_RELA:
		return false
	}
	return s.Alloc() || s.Name == ".comment" || s.Type == elf.SHT_GROUP
}

func content(s *elf.Section) ([]byte, error) {
	if s.Size > maxSection || s.Flags&elf.SHF_COMPRESSED != 0 {
		return nil, fmt.Errorf("section %s: size %d, flags %s", s.Name, s.Size, s.Flags)
	}
	data, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", s.Name, err)
	}
	if uint64(len(data)) != s.Size {
		return nil, fmt.Errorf("section %s: %d of %d bytes", s.Name, len(data), s.Size)
	}
	return data, nil
}

func (rd *reader) readSymbols() error {
	tab, err := rd.symtab()
	if err != nil {
		return err
	}
	data, err := content(tab)
	if err != nil {
		return err
	}
	if int(tab.Link) >= len(rd.file.Sections) || len(data)%symbolSize != 0 || len(data) == 0 {
		return errors.New("section .symtab: malformed")
	}
	names, err := content(rd.file.Sections[tab.Link])
	if err != nil {
		return err
	}
	for ; len(data) > 0; data = data[symbolSize:] {
		sym, err := rd.parseSymbol(data, names)
		if err != nil {
			return fmt.Errorf("symbol %d: %w", len(rd.object.Symbols), err)
		}
		rd.object.Symbols = append(rd.object.Symbols, sym)
	}
	for _, s := range rd.object.Sections {
		slices.SortStableFunc(s.Symbols, bySectionOrder)
	}
	return nil
}

func (rd *reader) symtab() (*elf.Section, error) {
	var found *elf.Section
	for _, s := range rd.file.Sections {
		switch {
		case s.Type == elf.SHT_SYMTAB_SHNDX:
			return nil, errors.New("more than 65,279 sections")
		case s.Type == elf.SHT_SYMTAB && found != nil:
			return nil, errors.New("two symbol tables")
		case s.Type == elf.SHT_SYMTAB:
			found = s
		}
	}
	if found == nil {
		return nil, errors.New("no symbol table")
	}
	return found, nil
}

func (rd *reader) parseSymbol(raw, names []byte) (*Symbol, error) {
	le := binary.LittleEndian
	at := le.Uint32(raw)
	if uint64(at) >= uint64(len(names)) {
		return nil, fmt.Errorf("name at %d of %d", at, len(names))
	}
	name, _, ok := bytes.Cut(names[at:], []byte{0})
	if !ok {
		return nil, errors.New("name does not end")
	}
	sym := &Symbol{
		Name: string(name), Type: elf.ST_TYPE(raw[4]), Bind: elf.ST_BIND(raw[4]),
		Index: elf.SectionIndex(le.Uint16(raw[6:])), Value: le.Uint64(raw[8:]), Size: le.Uint64(raw[16:]),
	}
	if sym.Index == elf.SHN_UNDEF || sym.Index >= elf.SHN_LORESERVE {
		return sym, nil
	}
	if int(sym.Index) >= len(rd.object.Sections) {
		return nil, fmt.Errorf("%s: section %d of %d", sym.Name, sym.Index, len(rd.object.Sections))
	}
	sym.Section = rd.object.Sections[sym.Index]
	if sym.Value > sym.Section.Size || sym.Size > sym.Section.Size-sym.Value {
		return nil, fmt.Errorf("%s: %d bytes at %d leave section %s", sym.Name, sym.Size, sym.Value, sym.Section.Name)
	}
	if sym.Type == elf.STT_SECTION {
		sym.Name = sym.Section.Name
	} else {
		sym.Section.Symbols = append(sym.Section.Symbols, sym)
	}
	return sym, nil
}

// bySectionOrder puts the symbol that names a range best first among those of one value.
func bySectionOrder(a, b *Symbol) int {
	return cmp.Or(cmp.Compare(a.Value, b.Value), cmp.Compare(rankSymbol(a), rankSymbol(b)), strings.Compare(a.Name, b.Name))
}

func rankSymbol(s *Symbol) int {
	switch {
	case s.Size == 0 || s.Type == elf.STT_NOTYPE:
		return 3
	case s.Local():
		return 2
	case s.Bind == elf.STB_WEAK:
		return 1
	}
	return 0
}

func (rd *reader) readRelocs() error {
	for _, s := range rd.file.Sections {
		switch {
		case s.Type == elf.SHT_REL:
			return fmt.Errorf("section %s: REL relocations", s.Name)
		case s.Type != elf.SHT_RELA:
			continue
		case int(s.Info) >= len(rd.object.Sections):
			return fmt.Errorf("section %s: applies to section %d", s.Name, s.Info)
		}
		target := rd.object.Sections[s.Info]
		if !target.Alloc() {
			continue // debug information and .discard.*
		}
		if err := rd.readRela(s, target); err != nil {
			return fmt.Errorf("section %s: %w", s.Name, err)
		}
	}
	return nil
}

func (rd *reader) readRela(s *elf.Section, target *Section) error {
	data, err := content(s)
	if err != nil {
		return err
	}
	if len(data)%relaSize != 0 || target.Relocs != nil {
		return errors.New("malformed")
	}
	target.Relocs = make([]Reloc, 0, len(data)/relaSize)
	for ; len(data) > 0; data = data[relaSize:] {
		rel, ok, err := rd.parseReloc(data, target)
		if err != nil {
			return fmt.Errorf("relocation %d: %w", len(target.Relocs), err)
		}
		if ok {
			target.Relocs = append(target.Relocs, rel)
		}
	}
	slices.SortStableFunc(target.Relocs, func(a, b Reloc) int { return cmp.Compare(a.Offset, b.Offset) })
	return nil
}

// parseReloc reports false for R_X86_64_NONE, which objtool leaves where it removed a relocation.
func (rd *reader) parseReloc(raw []byte, target *Section) (Reloc, bool, error) {
	le := binary.LittleEndian
	rel := Reloc{Offset: le.Uint64(raw), Type: elf.R_X86_64(le.Uint32(raw[8:])), Addend: int64(le.Uint64(raw[16:]))}
	sym := le.Uint32(raw[12:])
	if rel.Type == elf.R_X86_64_NONE {
		return rel, false, nil
	}
	width := Width(rel.Type)
	switch {
	case width == 0:
		return rel, false, fmt.Errorf("type %s is not known", rel.Type)
	case rel.Offset > target.Size || width > target.Size-rel.Offset:
		return rel, false, fmt.Errorf("offset %#x leaves section %s", rel.Offset, target.Name)
	case uint64(sym) >= uint64(len(rd.object.Symbols)):
		return rel, false, fmt.Errorf("symbol %d of %d", sym, len(rd.object.Symbols))
	case sym == 0:
		return rel, false, errors.New("no symbol")
	case target.Data == nil:
		return rel, false, fmt.Errorf("section %s has no content", target.Name)
	}
	rel.Symbol = rd.object.Symbols[sym]
	return rel, true, nil
}

func (rd *reader) readGroups() error {
	for i, s := range rd.object.Sections {
		if s.Type != elf.SHT_GROUP {
			continue
		}
		sig := rd.file.Sections[i].Info
		if uint64(sig) >= uint64(len(rd.object.Symbols)) || len(s.Data) < 4 || len(s.Data)%4 != 0 {
			return fmt.Errorf("section group %d: malformed", i)
		}
		name := rd.object.Symbols[sig].Name
		for b := s.Data[4:]; len(b) > 0; b = b[4:] {
			member := binary.LittleEndian.Uint32(b)
			if uint64(member) >= uint64(len(rd.object.Sections)) {
				return fmt.Errorf("section group %s: member %d", name, member)
			}
			rd.object.Groups[name] = append(rd.object.Groups[name], rd.object.Sections[member])
		}
	}
	return nil
}
