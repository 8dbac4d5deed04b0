package klpmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"afloat/internal/kernel"
)

// memory is what a module looks like after the kernel's loader has placed it
// and applied its relocations: the tests' oracle, written from module.c and
// livepatch/core.c's rules, not from the linker.
type memory struct {
	sections []elf.SectionHeader
	base     []uint64 // by section index; 0 if not loaded
	data     [][]byte
	symbols  map[string]uint64
	klp      []string // klp symbols used, in order of the symbol table
	late     []func() // applies the klp relocations of modules once more
}

const loadBase = 0xffffffffc0000000

func load(t fataler, ko []byte, k Kernel) *memory {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		t.Fatalf("open module: %v", err)
	}
	m := &memory{base: make([]uint64, len(f.Sections)), data: make([][]byte, len(f.Sections)), symbols: map[string]uint64{}}
	next := uint64(loadBase)
	for i, s := range f.Sections {
		m.sections = append(m.sections, s.SectionHeader)
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		next = (next + s.Addralign - 1) &^ (s.Addralign - 1)
		m.base[i] = next
		next += s.Size + 16
		m.data[i] = make([]byte, s.Size)
		if s.Type != elf.SHT_NOBITS {
			if m.data[i], err = s.Data(); err != nil {
				t.Fatalf("read %s: %v", s.Name, err)
			}
		}
	}
	values := m.resolve(t, f, k)
	for _, s := range f.Sections {
		if s.Type == elf.SHT_RELA {
			m.apply(t, s, values, f)
			if strings.HasPrefix(s.Name, ".klp.rela.") && !strings.HasPrefix(s.Name, ".klp.rela.vmlinux.") {
				m.late = append(m.late, func() { m.apply(t, s, values, f) })
			}
		}
	}
	return m
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

var _ fataler = (*testing.T)(nil)

// resolve is simplify_symbols and klp_resolve_symbols.
func (m *memory) resolve(t fataler, f *elf.File, k Kernel) []uint64 {
	t.Helper()
	list, err := f.Symbols()
	if err != nil {
		t.Fatalf("read symbols: %v", err)
	}
	values, local := []uint64{0}, true
	for _, s := range list {
		value := uint64(0)
		if bind := elf.ST_BIND(s.Info); bind == elf.STB_LOCAL && !local {
			t.Fatalf("local symbol %s after global ones", s.Name)
		} else if bind != elf.STB_LOCAL {
			local = false
		}
		switch {
		case s.Section == elf.SHN_UNDEF && elf.ST_BIND(s.Info) == elf.STB_WEAK:
		case s.Section == elf.SHN_UNDEF:
			x, ok := k.Symvers[s.Name]
			if !ok || x.Owner != "vmlinux" {
				t.Fatalf("undefined symbol %q", s.Name)
			}
			value = k.Kallsyms.Lookup(s.Name)[0].Addr
		case s.Section == 0xff20:
			m.klp = append(m.klp, s.Name)
			value = klpValue(t, s.Name, k)
		default:
			value = m.base[s.Section] + s.Value
			if elf.ST_TYPE(s.Info) != elf.STT_SECTION {
				m.symbols[s.Name] = value
			}
		}
		values = append(values, value)
	}
	return values
}

// klpValue is klp_find_object_symbol; module symbols lie at moduleBase plus their value.
func klpValue(t fataler, name string, k Kernel) uint64 {
	t.Helper()
	rest, ok := strings.CutPrefix(name, ".klp.sym.")
	object, rest, ok1 := strings.Cut(rest, ".")
	comma := strings.LastIndexByte(rest, ',')
	if !ok || !ok1 || comma < 0 {
		t.Fatalf("klp symbol %q", name)
	}
	pos, err := strconv.Atoi(rest[comma+1:])
	if err != nil {
		t.Fatalf("klp symbol %q", name)
	}
	var found []uint64
	if object == "vmlinux" {
		for _, s := range k.Kallsyms.Lookup(rest[:comma]) {
			found = append(found, s.Addr)
		}
	} else if k.Modules[object] != nil {
		for _, s := range k.Modules[object].Lookup(rest[:comma]) {
			found = append(found, testModuleBase+s.Value)
		}
	}
	if pos == 0 && len(found) != 1 || pos > len(found) {
		t.Fatalf("klp symbol %q: %d of the name", name, len(found))
	}
	return found[max(1, pos)-1]
}

const testModuleBase = 0xffffffffa8000000

// apply is apply_relocate_add with its checks.
func (m *memory) apply(t fataler, s *elf.Section, values []uint64, f *elf.File) {
	t.Helper()
	m.checkRela(t, s, f)
	raw, err := s.Data()
	if err != nil {
		t.Fatalf("read %s: %v", s.Name, err)
	}
	list := make([]elf.Rela64, len(raw)/24)
	if err := binary.Read(bytes.NewReader(raw), binary.LittleEndian, list); err != nil {
		t.Fatalf("read %s: %v", s.Name, err)
	}
	for _, r := range list {
		at := m.data[s.Info][r.Off:]
		place := m.base[s.Info] + r.Off
		value := values[r.Info>>32] + uint64(r.Addend)
		switch kind := elf.R_X86_64(r.Info & 0xffffffff); kind {
		case elf.R_X86_64_64:
			put(t, at[:8], value, s.Name)
		case elf.R_X86_64_PC64:
			put(t, at[:8], value-place, s.Name)
		case elf.R_X86_64_32S:
			fits(t, value, s.Name)
			put(t, at[:4], value, s.Name)
		case elf.R_X86_64_PC32, elf.R_X86_64_PLT32:
			fits(t, value-place, s.Name)
			put(t, at[:4], value-place, s.Name)
		default:
			t.Fatalf("%s: relocation %s", s.Name, kind)
		}
	}
}

func fits(t fataler, v uint64, where string) {
	t.Helper()
	if int64(v) != int64(int32(v)) {
		t.Fatalf("%s: %#x overflows 32 bits", where, v)
	}
}

// put refuses a place that is not zero, as the kernel does.
func put(t fataler, at []byte, v uint64, where string) {
	t.Helper()
	for i := range at {
		if at[i] != 0 {
			t.Fatalf("%s: relocation target is not zero", where)
		}
		at[i] = byte(v >> (8 * i))
	}
}

// checkRela is the form that Documentation/livepatch/module-elf-format.rst asks for.
func (m *memory) checkRela(t fataler, s *elf.Section, f *elf.File) {
	t.Helper()
	target := f.Sections[s.Info]
	want, flags := ".rela"+target.Name, elf.SHF_INFO_LINK
	if rest, ok := strings.CutPrefix(s.Name, ".klp.rela."); ok {
		object, _, _ := strings.Cut(rest, ".")
		want, flags = ".klp.rela."+object+"."+target.Name, elf.SHF_ALLOC|elf.SHF_INFO_LINK|0x00100000
	}
	if s.Name != want || s.Flags != flags || f.Sections[s.Link].Type != elf.SHT_SYMTAB || s.Entsize != 24 {
		t.Fatalf("section %s: flags %#x, link %d, want %s with %#x", s.Name, uint64(s.Flags), s.Link, want, uint64(flags))
	}
}

// bytesAt returns n bytes of loaded memory.
func (m *memory) bytesAt(addr, n uint64) ([]byte, error) {
	for i, base := range m.base {
		if base != 0 && addr >= base && addr-base+n <= uint64(len(m.data[i])) {
			return m.data[i][addr-base:][:n], nil
		}
	}
	return nil, fmt.Errorf("%#x is not in the module", addr)
}

func (m *memory) word(t fataler, addr uint64) uint64 {
	t.Helper()
	b, err := m.bytesAt(addr, 8)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return binary.LittleEndian.Uint64(b)
}

func (m *memory) text(t fataler, addr uint64) string {
	t.Helper()
	for n := uint64(1); ; n++ {
		b, err := m.bytesAt(addr, n)
		if err != nil {
			t.Fatalf("string at %#x: %v", addr, err)
		}
		if b[n-1] == 0 {
			return string(b[:n-1])
		}
	}
}

// section returns the loaded content of a section, or nil.
func (m *memory) section(name string) []byte {
	for i, s := range m.sections {
		if s.Name == name {
			return m.data[i]
		}
	}
	return nil
}

// loadedFunction is one entry of the klp tables as klp_enable_patch would read it.
type loadedFunction struct {
	Function
	New string // the symbol that new_func points at
}

// functions walks the tables from klp_patch, as klp_for_each_object_static and
// klp_for_each_func_static do.
func (m *memory) functions(t fataler, sizes kernel.Sizes) []loadedFunction {
	t.Helper()
	var out []loadedFunction
	patch := m.symbols["klp_patch"]
	obj := m.word(t, patch+uint64(sizes.KlpPatch.Offsets["objs"]))
	for ; ; obj += uint64(sizes.KlpObject.Size) {
		funcs, name := m.word(t, obj+uint64(sizes.KlpObject.Offsets["funcs"])), m.word(t, obj+uint64(sizes.KlpObject.Offsets["name"]))
		if funcs == 0 && name == 0 {
			return out
		}
		object := "vmlinux"
		if name != 0 {
			object = m.text(t, name)
		}
		for ; ; funcs += uint64(sizes.KlpFunc.Size) {
			old, code := m.word(t, funcs+uint64(sizes.KlpFunc.Offsets["old_name"])), m.word(t, funcs+uint64(sizes.KlpFunc.Offsets["new_func"]))
			pos := m.word(t, funcs+uint64(sizes.KlpFunc.Offsets["old_sympos"]))
			if old == 0 && code == 0 && pos == 0 {
				break
			}
			out = append(out, loadedFunction{Function{object, m.text(t, old), int(pos)}, m.symbolAt(code)})
		}
	}
}

func (m *memory) symbolAt(addr uint64) string {
	for name, at := range m.symbols {
		if at == addr {
			return name
		}
	}
	return fmt.Sprintf("%#x", addr)
}
