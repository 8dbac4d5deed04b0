package elfdiff

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What only some of the kernels from 5.10 to 6.18 have in their objects.

// bugTable has two entries, whose fields count from BASE.
const bugTable = `
#define BUG_AT(base) asm volatile("1: ud2\n.pushsection __bug_table,\"aw\"\n2: .long 1b - 2b\n.long %c0 - " base "\n.word %c1\n.word 0\n.org 2b+12\n.popsection" \
	:: "i" (__FILE__), "i" (__LINE__))
int f(int a) { if (a == 7) BUG_AT("BASE");
if (a == 9) BUG_AT("BASE"); return a + 1; }
`

func TestBugTableOfOldKernels(t *testing.T) {
	for base, addend := range map[string]int64{"2b": 4, ".": 0} {
		t.Run(base, func(t *testing.T) {
			source := strings.ReplaceAll(bugTable, "BASE", base)
			d := diff(t, source, strings.Replace(source, "a + 1", "a + 3", 1))
			if len(d.Refusals) > 0 || d.Special["__bug_table"] != 2 {
				t.Fatalf("refused %v, special %v", d.Refusals, d.Special)
			}
			for _, c := range chunksIn(d, "__bug_table") {
				file := c.Relocs[1]
				if c.Size != 12 || file.Target.Chunk == nil || string(file.Target.Chunk.Data) != "unit.c\x00" || file.Addend != addend {
					t.Errorf("entry of %d bytes with the file %+v, want unit.c and %d", c.Size, file, addend)
				}
			}
		})
	}
}

func TestLastParavirtEntryIsShort(t *testing.T) {
	source := `
#define CALL(type) asm volatile("771: call *ops+" #type "(%%rip)\n772:\n.pushsection .parainstructions,\"a\"\n.balign 8\n.quad 771b\n.byte " #type "\n.byte 772b-771b\n.short 1\n.popsection" ::: "memory")
extern char ops[];
int f(int a) { CALL(8); CALL(16); return a + 1; }`
	d := diff(t, source, strings.Replace(source, "a + 1", "a + 3", 1))
	if len(d.Refusals) > 0 || d.Special[".parainstructions"] != 2 {
		t.Fatalf("refused %v, special %v", d.Refusals, d.Special)
	}
	for _, c := range chunksIn(d, ".parainstructions") {
		if c.Size != 16 || len(c.Data) != 16 || !slices.Contains([]byte{8, 16}, c.Data[8]) {
			t.Errorf("entry of %d bytes: % x", c.Size, c.Data)
		}
	}
	// What is not the padding alone is a damaged table.
	o := read(t, compile(t, source))
	for _, s := range o.Sections {
		if s.Name == ".parainstructions" {
			if n, whole := tableNamed(s.Name).count(&Section{Size: s.Size - 5, Align: s.Align}, 16); whole {
				t.Errorf("%d bytes pass for %d entries", s.Size-5, n)
			}
		}
	}
}

func tableNamed(name string) table {
	return tables()[slices.IndexFunc(tables(), func(t table) bool { return t.name == name })]
}

func chunksIn(d *Diff, section string) []*Chunk {
	return slices.DeleteFunc(slices.Clone(d.Chunks), func(c *Chunk) bool { return c.Section != section })
}

func TestSanitizerData(t *testing.T) {
	compileIt := func(source string) *Object {
		return read(t, compileWith(t, "gcc", source, append(slices.Clone(kernelFlags), "-fsanitize=bounds,shift")...))
	}
	source := "static int table[8];\n/*n*/ int f(int i) { return table[i] + 1; }\nint g(int i) { return 3 << table[i]; }"
	compare := func(old, with string) *Diff {
		d, err := Compare(compileIt(source), compileIt(strings.Replace(source, old, with, 1)), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := compare("/*n*/", "\n\n\n     "); !d.Empty() {
		t.Errorf("lines and columns that move: changed %v, refused %v", names(d.Changed), d.Refusals)
	}
	d := compare("+ 1", "+ 3")
	if len(d.Refusals) > 0 {
		t.Fatal(d.Refusals)
	}
	sameNames(t, "changed", names(d.Changed), []string{"f"})
	places, types := 0, 0
	for _, c := range chunksIn(d, ".data") {
		switch {
		case len(c.Relocs) == 3: // file, and the types of array and index
			places++
		case bytes.Contains(c.Data, []byte("'int [8]'")), bytes.Contains(c.Data, []byte("'int'")):
			types++
		}
	}
	if places != 1 || types != 2 {
		t.Errorf("%d places and %d types come along, want 1 and 2", places, types)
	}
	// What is not the line makes a difference: another bound.
	if d := compare("[8]", "[9]"); d.Empty() {
		t.Error("another bound is no change")
	}
}

const runtimeConst = `
#define runtime_const_ptr(sym) ({ unsigned long __ret; asm("mov %1,%0\n1:\n.pushsection runtime_ptr_" #sym ",\"a\"\n\t.long 1b - 8 - .\n.popsection" \
	:"=r" (__ret) :"i" (0x0123456789abcdeful)); __ret; })
#define runtime_const_shift(val, sym) ({ unsigned __ret = (val); asm("shrl $12,%k0\n1:\n.pushsection runtime_shift_" #sym ",\"a\"\n\t.long 1b - 1 - .\n.popsection" \
	:"+r" (__ret)); __ret; })
static unsigned long hashtable; void set(unsigned long to) { hashtable = to; }
int f(unsigned long a) { return a < runtime_const_ptr(LIMIT) ? 1 : 2; }
int g(unsigned a) { return a + runtime_const_shift(a, hash_shift); }
int h(unsigned long a) { return (runtime_const_ptr(LIMIT) ^ runtime_const_ptr(hashtable)) + a; }
`

func TestRuntimeConstants(t *testing.T) {
	if d := diff(t, runtimeConst, "\n\n"+runtimeConst); !d.Empty() {
		t.Errorf("nothing but lines: changed %v, refused %v", names(d.Changed), d.Refusals)
	}
	for name, tt := range map[string]struct {
		old, with string
		changed   string
		loads     []string
		refused   string
	}{
		"a variable of another object":     {"? 1 : 2", "? 1 : 3", "f", []string{"LIMIT"}, ""},
		"and one of its own":               {"+ a; }\n", "+ a + a; }\n", "h", []string{"LIMIT", "hashtable"}, ""},
		"a shift":                          {"a + runtime", "3 * a + runtime", "", nil, "hash_shift"},
		"the same code, another variable":  {"a < runtime_const_ptr(LIMIT)", "a < runtime_const_ptr(hashtable)", "f", []string{"hashtable"}, ""},
		"a use of a shift that is removed": {"a + runtime_const_shift(a, hash_shift)", "a", "g", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(runtimeConst, tt.old) == 0 {
				t.Fatal("nothing to change")
			}
			at := strings.LastIndex(runtimeConst, tt.old)
			d := diff(t, runtimeConst, runtimeConst[:at]+tt.with+runtimeConst[at+len(tt.old):])
			if tt.refused != "" {
				if len(d.Refusals) != 1 || d.Refusals[0].Class != ClassSpecial || !strings.Contains(d.Refusals[0].Why, tt.refused) {
					t.Fatalf("refused %v", d.Refusals)
				}
				return
			}
			if len(d.Refusals) > 0 || len(d.Changed) != 1 || d.Changed[0].Name != tt.changed {
				t.Fatalf("changed %v, refused %v", names(d.Changed), d.Refusals)
			}
			if got := loaded(t, d.Changed[0].Code); !slices.Equal(got, tt.loads) {
				t.Errorf("it reads %v, want %v", got, tt.loads)
			}
			if bytes.Contains(d.Changed[0].Code.Data, []byte{0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01}) {
				t.Error("the value that boot should have written is still to be written")
			}
		})
	}
}

// loaded lists the variables that code moves into registers from memory, sorted.
func loaded(t *testing.T, c *Chunk) []string {
	var out []string
	for _, r := range c.Relocs {
		if r.Type != elf.R_X86_64_PC32 || c.Data[r.Offset-2] != 0x8b {
			continue
		}
		if r.Target.Symbol == nil || r.Addend != -4 {
			t.Fatalf("it reads %+v", r)
		}
		out = append(out, r.Target.Symbol.Name)
	}
	slices.Sort(out)
	return out
}

// Whatever register the compiler chose, the assembler agrees on the instruction.
func TestLoadVariable(t *testing.T) {
	for _, reg := range []string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"} {
		source := fmt.Sprintf(`asm(".section .from,\"ax\"\nmovabs $0x0123456789abcdef, %%%s\n.section .to,\"ax\"\nmovq 0(%%rip), %%%s\nnopl (%%rax)");`, reg, reg)
		sections := map[string][]byte{}
		for _, s := range read(t, compile(t, source)).Sections {
			sections[s.Name] = s.Data
		}
		code := bytes.Clone(sections[".from"])
		field, ok := loadVariable(code, constant{off: 2, section: "runtime_ptr_X", variable: "X"})
		if !ok || field != 3 || !bytes.Equal(code, sections[".to"]) {
			t.Errorf("%s: %v, field at %d, % x, want % x", reg, ok, field, code, sections[".to"])
		}
		for _, c := range []constant{{off: 1}, {off: 3}, {off: 9}} {
			c.section = "runtime_ptr_X"
			if _, ok := loadVariable(bytes.Clone(sections[".from"]), c); ok {
				t.Errorf("%s: an immediate at %d", reg, c.off)
			}
		}
	}
}

// One object cannot tell what others reach by a pointer: nothing is closed to it.
func TestFunctionsStayOpen(t *testing.T) {
	source := `int f(int a) { return a + 1; } asm(".pushsection .ibt_endbr_seal,\"a\"\n.long f - .\n.popsection");`
	d := diff(t, source, strings.Replace(source, "+ 1", "+ 3", 1))
	if len(d.Refusals) > 0 || len(chunksIn(d, ".ibt_endbr_seal")) > 0 {
		t.Errorf("refused %v, %v", d.Refusals, d.Special)
	}
	if d := diff(t, source, strings.Split(source, " asm")[0]); !d.Empty() {
		t.Errorf("changed %v, refused %v: the code is the same", names(d.Changed), d.Refusals)
	}
}

// A jump past the function's end leaves it, whether or not something there has a name.
func TestJumpIntoUnnamedCode(t *testing.T) {
	source := `int f(int a) { return a + 1; }`
	beside := `asm(".pushsection .text\n.type beside, @function\nbeside: xor %eax, %eax\njmp 1f\n.size beside, . - beside\n1: ret\nint3\n.popsection");
extern int beside(void); int f(int a) { return a + beside(); }`
	d := diff(t, source, beside)
	if len(d.Refusals) != 1 || d.Refusals[0].Class != ClassAssembly || d.Refusals[0].Symbol != "beside" {
		t.Errorf("refused %v", d.Refusals)
	}
	if d := diff(t, source, strings.Replace(beside, "jmp 1f", "ret", 1)); len(d.Refusals) > 0 {
		t.Errorf("refused %v, though nothing leaves it", d.Refusals)
	}
}
