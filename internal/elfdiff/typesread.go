package elfdiff

import (
	"debug/dwarf"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"strings"
)

// declarations are what of an object's source a live patch must leave as it
// is, by a name that tells what it is: "struct list_head", "variable jiffies".
type declarations map[string]*shape

// ErrNoDebug says that an object was compiled without debug information.
var ErrNoDebug = errors.New("object has no debug information")

// maxEntries at file scope and at the ends of children: far above those of the largest object.
const maxEntries = 1 << 22

// errBackwards: the reader believes what an entry says about where the next one
// is, and would go round for ever.
var errBackwards = errors.New("malformed debug information: an entry is followed by one before it")

// readTypes returns what an object declares at file scope, and its variables
// that outlive a call. Functions that the object exports are marked.
func readTypes(r io.ReaderAt) (types declarations, err error) {
	defer func() {
		if p := recover(); p != nil {
			types, err = nil, fmt.Errorf("malformed debug information: %v", p)
		}
	}()
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, err
	}
	d, err := openDebug(f)
	if err != nil {
		return nil, err
	}
	if types, err = typesIn(d); err != nil {
		return nil, err
	}
	symbols, err := f.Symbols()
	if err != nil {
		return nil, err
	}
	for _, s := range symbols {
		// __ksymtab_NAME up to Linux 6.3, then __export_symbol_NAME.
		for _, prefix := range []string{"__ksymtab_", "__export_symbol_"} {
			if name, ok := strings.CutPrefix(s.Name, prefix); ok && types["function "+name] != nil {
				types["function "+name].exported = true
			}
		}
	}
	return types, nil
}

// typesIn reads the debug information of one object.
func typesIn(d *debugInfo) (types declarations, err error) {
	defer func() {
		// debug/dwarf takes much of its input for granted.
		if p := recover(); p != nil {
			types, err = nil, fmt.Errorf("malformed debug information: %v", p)
		}
	}()
	rd := &typeReader{info: d, out: declarations{}, named: map[dwarf.Offset]bool{}}
	last := dwarf.Offset(0)
	r := d.data.Reader()
	for range d.most + 1 {
		e, err := r.Next()
		if err != nil {
			return nil, err
		}
		if e == nil {
			return rd.finish(), nil
		}
		if e.Offset == 0 {
			continue // the end of some children
		}
		if e.Offset <= last {
			return nil, errBackwards
		}
		last = e.Offset
		if err := rd.fileScope(r, e); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("malformed debug information: more than %d entries", d.most)
}

type typeReader struct {
	info      *debugInfo
	files     []*dwarf.LineFile
	folder    string // that the compiler ran in
	out       declarations
	variables []variable
	enums     []*dwarf.Entry        // without a name
	named     map[dwarf.Offset]bool // types that a typedef names
}

// variable that outlives a call.
type variable struct {
	name   string
	kind   dwarf.Type
	source string
}

// fileScope takes one entry below a compilation unit.
func (rd *typeReader) fileScope(r *dwarf.Reader, e *dwarf.Entry) error {
	name, _ := e.Val(dwarf.AttrName).(string)
	switch e.Tag {
	case dwarf.TagCompileUnit:
		rd.files, rd.folder = lineFiles(rd.info, e), ""
		rd.folder, _ = e.Val(dwarf.AttrCompDir).(string)
		return nil
	case dwarf.TagSubprogram:
		return rd.subprogram(r, e, name)
	case dwarf.TagVariable:
		if err := rd.addVariable(e, name); err != nil {
			return err
		}
	case dwarf.TagTypedef, dwarf.TagStructType, dwarf.TagUnionType, dwarf.TagEnumerationType:
		if err := rd.addType(e, name); err != nil {
			return err
		}
	}
	return skipChildren(r, e)
}

// skipChildren is the reader's own, but never goes back.
func skipChildren(r *dwarf.Reader, e *dwarf.Entry) error {
	if !e.Children {
		return nil
	}
	if next, ok := e.Val(dwarf.AttrSibling).(dwarf.Offset); ok {
		if next <= e.Offset {
			return errBackwards
		}
		r.Seek(next)
		return nil
	}
	for depth := 1; depth > 0; {
		child, err := r.Next()
		switch {
		case err != nil || child == nil:
			return err
		case child.Tag == 0:
			depth--
		case child.Children:
			depth++
		}
	}
	return nil
}

// addType adds a type that has a name, or that a typedef names.
func (rd *typeReader) addType(e *dwarf.Entry, name string) error {
	declared, _ := e.Val(dwarf.AttrDeclaration).(bool)
	switch {
	case declared:
		return nil
	case name == "":
		if e.Tag == dwarf.TagEnumerationType {
			rd.enums = append(rd.enums, e)
		}
		return nil
	}
	t, err := rd.info.data.Type(e.Offset)
	if err != nil {
		return err
	}
	var s *shape
	if def, ok := t.(*dwarf.TypedefType); ok {
		name = "typedef " + name
		if of, ok := e.Val(dwarf.AttrType).(dwarf.Offset); ok {
			rd.named[of] = true
		}
		if s = shapeOf(unnamed(def.Type), 0); s == nil {
			s = &shape{kind: spell(def.Type, 0)}
		}
	} else if s = shapeOf(t, 0); s != nil {
		name = keyword(t) + " " + name
	}
	if s != nil {
		s.source = rd.source(e)
		rd.out[name] = s
	}
	return nil
}

// addVariable adds a variable of the file, or one that is defined elsewhere. What
// __UNIQUE_ID() names has a counter in its name: another version's is another variable.
func (rd *typeReader) addVariable(e *dwarf.Entry, name string) error {
	at, ok := e.Val(dwarf.AttrType).(dwarf.Offset)
	if name == "" || !ok || stripUnique(name) != name {
		return nil
	}
	t, err := rd.info.data.Type(at)
	if err != nil {
		return err
	}
	rd.variables = append(rd.variables, variable{"variable " + name, t, rd.source(e)})
	return nil
}

// subprogram adds what a function that others may call takes and returns, and
// the variables of any function that outlive a call. Types of its own are on its
// stack alone, and may change.
func (rd *typeReader) subprogram(r *dwarf.Reader, e *dwarf.Entry, name string) error {
	external, _ := e.Val(dwarf.AttrExternal).(bool)
	declared, _ := e.Val(dwarf.AttrDeclaration).(bool)
	result, err := rd.spellOf(e)
	if err != nil {
		return err
	}
	var params []string
	for depth := 1; e.Children && depth > 0; {
		child, err := r.Next()
		if err != nil {
			return err
		}
		switch {
		case child == nil:
			return errors.New("a function does not end")
		case child.Tag == 0:
			depth--
			continue
		case child.Children:
			depth++
		}
		switch {
		case child.Tag == dwarf.TagFormalParameter && depth == 1:
			p, err := rd.spellOf(child)
			if err != nil {
				return err
			}
			params = append(params, p)
		case child.Tag == dwarf.TagUnspecifiedParameters && depth == 1:
			params = append(params, "...")
		case child.Tag == dwarf.TagVariable && outlives(child):
			own, _ := child.Val(dwarf.AttrName).(string)
			if err := rd.addVariable(child, ofFunction(own, name)); err != nil {
				return err
			}
		}
	}
	if external && !declared && name != "" {
		rd.out["function "+name] = &shape{kind: fmt.Sprintf("(%s) %s", strings.Join(params, ", "), result), function: true, source: rd.source(e)}
	}
	return nil
}

func ofFunction(own, function string) string {
	if own == "" || function == "" {
		return ""
	}
	return own + " of " + function
}

// Operations of location expressions (DWARF 5, section 7.7.1) that are an address.
const (
	opAddr  = 0x03
	opAddrx = 0xa1
)

// outlives says that a variable of a function is at a fixed place.
func outlives(e *dwarf.Entry) bool {
	location, _ := e.Val(dwarf.AttrLocation).([]byte)
	return len(location) > 0 && (location[0] == opAddr || location[0] == opAddrx)
}

// spellOf writes the type that an entry has.
func (rd *typeReader) spellOf(e *dwarf.Entry) (string, error) {
	at, ok := e.Val(dwarf.AttrType).(dwarf.Offset)
	if !ok {
		return "void", nil
	}
	t, err := rd.info.data.Type(at)
	if err != nil {
		return "", err
	}
	return spell(t, 0), nil
}

// finish adds what takes the whole object to tell. Of one name, functions may
// have several variables; then nothing says which is which.
func (rd *typeReader) finish() declarations {
	seen := map[string]int{}
	for _, v := range rd.variables {
		seen[v.name]++
		if seen[v.name] > 1 && rd.out[v.name] != nil && rd.out[v.name].kind != rd.spellVariable(v) {
			rd.out[v.name] = &shape{kind: "several types", vague: true}
			continue
		}
		rd.out[v.name] = &shape{kind: rd.spellVariable(v), source: v.source}
	}
	for _, e := range rd.enums {
		t, err := rd.info.data.Type(e.Offset)
		enum, ok := t.(*dwarf.EnumType)
		if err != nil || !ok || rd.named[e.Offset] {
			continue
		}
		for _, v := range enum.Val {
			rd.out["enumerator "+v.Name] = &shape{parts: []part{{name: v.Name, at: fmt.Sprint(v.Val)}}, enum: true, source: rd.source(e)}
		}
	}
	return rd.out
}

// spellVariable writes a variable's type, and in full if it is a function's own.
func (rd *typeReader) spellVariable(v variable) string {
	t := v.kind
	for range maxDepth {
		switch inner := t.(type) {
		case *dwarf.ArrayType:
			t = inner.Type
			continue
		case *dwarf.QualType:
			t = inner.Type
			continue
		}
		break
	}
	text := spell(v.kind, 0)
	if s, ok := t.(*dwarf.StructType); ok && s.StructName != "" && rd.out[s.Kind+" "+s.StructName] == nil && len(s.Field) > 0 {
		text += " " + fmt.Sprint(shapeOf(s, 0).parts)
	}
	return text
}

func lineFiles(d *debugInfo, unit *dwarf.Entry) []*dwarf.LineFile {
	lines, err := d.lines(unit)
	if err != nil || lines == nil {
		return nil
	}
	return lines.Files()
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

func (rd *typeReader) source(e *dwarf.Entry) string {
	file, ok := e.Val(dwarf.AttrDeclFile).(int64)
	line, _ := e.Val(dwarf.AttrDeclLine).(int64)
	if !ok || file < 0 || file >= int64(len(rd.files)) || rd.files[file] == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d", strings.TrimPrefix(strings.TrimPrefix(rd.files[file].Name, rd.folder), "/"), line)
}
