package klpmod

import (
	"debug/elf"
	"fmt"
	"slices"

	"afloat/internal/elfdiff"
)

// linker is the state of one link. Its steps run once, in the order of Link.
type linker struct {
	spec     Spec
	stats    Stats
	refusals []elfdiff.Refusal

	chunks   []*chunk
	global   map[globalName]*elfdiff.Chunk
	resolved map[reference]resolution

	sections []*section // in file order
	byName   map[string]*section
	places   map[*elfdiff.Chunk]position
	imports  map[string]bool
	patch    *elfdiff.Chunk // the klp_patch; filled in when all that it lists is known

	// anchor is the link address of klp_enable_patch if distances may be counted
	// from it, else 0; image is where symbols move with it.
	anchor   uint64
	image    [2]uint64
	idOffset int64 // of the build id from __start_notes
}

// chunk is a carried chunk with where it comes from; part and target are nil
// for those that the linker itself makes.
type chunk struct {
	*elfdiff.Chunk
	target *Target
	part   *Part
}

func (c *chunk) source() string {
	if c.part == nil {
		return ""
	}
	return c.part.Source
}

type globalName struct{ object, name string }

type reference struct {
	target *Target
	symbol *elfdiff.External
}

func newLinker(spec Spec) *linker {
	return &linker{
		spec: spec, stats: Stats{Entries: map[string]int{}},
		global: map[globalName]*elfdiff.Chunk{}, resolved: map[reference]resolution{},
		byName: map[string]*section{}, places: map[*elfdiff.Chunk]position{}, imports: map[string]bool{},
		patch: &elfdiff.Chunk{Name: "klp_patch", Section: ".data", Type: elf.SHT_PROGBITS, Flags: writable, Align: 32},
	}
}

func (l *linker) refuse(r elfdiff.Refusal) {
	if !slices.Contains(l.refusals, r) {
		l.refusals = append(l.refusals, r)
	}
}

func (l *linker) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(l.stats.Notes, n) {
		l.stats.Notes = append(l.stats.Notes, n)
	}
}

// gather lists all chunks and the names that other objects of the patch may use.
func (l *linker) gather() {
	for i := range l.spec.Targets {
		t := &l.spec.Targets[i]
		for j := range t.Parts {
			l.gatherPart(t, &t.Parts[j])
		}
	}
}

func (l *linker) gatherPart(t *Target, p *Part) {
	replaced := map[*elfdiff.Chunk]bool{}
	for _, f := range p.Diff.Changed {
		replaced[f.Code] = true
	}
	for _, c := range p.Diff.Chunks {
		l.chunks = append(l.chunks, &chunk{Chunk: c, target: t, part: p})
		if !c.Global || c.Name == "" || replaced[c] {
			continue
		}
		key := globalName{t.Object, c.Name}
		if l.global[key] != nil {
			l.refuse(elfdiff.Refusal{Class: elfdiff.ClassSymbol, Symbol: c.Name, Source: p.Source,
				Why: "two objects of the patch define it", Hint: "Make one of them static, or give it another name."})
		}
		l.global[key] = c
	}
	l.addMissingHooks(t, p)
}

const hookCall = "__fentry__"

// addMissingHooks makes the __mcount_loc entry of each function that calls
// __fentry__ and has none, so that ftrace turns the call into a no-op.
func (l *linker) addMissingHooks(t *Target, p *Part) {
	has := map[*elfdiff.Chunk]bool{}
	for _, c := range p.Diff.Chunks {
		if c.Section == "__mcount_loc" {
			for _, f := range c.Relocs {
				has[f.Target.Chunk] = true
			}
		}
	}
	for _, c := range p.Diff.Chunks {
		for _, f := range c.Relocs {
			if has[c] || f.Target.Symbol == nil || f.Target.Symbol.Name != hookCall || f.Offset == 0 {
				continue
			}
			has[c] = true
			entry := &elfdiff.Chunk{
				Section: "__mcount_loc", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 8, EntSize: 8, Size: 8, Data: make([]byte, 8), Entry: c,
				// The call's opcode is the byte before the field.
				Relocs: []elfdiff.Fixup{{Type: elf.R_X86_64_64, Target: elfdiff.Target{Chunk: c}, Addend: int64(f.Offset) - 1}},
			}
			l.chunks = append(l.chunks, &chunk{Chunk: entry, target: t, part: p})
		}
	}
}
