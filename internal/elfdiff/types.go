package elfdiff

import (
	"debug/dwarf"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ClassType: the layout or meaning of a type that code outside of the patch may share.
const ClassType Class = "type"

const typeHint = "keep the type as it is: put a new field into a shadow variable (AFLOAT_SHADOW), or give data that only new code sees a type of another name"

// CompareTypes compares what two objects declare, by their debug information:
// the types at file scope, the variables that outlive a call, and the functions
// that others may call. Memory that the running kernel has already laid out stays
// as it is, and code that is not replaced goes on using it, so a changed layout
// must not be patched in; a compiler would not notice. Where it is declared does
// not tell who has an instance, so a type that only one file knows counts as
// well. Types of a function's own are on its stack alone and may change. Notes
// are facts for a reviewer, as sentences.
func CompareTypes(orig, patched io.ReaderAt) (refusals []Refusal, notes []string, err error) {
	was, err := readTypes(orig)
	if errors.Is(err, ErrNoDebug) {
		return nil, nil, err
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read types of original: %w", err)
	}
	is, err := readTypes(patched)
	if errors.Is(err, ErrNoDebug) {
		return nil, nil, err
	}
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
		hint := typeHint
		if a.function {
			hint = "keep the function as it is, and call a new one of another name"
		}
		refusals = append(refusals, Refusal{Class: ClassType, Symbol: name, Source: b.source, Why: why, Hint: hint})
	}
	return refusals, notes, nil
}

// AddTypes compares the types of the diff's objects as well, and adds what
// speaks against them, less what the author answers for.
func (d *Diff) AddTypes(orig, patched io.ReaderAt) error {
	refusals, notes, err := CompareTypes(orig, patched)
	if err != nil {
		return err
	}
	d.Refusals = append(d.Refusals, d.Force(refusals)...)
	d.Notes = append(d.Notes, notes...)
	return nil
}

// shape is what of a type must stay the same.
type shape struct {
	size   int64
	parts  []part
	enum   bool
	kind   string // of a variable or typedef: its type; of a function: what it takes and returns
	source string
	// function that others may call; exported ones even from modules that this
	// kernel did not come with.
	function, exported bool
	vague              bool // several of one name, which nothing tells apart
}

// part is a member, or an enumerator, as text that is equal if it is the same.
type part struct{ name, at, kind string }

func (s *shape) equal(o *shape) bool {
	return s.vague || o.vague || s.size == o.size && s.enum == o.enum && s.kind == o.kind && slices.Equal(s.parts, o.parts)
}

// difference says what differs. It is harmless if only enumerators are new, and
// in a function whose callers the build compares as well.
func (s *shape) difference(o *shape) (why string, harmless bool) {
	switch {
	case s.function && (s.exported || o.exported):
		return fmt.Sprintf("it is exported and changes from %s to %s", s.kind, o.kind), false
	case s.function:
		return fmt.Sprintf("it changes from %s to %s; its callers must be part of the patch", s.kind, o.kind), true
	case s.kind != o.kind:
		return fmt.Sprintf("its type changes from %s to %s", s.kind, o.kind), false
	}
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
		return spell(t.Type, depth) // changes neither layout nor meaning
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
