package elfdiff

import (
	"debug/elf"
	"maps"
	"slices"
	"strings"
)

// bootChange is a change that only boot could bring: of a function that has run,
// or of a table of what to run.
type bootChange struct {
	name, section, source string
	function              *node   // nil for a table
	before, after         []*node // what runs of the old version, and of the new
	tableRefusal          Refusal // of a table, where its change cannot wait
}

func (k *carrier) bootFunction(n *node) bootChange {
	return bootChange{name: n.name, section: n.section.Name, source: k.c.patched.object.declared(n.symbol),
		function: n, before: []*node{n.pair}, after: []*node{n}}
}

// settleBoot decides about what runs only at boot and has changed. In the kernel
// itself it has run, and no live patch can bring the change into this boot. That
// alone does not speak against the rest of the patch, but it might: the rest may
// need what the new boot code sets up.
//
// So the change is left to the next boot, and said to be, only where the object
// shows two separate changes:
//
//   - The code is part of the kernel itself (Options.BuiltIn). A module's may run
//     again, at the next load or unload, in its old form.
//   - Something else is carried. A change of boot code alone has no effect.
//   - No way leads from the boot code, old or new, to a replaced function: not by
//     calls, nor by pointers it hands out, nor through data it hands out. So what
//     it registers, with whatever arguments, is not what the patch replaces.
//   - The variables that the carried code uses, itself and through the functions
//     it calls, are none that the boot code uses, itself and through the functions
//     it calls, and none that only one version of the boot code leads to.
//
// Code in .exit sections of the kernel itself is never called at all.
func (k *carrier) settleBoot() {
	for _, b := range k.boot {
		shared := k.sharedWith(b)
		if !k.c.opts.BuiltIn || len(k.chunks) == 0 || shared != "" {
			k.c.refuse(k.bootRefusal(b, shared))
			continue
		}
		k.c.diff.boot = append(k.c.diff.boot, k.outward(b))
		k.c.diff.NextBoot = append(k.c.diff.NextBoot, b.later())
		k.c.diff.Notes = append(k.c.diff.Notes, b.note())
	}
}

// settleExports leaves new exports out. Where there is nothing else, somebody
// wants just them.
func (k *carrier) settleExports() {
	for _, r := range k.c.added {
		if len(k.chunks) == 0 {
			k.c.refuse(r)
			continue
		}
		k.c.diff.Notes = append(k.c.diff.Notes, "the new export in "+r.Section+" is left out: no module of the running kernel knows of it")
	}
}

func (b bootChange) later() Func {
	if b.function == nil {
		return Func{Name: b.name}
	}
	return Func{Name: b.function.pair.name, Size: b.function.size, Source: b.source, Original: b.function.pair.symbol}
}

func (b bootChange) note() string {
	if b.function == nil {
		return b.name + " has other entries than the running kernel's: they take effect with the next boot of a kernel that has them"
	}
	return b.name + " runs only at boot and has run: its change takes effect with the next boot of a kernel that has it"
}

func (k *carrier) bootRefusal(b bootChange, shared string) Refusal {
	r := b.tableRefusal
	if b.function != nil {
		r = Refusal{Class: ClassInit, Symbol: b.name, Section: b.section, Source: b.source,
			Why:  "it runs only at boot, at module load or at unload",
			Hint: "leave this change out: it takes effect with the next kernel; what must happen now belongs into a callback (AFLOAT_CALLBACKS, AFLOAT_IGNORE_FUNCTION)"}
	}
	if k.c.opts.BuiltIn && len(k.chunks) > 0 && shared != "" {
		r.Why = "it ran at boot in its old form, and the rest of the patch may rely on the new one: both use " + shared
		if b.function != nil {
			r.Hint = "leave this change out if the rest does not need it; what must happen now belongs into a callback (AFLOAT_CALLBACKS, AFLOAT_IGNORE_FUNCTION)"
		}
	}
	return r
}

// bootCode is what other objects may share with a function of NextBoot.
type bootCode struct {
	name      string
	variables map[string]bool // that it leads to, of this object and of others
	functions map[string]bool
	refusal   Refusal
}

// outward lists the names by which boot code and other objects may know the same.
func (k *carrier) outward(b bootChange) bootCode {
	out := bootCode{name: b.name, variables: map[string]bool{}, functions: map[string]bool{}}
	out.refusal = k.bootRefusal(b, "")
	before, after := b.reach()
	for _, r := range []*reach{before, after} {
		for id, name := range r.led {
			node, ok := id.(*node)
			switch {
			case !ok:
				out.variables[name] = true
			case node.symbol == nil || node.symbol.Local():
			case node.function():
				out.functions[node.name] = true
			case node.variable():
				out.variables[node.name] = true
			}
		}
		for name := range r.calls {
			out.functions[name] = true
		}
	}
	return out
}

// reach follows the old version and the new one.
func (b bootChange) reach() (before, after *reach) {
	before, after = newReach(false), newReach(true)
	for _, n := range b.before {
		before.enter(n)
	}
	for _, n := range b.after {
		after.enter(n)
	}
	return before, after
}

// SettleBoot compares the boot code that one object's Diff leaves to the next
// boot with what the others of the same patch carry, and refuses it if they have
// a variable or a function in common.
func SettleBoot(diffs []*Diff) {
	for _, d := range diffs {
		for _, b := range d.boot {
			for _, other := range diffs {
				if shared := b.sharedBy(other); other != d && shared != "" {
					r := b.refusal
					r.Why = "it ran at boot in its old form, and the rest of the patch may rely on the new one: both use " + shared
					d.Refusals = append(d.Refusals, r)
					break
				}
			}
		}
	}
}

func (b bootCode) sharedBy(d *Diff) string {
	for _, f := range slices.Concat(d.Changed, d.New) {
		if b.functions[f.Name] {
			return f.Name
		}
	}
	for _, e := range d.Externals {
		if b.variables[e.Name] && !e.Local {
			return e.Name
		}
	}
	return ""
}

// bootOnly says that both versions of a function are thrown away after boot.
// Not so what .meminit holds: a kernel that can add memory keeps it.
func bootOnly(n *node) bool {
	return n.pair != nil && gone(n.section.Name) && gone(n.pair.section.Name)
}

func gone(section string) bool {
	return strings.HasPrefix(section, ".init.") || strings.HasPrefix(section, ".exit.")
}

// sharedWith names something that boot code and the carried code have in
// common, or returns "".
func (k *carrier) sharedWith(b bootChange) string {
	if f := b.function; f != nil && strings.HasPrefix(f.section.Name, ".exit.") && strings.HasPrefix(f.pair.section.Name, ".exit.") {
		return ""
	}
	before, after := b.reach()
	carried := newReach(true)
	for _, n := range k.c.patched.nodes {
		if !n.function() || n.chunk == nil || n.pads {
			continue
		}
		carried.enter(n)
		for _, r := range []*reach{before, after} {
			if _, ok := r.led[r.identity(n.head())]; ok {
				return n.name
			}
		}
	}
	return carried.common(before, after)
}

// reach is what running some functions of one object gets at.
type reach struct {
	patched bool           // the object is the patched one
	uses    map[any]string // variables that the functions, and those they call, refer to: identity to name
	led     map[any]string // all that any reference leads to, from there on; the name of a variable, "" for the rest
	ran     map[*node]bool
	calls   map[string]bool // functions of other objects that any of it calls
}

func newReach(patched bool) *reach {
	return &reach{patched: patched, uses: map[any]string{}, led: map[any]string{}, ran: map[*node]bool{}, calls: map[string]bool{}}
}

// identity is one value for both nodes of a pair.
func (r *reach) identity(n *node) any {
	if r.patched && n.pair != nil {
		return n.pair
	}
	return n
}

// enter follows a function: what it calls is run as well, what else it refers
// to is only led to.
func (r *reach) enter(n *node) {
	n = n.head()
	if r.ran[n] {
		return
	}
	r.ran[n] = true
	r.lead(n)
	for _, part := range n.unit() {
		for _, u := range references(part) {
			switch {
			case u.ref.node == nil:
				if !u.branch && !ambient(u.ref.symbol.Name) {
					r.uses[u.ref.symbol.Name] = u.ref.symbol.Name
				}
			case u.ref.node.function():
				if u.branch {
					r.enter(u.ref.node)
				}
			case u.ref.node.kind == kindSupport:
			case u.ref.node.variable():
				r.uses[r.identity(u.ref.node)] = u.ref.node.name
			}
		}
	}
}

// lead follows every reference, through calls, pointers and initial values.
func (r *reach) lead(n *node) {
	id := r.identity(n)
	if _, ok := r.led[id]; ok {
		return
	}
	r.led[id] = ""
	if n.variable() {
		r.led[id] = n.name
	}
	for _, part := range n.unit() {
		for _, u := range references(part) {
			switch {
			case u.ref.node != nil:
				r.lead(u.ref.node.head())
			case !u.branch && !ambient(u.ref.symbol.Name):
				r.led[u.ref.symbol.Name] = u.ref.symbol.Name
			case u.branch:
				r.calls[u.ref.symbol.Name] = true
			}
		}
	}
}

// common names a variable that r uses and that one of the others uses, or that
// only one of them leads to; else it returns "".
func (r *reach) common(before, after *reach) string {
	for _, id := range slices.SortedFunc(maps.Keys(r.uses), func(a, b any) int { return strings.Compare(r.uses[a], r.uses[b]) }) {
		_, was := before.uses[id]
		_, is := after.uses[id]
		_, led := before.led[id]
		_, leads := after.led[id]
		if was || is || led != leads {
			return r.uses[id]
		}
	}
	return ""
}

// reference of a function or datum, in its bytes or in a special section.
type reference struct {
	ref    ref
	branch bool // it is the operand of a call or jump
}

// references lists those of a function or datum, and of the code that belongs to
// it elsewhere: alternatives, what is beside them, and fixups.
func references(n *node) []reference {
	var out []reference
	seen := map[*node]bool{}
	var gather func(*node)
	add := func(r ref, branch bool) {
		out = append(out, reference{r, branch})
		if r.node != nil && r.node.kind == kindSupport {
			gather(r.node)
		}
	}
	gather = func(n *node) {
		if seen[n] {
			return
		}
		seen[n] = true
		for _, r := range n.refs {
			add(r, isBranch(n, r))
		}
		for _, e := range n.entries {
			for _, r := range e.refs[1:] {
				add(r, false)
			}
			if e.replacement != nil {
				gather(e.replacement)
			}
		}
	}
	gather(n)
	return out
}

// variable says that running code can change what the node holds.
func (n *node) variable() bool {
	return n.section.Flags&elf.SHF_WRITE != 0 && (n.kind == kindData || n.kind == kindRegistry) &&
		!discarded(n.section.Name) && !copied(n.name, n.section.Name)
}

// ambient variables say what the processor and its task are: no boot code sets
// them up for one file's use.
func ambient(name string) bool {
	switch name {
	case "current_task", "boot_cpu_data", "pcpu_hot", "const_pcpu_hot", "cpu_number", "__preempt_count", "this_cpu_off", "__per_cpu_offset",
		"__cpu_online_mask", "nr_cpu_ids", "jiffies", "fixed_percpu_data", "__stack_chk_guard":
		return true
	}
	return false
}
