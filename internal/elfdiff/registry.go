package elfdiff

import (
	"bytes"
	"maps"
	"slices"
	"strings"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// exports says that a section holds what makes a symbol one that modules can use.
func exports(name string) bool {
	for _, prefix := range []string{"__ksymtab", "___ksymtab", "__kcrctab", "___kcrctab", ".export_symbol"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// registryRefusal says what a changed registry means to its author.
func registryRefusal(name string, before, after []*Section) Refusal {
	r := Refusal{Class: ClassSection, Section: name}
	switch {
	case exports(name):
		r.Class, r.Why = ClassExport, "the exported symbols changed, and modules are linked against the old ones"
		r.Hint = "leave the exports as they are; new functions of a live patch need none"
	case discarded(name), name == "__param", name == ".modinfo":
		r.Class, r.Why = ClassInit, "it is read only at boot or module load, which is over"
		r.Hint = "register from a callback that runs when the patch is applied (AFLOAT_CALLBACKS, AFLOAT_IGNORE_SECTION), or leave it to the next kernel"
	case strings.HasPrefix(name, ".pci_fixup_"):
		r.Class, r.Why = ClassInit, "it lists what runs when the kernel finds a device, and the running kernel has its list already"
		r.Hint = "leave it to the next kernel; what must happen to devices that are there belongs into a callback (AFLOAT_CALLBACKS, AFLOAT_IGNORE_SECTION)"
	case strings.Contains(name, "trace") || name == "_ftrace_events" || name == "__bpf_raw_tp_map":
		r.Why = "trace events changed, and the running kernel has registered the old ones"
		r.Hint = "leave trace events as they are; use pr_debug or printk in the patch"
	case strings.HasPrefix(name, ".text"):
		r.Class, r.Why = ClassAssembly, "assembler code outside of any C function changed"
		r.Hint = "leave the assembler code as it is"
	default:
		r.Why = "the section changed, and what reads it is not known"
		r.Hint = "leave what the section holds as it is"
	}
	if len(before) == 0 {
		r.Why += " (it is new)"
	}
	if len(after) == 0 {
		r.Why += " (it is gone)"
	}
	return r
}

// runTable returns the bytes of an entry of a table of functions that the kernel
// runs at boot or when it finds a device, 0 for any other section. The linker has
// laid the running kernel's out, so no live patch can add to it.
func runTable(name string) int {
	switch {
	case strings.HasPrefix(name, ".pci_fixup_"):
		return 16 // struct pci_fixup {u16 vendor, device; u32 class, class_shift; s32 hook}
	case name == ".init.setup":
		return 24 // struct obs_kernel_param {char *str; int (*setup)(char *); int early}
	case strings.HasPrefix(name, ".initcall"):
		return 4 // s32 function
	}
	return 0
}

// maxRows of a table in one object: far above those of the kernel's largest.
const maxRows = 1 << 14

// row is an entry of a table of functions to run.
type row struct {
	data []byte
	refs []ref
}

// tableChange says which functions ran because of entries that only one version
// has; false if that cannot be told.
func (c *comparison) tableChange(name string, before, after []*Section) (bootChange, bool) {
	b := bootChange{name: name, section: name, tableRefusal: registryRefusal(name, before, after)}
	was, ok := c.orig.rows(before)
	is, known := c.patched.rows(after)
	if !ok || !known {
		return b, false
	}
	for _, r := range is {
		if i := slices.IndexFunc(was, func(o row) bool { return c.sameRow(o, r) }); i >= 0 {
			was = slices.Delete(was, i, i+1)
			continue
		}
		b.after = append(b.after, r.targets()...)
	}
	for _, r := range was {
		b.before = append(b.before, r.targets()...)
	}
	return b, true
}

// rows cuts tables into their entries; false if they are none, or if an entry
// names what is in another object.
func (g *graph) rows(sections []*Section) ([]row, bool) {
	var out []row
	for _, s := range sections {
		size := uint64(runTable(s.Name))
		if size == 0 || s.Data == nil || s.Size%size != 0 || s.Size > maxRows*size {
			return nil, false
		}
		relocs := s.Relocs
		for off := uint64(0); off < s.Size; off += size {
			r := row{data: s.Data[off : off+size]}
			for len(relocs) > 0 && relocs[0].Offset < off+size {
				to := g.resolve(s, relocs[0], off)
				if to.node == nil {
					return nil, false
				}
				r.refs, relocs = append(r.refs, to), relocs[1:]
			}
			out = append(out, r)
		}
	}
	return out, true
}

func (c *comparison) sameRow(o, n row) bool {
	return bytes.Equal(o.data, n.data) && slices.EqualFunc(o.refs, n.refs, c.sameRef)
}

// targets are what an entry names.
func (r row) targets() []*node {
	out := make([]*node, len(r.refs))
	for i, ref := range r.refs {
		out[i] = ref.node
	}
	return out
}

// onlyAdds says that every export of before is among those of after, as it was.
// Modules were linked against those; none knows of what is new.
func (c *comparison) onlyAdds(before, after []*Section) bool {
	was, ok := c.orig.exportRows(before)
	is, known := c.patched.exportRows(after)
	for _, o := range was {
		i := slices.IndexFunc(is, func(n row) bool { return c.sameRow(o, n) })
		if i < 0 {
			return false
		}
		is = slices.Delete(is, i, i+1)
	}
	return ok && known && len(is) > 0
}

// exportRows cuts export sections into what each holds up to the reference to
// its symbol; false if they cannot be cut. Up to 6.3 each symbol has a section
// of its own.
func (g *graph) exportRows(sections []*Section) (out []row, ok bool) {
	for _, s := range sections {
		start := uint64(0)
		for _, rel := range s.Relocs {
			end := rel.Offset + Width(rel.Type)
			if s.Data == nil || rel.Offset < start || end > s.Size || len(out) == maxRows {
				return nil, false
			}
			out = append(out, row{data: s.Data[start:end], refs: []ref{g.resolve(s, rel, start)}})
			start = end
		}
		if s.Data == nil {
			return nil, false
		}
		if start < s.Size {
			out = append(out, row{data: s.Data[start:]})
		}
	}
	return out, true
}
