package elfdiff

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// What afloat-patch.h puts into the sections of patched objects.
const (
	callbackSection = ".afloat.callbacks" // struct afloat_callbacks: four pointers, in the order of CallbackKind
	stateSection    = ".afloat.states"    // struct afloat_state: id and version, 8 bytes each
	noteSection     = ".afloat.notes"     // what, of what, and why: each ends with a NUL
	authorPrefix    = ".afloat."

	callbackSize = 32
	stateSize    = 16
)

// ThisPatch is the name by which patched code refers to the klp_patch that it is part of.
const ThisPatch = "afloat_this_patch"

// ClassAuthor: a statement of the patch's author that cannot be followed.
const ClassAuthor Class = "author"

// CallbackKind says when a callback runs.
type CallbackKind int

// The kinds of callbacks, in the order in which struct afloat_callbacks has them.
const (
	PrePatch CallbackKind = iota
	PostPatch
	PreUnpatch
	PostUnpatch
	CallbackKinds // their number
)

// String is the member's name in the kernel's struct klp_callbacks.
func (k CallbackKind) String() string {
	return [...]string{"pre_patch", "post_patch", "pre_unpatch", "post_unpatch"}[k]
}

// Callbacks is one AFLOAT_CALLBACKS of a patched file.
type Callbacks struct {
	Line      int                     `json:"line"`
	Functions [CallbackKinds]Callback `json:"functions"`
}

// Callback is one function of Callbacks; Code is nil where there is none.
type Callback struct {
	Name string `json:"name,omitempty"`
	Code *Chunk `json:"-"`
}

// State is one AFLOAT_STATE of a patched file.
type State struct {
	Line    int    `json:"line"`
	ID      uint64 `json:"id"`
	Version uint32 `json:"version"`
}

// WaiverKind says what a Waiver sets aside.
type WaiverKind string

// The kinds of waivers, in the words that afloat-patch.h writes.
const (
	IgnoreFunction WaiverKind = "ignore function"
	IgnoreData     WaiverKind = "ignore data"
	IgnoreSection  WaiverKind = "ignore section"
	ForceType      WaiverKind = "force type"
)

// Waiver is an author's statement that what would be carried or refused is to
// be left alone, with the reason.
type Waiver struct {
	Line   int        `json:"line"`
	Kind   WaiverKind `json:"kind"`
	Of     string     `json:"of"`
	Reason string     `json:"reason"`

	used bool
}

// readAuthor reads the author's statements out of the patched object.
func (c *comparison) readAuthor() {
	var nodes []*node
	for _, s := range c.patched.object.Sections {
		if s.kind == kindAuthor && s.Size > 0 && len(c.patched.bySection[s]) == 0 {
			c.refuseStatement(s.Name, 0, "the section holds something without a name")
		}
	}
	for _, n := range c.patched.nodes {
		if n.kind == kindAuthor {
			nodes = append(nodes, n)
		}
	}
	// The compiler does not keep the order of variables.
	slices.SortStableFunc(nodes, func(a, b *node) int { return lineOf(a) - lineOf(b) })
	for _, n := range nodes {
		why := ""
		switch n.section.Name {
		case callbackSection:
			why = c.readCallbacks(n)
		case stateSection:
			why = c.readState(n)
		case noteSection:
			why = c.readWaiver(n)
		default:
			why = "the section is none that afloat-patch.h knows"
		}
		if why != "" {
			c.refuseStatement(n.section.Name, lineOf(n), why)
		}
	}
}

func (c *comparison) refuseStatement(section string, line int, why string) {
	c.refuse(Refusal{Class: ClassAuthor, Section: section, Symbol: fmt.Sprintf("the statement of line %d", line), Why: why,
		Hint: "write the statement as afloat-patch.h says"})
}

// lineOf is the number at the end of a statement's name: its line.
func lineOf(n *node) int {
	line := 0
	digits := n.name[strings.LastIndexByte(n.name, '_')+1:]
	for i := range len(digits) {
		if d := digits[i]; d >= '0' && d <= '9' && line < 1<<24 {
			line = line*10 + int(d-'0')
		}
	}
	return line
}

// readCallbacks checks a set; its functions get their code in carryCallbacks.
func (c *comparison) readCallbacks(n *node) (why string) {
	switch {
	case n.size != callbackSize || n.data == nil:
		return "it has another size than struct afloat_callbacks"
	case len(n.refs) == 0:
		return "it names no callback"
	case !allZeroBytes(n.data):
		return "a callback is no function of this file"
	}
	set := Callbacks{Line: lineOf(n)}
	for _, r := range n.refs {
		switch {
		case r.off%8 != 0 || r.kind != elf.R_X86_64_64:
			return "a callback is no pointer"
		case r.node == nil || !r.node.function() || r.addend != 0 || r.node.parent != nil:
			return fmt.Sprintf("%s is no function of this file", CallbackKind(r.off/8))
		case discarded(r.node.section.Name):
			return fmt.Sprintf("%s is in a section that is thrown away after boot: a callback is no __init function", r.node.name)
		}
		set.Functions[r.off/8].Name = r.node.name
	}
	c.diff.Callbacks = append(c.diff.Callbacks, set)
	c.callbacks = append(c.callbacks, n)
	return ""
}

func allZeroBytes(data []byte) bool { return len(bytes.Trim(data, "\x00")) == 0 }

func (c *comparison) readState(n *node) (why string) {
	if n.size != stateSize || n.data == nil || len(n.refs) > 0 {
		return "it has another form than struct afloat_state"
	}
	s := State{Line: lineOf(n), ID: binary.LittleEndian.Uint64(n.data)}
	version := binary.LittleEndian.Uint64(n.data[8:])
	s.Version = uint32(version)
	if s.ID == 0 || uint64(s.Version) != version {
		return "a state's id is not 0, and its version has 32 bits"
	}
	c.diff.States = append(c.diff.States, s)
	return ""
}

func (c *comparison) readWaiver(n *node) (why string) {
	words := strings.Split(strings.TrimSuffix(string(n.data), "\x00"), "\x00")
	if len(words) != 3 || len(n.refs) > 0 {
		return "it does not say what, of what, and why"
	}
	w := &Waiver{Line: lineOf(n), Kind: WaiverKind(words[0]), Of: strings.TrimSpace(words[1]), Reason: strings.TrimSpace(words[2])}
	switch w.Kind {
	case IgnoreFunction, IgnoreData, IgnoreSection, ForceType:
	default:
		return fmt.Sprintf("%q is nothing that can be set aside", w.Kind)
	}
	if w.Of == "" || w.Reason == "" {
		return "it names nothing, or gives no reason"
	}
	c.diff.Waivers = append(c.diff.Waivers, w)
	return ""
}

// Waived says that the author sets something aside, and remembers that it mattered.
func (d *Diff) Waived(kind WaiverKind, names ...string) bool {
	found := false
	for _, w := range d.Waivers {
		if w.Kind == kind && slices.Contains(names, w.Of) {
			w.used, found = true, true
		}
	}
	return found
}

// Force drops the refusals of types that the author answers for, and notes them.
func (d *Diff) Force(types []Refusal) []Refusal {
	return slices.DeleteFunc(types, func(r Refusal) bool {
		name := r.Symbol
		if kind, rest, _ := strings.Cut(name, " "); !slices.Contains([]string{"struct", "union", "enum"}, kind) {
			name = rest // typedefs, variables, enumerators and functions go by their name
		}
		if r.Class != ClassType || !d.Waived(ForceType, r.Symbol, name) {
			return false
		}
		d.Notes = append(d.Notes, fmt.Sprintf("%s: %s, and the author answers for it", r.Symbol, r.Why))
		return true
	})
}

// IdleWaivers are those that set nothing aside, after everything has been compared.
func (d *Diff) IdleWaivers() []*Waiver {
	return slices.DeleteFunc(slices.Clone(d.Waivers), func(w *Waiver) bool { return w.used })
}

// carryCallbacks takes the author's callbacks along, with what they need.
func (k *carrier) carryCallbacks() {
	for i, n := range k.c.callbacks {
		for _, r := range n.refs {
			k.c.diff.Callbacks[i].Functions[r.off/8].Code = k.include(r.node)
		}
	}
}
