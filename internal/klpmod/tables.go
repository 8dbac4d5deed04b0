package klpmod

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"afloat/internal/elfdiff"
)

const (
	writable = elf.SHF_ALLOC | elf.SHF_WRITE
	code     = elf.SHF_ALLOC | elf.SHF_EXECINSTR
	hex20    = 20 // bytes of a build id
)

// generate adds what the module needs besides the carried chunks: the klp
// tables, the module's own structure, its two functions and its metadata.
func (l *linker) generate() {
	this := l.thisModule()
	exit := l.exitFunction(this)
	l.initFunction(this, l.patchTable(this, exit), exit)
	l.collectImports()
	l.add(&elfdiff.Chunk{Section: ".modinfo", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1, Data: l.modinfo()})
	if l.versioned() {
		l.add(&elfdiff.Chunk{Section: "__versions", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 32, Data: l.versions()})
	}
	l.add(&elfdiff.Chunk{Section: buildIDSection, Type: elf.SHT_NOTE, Flags: elf.SHF_ALLOC, Align: 4, Data: noteHeader()})
}

// add takes a generated chunk in; its size is that of its data.
func (l *linker) add(c *elfdiff.Chunk) *elfdiff.Chunk {
	c.Size = uint64(len(c.Data))
	added := &chunk{Chunk: c}
	l.chunks = append(l.chunks, added)
	for _, f := range c.Relocs {
		if f.Target.Symbol != nil {
			l.resolve(added, f.Target.Symbol)
		}
	}
	return c
}

func pointer(offset int, to *elfdiff.Chunk) elfdiff.Fixup {
	return elfdiff.Fixup{Offset: uint64(offset), Type: elf.R_X86_64_64, Target: elfdiff.Target{Chunk: to}}
}

func exported(offset uint64, kind elf.R_X86_64, name string) elfdiff.Fixup {
	return elfdiff.Fixup{Offset: offset, Type: kind, Target: elfdiff.Target{Symbol: &elfdiff.External{Name: name, Function: true}}, Addend: -4}
}

// thisModule is what modpost writes as __this_module.
func (l *linker) thisModule() *elfdiff.Chunk {
	lay := l.spec.Kernel.Sizes.Module
	data := make([]byte, lay.Size)
	copy(data[lay.Offsets["name"]:], l.spec.Name)
	return l.add(&elfdiff.Chunk{
		Name: "__this_module", Section: ".gnu.linkonce.this_module", Type: elf.SHT_PROGBITS, Flags: writable, Align: 64, Data: data, Global: true,
	})
}

// patchTable writes the klp_patch, one klp_object per target and one klp_func
// per replaced function. An empty entry ends each list.
func (l *linker) patchTable(this, exit *elfdiff.Chunk) *elfdiff.Chunk {
	sizes := l.spec.Kernel.Sizes
	objects := &elfdiff.Chunk{Name: "klp_objects", Section: ".data", Type: elf.SHT_PROGBITS, Flags: writable, Align: 32}
	for i := range l.spec.Targets {
		t := &l.spec.Targets[i]
		if !t.patches() {
			continue
		}
		funcs := l.funcTable(t)
		at := len(objects.Data)
		objects.Data = append(objects.Data, make([]byte, sizes.KlpObject.Size)...)
		if t.Object != vmlinux {
			objects.Relocs = append(objects.Relocs, pointer(at+sizes.KlpObject.Offsets["name"], l.text(t.Object)))
		}
		objects.Relocs = append(objects.Relocs, pointer(at+sizes.KlpObject.Offsets["funcs"], funcs))
		l.addCallbacks(t, objects, at, exit)
	}
	objects.Data = append(objects.Data, make([]byte, sizes.KlpObject.Size)...)
	l.add(objects)

	patch := l.patch
	patch.Data = make([]byte, sizes.KlpPatch.Size)
	patch.Data[sizes.KlpPatch.Offsets["replace"]] = 1
	patch.Relocs = []elfdiff.Fixup{pointer(sizes.KlpPatch.Offsets["mod"], this), pointer(sizes.KlpPatch.Offsets["objs"], objects)}
	if states := l.states(); states != nil {
		patch.Relocs = append(patch.Relocs, pointer(sizes.KlpPatch.Offsets["states"], states))
	}
	return l.add(patch)
}

// patches says that a target has replaced functions or callbacks.
func (t *Target) patches() bool {
	return slices.ContainsFunc(t.Parts, func(p Part) bool { return len(p.Diff.Changed)+len(p.Diff.Callbacks) > 0 })
}

// funcTable lists a target's replaced functions. The kernel wants a table even
// where callbacks are all there is.
func (l *linker) funcTable(t *Target) *elfdiff.Chunk {
	lay := l.spec.Kernel.Sizes.KlpFunc
	table := &elfdiff.Chunk{Name: "klp_funcs_" + t.Object, Section: ".data", Type: elf.SHT_PROGBITS, Flags: writable, Align: 32}
	for i := range t.Parts {
		p := &t.Parts[i]
		for _, f := range p.Diff.Changed {
			pos, ok := l.functionPosition(t, p, f)
			if !ok {
				continue
			}
			at := len(table.Data)
			table.Data = append(table.Data, make([]byte, lay.Size)...)
			binary.LittleEndian.PutUint64(table.Data[at+lay.Offsets["old_sympos"]:], uint64(pos))
			table.Relocs = append(table.Relocs,
				pointer(at+lay.Offsets["old_name"], l.text(f.Name)), pointer(at+lay.Offsets["new_func"], f.Code))
		}
	}
	table.Data = append(table.Data, make([]byte, lay.Size)...)
	return l.add(table)
}

// functionPosition finds the function to replace, and refuses what the kernel
// could not find or would replace twice.
func (l *linker) functionPosition(t *Target, p *Part, f elfdiff.Func) (int, bool) {
	at, proven := p.Places[f.Original]
	pos, why := at.Sympos, ""
	if !proven {
		pos, _, why = l.position(t.Object, f.Name, f.Original != nil && f.Original.Local())
	}
	entry := Function{Object: t.Object, Name: f.Name, Sympos: pos}
	switch {
	case why != "":
	case f.Code == nil || f.Code.Name == "":
		why = "it has no code"
	case slices.Contains(l.stats.Functions, entry):
		why = "two objects of the patch replace it"
	}
	if why != "" {
		l.refuse(elfdiff.Refusal{Class: elfdiff.ClassSymbol, Symbol: f.Name, Source: f.Source, Why: why,
			Hint: "Change a function that the running kernel has under one name."})
		return 0, false
	}
	l.stats.Functions = append(l.stats.Functions, entry)
	return pos, true
}

func (l *linker) text(s string) *elfdiff.Chunk {
	return l.add(&elfdiff.Chunk{Section: ".rodata.str", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1, Data: append([]byte(s), 0)})
}

// collectImports lists the exported symbols that kept chunks refer to.
func (l *linker) collectImports() {
	for _, c := range l.chunks {
		for _, f := range c.Relocs {
			if f.Target.Symbol == nil {
				continue
			}
			r := l.resolved[reference{target: c.target, symbol: f.Target.Symbol}]
			if r.owner == vmlinux && r.object == "" && !l.imports[r.name] {
				l.imports[r.name] = true
				l.stats.Imports = append(l.stats.Imports, r.name)
			}
		}
	}
	slices.Sort(l.stats.Imports)
}

// modinfo is what the kernel's loader checks, and what modinfo(8) prints.
func (l *linker) modinfo() []byte {
	fields := []string{"license=GPL", "livepatch=Y", "depends=", "name=" + l.spec.Name, "vermagic=" + l.spec.Kernel.Vermagic}
	if l.spec.Kernel.Retpoline {
		fields = append(fields, "retpoline=Y")
	}
	var spaces []string
	for name := range l.imports {
		if ns := l.spec.Kernel.Symvers[name].Namespace; ns != "" {
			spaces = append(spaces, "import_ns="+ns)
		}
	}
	slices.Sort(spaces)
	var out []byte
	for _, f := range append(fields, slices.Compact(spaces)...) {
		out = append(append(out, f...), 0)
	}
	return out
}

// versioned says that the kernel checks symbol versions (CONFIG_MODVERSIONS).
func (l *linker) versioned() bool {
	for field := range strings.FieldsSeq(l.spec.Kernel.Vermagic) {
		if field == "modversions" {
			return true
		}
	}
	return false
}

// versions is an array of struct modversion_info; the kernel wants module_layout first.
func (l *linker) versions() []byte {
	var out []byte
	for _, name := range append([]string{"module_layout"}, l.stats.Imports...) {
		entry := make([]byte, versionEntry)
		binary.LittleEndian.PutUint64(entry, uint64(l.spec.Kernel.Symvers[name].CRC))
		copy(entry[8:versionEntry-1], name)
		out = append(out, entry...)
	}
	return out
}

const buildIDSection = ".note.gnu.build-id"

// noteHeader is the note with an id of zeros, which encode fills in.
func noteHeader() []byte {
	out := binary.LittleEndian.AppendUint32(nil, 4)
	out = binary.LittleEndian.AppendUint32(out, hex20)
	out = binary.LittleEndian.AppendUint32(out, 3) // NT_GNU_BUILD_ID
	out = append(out, "GNU\x00"...)
	return append(out, make([]byte, hex20)...)
}

func (f Function) String() string { return fmt.Sprintf("%s:%s,%d", f.Object, f.Name, f.Sympos) }
