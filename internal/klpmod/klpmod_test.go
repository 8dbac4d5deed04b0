package klpmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
	"afloat/internal/proof"
)

const image = uint64(0xffffffff81000000)

// testKernel has exports, unexported, duplicate and per-CPU symbols, and a
// module ext9 that depends on jbd9.
func testKernel() Kernel {
	symbols := []kernel.Symbol{
		{Addr: 0x2c000, Type: 'A', Name: "percpu_hidden"},
		{Addr: image, Type: 'T', Name: "_text"},
		{Addr: image + 0x100, Type: 'T', Name: "klp_enable_patch"},
		{Addr: image + 0x200, Type: 'T', Name: "__x86_return_thunk"},
		{Addr: image + 0x300, Type: 'T', Name: "__fentry__"},
		{Addr: image + 0x400, Type: 't', Name: "twice"},
		{Addr: image + 0x500, Type: 't', Name: "twice"},
		{Addr: image + 0x600, Type: 'T', Name: "hidden"},
		{Addr: image + 0x700, Type: 'T', Name: "shown"},
		{Addr: image + 0x800, Type: 'd', Name: "datum"},
		{Addr: image + 0x900, Type: 'R', Name: "__start_notes"},
		{Addr: image + 0xa00, Type: 'T', Name: "victim"},
		{Addr: image + 0xb00, Type: 'A', Name: "absolute"},
		{Addr: image + 0xc00, Type: 'T', Name: "mutex_lock"},
		{Addr: image + 0xd00, Type: 'T', Name: "mutex_unlock"},
		{Addr: image + 0xe00, Type: 'T', Name: "text_poke"},
		{Addr: image + 0xf00, Type: 'D', Name: "text_mutex"},
		{Addr: image + 0x10000, Type: 'B', Name: "_end"},
	}
	vers := kernel.Symvers{}
	for i, name := range []string{"module_layout", "klp_enable_patch", "__x86_return_thunk", "__fentry__", "shown", "mutex_lock", "mutex_unlock"} {
		vers[name] = kernel.Export{Name: name, CRC: 0x1000 + uint32(i), Owner: "vmlinux"}
	}
	vers["jbd9_start"] = kernel.Export{Name: "jbd9_start", Owner: "jbd9"}
	vers["far_away"] = kernel.Export{Name: "far_away", Owner: "other"}
	return Kernel{
		Sizes: kernel.Sizes{
			Module:       kernel.Layout{Size: 896, Offsets: map[string]int{"name": 24, "init": 312, "exit": 848}},
			KlpPatch:     kernel.Layout{Size: 200, Offsets: map[string]int{"mod": 0, "objs": 8, "states": 16, "replace": 24}},
			KlpObject:    kernel.Layout{Size: 112, Offsets: map[string]int{"name": 0, "funcs": 8, "callbacks": 16}},
			KlpCallbacks: kernel.Layout{Size: 40, Offsets: map[string]int{"pre_patch": 0, "post_patch": 8, "pre_unpatch": 16, "post_unpatch": 24}},
			KlpState:     kernel.Layout{Size: 24, Offsets: map[string]int{"id": 0, "version": 8, "data": 16}},
			KlpFunc:      kernel.Layout{Size: 152, Offsets: map[string]int{"old_name": 0, "new_func": 8, "old_sympos": 16}},
		},
		Kallsyms: kernel.NewKallsyms(symbols), Symvers: vers, Vermagic: "6.1.0-test SMP mod_unload modversions ", Retpoline: true,
		Modules: map[string]*kernel.Module{"ext9": {Name: "ext9", Depends: []string{"jbd9"}, Symbols: []kernel.ModuleSymbol{
			{Name: "helper", Section: ".text", Core: true, Value: 0x10, Bind: elf.STB_LOCAL},
			{Name: "helper", Section: ".text", Core: true, Value: 0x20, Bind: elf.STB_LOCAL},
			{Name: "ext9_fix", Section: ".text", Core: true, Value: 0x30, Bind: elf.STB_LOCAL},
			{Name: "ext9_shared", Section: ".text", Core: true, Value: 0x40, Bind: elf.STB_GLOBAL},
			{Name: "__tracepoint_ext9", Section: ".data", Core: true, Value: 0x50, Bind: elf.STB_GLOBAL},
			{Name: "__SCK__ext9", Section: ".data", Core: true, Value: 0x60, Bind: elf.STB_GLOBAL},
			{Name: "ext9_key", Section: ".data", Core: true, Value: 0x70, Bind: elf.STB_LOCAL},
		}}},
	}
}

func identified(k Kernel) Kernel {
	k.BuildID, k.BuildIDAddr = bytes.Repeat([]byte{0xab}, 20), image+0x910
	return k
}

// codeChunk is a function that calls through the given fixups, one per 8 bytes.
func codeChunk(name string, to ...elfdiff.Target) *elfdiff.Chunk {
	c := &elfdiff.Chunk{Name: name, Section: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16, Function: true}
	for i, target := range to {
		c.Relocs = append(c.Relocs, elfdiff.Fixup{Offset: uint64(8*i) + 1, Type: elf.R_X86_64_PLT32, Target: target, Addend: -4})
		c.Data = append(c.Data, 0xe8, 0, 0, 0, 0, 0x90, 0x90, 0x90)
	}
	c.Data = append(c.Data, 0xc3)
	c.Size = uint64(len(c.Data))
	return c
}

func external(name string, local, defined bool) elfdiff.Target {
	return elfdiff.Target{Symbol: &elfdiff.External{Name: name, Local: local, Defined: defined}}
}

// part replaces the function of the first chunk's name.
func part(chunks ...*elfdiff.Chunk) Part {
	c := chunks[0]
	return Part{Source: c.Name + ".c", Diff: &elfdiff.Diff{Chunks: chunks,
		Changed: []elfdiff.Func{{Name: c.Name, Size: c.Size, Code: c, Original: &elfdiff.Symbol{Name: c.Name, Bind: elf.STB_GLOBAL}}}}}
}

func modulePart(chunks ...*elfdiff.Chunk) Part {
	p := part(chunks...)
	p.Diff.Changed[0].Original.Bind = elf.STB_LOCAL
	return p
}

func vmlinuxSpec(k Kernel, parts ...Part) Spec {
	return Spec{Name: "fix", Kernel: k, Targets: []Target{{Object: "vmlinux", Parts: parts}}}
}

func moduleSpec(k Kernel, parts ...Part) Spec {
	return Spec{Name: "fix", Kernel: k, Targets: []Target{{Object: "ext9", Parts: parts}}}
}

// callee decodes where the i-th call of a codeChunk goes.
func callee(t fataler, m *memory, name string, i int) uint64 {
	t.Helper()
	at := m.symbols[name] + uint64(8*i) + 1
	b, err := m.bytesAt(at, 4)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return at + 4 + uint64(int64(int32(binary.LittleEndian.Uint32(b))))
}

func TestReferences(t *testing.T) {
	local := &elfdiff.Symbol{Name: "twice", Bind: elf.STB_LOCAL}
	tests := map[string]struct {
		target elfdiff.Target
		places proof.Places
		want   uint64
		klp    string // the symbol it takes if everything goes by name
		far    bool   // goes by name even where the build id is known
	}{
		"export":          {target: external("shown", false, false), want: image + 0x700},
		"own export":      {target: external("shown", false, true), want: image + 0x700},
		"unexported":      {target: external("hidden", false, false), want: image + 0x600, klp: ".klp.sym.vmlinux.hidden,0"},
		"own, unexported": {target: external("hidden", false, true), want: image + 0x600, klp: ".klp.sym.vmlinux.hidden,0"},
		"local datum":     {target: external("datum", true, true), want: image + 0x800, klp: ".klp.sym.vmlinux.datum,0"},
		"per-CPU":         {target: external("percpu_hidden", false, false), want: 0x2c000, klp: ".klp.sym.vmlinux.percpu_hidden,0", far: true},
		"absolute":        {target: external("absolute", false, false), want: image + 0xb00, klp: ".klp.sym.vmlinux.absolute,0", far: true},
		"weak, nowhere":   {target: elfdiff.Target{Symbol: &elfdiff.External{Name: "absent", Original: &elfdiff.Symbol{Name: "absent", Bind: elf.STB_WEAK}}}, want: 0},
		"second of a name": {
			target: elfdiff.Target{Symbol: &elfdiff.External{Name: "twice", Local: true, Defined: true, Original: local}},
			places: proof.Places{local: {Addr: image + 0x500, Sympos: 2}}, want: image + 0x500, klp: ".klp.sym.vmlinux.twice,2",
		},
	}
	for name, tt := range tests {
		for _, k := range []Kernel{testKernel(), identified(testKernel())} {
			t.Run(fmt.Sprintf("%s %d", name, len(k.BuildID)), func(t *testing.T) {
				c := codeChunk("victim")
				// Weak zero and per-CPU values are out of a call's reach.
				c.Data = append(c.Data, make([]byte, 8)...)
				c.Size += 8
				c.Relocs = []elfdiff.Fixup{{Offset: 1, Type: elf.R_X86_64_64, Target: tt.target}}
				p := part(c)
				p.Places = tt.places
				ko, stats, err := Link(vmlinuxSpec(k, p))
				if err != nil {
					t.Fatal(err)
				}
				m := load(t, ko, k)
				if got := m.word(t, m.symbols["victim"]+1); got != tt.want {
					t.Errorf("points at %#x, want %#x", got, tt.want)
				}
				byName := tt.klp != "" && (len(k.BuildID) == 0 || tt.far)
				if got := slices.Contains(m.klp, tt.klp); got != byName {
					t.Errorf("klp symbols %v, want %s: %t", m.klp, tt.klp, byName)
				}
				if stats.KlpSymbols != len(m.klp) {
					t.Errorf("%d klp symbols counted, %d there", stats.KlpSymbols, len(m.klp))
				}
			})
		}
	}
}

func TestModuleReferences(t *testing.T) {
	k := identified(testKernel())
	helper := &elfdiff.Symbol{Name: "helper", Bind: elf.STB_LOCAL}
	p := modulePart(codeChunk("ext9_fix",
		elfdiff.Target{Symbol: &elfdiff.External{Name: "helper", Local: true, Defined: true, Original: helper}},
		external("ext9_shared", false, false), external("hidden", false, false), external("shown", false, false)))
	p.Places = proof.Places{helper: {Sympos: 2}}
	ko, _, err := Link(moduleSpec(k, p))
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, ko, k)
	want := []uint64{testModuleBase + 0x20, testModuleBase + 0x40, image + 0x600, image + 0x700}
	for i, w := range want {
		if got := callee(t, m, "ext9_fix", i); got != w {
			t.Errorf("call %d goes to %#x, want %#x", i, got, w)
		}
	}
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		t.Fatal(err)
	}
	if f.Section(".klp.rela.ext9..text") == nil || f.Section(".klp.rela.vmlinux..text") != nil {
		t.Error("module symbols are not in .klp.rela.ext9..text, or vmlinux's are not by distance")
	}
}

func TestHooksAreListed(t *testing.T) {
	k := testKernel()
	c := codeChunk("victim", external("__fentry__", false, false))
	fresh := codeChunk("fresh", external("shown", false, false), external("__fentry__", false, false))
	ko, stats, err := Link(vmlinuxSpec(k, part(c, fresh)))
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, ko, k)
	sites := m.section("__mcount_loc")
	if len(sites) != 16 || stats.Entries["__mcount_loc"] != 2 {
		t.Fatalf("__mcount_loc has %d bytes", len(sites))
	}
	for i, want := range []uint64{m.symbols["victim"], m.symbols["fresh"] + 8} {
		if got := binary.LittleEndian.Uint64(sites[8*i:]); got != want {
			t.Errorf("site %d is %#x, want the call at %#x", i, got, want)
		}
	}
}

// entry makes a table entry of 8 bytes for a function, whose second word refers to key.
func entry(section string, of *elfdiff.Chunk, key elfdiff.Target) *elfdiff.Chunk {
	return &elfdiff.Chunk{Section: section, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 8, EntSize: 12, Size: 12, Data: make([]byte, 12), Entry: of,
		Relocs: []elfdiff.Fixup{
			{Type: elf.R_X86_64_PC32, Target: elfdiff.Target{Chunk: of}},
			{Offset: 4, Type: elf.R_X86_64_PC64, Target: key},
		}}
}

func TestEntriesAreAdjacentAndByName(t *testing.T) {
	k := identified(testKernel())
	c := codeChunk("victim")
	ko, stats, err := Link(vmlinuxSpec(k, part(c, entry("__jump_table", c, external("datum", true, true)), entry("__jump_table", c, external("datum", true, true)))))
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, ko, k)
	if len(m.section("__jump_table")) != 24 || stats.Entries["__jump_table"] != 2 {
		t.Errorf("__jump_table has %d bytes, counted %d", len(m.section("__jump_table")), stats.Entries["__jump_table"])
	}
	if !slices.Contains(m.klp, ".klp.sym.vmlinux.datum,0") {
		t.Errorf("the key is not looked up by name: %v", m.klp)
	}
}

// TestEarlyReadersGoByName: what the kernel reads before init_module has compared
// the build id must not depend on distances.
func TestEarlyReadersGoByName(t *testing.T) {
	k := identified(testKernel())
	for name, tt := range map[string]struct {
		section string
		entry   bool
		want    bool
	}{
		"replacement":   {".altinstr_replacement", false, true},
		"unknown entry": {"__new_table", true, true},
		"data":          {".data", false, false},
	} {
		c, other := codeChunk("victim"), codeChunk("other", external("hidden", false, false))
		other.Section = tt.section
		if tt.entry {
			other.Entry = c
		}
		if tt.section == ".data" {
			other.Flags = elf.SHF_ALLOC | elf.SHF_WRITE
		}
		ko, stats, err := Link(vmlinuxSpec(k, part(c, other)))
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(load(t, ko, k).klp, ".klp.sym.vmlinux.hidden,0"); got != tt.want || stats.Distances == 0 == !tt.want {
			t.Errorf("%s: by name: %t, want %t; %d distances", name, got, tt.want, stats.Distances)
		}
	}
}

func TestModuleKeys(t *testing.T) {
	tests := map[string]struct {
		section string
		key     elfdiff.Target
		dropped bool
		class   elfdiff.Class
	}{
		"tracepoint":    {"__jump_table", external("__tracepoint_ext9", false, false), true, ""},
		"static call":   {".static_call_sites", external("__SCK__ext9", false, false), true, ""},
		"static branch": {"__jump_table", external("ext9_key", true, true), false, elfdiff.ClassJumpLabel},
		"alternative":   {".altinstructions", external("ext9_key", true, true), false, elfdiff.ClassSpecial},
		"vmlinux key":   {"__jump_table", external("hidden", false, false), false, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := codeChunk("ext9_fix")
			k := testKernel()
			ko, stats, err := Link(moduleSpec(k, modulePart(c, entry(tt.section, c, tt.key))))
			if tt.class != "" {
				refused, ok := errors.AsType[*elfdiff.RefusedError](err)
				if !ok || len(refused.Refusals) != 1 || refused.Refusals[0].Class != tt.class {
					t.Fatalf("got %v, want a refusal of class %s", err, tt.class)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := load(t, ko, k).section(tt.section) == nil; got != tt.dropped {
				t.Errorf("dropped: %t, want %t", got, tt.dropped)
			}
			if tt.dropped && len(stats.Notes) == 0 {
				t.Error("nothing notes what was dropped")
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	tests := map[string]struct {
		spec Spec
		why  string
	}{
		"unknown symbol":      {vmlinuxSpec(testKernel(), part(codeChunk("victim", external("absent", false, false)))), "absent"},
		"two of a name":       {vmlinuxSpec(testKernel(), part(codeChunk("victim", external("twice", true, true)))), "2 symbols"},
		"module from vmlinux": {vmlinuxSpec(testKernel(), part(codeChunk("victim", external("jbd9_start", false, false)))), "without that module"},
		"no dependency":       {moduleSpec(testKernel(), modulePart(codeChunk("ext9_fix", external("far_away", false, false)))), "does not depend"},
		"unknown function":    {vmlinuxSpec(testKernel(), part(codeChunk("absent"))), "absent"},
		"replaced twice":      {vmlinuxSpec(testKernel(), part(codeChunk("victim")), part(codeChunk("victim"))), "two objects"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := Link(tt.spec)
			refused, ok := errors.AsType[*elfdiff.RefusedError](err)
			if !ok || !strings.Contains(refused.Error(), tt.why) {
				t.Fatalf("got %v, want a refusal with %q", err, tt.why)
			}
			if r := refused.Refusals[0]; r.Class != elfdiff.ClassSymbol || r.Hint == "" {
				t.Errorf("refusal %+v", r)
			}
		})
	}
}

func TestSpecErrors(t *testing.T) {
	good := func() Spec { return vmlinuxSpec(testKernel(), part(codeChunk("victim"))) }
	for name, spoil := range map[string]func(*Spec){
		"bad name":       func(s *Spec) { s.Name = "a-b" },
		"long name":      func(s *Spec) { s.Name = strings.Repeat("m", 56) },
		"no vermagic":    func(s *Spec) { s.Kernel.Vermagic = "" },
		"no symbols":     func(s *Spec) { s.Kernel.Kallsyms = nil },
		"no functions":   func(s *Spec) { s.Targets[0].Parts = nil },
		"twice":          func(s *Spec) { s.Targets = append(s.Targets, s.Targets[0]) },
		"unknown module": func(s *Spec) { s.Targets[0].Object = "absent" },
		"no livepatch":   func(s *Spec) { s.Kernel.Sizes.KlpFunc = kernel.Layout{} },
		"short data":     func(s *Spec) { s.Targets[0].Parts[0].Diff.Chunks[0].Size = 99 },
		"init code":      func(s *Spec) { s.Targets[0].Parts[0].Diff.Chunks[0].Section = ".init.text" },
		"stray fixup": func(s *Spec) {
			s.Targets[0].Parts[0].Diff.Chunks[0].Relocs = []elfdiff.Fixup{{Offset: 1 << 40, Type: elf.R_X86_64_64, Target: external("shown", false, false)}}
		},
		"lost chunk": func(s *Spec) {
			s.Targets[0].Parts[0].Diff.Chunks[0].Data = make([]byte, 8)
			s.Targets[0].Parts[0].Diff.Chunks[0].Size = 8
			s.Targets[0].Parts[0].Diff.Chunks[0].Relocs = []elfdiff.Fixup{{Type: elf.R_X86_64_64, Target: elfdiff.Target{Chunk: codeChunk("lost")}}}
		},
	} {
		s := good()
		spoil(&s)
		if _, _, err := Link(s); err == nil {
			t.Errorf("%s: linked", name)
		}
	}
	if _, _, err := Link(good()); err != nil {
		t.Errorf("the unspoiled spec: %v", err)
	}
}

func TestNewGlobalsAreShared(t *testing.T) {
	k := identified(testKernel())
	fresh := codeChunk("fresh")
	fresh.Global = true
	replaced := codeChunk("hidden")
	replaced.Global = true
	spec := vmlinuxSpec(k, part(codeChunk("victim", external("fresh", false, false), external("hidden", false, false))), part(replaced, fresh))
	ko, _, err := Link(spec)
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, ko, k)
	if got := callee(t, m, "victim", 0); got != m.symbols["fresh"] {
		t.Errorf("the new function is called at %#x, want %#x", got, m.symbols["fresh"])
	}
	if got := callee(t, m, "victim", 1); got != image+0x600 {
		t.Errorf("the replaced function is called at %#x, want the original at %#x", got, image+0x600)
	}
}

// TestAnyLayout links random chunks that refer to each other and checks every
// byte and every reference after the load; and that linking again gives the same bytes.
func TestAnyLayout(t *testing.T) {
	k := identified(testKernel())
	sections := []string{".text", ".text.unlikely", ".rodata", ".data", ".bss"}
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(rt, "chunks")
		chunks := []*elfdiff.Chunk{codeChunk("victim")}
		for i := range n {
			c := codeChunk(fmt.Sprintf("c%d", i))
			c.Section = rapid.SampledFrom(sections).Draw(rt, "section")
			c.Align = 1 << rapid.IntRange(0, 6).Draw(rt, "align")
			c.Data = make([]byte, 8*rapid.IntRange(0, 5).Draw(rt, "words"))
			c.Function = strings.HasPrefix(c.Section, ".text")
			switch {
			case !c.Function && c.Section != ".rodata":
				c.Flags = elf.SHF_ALLOC | elf.SHF_WRITE
			case !c.Function:
				c.Flags = elf.SHF_ALLOC
			}
			c.Size = uint64(len(c.Data))
			if c.Section == ".bss" {
				c.Type, c.Data = elf.SHT_NOBITS, nil
			}
			chunks = append(chunks, c)
		}
		want := map[*elfdiff.Chunk][]elfdiff.Target{}
		for _, c := range chunks[1:] {
			for at := 0; at < len(c.Data); at += 8 {
				target := elfdiff.Target{Chunk: rapid.SampledFrom(chunks).Draw(rt, "target")}
				if rapid.Bool().Draw(rt, "external") {
					target = external(rapid.SampledFrom([]string{"shown", "hidden", "datum"}).Draw(rt, "name"), false, false)
					target.Symbol.Local = target.Symbol.Name == "datum"
					target.Symbol.Defined = target.Symbol.Local
				}
				c.Relocs = append(c.Relocs, elfdiff.Fixup{Offset: uint64(at), Type: elf.R_X86_64_64, Target: target, Addend: int64(at)})
				want[c] = append(want[c], target)
			}
		}
		spec := vmlinuxSpec(k, part(chunks...))
		ko, _, err := Link(spec)
		if err != nil {
			rt.Fatalf("link: %v", err)
		}
		again, _, err := Link(spec)
		if err != nil || !bytes.Equal(ko, again) {
			rt.Fatalf("linking again gives other bytes: %v", err)
		}
		m := load(rt, ko, k)
		addresses := map[string]uint64{"shown": image + 0x700, "hidden": image + 0x600, "datum": image + 0x800}
		for c, targets := range want {
			base := m.symbols[c.Name]
			if base%c.Align != 0 {
				rt.Fatalf("%s at %#x is not aligned to %d", c.Name, base, c.Align)
			}
			for i, target := range targets {
				to := uint64(0)
				if target.Chunk != nil {
					to = m.symbols[target.Chunk.Name]
				} else {
					to = addresses[target.Symbol.Name]
				}
				if got := m.word(rt, base+uint64(8*i)); got != to+uint64(8*i) {
					rt.Fatalf("%s+%d is %#x, want %#x", c.Name, 8*i, got, to+uint64(8*i))
				}
			}
		}
	})
}
