package elfdiff

import (
	"bytes"
	"debug/dwarf"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const fuzzSource = prelude + `
enum mode { OFF, ON = 5 }; union both { long l; struct { short s; unsigned bit:3; }; };
static struct state { enum mode mode; union both both; int (*op)(int); struct state *next; } state;
static int level = 3;
static noinline int helper(int a) { static int calls; calls++; WARN_ON(a > 3); return level + calls; }
int f(int a) { if (BRANCH(&level)) BUG(); LOCK; STATIC_CALL(hook); ALTERNATIVE("mfence; nop; nop", "call sink", 7); state.mode = ON; return helper(printk(__func__)) + a; }
int (*ops[])(int) = { helper, f };
__attribute__((section(".init.text"))) int boot(void) { return helper(1); }
`

// fuzzStatements are what afloat-patch.h makes of an author's statements.
const fuzzStatements = `
static int begin(void *o) { return helper(2); }
static void *const set_7[4] __attribute__((used, section(".afloat.callbacks"))) = { begin, 0, 0, begin };
static const unsigned long state_8[2] __attribute__((used, section(".afloat.states"))) = { 0xaf, 3 };
static const char note_9[] __attribute__((used, section(".afloat.notes"))) = "ignore function\0boot\0why";
`

// seeds compiles a small object, without debug information to keep it small, and one beside it that differs.
func seeds(f testing.TB, flags ...string) (orig, patched []byte) {
	f.Helper()
	var out [2][]byte
	changed := strings.NewReplacer("+ a;", "+ a * 3;", "helper(1)", "helper(2)").Replace(fuzzSource)
	for i, source := range []string{fuzzSource, changed + "int g(int a) { return f(a) * 5; }" + fuzzStatements} {
		dir := f.TempDir()
		path := filepath.Join(dir, "unit.c")
		if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
			f.Fatal(err)
		}
		cmd := exec.Command("gcc", slices.Concat(kernelFlags, []string{"-g0"}, flags, []string{"-c", "unit.c", "-o", "unit.o"})...)
		cmd.Dir = dir
		if msg, err := cmd.CombinedOutput(); err != nil {
			f.Skipf("gcc: %v %s", err, msg)
		}
		object, err := os.ReadFile(filepath.Join(dir, "unit.o"))
		if err != nil {
			f.Fatal(err)
		}
		out[i] = object
	}
	return out[0], out[1]
}

func FuzzRead(f *testing.F) {
	orig, patched := seeds(f)
	f.Add(orig)
	f.Add(patched)
	f.Add(orig[:len(orig)/2])
	f.Fuzz(func(t *testing.T, file []byte) {
		o, err := Read(bytes.NewReader(file))
		if (o == nil) == (err == nil) {
			t.Fatalf("object %v, error %v", o != nil, err)
		}
		if err != nil {
			return
		}
		for _, s := range o.Sections {
			for _, r := range s.Relocs {
				if r.Symbol == nil || r.Offset+Width(r.Type) > s.Size {
					t.Fatalf("section %s: relocation at %#x", s.Name, r.Offset)
				}
			}
			if len(s.Symbols) > 0 {
				o.declared(s.Symbols[0])
			}
		}
	})
}

func FuzzCompare(f *testing.F) {
	orig, patched := seeds(f)
	f.Add(orig, patched)
	f.Add(patched, orig)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		o, err := Read(bytes.NewReader(a))
		if err != nil {
			return
		}
		p, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		d, err := Compare(o, p, Options{BuiltIn: true})
		if err != nil {
			return
		}
		SettleBoot([]*Diff{d, d})
		if len(d.Refusals) == 0 {
			checkChunks(t, d)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x48, 0x8b, 0x05, 0, 0, 0, 0})
	f.Add([]byte{0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1})
	f.Fuzz(func(t *testing.T, code []byte) {
		insn, err := decode(code)
		if err == nil && (insn.size < 1 || insn.size > len(code) || insn.size > 15 || insn.imm+insn.immSize > insn.size) {
			t.Fatalf("% x: %+v", code, insn)
		}
	})
}

// The line table is read only for objects that hold one.
func FuzzLines(f *testing.F) {
	orig, patched := seeds(f, "-g")
	f.Add(orig)
	f.Add(patched)
	f.Fuzz(func(t *testing.T, file []byte) {
		o, err := Read(bytes.NewReader(file))
		if err != nil {
			return
		}
		for _, s := range o.Sections {
			last := uint64(0)
			for _, l := range o.linesOf(s) {
				if l.offset < last {
					t.Fatalf("section %s: line at %#x after %#x", s.Name, l.offset, last)
				}
				last = l.offset
			}
		}
	})
}

func FuzzCompareTypes(f *testing.F) {
	orig, patched := seeds(f, "-g")
	f.Add(orig, patched)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		refusals, _, err := CompareTypes(bytes.NewReader(a), bytes.NewReader(b))
		if err != nil && refusals != nil {
			t.Fatalf("%v and refusals", err)
		}
		for _, r := range refusals {
			if r.Symbol == "" || r.Why == "" || r.Hint == "" {
				t.Errorf("refusal does not explain itself: %+v", r)
			}
		}
	})
}

// The debug information itself, without the ELF file around it.
func FuzzDWARF(f *testing.F) {
	orig, _ := seeds(f, "-g", "-gdwarf-4")
	o, err := elf.NewFile(bytes.NewReader(orig))
	if err != nil {
		f.Fatal(err)
	}
	section := func(name string) []byte {
		data, err := o.Section(name).Data()
		if err != nil {
			f.Fatal(err)
		}
		return data
	}
	f.Add(section(".debug_abbrev"), section(".debug_info"), section(".debug_line"), section(".debug_str"))
	f.Fuzz(func(t *testing.T, abbrev, info, line, str []byte) {
		d, err := dwarf.New(abbrev, nil, nil, info, line, nil, nil, str)
		if err != nil {
			return
		}
		types, err := typesIn(&debugInfo{data: d, line: lineSection{data: line}, most: len(info)})
		if err != nil {
			return
		}
		for name, s := range types {
			if !s.equal(s) {
				t.Errorf("%s differs from itself", name)
			}
		}
	})
}

// A special section of any content: an object does not differ from itself.
func FuzzSpecial(f *testing.F) {
	for i := range tables() {
		f.Add(byte(i), make([]byte, 48), []byte{0, 2, 0, 0, 4, 2, 1, 8, 12, 2, 0, 16, 16, 2, 1, 0, 24, 2, 0, 4, 28, 2, 1, 8})
	}
	f.Fuzz(func(t *testing.T, which byte, data, relocs []byte) {
		file := specialObject(tables()[int(which)%len(tables())].name, data, relocs)
		d, err := Compare(file(), file(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Changed)+len(d.New) > 0 {
			t.Errorf("changed %v, new %v", names(d.Changed), names(d.New))
		}
	})
}

// specialObject makes an object of one function, replacement code and a special
// section; of relocs, each four bytes are offset, type, target and addend.
func specialObject(name string, data, relocs []byte) func() *Object {
	return func() *Object {
		relocs := relocs
		code := &Section{Index: 1, Name: ".text.f", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16,
			Size: 64, Data: bytes.Repeat([]byte{0x90}, 64)}
		more := &Section{Index: 2, Name: ".altinstr_replacement", Type: elf.SHT_PROGBITS, Flags: code.Flags, Align: 1, Size: 16, Data: code.Data[:16]}
		special := &Section{Index: 3, Name: name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 4, Size: uint64(len(data)), Data: data}
		records := &Section{Index: 4, Name: ".orc_unwind", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1, Size: 24, Data: make([]byte, 24)}
		o := &Object{Sections: []*Section{{}, code, more, special, records}, Groups: map[string][]*Section{}}
		fn := &Symbol{Name: "f", Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: code, Index: 1, Size: 64}
		code.Symbols = []*Symbol{fn}
		o.Symbols = []*Symbol{{}, fn, {Name: ".altinstr_replacement", Type: elf.STT_SECTION, Section: more, Index: 2}, {Name: "outside", Bind: elf.STB_GLOBAL}}
		for ; len(relocs) >= 4; relocs = relocs[4:] {
			r := Reloc{Offset: uint64(relocs[0]), Type: elf.R_X86_64(relocs[1]), Symbol: o.Symbols[1+int(relocs[2])%3], Addend: int64(int8(relocs[3]))}
			if w := Width(r.Type); w > 0 && r.Offset+w <= special.Size {
				special.Relocs = append(special.Relocs, r)
			}
		}
		slices.SortStableFunc(special.Relocs, func(a, b Reloc) int { return int(a.Offset) - int(b.Offset) })
		for _, s := range o.Sections {
			s.kind = kindOf(s)
		}
		return o
	}
}
