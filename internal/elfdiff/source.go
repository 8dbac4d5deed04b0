package elfdiff

import (
	"debug/dwarf"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
)

// lineSource finds source lines in an object's DWARF, which is read only when
// somebody asks: most objects are never asked.
type lineSource struct {
	file  io.ReaderAt
	once  *sync.Once
	lines map[*Section][]line // sorted by offset

	variablesOnce *sync.Once
	variables     declarations
}

type line struct {
	offset uint64
	file   string
	number int
}

// lineAt returns "file:line" of the code at an offset of a section, or "".
func (o *Object) lineAt(s *Section, offset uint64) string {
	l, ok := o.findLine(s, offset)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s:%d", l.file, l.number)
}

// declared returns "file:line" of the start of a function, or of a variable's
// declaration, or "".
func (o *Object) declared(sym *Symbol) string {
	switch {
	case sym == nil || sym.Section == nil:
		return ""
	case sym.Section.Code():
		return o.lineAt(sym.Section, sym.Value)
	}
	return o.variableAt(sym)
}

// variableAt returns "file:line" of a variable. A function's own is only known
// where no two functions have one of the name.
func (o *Object) variableAt(sym *Symbol) string {
	if o.lines.once == nil {
		return ""
	}
	o.lines.variablesOnce.Do(func() { o.lines.variables, _ = readTypes(o.lines.file) })
	own, local := ownName(sym.Name)
	if v := o.lines.variables["variable "+own]; v != nil && !local {
		return v.source
	}
	found := ""
	for name, v := range o.lines.variables {
		if local && strings.HasPrefix(name, "variable "+own+" of ") {
			if found != "" {
				return ""
			}
			found = v.source
		}
	}
	return found
}

// linesOf returns a section's line table, empty if the object has none.
func (o *Object) linesOf(s *Section) []line {
	if o.lines.once == nil {
		return nil
	}
	o.lines.once.Do(func() { o.lines.lines, _ = readLines(o.lines.file, o) })
	return o.lines.lines[s]
}

// linesIn returns the rows of the line table for a range of a section.
func (o *Object) linesIn(s *Section, from, to uint64) []line {
	list := o.linesOf(s)
	i := sort.Search(len(list), func(i int) bool { return list[i].offset >= from })
	j := sort.Search(len(list), func(i int) bool { return list[i].offset >= to })
	return list[i:max(i, j)]
}

func (o *Object) findLine(s *Section, offset uint64) (line, bool) {
	list := o.linesOf(s)
	i := sort.Search(len(list), func(i int) bool { return list[i].offset > offset })
	if i == 0 {
		return line{}, false
	}
	return list[i-1], true
}

// readLines reads the line table. In a relocatable object all functions begin
// at address 0 of their own sections, so a sequence of the table is told by
// the relocation of its start address: the n-th sequence has the n-th one.
func readLines(r io.ReaderAt, o *Object) (out map[*Section][]line, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("read DWARF: malformed: %v", p)
		}
	}()
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("read DWARF: %w", err)
	}
	starts, err := sequenceStarts(f, o)
	if err != nil {
		return nil, fmt.Errorf("read DWARF: %w", err)
	}
	info, err := openDebug(f)
	if err != nil {
		return nil, fmt.Errorf("read DWARF: %w", err)
	}
	return collectLines(info, starts)
}

type sequenceStart struct {
	section *Section
	offset  uint64
}

// sequenceStarts lists where the sequences of .debug_line begin, in their order.
func sequenceStarts(f *elf.File, o *Object) ([]sequenceStart, error) {
	rela := f.Section(".rela.debug_line")
	if rela == nil {
		return nil, errors.New("no .rela.debug_line")
	}
	data, err := content(rela)
	if err != nil {
		return nil, err
	}
	holder := &Section{Name: ".debug_line", Size: 1 << 62, Data: []byte{}}
	rd := reader{file: f, object: o}
	var out []sequenceStart
	for ; len(data) >= relaSize; data = data[relaSize:] {
		rel, ok, err := rd.parseReloc(data, holder)
		if err != nil {
			return nil, err
		}
		if ok && rel.Type == elf.R_X86_64_64 && rel.Symbol.Section != nil {
			out = append(out, sequenceStart{rel.Symbol.Section, rel.Symbol.Value + uint64(rel.Addend)})
		}
	}
	return out, nil
}

func collectLines(info *debugInfo, starts []sequenceStart) (map[*Section][]line, error) {
	out := map[*Section][]line{}
	defer func() { sortLines(out) }() // what was read before a mistake is right
	units := info.data.Reader()
	last := dwarf.Offset(0)
	for range info.most + 1 {
		unit, err := units.Next()
		if err == nil && unit != nil && unit.Offset != 0 && unit.Offset <= last {
			err = errBackwards
		}
		if err != nil || unit == nil {
			return out, err
		}
		last = max(last, unit.Offset)
		if err := skipChildren(units, unit); err != nil {
			return out, err
		}
		table, err := info.lines(unit)
		if err != nil || table == nil {
			continue
		}
		dir, _ := unit.Val(dwarf.AttrCompDir).(string)
		if starts, err = addSequences(out, table, dir, starts); err != nil {
			return out, err
		}
	}
	return out, errBackwards
}

// addSequences reads one unit's table and returns the starts that are left.
func addSequences(out map[*Section][]line, table *dwarf.LineReader, dir string, starts []sequenceStart) ([]sequenceStart, error) {
	var e dwarf.LineEntry
	begun, base := false, uint64(0)
	for {
		err := table.Next(&e)
		if errors.Is(err, io.EOF) {
			return starts, nil
		}
		if err != nil || len(starts) == 0 {
			return starts, err
		}
		if !begun {
			begun, base = true, e.Address
		}
		if e.EndSequence {
			begun, starts = false, starts[1:]
			continue
		}
		at := starts[0]
		name := "?"
		if e.File != nil {
			name = strings.TrimPrefix(strings.TrimPrefix(e.File.Name, dir+"/"), "./")
		}
		if offset := at.offset + e.Address - base; offset < at.section.Size {
			out[at.section] = append(out[at.section], line{offset, name, e.Line})
		}
	}
}

func sortLines(lines map[*Section][]line) {
	for _, list := range lines {
		sort.SliceStable(list, func(i, j int) bool { return list[i].offset < list[j].offset })
	}
}
