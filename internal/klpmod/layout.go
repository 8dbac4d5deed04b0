package klpmod

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"afloat/internal/elfdiff"
)

// section of the module file.
type section struct {
	name    string
	kind    elf.SectionType
	flags   elf.SectionFlag
	align   uint64
	entSize uint64
	size    uint64
	data    []byte
	relas   map[string][]rela // by the object whose .klp.rela it is; "" for plain ones
	index   int               // in the file
}

// position of a chunk.
type position struct {
	section *section
	offset  uint64
}

// rela is a relocation whose symbol is not numbered yet.
type rela struct {
	offset uint64
	kind   elf.R_X86_64
	symbol symbolKey
	addend int64
}

// symbolKey names a symbol of the file: a section, a chunk, or an undefined or livepatch one.
type symbolKey struct {
	section *section
	chunk   *elfdiff.Chunk
	name    string
}

// layOut puts every chunk into its section, then writes the relocations.
func (l *linker) layOut() error {
	for _, c := range l.chunks {
		if err := l.put(c); err != nil {
			return err
		}
	}
	for _, c := range l.chunks {
		if err := l.relocate(c); err != nil {
			return err
		}
	}
	return nil
}

// tables are arrays that the kernel walks by entry size: no padding inside.
func isTable(c *chunk) bool {
	return c.Entry != nil || slices.Contains(keyed, c.Section) && c.EntSize > 0
}

func (l *linker) put(c *chunk) error {
	if strings.HasPrefix(c.Section, ".init") && c.part != nil {
		return fmt.Errorf("%s: %s is in section %s, which the kernel frees after the load", c.source(), c.Name, c.Section)
	}
	if c.Section == ".orc_header" && l.byName[c.Section] != nil {
		return l.sameHeader(c) // one for the whole module
	}
	s := l.section(c)
	at, err := s.append(c)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", c.source(), c.Name, err)
	}
	l.places[c.Chunk] = position{section: s, offset: at}
	if isTable(c) {
		l.stats.Entries[c.Section] += entries(c)
	}
	return nil
}

func entries(c *chunk) int {
	if c.EntSize == 0 {
		return 1
	}
	return int(c.Size / c.EntSize)
}

// sameHeader drops a second .orc_header; it is a hash of the kernel's format.
func (l *linker) sameHeader(c *chunk) error {
	s := l.byName[c.Section]
	if string(s.data) != string(c.Data) {
		return fmt.Errorf("%s: its ORC format differs from the other objects'", c.source())
	}
	l.places[c.Chunk] = position{section: s}
	return nil
}

func (l *linker) section(c *chunk) *section {
	s := l.byName[c.Section]
	if s == nil {
		s = &section{name: c.Section, kind: c.Type, align: 1, entSize: c.EntSize, relas: map[string][]rela{}}
		l.byName[c.Section] = s
		l.sections = append(l.sections, s)
	}
	s.flags |= c.Flags & (elf.SHF_ALLOC | elf.SHF_WRITE | elf.SHF_EXECINSTR)
	if s.entSize != c.EntSize {
		s.entSize = 0
	}
	return s
}

// append places a chunk at the section's end and returns its offset.
func (s *section) append(c *chunk) (uint64, error) {
	if s.flags&elf.SHF_WRITE != 0 && s.flags&elf.SHF_EXECINSTR != 0 {
		return 0, fmt.Errorf("section %s would be writable code", s.name)
	}
	align := max(1, c.Align)
	if align&(align-1) != 0 {
		return 0, fmt.Errorf("alignment %d", c.Align)
	}
	if c.Type != elf.SHT_NOBITS && uint64(len(c.Data)) != c.Size {
		return 0, fmt.Errorf("%d of %d bytes", len(c.Data), c.Size)
	}
	s.align = max(s.align, align)
	at := (s.size + align - 1) &^ (align - 1)
	if isTable(c) {
		at = s.size
	}
	if c.Type != elf.SHT_NOBITS && s.kind == elf.SHT_NOBITS {
		s.kind = c.Type
	}
	s.size = at + c.Size
	s.fill(at)
	s.data = append(s.data, c.Data...)
	s.fill(s.size)
	return at, nil
}

// fill pads to a size: code with int3, so that running into it is seen.
func (s *section) fill(size uint64) {
	pad := byte(0)
	if s.flags&elf.SHF_EXECINSTR != 0 {
		pad = 0xcc
	}
	for uint64(len(s.data)) < size {
		s.data = append(s.data, pad)
	}
}

func (l *linker) relocate(c *chunk) error {
	at := l.places[c.Chunk]
	for _, f := range c.Relocs {
		if width := elfdiff.Width(f.Type); width == 0 || f.Offset > c.Size || width > c.Size-f.Offset {
			return fmt.Errorf("%s: %s: relocation %s at %#x of %#x bytes", c.source(), c.Name, f.Type, f.Offset, c.Size)
		}
		r := rela{offset: at.offset + f.Offset, kind: f.Type, addend: f.Addend}
		object, err := l.point(c, &r, f.Target)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", c.source(), c.Name, err)
		}
		at.section.relas[object] = append(at.section.relas[object], r)
		if object != "" {
			l.stats.KlpRelocs++
		}
	}
	return nil
}

// point sets a relocation's symbol and returns whose .klp.rela it goes to, "" for a plain one.
func (l *linker) point(c *chunk, r *rela, to elfdiff.Target) (object string, err error) {
	if to.Symbol == nil {
		return "", l.toChunk(r, to.Chunk)
	}
	res := l.resolved[reference{target: c.target, symbol: to.Symbol}]
	switch {
	case res.chunk != nil:
		return "", l.toChunk(r, res.chunk)
	case l.byDistance(c, res):
		r.symbol = symbolKey{name: enablePatch}
		r.addend += int64(res.addr - l.anchor)
		l.stats.Distances++
		return "", nil
	}
	r.symbol = symbolKey{name: res.name}
	return res.object, nil
}

// toChunk refers to a chunk by its own symbol, or by its section's.
func (l *linker) toChunk(r *rela, c *elfdiff.Chunk) error {
	at, ok := l.places[c]
	switch {
	case c == nil || !ok:
		return fmt.Errorf("refers at %#x to something that is not carried", r.offset)
	case c.Name != "":
		r.symbol = symbolKey{chunk: c}
	default:
		r.symbol = symbolKey{section: at.section}
		r.addend += int64(at.offset)
	}
	return nil
}
