package elfdiff

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
)

// Compare says what a live patch must carry to turn orig's code into patched's.
// The error is for objects that cannot be compared at all; what must not be
// patched is in the Diff's Refusals.
func Compare(orig, patched *Object, opts Options) (*Diff, error) {
	if orig == nil || patched == nil {
		return nil, errors.New("compare objects: an object is missing")
	}
	if orig.Compiler != patched.Compiler {
		return nil, errors.New("compare objects: compiled by " + orig.Compiler + " and by " + patched.Compiler)
	}
	c := &comparison{
		orig: newGraph(orig, opts.Sizes), patched: newGraph(patched, opts.Sizes), opts: opts,
		diff:  &Diff{Changed: []Func{}, New: []Func{}, Data: []Datum{}, Special: map[string]int{}, Externals: []*External{}, Original: orig},
		equal: map[[2]*node]bool{}, refusals: []Refusal{},
	}
	c.refusals = append(c.refusals, c.orig.problems...)
	c.refusals = append(c.refusals, c.patched.problems...)
	c.readAuthor()
	c.pairing = newPairing(c.orig, c.patched)
	c.judge()
	c.copyUnhooked()
	c.checkGroups()
	c.checkData()
	c.checkRegistries()
	c.carry()
	c.finish()
	return c.diff, nil
}

type comparison struct {
	orig, patched *graph
	pairing       *pairing
	opts          Options
	diff          *Diff
	refusals      []Refusal
	equal         map[[2]*node]bool // results for nodes compared by content; true while at work
	carrier       *carrier
	callbacks     []*node // the sets of Diff.Callbacks
	boot          []bootChange
	added         []Refusal // of new exports, which stand if they are all that changed
}

func (c *comparison) refuse(r Refusal) { c.refusals = append(c.refusals, r) }

// judge gives every function of the patched object its verdict.
func (c *comparison) judge() {
	for _, n := range c.patched.nodes {
		if !n.subject() {
			continue
		}
		switch {
		case n.pair == nil:
			n.setVerdict(fresh)
		case c.sameUnit(n), c.ignored(n):
			n.setVerdict(same)
		default:
			n.setVerdict(changed)
		}
	}
}

func (c *comparison) ignored(n *node) bool {
	return slices.Contains(c.opts.IgnoreFunctions, n.name) || slices.Contains(c.opts.IgnoreFunctions, n.pair.name) ||
		c.diff.Waived(IgnoreFunction, n.name, n.pair.name)
}

// sameUnit compares a function and its .cold parts with their pairs.
func (c *comparison) sameUnit(n *node) bool {
	if len(n.parts) != len(n.pair.parts) {
		return false
	}
	for _, part := range n.unit() {
		if part.pair == nil || part.pair.head() != n.pair.head() {
			return false
		}
		if !c.sameFunction(part.pair, part) {
			return false
		}
	}
	return true
}

func (c *comparison) sameFunction(o, n *node) bool {
	if o.section.Name != n.section.Name && discarded(o.section.Name) != discarded(n.section.Name) {
		return false
	}
	if o.size != n.size || !c.sameRefs(o, n) || !c.sameEntries(o, n) || !slices.Equal(o.constants, n.constants) {
		return false
	}
	return bytes.Equal(o.data, n.data) || c.onlyLines(o, n)
}

func (c *comparison) sameRefs(o, n *node) bool {
	return slices.EqualFunc(o.refs, n.refs, c.sameRef)
}

func (c *comparison) sameRef(o, n ref) bool {
	if o.off != n.off || o.kind != n.kind {
		return false
	}
	if o.node == nil || n.node == nil {
		return o.node == nil && n.node == nil && o.addend == n.addend && o.symbol.Name == n.symbol.Name
	}
	return o.addend == n.addend && c.sameTarget(o.node, n.node)
}

// sameTarget says that a reference to one is a reference to the other.
func (c *comparison) sameTarget(o, n *node) bool {
	switch {
	case o.pair != nil || n.pair != nil:
		return o.pair == n
	case o.kind != n.kind:
		return false
	case o.symbol != nil && n.symbol != nil:
		ok := copied(o.name, o.section.Name) && copied(n.name, n.section.Name) && baseName(o.name) == baseName(n.name)
		return ok && (placeholder(n.name, n.section.Name) || c.sameContent(o, n))
	case o.symbol != nil || n.symbol != nil:
		return false
	case o.kind == kindStrings && sameButLine(o.data, n.data):
		return true
	case sanitizerPlace(o.section.Name) && sanitizerPlace(n.section.Name):
		return c.samePlace(o, n)
	}
	return c.sameContent(o, n)
}

// samePlace compares what the sanitizer says of a place without line and column:
// all begin with struct source_location, {char *file; u32 line; u32 column}.
func (c *comparison) samePlace(o, n *node) bool {
	const line, end = 8, 16
	if o.size != n.size || o.size < end || len(o.data) < end || len(n.data) < end || !c.sameRefs(o, n) {
		return false
	}
	return bytes.Equal(o.data[:line], n.data[:line]) && bytes.Equal(o.data[end:], n.data[end:])
}

// sameContent compares bytes and references. Cycles are equal unless a difference shows.
func (c *comparison) sameContent(o, n *node) bool {
	key := [2]*node{o, n}
	if known, ok := c.equal[key]; ok {
		return known
	}
	c.equal[key] = true
	ok := o.size == n.size && bytes.Equal(o.data, n.data) && c.sameRefs(o, n)
	c.equal[key] = ok
	return ok
}

// sameEntries compares what the special sections say about two functions.
func (c *comparison) sameEntries(o, n *node) bool {
	for _, t := range tables() {
		if !t.compared {
			continue
		}
		if !slices.EqualFunc(entriesOf(o, t.name), entriesOf(n, t.name), c.sameEntry) {
			return false
		}
	}
	return true
}

func entriesOf(n *node, table string) []*entry {
	var out []*entry
	for _, e := range n.entries {
		if e.table == table {
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b *entry) int { return int(int64(a.at) - int64(b.at)) })
	return out
}

// bugTail is what a struct bug_entry ends with: {u16 line, u16 flags}. Before it
// are {s32 addr, s32 file}, and from 6.19 a format between the two.
const bugTail = 4

func (c *comparison) sameEntry(o, n *entry) bool {
	if o.at != n.at || len(o.data) != len(n.data) || !slices.EqualFunc(o.refs[1:], n.refs[1:], c.sameRef) {
		return false
	}
	a, b := o.data, n.data
	if o.table == "__bug_table" && (len(a) == 12 || len(a) == 16) {
		line := len(a) - bugTail
		a, b = slices.Concat(a[:line], a[line+2:]), slices.Concat(b[:line], b[line+2:])
	}
	return bytes.Equal(a, b)
}

// checkGroups refuses section groups that came or went.
func (c *comparison) checkGroups() {
	hint := "section groups hold code that several objects share; avoid the construct that emits it in the patched file"
	for name, members := range c.patched.object.Groups {
		if before, ok := c.orig.object.Groups[name]; !ok || len(before) != len(members) {
			c.refuse(Refusal{Class: ClassGroup, Symbol: name, Why: "its section group is new or has other members", Hint: hint})
		}
	}
	for name := range c.orig.object.Groups {
		if _, ok := c.patched.object.Groups[name]; !ok {
			c.refuse(Refusal{Class: ClassGroup, Symbol: name, Why: "its section group is gone", Hint: hint})
		}
	}
}

// grouped returns the section group that a function is in, on either side, or "".
func (c *comparison) grouped(n *node) string {
	for name, members := range c.patched.object.Groups {
		if slices.Contains(members, n.section) {
			return name
		}
	}
	for name, members := range c.orig.object.Groups {
		if slices.Contains(members, n.pair.section) {
			return name
		}
	}
	return ""
}

// checkData refuses data that exist and would have to begin with another value.
func (c *comparison) checkData() {
	for _, n := range c.patched.nodes {
		if n.pair == nil || n.kind != kindData && n.kind != kindConsts && n.kind != kindStrings {
			continue
		}
		o := n.pair
		r := Refusal{Class: ClassData, Symbol: n.name, Section: n.section.Name, Source: c.patched.object.declared(n.symbol)}
		switch {
		case o.size != n.size:
			r.Why = "its size changed, and code outside of this patch may use it"
			r.Hint = "leave the variable as it is and put what is new into a new variable, or into a shadow variable (AFLOAT_SHADOW)"
		case o.section.Type != n.section.Type && !allZero(o) || o.section.Flags&elf.SHF_WRITE != n.section.Flags&elf.SHF_WRITE:
			r.Why = "it moved from section " + o.section.Name
			r.Hint = "keep the variable's attributes"
		case !c.sameContent(o, n) && c.diff.Waived(IgnoreData, n.name, o.name):
			continue
		case !c.sameContent(o, n):
			r.Why = "its initial value changed, and the running kernel keeps the old one"
			r.Hint = "set the new value in a function that runs, or in a callback when the patch is applied (AFLOAT_CALLBACKS, AFLOAT_IGNORE_DATA)"
			if n.section.Flags&elf.SHF_WRITE == 0 {
				r.Hint = "leave it as it is, and have the changed functions use a constant of another name; what holds a pointer to the old one keeps it"
			}
			if discarded(n.section.Name) {
				r.Class, r.Why = ClassInit, "it is used only at boot, which is over"
				r.Hint = "leave it out: it takes effect with the next kernel"
			}
		default:
			continue
		}
		c.refuse(r)
	}
}

func allZero(n *node) bool {
	return len(n.refs) == 0 && !slices.ContainsFunc(n.data, func(b byte) bool { return b != 0 })
}

// checkRegistries compares the sections that boot or module load read as a
// whole: parameters, initcalls, trace events, exports.
func (c *comparison) checkRegistries() {
	before := registries(c.orig)
	after := registries(c.patched)
	for _, name := range sortedKeys(after) {
		if !c.sameRegistry(before[name], after[name]) && !c.diff.Waived(IgnoreSection, name) {
			c.changedRegistry(name, before[name], after[name])
		}
	}
	for _, name := range sortedKeys(before) {
		switch {
		case after[name] != nil:
		case exports(name):
			c.diff.Notes = append(c.diff.Notes, fmt.Sprintf("the export in %s is removed by the patch and stays in the running kernel", name))
		case !c.diff.Waived(IgnoreSection, name):
			c.changedRegistry(name, before[name], nil)
		}
	}
}

// changedRegistry refuses a change, or leaves it for settleBoot to judge.
func (c *comparison) changedRegistry(name string, before, after []*Section) {
	if b, ok := c.tableChange(name, before, after); ok {
		c.boot = append(c.boot, b)
		return
	}
	if exports(name) && c.onlyAdds(before, after) {
		c.added = append(c.added, registryRefusal(name, before, after))
		return
	}
	c.refuse(registryRefusal(name, before, after))
}

// registries are the sections of that kind by name, without empty ones, and
// code that belongs to no function.
func registries(g *graph) map[string][]*Section {
	out := map[string][]*Section{}
	for _, s := range g.object.Sections {
		loose := s.kind == kindCode && !slices.ContainsFunc(g.bySection[s], (*node).function)
		if (s.kind == kindRegistry || loose) && s.Size > 0 {
			out[s.Name] = append(out[s.Name], s)
		}
	}
	return out
}

func (c *comparison) sameRegistry(before, after []*Section) bool {
	if len(before) != len(after) {
		return false
	}
	for i, s := range after {
		o := before[i]
		if o.Size != s.Size || !bytes.Equal(o.Data, s.Data) || len(o.Relocs) != len(s.Relocs) {
			return false
		}
		for j, r := range s.Relocs {
			if !c.sameRef(c.orig.resolve(o, o.Relocs[j], 0), c.patched.resolve(s, r, 0)) {
				return false
			}
		}
	}
	return true
}
