package klpmod

import (
	"bytes"
	"crypto/sha1"
	"debug/elf"
	"encoding/binary"
	"slices"
)

const (
	headerSize        = 64
	sectionHeaderSize = 64
	symbolSize        = 24
	relaSize          = 24
)

// table of strings, each once.
type table struct {
	data []byte
	at   map[string]uint32
}

func newTable() *table { return &table{data: []byte{0}, at: map[string]uint32{"": 0}} }

func (t *table) add(s string) uint32 {
	if at, ok := t.at[s]; ok {
		return at
	}
	at := uint32(len(t.data))
	t.at[s] = at
	t.data = append(append(t.data, s...), 0)
	return at
}

// outSection is a section as the file's header table lists it.
type outSection struct {
	header elf.Section64
	name   string
	data   []byte
}

// encoder writes the ELF file: sections, relocations, symbols, header.
type encoder struct {
	linker  *linker
	names   *table
	symbols []elf.Sym64
	locals  int
	index   map[symbolKey]uint32
	out     []outSection
}

func (l *linker) encode() []byte {
	e := &encoder{linker: l, names: newTable(), index: map[symbolKey]uint32{}, out: []outSection{{}}}
	for _, s := range l.sections {
		s.index = len(e.out)
		e.out = append(e.out, outSection{name: s.name, data: s.data, header: elf.Section64{
			Type: uint32(s.kind), Flags: uint64(s.flags), Size: s.size, Addralign: s.align, Entsize: s.entSize,
		}})
	}
	e.addSymbols()
	symtab := uint32(len(e.out))
	for _, s := range l.sections {
		symtab += uint32(len(s.relas))
	}
	for _, s := range l.sections {
		e.addRelas(s, symtab)
	}
	e.out = append(e.out, outSection{name: ".symtab", data: encodeAll(e.symbols), header: elf.Section64{
		Type: uint32(elf.SHT_SYMTAB), Link: symtab + 1, Info: uint32(e.locals), Addralign: 8, Entsize: symbolSize,
	}}, outSection{name: ".strtab", data: e.names.data, header: elf.Section64{Type: uint32(elf.SHT_STRTAB), Addralign: 1}})
	file := e.file()
	return stamp(file)
}

// addSymbols numbers the symbols: locals first, as ELF wants.
func (e *encoder) addSymbols() {
	e.symbols = []elf.Sym64{{}}
	for _, s := range e.linker.sections {
		e.addSymbol(symbolKey{section: s}, elf.Sym64{Info: elf.ST_INFO(elf.STB_LOCAL, elf.STT_SECTION), Shndx: uint16(s.index)})
	}
	for _, global := range []bool{false, true} {
		for _, c := range e.linker.chunks {
			if c.Name != "" && e.isGlobal(c) == global {
				e.addChunk(c, global)
			}
		}
		if !global {
			e.locals = len(e.symbols)
		}
	}
	klp := map[string]bool{}
	for _, s := range e.linker.sections {
		for _, object := range objects(s) {
			for _, r := range s.relas[object] {
				e.addUndefined(r.symbol, object != "")
				if object != "" && !klp[r.symbol.name] {
					klp[r.symbol.name] = true
					e.linker.stats.KlpSymbols++
				}
			}
		}
	}
}

// isGlobal says that a symbol has a meaning to the module loader; carried
// functions stay local, so that they cannot clash with anything.
func (e *encoder) isGlobal(c *chunk) bool { return c.part == nil && c.Global }

func (e *encoder) addChunk(c *chunk, global bool) {
	at := e.linker.places[c.Chunk]
	kind, bind := elf.STT_OBJECT, elf.STB_LOCAL
	if c.Function {
		kind = elf.STT_FUNC
	}
	if global {
		bind = elf.STB_GLOBAL
	}
	e.addSymbol(symbolKey{chunk: c.Chunk}, elf.Sym64{
		Name: e.names.add(c.Name), Info: elf.ST_INFO(bind, kind), Shndx: uint16(at.section.index), Value: at.offset, Size: c.Size,
	})
}

func (e *encoder) addUndefined(key symbolKey, klp bool) {
	if _, done := e.index[key]; done || key.name == "" {
		return
	}
	sym := elf.Sym64{Name: e.names.add(key.name), Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_NOTYPE)}
	if klp {
		sym.Shndx = uint16(shnLivepatch)
	} else if !e.linker.imports[key.name] {
		sym.Info = elf.ST_INFO(elf.STB_WEAK, elf.STT_NOTYPE)
	}
	e.addSymbol(key, sym)
}

func (e *encoder) addSymbol(key symbolKey, sym elf.Sym64) {
	e.index[key] = uint32(len(e.symbols))
	e.symbols = append(e.symbols, sym)
}

// objects lists a section's relocation groups, plain ones first.
func objects(s *section) []string {
	out := make([]string, 0, len(s.relas))
	for object := range s.relas {
		out = append(out, object)
	}
	slices.Sort(out)
	return out
}

func (e *encoder) addRelas(s *section, symtab uint32) {
	for _, object := range objects(s) {
		name, flags := ".rela"+s.name, elf.SHF_INFO_LINK
		if object != "" {
			name, flags = klpRelaPrefix+object+"."+s.name, elf.SHF_ALLOC|elf.SHF_INFO_LINK|shfLivepatch
		}
		relas := make([]elf.Rela64, 0, len(s.relas[object]))
		for _, r := range s.relas[object] {
			relas = append(relas, elf.Rela64{Off: r.offset, Info: elf.R_INFO(e.index[r.symbol], uint32(r.kind)), Addend: r.addend})
		}
		e.out = append(e.out, outSection{name: name, data: encodeAll(relas), header: elf.Section64{
			Type: uint32(elf.SHT_RELA), Flags: uint64(flags), Link: symtab, Info: uint32(s.index), Addralign: 8, Entsize: relaSize,
		}})
	}
}

func encodeAll[T any](records []T) []byte {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, records); err != nil {
		panic(err) // fixed-size values into memory
	}
	return b.Bytes()
}

// file concatenates header, sections and section headers.
func (e *encoder) file() []byte {
	names := newTable()
	e.out = append(e.out, outSection{name: ".shstrtab", header: elf.Section64{Type: uint32(elf.SHT_STRTAB), Addralign: 1}})
	for i := range e.out {
		e.out[i].header.Name = names.add(e.out[i].name)
	}
	e.out[len(e.out)-1].data = names.data
	body := make([]byte, headerSize)
	headers := make([]elf.Section64, len(e.out))
	for i, s := range e.out {
		if i > 0 {
			body = pad(body, s.header.Addralign)
			s.header.Off = uint64(len(body))
		}
		if s.header.Type != uint32(elf.SHT_NOBITS) {
			body = append(body, s.data...)
			s.header.Size = uint64(len(s.data))
		}
		headers[i] = s.header
	}
	body = pad(body, 8)
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Shoff: uint64(len(body)),
		Ehsize: headerSize, Shentsize: sectionHeaderSize, Shnum: uint16(len(headers)), Shstrndx: uint16(len(headers) - 1),
	}
	copy(body, encodeAll([]elf.Header64{header}))
	return append(body, encodeAll(headers)...)
}

func pad(b []byte, align uint64) []byte {
	for align > 1 && uint64(len(b))%align != 0 {
		b = append(b, 0)
	}
	return b
}

// stamp fills in the build id: the hash of the file with an id of zeros.
func stamp(file []byte) []byte {
	header := noteHeader()
	at := bytes.Index(file, header)
	if at < 0 {
		return file
	}
	sum := sha1.Sum(file)
	copy(file[at+len(header)-hex20:], sum[:])
	return file
}
