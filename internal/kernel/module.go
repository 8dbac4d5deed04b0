package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Module is what a shipped .ko says about itself.
type Module struct {
	Name     string   // as /proc/modules shows it
	Vermagic string   // must equal the kernel's for a module to load
	Depends  []string // modules it needs, named as /proc/modules does
	InTree   bool
	// Retpoline says that the module was compiled with Spectre v2 protection, as its kernel was.
	Retpoline bool
	// Symbols in symbol-table order, which is the order that sympos counts in
	// a module. Shipped modules have no FILE symbols, so no object boundaries.
	Symbols []ModuleSymbol
	Exports []string
	// Versions are the CRCs of the symbols that it uses (CONFIG_MODVERSIONS); nil if it has none.
	Versions map[string]uint32
}

// ModuleSymbol is a named function or object of a module.
type ModuleSymbol struct {
	Name    string
	Section string // "" if undefined
	// Core symbols stay known to the kernel after the module has initialised:
	// those in allocated sections other than .init*.
	Core  bool
	Value uint64 // offset in the section
	Size  uint64
	Type  elf.SymType
	Bind  elf.SymBind
}

// ErrNoModule says that a file is no kernel module.
var ErrNoModule = errors.New("file is no kernel module")

// ParseModule reads a .ko, unpacked or compressed. Errors wrap ErrNoModule
// where the file is something else.
func ParseModule(r io.ReaderAt) (*Module, error) {
	m, err := parseModule(r)
	if err != nil {
		return nil, fmt.Errorf("parse module: %w", err)
	}
	return m, nil
}

func parseModule(r io.ReaderAt) (*Module, error) {
	r, err := unpacked(r)
	if err != nil {
		return nil, err
	}
	f, err := openELF(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoModule, err)
	}
	info := f.Section(".modinfo")
	if f.Type != elf.ET_REL || info == nil {
		return nil, ErrNoModule
	}
	data, err := sectionData(info)
	if err != nil {
		return nil, err
	}
	m := &Module{}
	m.readInfo(data)
	if m.Name == "" {
		return nil, fmt.Errorf("%w: .modinfo has no name", ErrNoModule)
	}
	if m.Versions, err = readVersions(f); err != nil {
		return nil, err
	}
	return m, m.readSymbols(f)
}

// unpacked returns r, or its unpacked content if it is compressed.
func unpacked(r io.ReaderAt) (io.ReaderAt, error) {
	var head [8]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoModule, err)
	}
	if isELF(head[:]) {
		return r, nil
	}
	all, err := readBounded(io.NewSectionReader(r, 0, 1<<62))
	if err != nil {
		return nil, err
	}
	plain, err := Decompress(all)
	if err != nil {
		return nil, err
	}
	return bytes.NewReader(plain), nil
}

func (m *Module) readInfo(modinfo []byte) {
	for field := range bytes.SplitSeq(modinfo, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "name":
			m.Name = value
		case "vermagic":
			m.Vermagic = value
		case "intree":
			m.InTree = value == "Y"
		case "retpoline":
			m.Retpoline = value == "Y"
		case "depends":
			for name := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' }) {
				m.Depends = append(m.Depends, ModuleName(name))
			}
		}
	}
}

func (m *Module) readSymbols(f *elf.File) error {
	symbols, err := f.Symbols()
	if err != nil {
		return err
	}
	for _, s := range symbols {
		kind, bind := elf.ST_TYPE(s.Info), elf.ST_BIND(s.Info)
		if s.Name == "" || kind == elf.STT_SECTION || kind == elf.STT_FILE {
			continue
		}
		if name, ok := strings.CutPrefix(s.Name, "__ksymtab_"); ok && s.Section != elf.SHN_UNDEF {
			m.Exports = append(m.Exports, name)
		}
		m.Symbols = append(m.Symbols, ModuleSymbol{
			Name: s.Name, Section: sectionName(f, s.Section), Core: isCore(f, s.Section),
			Value: s.Value, Size: s.Size, Type: kind, Bind: bind,
		})
	}
	slices.Sort(m.Exports)
	return nil
}

func sectionName(f *elf.File, i elf.SectionIndex) string {
	if i == elf.SHN_UNDEF || int(i) >= len(f.Sections) {
		return ""
	}
	return f.Sections[i].Name
}

// isCore follows is_core_symbol of kernel/module/kallsyms.c, with CONFIG_KALLSYMS_ALL.
func isCore(f *elf.File, i elf.SectionIndex) bool {
	if i == elf.SHN_UNDEF || int(i) >= len(f.Sections) {
		return false
	}
	s := f.Sections[i]
	return s.Flags&elf.SHF_ALLOC != 0 && !strings.HasPrefix(s.Name, ".init")
}

// Sympos returns the position that kernel livepatch wants for the symbol of
// that name at an offset in a section: 0 if the name is unique in the module,
// else 1 for the first of the name. The kernel counts all defined symbols while
// the module loads, and only core symbols later: a symbol whose position
// differs between the two cannot be named. Errors wrap ErrNoSymbol.
func (m *Module) Sympos(name, section string, value uint64) (int, error) {
	same := m.Lookup(name)
	core := 0
	for i, s := range same {
		if s.Core {
			core++
		}
		switch {
		case s.Section != section || s.Value != value:
			continue
		case !s.Core:
			return 0, fmt.Errorf("%s: %w after the module has initialised", name, ErrNoSymbol)
		case len(same) == 1:
			return 0, nil
		case core != i+1:
			return 0, fmt.Errorf("%s: %w at a fixed position", name, ErrNoSymbol)
		}
		return core, nil
	}
	return 0, fmt.Errorf("%s in %s at %#x: %w", name, section, value, ErrNoSymbol)
}

// Lookup returns the module's own symbols of that name, in symbol-table order.
func (m *Module) Lookup(name string) []ModuleSymbol {
	var out []ModuleSymbol
	for _, s := range m.Symbols {
		if s.Name == name && s.Section != "" {
			out = append(out, s)
		}
	}
	return out
}
