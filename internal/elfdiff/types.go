package elfdiff

import (
	"debug/dwarf"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ClassType: the layout or meaning of a type that code outside of the patch may share.
const ClassType Class = "type"

const typeHint = "keep the type as it is: put a new field into a shadow variable, or give data that only new code sees a type of another name"

// CompareTypes compares the named types of two objects by their debug
// information: structures, unions and enumerations at file scope. Memory that
// the running kernel has already laid out stays as it is, and code that is not
// replaced goes on using it, so a changed layout must not be patched in; a
// compiler would not notice. Types of a function's own are on its stack alone
// and may change. Notes are facts for a reviewer, as sentences.
func CompareTypes(orig, patched io.ReaderAt) (refusals []Refusal, notes []string, err error) {
	was, err := readTypes(orig)
	if err != nil {
		return nil, nil, fmt.Errorf("read types of original: %w", err)
	}
	is, err := readTypes(patched)
	if err != nil {
		return nil, nil, fmt.Errorf("read types of patched: %w", err)
	}
	names := make([]string, 0, len(was))
	for name := range was {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		a, b := was[name], is[name]
		if b == nil || a.equal(b) {
			continue
		}
		why, harmless := a.difference(b)
		if harmless {
			notes = append(notes, name+": "+why)
			continue
		}
		refusals = append(refusals, Refusal{Class: ClassType, Symbol: name, Source: b.source, Why: why, Hint: typeHint})
	}
	return refusals, notes, nil
}

// shape is what of a type must stay the same.
type shape struct {
	size   int64
	parts  []part
	enum   bool
	source string
}

// part is a member, or an enumerator, as text that is equal if it is the same.
type part struct{ name, at, kind string }

func (s *shape) equal(o *shape) bool {
	return s.size == o.size && s.enum == o.enum && slices.Equal(s.parts, o.parts)
}

// difference says what differs; harmless if it is only enumerators that are new.
func (s *shape) difference(o *shape) (why string, harmless bool) {
	find := func(in *shape, name string) *part {
		for i := range in.parts {
			if in.parts[i].name == name {
				return &in.parts[i]
			}
		}
		return nil
	}
	for _, p := range s.parts {
		q := find(o, p.name)
		switch {
		case q == nil:
			return fmt.Sprintf("%s is gone from it", p.name), false
		case s.enum && p.at != q.at:
			return fmt.Sprintf("the value of %s changes from %s to %s", p.name, p.at, q.at), false
		case p.at != q.at:
			return fmt.Sprintf("%s moves from offset %s to %s", p.name, p.at, q.at), false
		case p.kind != q.kind:
			return fmt.Sprintf("the type of %s changes from %s to %s", p.name, p.kind, q.kind), false
		}
	}
	if s.size != o.size {
		return fmt.Sprintf("its size changes from %d to %d bytes", s.size, o.size), false
	}
	for _, q := range o.parts {
		if find(s, q.name) == nil {
			return q.name + " is new in it", s.enum
		}
	}
	return "its members change their order", false
}

// readTypes returns the named file-scope types of an object: none if it has no
// debug information.
func readTypes(r io.ReaderAt) (types map[string]*shape, err error) {
	defer func() {
		if p := recover(); p != nil {
			types, err = nil, fmt.Errorf("malformed debug information: %v", p)
		}
	}()
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, err
	}
	if f.Section(".debug_info") == nil {
		return nil, errors.New("object has no debug information")
	}
	d, err := f.DWARF()
	if err != nil {
		return nil, err
	}
	return typesIn(d)
}

// typesIn reads the debug information of one object.
func typesIn(d *dwarf.Data) (types map[string]*shape, err error) {
	defer func() {
		// debug/dwarf takes much of its input for granted.
		if p := recover(); p != nil {
			types, err = nil, fmt.Errorf("malformed debug information: %v", p)
		}
	}()
	types = map[string]*shape{}
	var files []*dwarf.LineFile
	folder := "" // that the compiler ran in
	for r := d.Reader(); ; {
		e, err := r.Next()
		if err != nil {
			return nil, err
		}
		if e == nil {
			return types, nil
		}
		if e.Tag == dwarf.TagCompileUnit {
			files = lineFiles(d, e)
			folder, _ = e.Val(dwarf.AttrCompDir).(string)
			continue
		}
		if err := addType(types, d, e, func() string { return sourceOf(e, files, folder) }); err != nil {
			return nil, err
		}
		r.SkipChildren()
	}
}

func lineFiles(d *dwarf.Data, unit *dwarf.Entry) []*dwarf.LineFile {
	lines, err := d.LineReader(unit)
	if err != nil || lines == nil {
		return nil
	}
	return lines.Files()
}

// addType adds a structure, union or enumeration that has a name, or that a typedef names.
func addType(types map[string]*shape, d *dwarf.Data, e *dwarf.Entry, source func() string) error {
	name, _ := e.Val(dwarf.AttrName).(string)
	if declared, _ := e.Val(dwarf.AttrDeclaration).(bool); declared || name == "" {
		return nil
	}
	switch e.Tag {
	case dwarf.TagStructType, dwarf.TagUnionType, dwarf.TagEnumerationType, dwarf.TagTypedef:
	default:
		return nil
	}
	t, err := d.Type(e.Offset)
	if err != nil {
		return err
	}
	if def, ok := t.(*dwarf.TypedefType); ok {
		t = unnamed(def.Type)
		name = "typedef " + name
	}
	s := shapeOf(t, 0)
	if s == nil {
		return nil
	}
	if !strings.HasPrefix(name, "typedef ") {
		name = keyword(t) + " " + name
	}
	s.source = source()
	types[name] = s
	return nil
}

// unnamed returns a type that nothing but a typedef names, or nil: one with a
// name of its own is compared under that.
func unnamed(t dwarf.Type) dwarf.Type {
	switch t := t.(type) {
	case *dwarf.StructType:
		if t.StructName == "" {
			return t
		}
	case *dwarf.EnumType:
		if t.EnumName == "" {
			return t
		}
	}
	return nil
}

func keyword(t dwarf.Type) string {
	if s, ok := t.(*dwarf.StructType); ok {
		return s.Kind
	}
	return "enum"
}

func shapeOf(t dwarf.Type, depth int) *shape {
	switch t := t.(type) {
	case *dwarf.StructType:
		s := &shape{size: t.ByteSize}
		for i, f := range t.Field {
			p := part{name: f.Name, at: fmt.Sprint(f.ByteOffset), kind: spell(f.Type, depth)}
			if p.name == "" {
				p.name = fmt.Sprintf("unnamed member %d", i+1)
			}
			if f.BitSize != 0 {
				p.at += fmt.Sprintf(".%d+%d", f.BitOffset+f.DataBitOffset, f.BitSize)
			}
			s.parts = append(s.parts, p)
		}
		return s
	case *dwarf.EnumType:
		s := &shape{size: t.ByteSize, enum: true}
		for _, v := range t.Val {
			s.parts = append(s.parts, part{name: v.Name, at: fmt.Sprint(v.Val)})
		}
		return s
	}
	return nil
}

// maxDepth of nested types; real ones stay far below it.
const maxDepth = 40

// spell writes a type as C would name it: named types by their name, so that a
// change inside of one is reported once, and unnamed ones in full. depth ends
// the recursion on malformed input, which may hold circles.
func spell(t dwarf.Type, depth int) string {
	if depth > maxDepth {
		return "..."
	}
	depth++
	switch t := t.(type) {
	case *dwarf.PtrType:
		return "*" + spell(t.Type, depth)
	case *dwarf.QualType:
		return t.Qual + " " + spell(t.Type, depth)
	case *dwarf.ArrayType:
		return fmt.Sprintf("[%d]%s", t.Count, spell(t.Type, depth))
	case *dwarf.EnumType:
		if t.EnumName != "" {
			return "enum " + t.EnumName
		}
	case *dwarf.StructType:
		if t.StructName == "" {
			return t.Kind + " " + fmt.Sprint(shapeOf(t, depth).parts)
		}
	case *dwarf.FuncType:
		var params []string
		for _, p := range t.ParamType {
			params = append(params, spell(p, depth))
		}
		return fmt.Sprintf("func(%s) %s", strings.Join(params, ", "), spell(t.ReturnType, depth))
	}
	if t == nil {
		return "void"
	}
	return t.String()
}

func sourceOf(e *dwarf.Entry, files []*dwarf.LineFile, folder string) string {
	file, ok := e.Val(dwarf.AttrDeclFile).(int64)
	line, _ := e.Val(dwarf.AttrDeclLine).(int64)
	if !ok || file < 0 || file >= int64(len(files)) || files[file] == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d", strings.TrimPrefix(strings.TrimPrefix(files[file].Name, folder), "/"), line)
}
