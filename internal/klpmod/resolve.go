package klpmod

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
)

// Bounds of the kernel's own parser, klp_resolve_symbols.
const (
	maxSymbol     = 511 // KSYM_NAME_LEN - 1 since 6.1; older kernels have 127 and no longer names
	maxVersioned  = 55  // name in a __versions entry, without its NUL
	versionEntry  = 64  // bytes: CRC as unsigned long, then the name
	shnLivepatch  = elf.SectionIndex(0xff20)
	shfLivepatch  = elf.SectionFlag(0x00100000)
	klpRelaPrefix = ".klp.rela."
	klpSymPrefix  = ".klp.sym."
)

// resolution says how a reference to an External is written.
type resolution struct {
	chunk *elfdiff.Chunk // carried by another part of the patch
	name  string         // symbol table name: the export's, or .klp.sym.OBJECT.NAME,POS
	// object is whose .klp.rela section holds the relocation: "" for a plain one.
	object string
	// owner has the symbol: vmlinux or a module.
	owner string
	// addr is the link address of a vmlinux symbol that moves with the image, else 0.
	addr uint64
	weak bool // undefined, and allowed to be
}

// resolveAll resolves every reference of every chunk, so that all refusals are known at once.
func (l *linker) resolveAll() {
	for _, c := range l.chunks {
		for _, f := range c.Relocs {
			if f.Target.Symbol != nil {
				l.resolve(c, f.Target.Symbol)
				l.checkOpen(c, f)
			}
		}
	}
}

func (l *linker) resolve(c *chunk, e *elfdiff.External) {
	key := reference{target: c.target, symbol: e}
	if _, done := l.resolved[key]; done {
		return
	}
	r, why := l.find(c, e)
	l.resolved[key] = r
	if why == "" && len(r.name) > maxSymbol+len(klpSymPrefix)+maxVersioned {
		why = "its name is longer than the kernel's livepatch code reads"
	}
	if why != "" {
		l.refuse(elfdiff.Refusal{Class: elfdiff.ClassSymbol, Symbol: e.Name, Source: c.source(), Why: why,
			Hint: "Use a symbol that the running kernel has, or bring the function along in the patch under another name."})
	}
}

// find resolves a reference; why is "" or the reason that it cannot.
func (l *linker) find(c *chunk, e *elfdiff.External) (r resolution, why string) {
	if c.part == nil && (e.Name == startNotes || e.Name == textPoke || e.Name == textMutex) {
		return l.named(vmlinux, vmlinux, e.Name, false)
	}
	if c.part == nil {
		return l.export(e.Name)
	}
	if e.Name == elfdiff.ThisPatch && !e.Defined {
		return resolution{chunk: l.patch}, ""
	}
	if !e.Local {
		if own := l.carried(c.target.Object, e.Name); own != nil {
			return resolution{chunk: own}, ""
		}
	}
	if e.Defined {
		return l.own(c, e)
	}
	return l.undefined(c, e)
}

// own resolves a symbol that the original object defines.
func (l *linker) own(c *chunk, e *elfdiff.External) (resolution, string) {
	object := c.target.Object
	if !e.Local && object == vmlinux {
		if x, ok := l.spec.Kernel.Symvers[e.Name]; ok && x.Owner == vmlinux {
			return l.export(e.Name)
		}
	}
	if e.Original != nil {
		if at, ok := c.part.Places[e.Original]; ok {
			r := klp(object, object, e.Name, at.Sympos)
			if object == vmlinux {
				r.addr = l.imageAddress(e.Name, at.Addr)
			}
			return r, ""
		}
	}
	return l.named(object, object, e.Name, e.Local)
}

// undefined resolves a symbol that another object defines.
func (l *linker) undefined(c *chunk, e *elfdiff.External) (resolution, string) {
	object := c.target.Object
	x, exported := l.spec.Kernel.Symvers[e.Name]
	switch {
	case object != vmlinux && l.moduleHas(object, e.Name):
		return l.named(object, object, e.Name, false)
	case exported && x.Owner == vmlinux:
		return l.export(e.Name)
	case exported && object == vmlinux:
		return resolution{}, fmt.Sprintf("module %s exports it, and vmlinux may run without that module", x.Owner)
	case exported:
		return l.fromModule(object, x)
	}
	r, why := l.named(vmlinux, vmlinux, e.Name, false)
	if why != "" && e.Original != nil && e.Original.Bind == elf.STB_WEAK {
		return resolution{name: e.Name, weak: true}, ""
	}
	return r, why
}

// fromModule resolves what one module exports to another that depends on it.
func (l *linker) fromModule(object string, x kernel.Export) (resolution, string) {
	if !slices.Contains(l.spec.Kernel.Modules[object].Depends, x.Owner) {
		return resolution{}, fmt.Sprintf("module %s exports it, and %s does not depend on that module", x.Owner, object)
	}
	if l.spec.Kernel.Modules[x.Owner] != nil {
		return l.named(object, x.Owner, x.Name, false)
	}
	return klp(object, x.Owner, x.Name, 0), ""
}

// export resolves a symbol that vmlinux exports.
func (l *linker) export(name string) (resolution, string) {
	x, ok := l.spec.Kernel.Symvers[name]
	switch {
	case !ok || x.Owner != vmlinux:
		return resolution{}, "the kernel does not export it"
	case len(name) > maxVersioned && l.versioned():
		return resolution{}, "its name is too long for a symbol version"
	}
	return resolution{name: name, owner: vmlinux}, ""
}

// klp makes a reference that the kernel resolves itself. Relocations in a
// module's section must not name vmlinux symbols, so these go to vmlinux's.
func klp(object, owner, name string, sympos int) resolution {
	if owner == vmlinux {
		object = vmlinux
	}
	return resolution{name: fmt.Sprintf("%s%s.%s,%d", klpSymPrefix, owner, name, sympos), object: object, owner: owner}
}

func (l *linker) named(object, owner, name string, local bool) (resolution, string) {
	pos, addr, why := l.position(owner, name, local)
	r := klp(object, owner, name, pos)
	if owner == vmlinux {
		r.addr = l.imageAddress(name, addr)
	}
	return r, why
}

// position finds the livepatch position of a name that stands for one symbol
// only, and in vmlinux its link address.
func (l *linker) position(owner, name string, local bool) (pos int, addr uint64, why string) {
	count, found, err := 0, 0, error(nil)
	if owner == vmlinux {
		for _, s := range l.spec.Kernel.Kallsyms.Lookup(name) {
			if isLocal(s.Type) == local {
				count++
				addr = s.Addr
				found, err = l.spec.Kernel.Kallsyms.Sympos(name, s.Addr)
			}
		}
	} else {
		m := l.spec.Kernel.Modules[owner]
		for _, s := range m.Lookup(name) {
			if (s.Bind == elf.STB_LOCAL) == local {
				count++
				found, err = m.Sympos(name, s.Section, s.Value)
			}
		}
	}
	switch {
	case count == 0:
		return 0, 0, fmt.Sprintf("neither the patch nor %s has it, and no module that may be used exports it", owner)
	case count > 1:
		return 0, 0, fmt.Sprintf("%s has %d symbols of that name, and nothing proves which is meant", owner, count)
	case err != nil:
		return 0, 0, err.Error()
	}
	return found, addr, ""
}

// isLocal reads a kallsyms type letter; weak symbols are seen by other objects.
func isLocal(kind byte) bool {
	return kind >= 'a' && kind <= 'z' && kind != 'w' && kind != 'v'
}

func (l *linker) moduleHas(object, name string) bool {
	return slices.ContainsFunc(l.spec.Kernel.Modules[object].Lookup(name), func(s kernel.ModuleSymbol) bool {
		return s.Bind != elf.STB_LOCAL
	})
}

// carried returns the new function or datum of that name that the patch brings
// along: the same object's first. Replaced functions are reached through the
// original, so that a pointer to one outlives the live patch.
func (l *linker) carried(object, name string) *elfdiff.Chunk {
	if c := l.global[globalName{object, name}]; c != nil {
		return c
	}
	if object != vmlinux {
		return l.global[globalName{vmlinux, name}]
	}
	return nil
}

// keyed are the special sections whose entries the kernel processes once, when
// the live patch loads: too early for symbols of modules, which may load later.
var keyed = []string{
	".altinstructions", ".altinstr_replacement", ".altinstr_aux", ".parainstructions", ".smp_locks",
	".retpoline_sites", ".return_sites", ".call_sites", "__mcount_loc", "__patchable_function_entries",
	"__jump_table", ".static_call_sites", "__ex_table", "__bug_table", ".orc_unwind", ".orc_unwind_ip", ".orc_header",
	".ibt_endbr_seal", ".cfi_sites", ".kcfi_traps", ".printk_index",
}

// dropForeignKeys takes out entries that would make the live patch use a key
// inside a module: there the code stays as compiled. For a tracepoint or a debug
// message that means off; a static call goes through its trampoline, which the
// kernel keeps up to date. For anything else it would mean something, so it is refused.
func (l *linker) dropForeignKeys() {
	l.chunks = slices.DeleteFunc(l.chunks, func(c *chunk) bool {
		if !slices.Contains(keyed, c.Section) {
			return false
		}
		for _, f := range c.Relocs {
			r := l.resolved[reference{target: c.target, symbol: f.Target.Symbol}]
			if f.Target.Symbol == nil || r.object == "" || r.object == vmlinux {
				continue
			}
			return l.foreignKey(c, f.Target.Symbol)
		}
		return false
	})
}

func (l *linker) foreignKey(c *chunk, e *elfdiff.External) (drop bool) {
	where, symbol := "the patch", "" // without a symbol, a refusal names the section
	if c.Entry != nil {
		where, symbol = c.Entry.Name, c.Entry.Name
	}
	switch {
	case c.Section == ".static_call_sites" && strings.HasPrefix(e.Name, "__SCK__tp_func_"):
		return true // the tracepoint's static branch is noted
	case c.Section == ".static_call_sites":
		l.note("In %s, %s of module %s is called through its trampoline.", where, strings.TrimPrefix(e.Name, "__SCK__"), c.target.Object)
		return true
	case c.Section == "__jump_table" && strings.HasPrefix(e.Name, "__tracepoint_"):
		l.note("In %s, tracepoint %s of module %s stays off while the live patch is on.", where, strings.TrimPrefix(e.Name, "__tracepoint_"), c.target.Object)
		return true
	case c.Section == "__jump_table" && (strings.HasPrefix(e.Name, "__UNIQUE_ID_ddebug") || strings.HasPrefix(e.Name, "descriptor.")):
		l.note("In %s, dynamic debug messages of module %s stay off while the live patch is on.", where, c.target.Object)
		return true
	case c.Section == "__jump_table":
		l.refuse(elfdiff.Refusal{Class: elfdiff.ClassJumpLabel, Symbol: symbol, Section: c.Section, Source: c.source(),
			Why:  fmt.Sprintf("its static branch has the key %s in module %s, which may not be loaded yet when the kernel needs it", e.Name, c.target.Object),
			Hint: "Read the key with static_key_enabled() in the patched function instead."})
	default:
		l.refuse(elfdiff.Refusal{Class: elfdiff.ClassSpecial, Symbol: symbol, Section: c.Section, Source: c.source(),
			Why:  fmt.Sprintf("its entry refers to %s in module %s, which may not be loaded yet when the kernel needs it", e.Name, c.target.Object),
			Hint: "Write the function without the construct that makes the entry."})
	}
	return false
}
