package elfdiff

import (
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
