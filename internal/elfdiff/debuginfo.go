package elfdiff

import (
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
)

// debugInfo is the debug information of an object, with what keeps a damaged
// one from costing more than it holds: debug/dwarf believes the counts in it.
type debugInfo struct {
	data *dwarf.Data
	line lineSection
	most int // entries that it can hold
}

// openDebug returns ErrNoDebug for an object without debug information.
func openDebug(f *elf.File) (*debugInfo, error) {
	info := f.Section(".debug_info")
	if info == nil {
		return nil, ErrNoDebug
	}
	line, err := readLineSection(f)
	if err != nil {
		return nil, err
	}
	data, err := f.DWARF()
	if err != nil {
		return nil, err
	}
	return &debugInfo{data, line, int(min(info.Size, maxEntries))}, nil
}

// lines returns the line table of a compilation unit, nil if it has none.
func (d *debugInfo) lines(unit *dwarf.Entry) (*dwarf.LineReader, error) {
	at, ok := unit.Val(dwarf.AttrStmtList).(int64)
	if !ok {
		return nil, nil
	}
	if err := d.line.check(at); err != nil {
		return nil, err
	}
	return d.data.LineReader(unit)
}

// lineSection is .debug_line before its relocations.
type lineSection struct {
	data      []byte
	relocated map[uint64]uint64 // where a relocation begins, and its bytes
}

func readLineSection(f *elf.File) (lineSection, error) {
	l := lineSection{relocated: map[uint64]uint64{}}
	found := false
	for _, s := range f.Sections {
		var err error
		switch {
		case s.Name == ".zdebug_line", s.Name == ".debug_line" && found:
			return l, fmt.Errorf("section %s: a second or an old compressed line table", s.Name)
		case s.Name == ".debug_line":
			found = true
			if l.data, err = content(s); err != nil {
				return l, err
			}
		case s.Type == elf.SHT_RELA && int(s.Info) < len(f.Sections) && f.Sections[s.Info].Name == ".debug_line":
			data, err := content(s)
			if err != nil {
				return l, err
			}
			for ; len(data) >= relaSize; data = data[relaSize:] {
				at, size := binary.LittleEndian.Uint64(data), uint64(8)
				if kind := binary.LittleEndian.Uint32(data[8:]); kind == uint32(elf.R_X86_64_32) || kind == uint32(elf.R_X86_64_32S) {
					size = 4
				}
				l.relocated[at] = max(l.relocated[at], size)
			}
		}
	}
	return l, nil
}

var errLineTable = errors.New("malformed line table")

// check walks the header of the line table at the offset and says whether the
// lists of folders and files that it announces can be there: one entry takes a
// byte at least. Only version 5 announces a number (DWARF 5, 6.2.4).
func (l lineSection) check(at int64) error {
	if at < 0 || at > int64(len(l.data)) {
		return errLineTable
	}
	c := &lineCursor{section: l, at: uint64(at)}
	length := c.fixed(4)
	wide := length == 0xffffffff
	if wide {
		length = c.fixed(8)
	}
	if length < uint64(len(l.data))-c.at {
		c.section.data = l.data[:c.at+length]
	}
	if version := c.fixed(2); c.bad || version < 5 {
		return c.err()
	}
	c.fixed(2) // sizes of an address and of a segment selector
	c.offset(wide)
	c.fixed(5) // minimum length, operations, default, base and range of lines
	if opcodes := c.fixed(1); opcodes > 0 {
		c.skip(opcodes - 1)
	}
	c.list(wide)
	c.list(wide)
	return c.err()
}

// lineCursor reads a header. What it reads must not be relocated, else it is not
// what debug/dwarf will read; strings are only passed over.
type lineCursor struct {
	section lineSection
	at      uint64
	bad     bool
}

func (c *lineCursor) err() error {
	if c.bad {
		return errLineTable
	}
	return nil
}

func (c *lineCursor) skip(n uint64) {
	if c.bad = c.bad || n > uint64(len(c.section.data))-c.at; !c.bad {
		c.at += n
	}
}

// fixed reads n bytes.
func (c *lineCursor) fixed(n uint64) uint64 {
	from := c.at
	if c.skip(n); c.bad {
		return 0
	}
	for at := max(from, 7) - 7; at < c.at; at++ { // a relocation is of at most 8 bytes
		size := c.section.relocated[at]
		c.bad = c.bad || size > 0 && at+size > from
	}
	v := uint64(0)
	for i, b := range c.section.data[from:c.at] {
		if i < 8 {
			v |= uint64(b) << (8 * i)
		}
	}
	return v
}

func (c *lineCursor) offset(wide bool) {
	if c.skip(4); wide {
		c.skip(4)
	}
}

// number reads an unsigned LEB128.
func (c *lineCursor) number() uint64 {
	v := uint64(0)
	for shift := 0; !c.bad; shift += 7 {
		b := c.fixed(1)
		if v |= b & 0x7f << min(shift, 63); b < 0x80 {
			break
		}
	}
	return v
}

// list passes over a list of folders or files: the forms of an entry's parts,
// the number of entries, the entries.
func (c *lineCursor) list(wide bool) {
	forms := make([]uint64, c.fixed(1))
	for i := range forms {
		c.number() // what the part is
		forms[i] = c.number()
	}
	n := c.number()
	c.bad = c.bad || n > uint64(len(c.section.data))-c.at || n > 0 && len(forms) == 0
	for ; n > 0 && !c.bad; n-- {
		for _, form := range forms {
			c.pass(form, wide)
		}
	}
}

// pass skips a value (DWARF 5, 7.5.6).
func (c *lineCursor) pass(form uint64, wide bool) {
	switch form {
	case 0x08: // string
		for !c.bad && c.fixed(1) != 0 {
		}
	case 0x0e, 0x1f: // strp, line_strp
		c.offset(wide)
	case 0x0b: // data1
		c.skip(1)
	case 0x05: // data2
		c.skip(2)
	case 0x06: // data4
		c.skip(4)
	case 0x07: // data8
		c.skip(8)
	case 0x1e: // data16
		c.skip(16)
	case 0x0f: // udata
		c.number()
	case 0x09: // block
		c.skip(c.number())
	default:
		c.bad = true
	}
}
