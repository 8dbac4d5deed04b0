package proof

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
)

// Image is a shipped kernel object, vmlinux or a module, at fixed addresses.
type Image struct {
	name     string
	segments []segment // sorted by address
	symbols  map[string][]imageSymbol
	sympos   func(name string, addr uint64) (int, error)
}

type segment struct {
	addr, size uint64
	data       io.ReaderAt // nil for segments without content
	code       bool        // instructions
	boot       bool        // gone after boot
	unwind     bool        // where in the code the stack has which form
}

type imageSymbol struct {
	addr   uint64
	global bool // seen by other objects; weak ones too
}

// Vmlinux makes an Image of an ELF vmlinux and its symbol table. r must stay
// readable as long as the Image is used.
func Vmlinux(r io.ReaderAt, k *kernel.Kallsyms) (img *Image, err error) {
	defer func() {
		if p := recover(); p != nil {
			img, err = nil, fmt.Errorf("read vmlinux: malformed: %v", p)
		}
	}()
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("read vmlinux: %w", err)
	}
	img = &Image{name: "vmlinux", symbols: make(map[string][]imageSymbol, len(k.All())), sympos: k.Sympos}
	for _, s := range f.Sections {
		if s.Type == elf.SHT_PROGBITS && s.Flags&elf.SHF_ALLOC != 0 && s.Flags&elf.SHF_COMPRESSED == 0 {
			img.segments = append(img.segments, segment{addr: s.Addr, size: s.FileSize, data: s, code: s.Flags&elf.SHF_EXECINSTR != 0,
				boot: freed(s.Name), unwind: s.Name == ".orc_unwind_ip"})
		}
	}
	for _, s := range k.All() {
		global := s.Type >= 'A' && s.Type <= 'Z' || s.Type == 'w' || s.Type == 'v'
		img.symbols[s.Name] = append(img.symbols[s.Name], imageSymbol{addr: s.Addr, global: global})
	}
	img.sort()
	return img, nil
}

// The flat address space that a module's sections get here: pages from the
// kernel's own module area on, so that 32-bit relocations reach.
const (
	moduleBase = 0xffffffffc0000000
	pageSize   = 1 << 12
	moduleMax  = 1 << 30 // bytes
)

// Module makes an Image of a shipped module: file is the .ko, unpacked or
// compressed, and m its description. The sections are put at made-up addresses,
// and the relocations applied, so that a module compares as vmlinux does.
func Module(file []byte, m *kernel.Module) (*Image, error) {
	img, err := module(file, m)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", m.Name, err)
	}
	return img, nil
}

func module(file []byte, m *kernel.Module) (*Image, error) {
	plain, err := kernel.Decompress(file)
	if err != nil {
		return nil, err
	}
	o, err := elfdiff.Read(bytes.NewReader(plain))
	if err != nil {
		return nil, err
	}
	flat, err := flatten(o)
	if err != nil {
		return nil, err
	}
	img := &Image{name: m.Name, symbols: map[string][]imageSymbol{}}
	img.sympos = func(name string, addr uint64) (int, error) {
		for s, base := range flat.sections {
			if addr >= base && addr-base <= s.Size {
				return m.Sympos(name, s.Name, addr-base)
			}
		}
		return 0, fmt.Errorf("%s %#x: %w", name, addr, kernel.ErrNoSymbol)
	}
	for s, base := range flat.sections {
		seg := segment{addr: base, size: s.Size}
		if s.Data != nil {
			seg.data = bytes.NewReader(flat.relocated(s))
		}
		img.segments = append(img.segments, seg)
	}
	for _, s := range o.Symbols {
		if addr, ok := flat.address(s); ok && s.Name != "" && s.Type != elf.STT_SECTION && s.Type != elf.STT_FILE {
			img.symbols[s.Name] = append(img.symbols[s.Name], imageSymbol{addr: addr, global: !s.Local()})
		}
	}
	img.sort()
	return img, nil
}

// flat is an object with an address for each allocated section and each undefined symbol.
type flat struct {
	sections  map[*elfdiff.Section]uint64
	undefined map[*elfdiff.Symbol]uint64
}

var errTooLarge = errors.New("sections do not fit the module area")

func flatten(o *elfdiff.Object) (*flat, error) {
	f := &flat{sections: map[*elfdiff.Section]uint64{}, undefined: map[*elfdiff.Symbol]uint64{}}
	next := uint64(moduleBase)
	for _, s := range o.Sections {
		if !s.Alloc() {
			continue
		}
		align := max(pageSize, s.Align)
		next = (next + align - 1) &^ (align - 1)
		f.sections[s] = next
		if s.Size > moduleMax || next+s.Size-moduleBase > moduleMax {
			return nil, errTooLarge
		}
		next += s.Size + 1
	}
	next = (next + pageSize - 1) &^ (pageSize - 1)
	for i, s := range o.Symbols {
		if i == 0 || !s.Undefined() {
			continue
		}
		f.undefined[s] = next
		if next += pageSize; next-moduleBase > moduleMax {
			return nil, errTooLarge
		}
	}
	return f, nil
}

func (f *flat) address(s *elfdiff.Symbol) (uint64, bool) {
	if s.Section == nil {
		addr, ok := f.undefined[s]
		return addr, ok
	}
	base, ok := f.sections[s.Section]
	return base + s.Value, ok
}

// relocated returns a section's content as a loader would leave it, without range checks.
func (f *flat) relocated(s *elfdiff.Section) []byte {
	data := bytes.Clone(s.Data)
	for _, r := range s.Relocs {
		addr, ok := f.address(r.Symbol)
		if !ok {
			continue
		}
		value := addr + uint64(r.Addend)
		if elfdiff.PCRelative(r.Type) {
			value -= f.sections[s] + r.Offset
		}
		switch at := data[r.Offset:]; elfdiff.Width(r.Type) {
		case 8:
			binary.LittleEndian.PutUint64(at, value)
		case 4:
			binary.LittleEndian.PutUint32(at, uint32(value))
		case 2:
			binary.LittleEndian.PutUint16(at, uint16(value))
		case 1:
			at[0] = byte(value)
		}
	}
	return data
}

func (img *Image) sort() {
	slices.SortFunc(img.segments, func(a, b segment) int {
		if a.addr < b.addr {
			return -1
		}
		return 1
	})
}

// read returns the n bytes at addr, or false if the image does not hold them all.
func (img *Image) read(addr, n uint64) ([]byte, bool) {
	for _, s := range img.segments {
		if s.data == nil || addr < s.addr || addr-s.addr > s.size || n > s.size-(addr-s.addr) {
			continue
		}
		out := make([]byte, n)
		if _, err := s.data.ReadAt(out, int64(addr-s.addr)); err != nil && !errors.Is(err, io.EOF) {
			return nil, false
		}
		return out, true
	}
	return nil, false
}

// text returns the NUL-terminated string at addr if it is no longer than n bytes.
func (img *Image) text(addr, n uint64) (string, bool) {
	b, ok := img.read(addr, n+1)
	if !ok {
		return "", false
	}
	text, _, ok := strings.Cut(string(b), "\x00")
	return text, ok
}

// lookup returns the addresses of a name among global or local symbols.
func (img *Image) lookup(name string, global bool) []uint64 {
	var out []uint64
	for _, s := range img.symbols[name] {
		if s.global == global {
			out = append(out, s.addr)
		}
	}
	return out
}

// has says that the image has a symbol of that name at addr.
func (img *Image) has(name string, addr uint64) bool {
	return slices.ContainsFunc(img.symbols[name], func(s imageSymbol) bool { return s.addr == addr })
}

// nameAt returns a symbol name for an address, for messages only.
func (img *Image) nameAt(addr uint64) string {
	var best string
	for name, list := range img.symbols {
		for _, s := range list {
			if s.addr == addr && (best == "" || name < best) {
				best = name
			}
		}
	}
	if best == "" {
		return fmt.Sprintf("%#x", addr)
	}
	return best
}

// freed says that a section of vmlinux is of no use after boot: its code and data
// for boot, and the list of functions that nothing points at, which boot closes.
func freed(section string) bool {
	return strings.HasPrefix(section, ".init.") || strings.HasPrefix(section, ".exit.") || section == ".ibt_endbr_seal"
}
