package elfdiff

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// kernelFlags are the ones of the kernel's that shape the objects.
var kernelFlags = []string{
	"-O2", "-g", "-std=gnu11", "-nostdinc", "-fno-PIE", "-mcmodel=kernel", "-mno-red-zone", "-fno-asynchronous-unwind-tables",
	"-fcf-protection=none", "-fno-common", "-fno-strict-aliasing", "-fno-jump-tables", "-fno-stack-protector", "-w",
	"-ffunction-sections", "-fdata-sections", "-pg", "-mfentry", "-mrecord-mcount",
}

// compile returns the object that gcc makes of a C source.
func compile(t testing.TB, source string) []byte {
	t.Helper()
	return compileWith(t, "gcc", source, kernelFlags...)
}

func compileWith(t testing.TB, compiler, source string, flags ...string) []byte {
	t.Helper()
	path, err := exec.LookPath(compiler)
	if err != nil {
		t.Skip("no " + compiler)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "unit.c"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, append(slices.Clone(flags), "-c", "unit.c", "-o", "unit.o")...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", compiler, err, out)
	}
	object, err := os.ReadFile(filepath.Join(dir, "unit.o"))
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func read(t *testing.T, object []byte) *Object {
	t.Helper()
	o, err := Read(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func diff(t *testing.T, orig, patched string) *Diff {
	t.Helper()
	d, err := Compare(read(t, compile(t, orig)), read(t, compile(t, patched)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const prelude = `
extern int printk(const char *, ...);
extern void sink(void *);
extern void warn_at(const char *file, int line);
#define noinline __attribute__((noinline))
#define notrace __attribute__((no_instrument_function))
#define WARN_ON(c) do { if (__builtin_expect(!!(c), 0)) warn_at(__FILE__, __LINE__); } while (0)
#define BUG() asm volatile("1: ud2\n.pushsection __bug_table,\"aw\"\n2: .long 1b - 2b\n.long %c0 - 2b\n.word %c1\n.word 0\n.org 2b+12\n.popsection" \
	:: "i" (__FILE__), "i" (__LINE__))
#define EXTABLE(type) asm volatile("1: mov (%rdi), %rax\n2:\n.pushsection __ex_table,\"a\"\n.balign 4\n.long 1b - .\n.long 2b - .\n.long " #type "\n.popsection")
#define BRANCH(key) ({ asm goto("1: .byte 0x0f,0x1f,0x44,0,0\n.pushsection __jump_table,\"aw\"\n.balign 8\n.long 1b - ., %l[yes] - .\n.quad %c0 - .\n.popsection" \
	:: "i" (key) :: yes); 0; yes: 1; })
#define ALTERNATIVE(old, new, cpuid) asm volatile("1: " old "\n2:\n.pushsection .altinstructions,\"a\"\n.long 1b - ., 3f - .\n.word " #cpuid \
	"\n.byte 2b-1b, 4f-3f\n.popsection\n.pushsection .altinstr_replacement,\"ax\"\n3: " new "\n4:\n.popsection" ::: "memory")
#define HAS(cpuid) ({ asm goto("1: jmp 6f\n2:\n.pushsection .altinstructions,\"a\"\n.long 1b - ., 3f - .\n.word " #cpuid \
	"\n.byte 2b-1b, 4f-3f\n.popsection\n.pushsection .altinstr_replacement,\"ax\"\n3: jmp %l[no]\n4:\n.popsection\n" \
	".pushsection .altinstr_aux,\"ax\"\n6: testb $1, features+" #cpuid "(%%rip)\njnz %l[yes]\njmp %l[no]\n.popsection" :::: yes, no); \
	yes: 1; no: 0; })
#define LOCK asm volatile("1: lock incl counter(%%rip)\n.pushsection .smp_locks,\"a\"\n.balign 4\n.long 1b - .\n.popsection" ::: "memory")
#define STATIC_CALL(name) asm volatile("1: call __SCT__" #name "\n.pushsection .static_call_sites,\"aw\"\n.balign 4\n.long 1b - ., __SCK__" #name " - . + 2\n.popsection")
extern char features[]; extern int counter;
`

// cases change old to new in source.
var cases = []struct {
	name             string
	source, old, new string

	changed, added, data []string
	externals            []string // that must be among the Diff's
	special              map[string]int
	refused              []Class
	empty                bool
}{
	{
		name:   "nothing",
		source: `int f(int a) { return a + 1; }`,
		empty:  true,
	},
	{
		name:   "a constant",
		source: `int f(int a) { return a * 35; } int g(int a) { return a * 35; }`,
		old:    "35", new: "37", changed: []string{"f"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name:   "a string literal",
		source: `int f(void) { return printk("one two three"); }`,
		old:    "two", new: "TWO", changed: []string{"f"}, externals: []string{"printk"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name:   "lines move",
		source: "int f(int a) { WARN_ON(a > 4); return printk(\"x\"); }\nint g(int a) { if (a) BUG(); return a; }",
		old:    "int f", new: "\n\n\n\nint f", empty: true,
	},
	{
		name:   "a number that is no line",
		source: `int f(int a) { if (a) warn_at("x", 5000); return printk("x"); }`,
		old:    "5000", new: "5004", changed: []string{"f"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name:   "new function and data",
		source: `/*n*/ int f(int a) { /*c*/ return printk("f") + a; }`,
		old:    "/*n*/", new: `static int level = 7; static noinline int helper(int a) { level += a; return level; }`,
		empty: true,
	},
	{
		name:   "static function that exists",
		source: `static noinline int helper(int a) { return printk("%d", a); } int f(int a) { return helper(a) * 3; }`,
		old:    "* 3", new: "* 7", changed: []string{"f"}, externals: []string{"helper"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name:   "static variable keeps its state",
		source: `int f(void) { static int count = 3; count++; return printk("%d", count) + 1; }`,
		old:    "+ 1", new: "+ 2", changed: []string{"f"}, externals: []string{"count.0"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name: "static variables change places",
		source: `/*n*/ int f(void) { static int count = 3; count++; return printk("f%d", count) + 1; }
			int g(void) { static int count = 4; count++; return printk("g%d", count) + 1; }`,
		old: "/*n*/", new: `int h(void) { static int count = 9; return ++count; }`,
		added: []string{"h"}, data: []string{"count"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name:   "names of functions are copied",
		source: `int f(int a) { return printk(__func__) + a; }`,
		old:    "+ a", new: "- a", changed: []string{"f"}, data: []string{"__func__"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name: "messages are copied, not paired by place",
		source: `#define MSG(text) ({ static const char __msg[] = text; sink((void *)__msg); })
			int f(int a) { if (a == 1) MSG("too few"); if (a == 2) MSG("many"); return a; }`,
		old: `if (a == 1) MSG("too few");`, new: `if (a == 1) MSG("far too few"); if (a == 3) MSG("three");`,
		changed: []string{"f"}, data: []string{"__msg", "__msg", "__msg"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name:   "stored pointer to a replaced function is the original",
		source: `static noinline int cb(int a) { return printk("a") + a; } int f(void) { sink(cb); return 0; } int g(int a) { return cb(a); }`,
		old:    `"a"`, new: `"b"`, changed: []string{"cb"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name:   "cold part goes with its function",
		source: `extern void die(int) __attribute__((cold, noreturn)); int f(int a) { if (a > 3) { printk("bad %d", a); die(a); } return a + 1; }`,
		old:    "a + 1", new: "a + 2", changed: []string{"f"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name:   "exception table",
		source: `int f(long *p) { EXTABLE(1); return 0; }`,
		old:    "EXTABLE(1)", new: "EXTABLE(3)", changed: []string{"f"}, special: map[string]int{"__mcount_loc": 1, "__ex_table": 1},
	},
	{
		name:   "key of a static branch",
		source: `long a[2], b[2]; int f(void) { if (BRANCH(&a)) return printk("y"); return 0; }`,
		old:    "BRANCH(&a)", new: "BRANCH(&b)", changed: []string{"f"}, externals: []string{"b"},
		special: map[string]int{"__mcount_loc": 1, "__jump_table": 1},
	},
	{
		name:   "bug table",
		source: `int f(int a) { if (a > 7) BUG(); return a; }`,
		old:    "a > 7", new: "a > 9", changed: []string{"f"}, special: map[string]int{"__mcount_loc": 1, "__bug_table": 1},
	},
	{
		name:   "alternatives",
		source: `int f(int a) { ALTERNATIVE("mfence; nop; nop", "call helper", 7); return a; }`,
		old:    ", 7)", new: ", 9)", changed: []string{"f"}, externals: []string{"helper"},
		special: map[string]int{"__mcount_loc": 1, ".altinstructions": 1},
	},
	{
		name:   "code of an alternative",
		source: `int f(int a) { ALTERNATIVE("mfence; nop; nop", "call helper", 7); return a; }`,
		old:    "call helper", new: "call other", changed: []string{"f"}, externals: []string{"other"},
		special: map[string]int{"__mcount_loc": 1, ".altinstructions": 1},
	},
	{
		name:   "code beside the code", // the block in .altinstr_aux jumps back into its function
		source: `int f(int a) { if (HAS(3)) return printk("y"); return a * 35; } int g(int a) { if (HAS(4)) return printk("z"); return a; }`,
		old:    "35", new: "39", changed: []string{"f"}, externals: []string{"features"},
		special: map[string]int{"__mcount_loc": 1, ".altinstructions": 1},
	},
	{
		name:   "locks and static calls",
		source: `int f(int a) { LOCK; STATIC_CALL(hook); LOCK; return a * 35; } int g(int a) { LOCK; return a; }`,
		old:    "35", new: "39", changed: []string{"f"}, externals: []string{"__SCK__hook", "__SCT__hook", "counter"},
		special: map[string]int{"__mcount_loc": 1, ".smp_locks": 2, ".static_call_sites": 1},
	},
	{
		name:   "key of a static call", // the code calls the same trampoline
		source: `int f(int a) { asm volatile("1: call __SCT__a\n.pushsection .static_call_sites,\"aw\"\n.balign 4\n.long 1b - ., __SCK__a - .\n.popsection"); return a; }`,
		old:    "__SCK__a", new: "__SCK__b", changed: []string{"f"}, externals: []string{"__SCK__b"},
		special: map[string]int{"__mcount_loc": 1, ".static_call_sites": 1},
	},
	{
		name: "padding before functions",
		source: `asm(".section .text.f,\"ax\"\n.globl f\n.balign 16\n.type __pfx_f,@function\n__pfx_f: .fill 16,1,0x90\n.size __pfx_f,16\n"
			".type f,@function\nf: endbr64\n1: call __fentry__\nmov $35, %eax\nret\n.size f,.-f\n"
			".section __mcount_loc,\"a\"\n.quad 1b\n.text");`,
		old: "$35", new: "$37", changed: []string{"f"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name:   "new static call",
		source: `int f(int a) { return a * 35; } /*n*/`,
		old:    "int f(int a) { return a * 35; } /*n*/",
		new: `asm(".section .static_call.text,\"ax\"\n.type __SCT__n,@function\n__SCT__n: ret; nop; nop; nop; nop\n.size __SCT__n,.-__SCT__n\n.text");
			int f(int a) { asm volatile("call __SCT__n"); return a * 35; }`,
		refused: []Class{ClassStaticCall},
	},
	{
		name: "sharing a section", // the assembler resolves the call between them
		source: `#define S __attribute__((section(".sched.text")))
			S noinline static int inner(int a) { return printk("i") + a; } S int f(int a) { return inner(a) * 3; }`,
		old: "* 3", new: "* 5", changed: []string{"f"}, externals: []string{"inner"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name:   "init code",
		source: `__attribute__((section(".init.text"))) int f(void) { return printk("boot"); }`,
		old:    "boot", new: "BOOT", refused: []Class{ClassInit},
	},
	{
		name:   "initial value of a variable",
		source: `int level = 3; int f(void) { return level; }`,
		old:    "3", new: "4", refused: []Class{ClassData},
	},
	{
		name:   "initial value of a constant table",
		source: `static int a(int x) { return x; } static int b(int x) { return -x; } struct { int (*op)(int); } ops = { a }; void f(void) { sink(b); }`,
		old:    "{ a }", new: "{ b }", refused: []Class{ClassData},
	},
	{
		name:   "size of a variable",
		source: `long state[4]; void f(void) { sink(state); }`,
		old:    "[4]", new: "[5]", refused: []Class{ClassData},
	},
	{
		name:   "function that cannot be traced",
		source: `notrace int f(void) { return printk("a"); }`,
		old:    `"a"`, new: `"b"`, refused: []Class{ClassNoHook},
	},
	{
		name: "function that cannot be traced, called here only",
		source: `notrace static noinline int inner(int a) { return printk("a") + a; } notrace static noinline int middle(int a) { return inner(a) * 3; }
			int f(int a) { return middle(a) + 1; } int g(int a) { return inner(a) + 2; } int h(int a) { return a; }`,
		old: `"a"`, new: `"b"`, changed: []string{"f", "g"}, added: []string{"inner", "middle"}, special: map[string]int{"__mcount_loc": 2},
	},
	{
		name:   "function that cannot be traced, with a stored pointer",
		source: `notrace static int inner(int a) { return printk("a") + a; } int (*hook)(int) = inner;`,
		old:    `"a"`, new: `"b"`, refused: []Class{ClassNoHook},
	},
	{
		name:   "a section that is not known",
		source: `__attribute__((section("mystery"), used)) int magic = 3; int f(void) { return 1; }`,
		old:    "magic = 3", new: "magic = 4", refused: []Class{ClassSection},
	},
	{
		name:   "a new initcall",
		source: `/*n*/ int f(void) { return 1; }`,
		old:    "/*n*/", new: `static int boot(void) { return 0; } __attribute__((section(".initcall6.init"), used)) void *call = boot;`,
		refused: []Class{ClassInit},
	},
	{
		name:   "a new export",
		source: `/*n*/ int f(void) { return 1; }`,
		old:    "/*n*/", new: `extern int f(void); __attribute__((section("___ksymtab+f"), used)) void *exported = f;`,
		refused: []Class{ClassExport},
	},
	{
		name:   "an export goes away",
		source: `int f(void) { return 1; } __attribute__((section("___ksymtab+f"), used)) void *exported = f;`,
		old:    `__attribute__((section("___ksymtab+f"), used)) void *exported = f;`, new: "", empty: true,
	},
	{
		name:   "a static variable whose uses contradict",
		source: `int f(void) { static int count; return ++count; } int g(void) { static int count; count += 2; return count; }`,
		old:    "return ++count", new: "static long other; { static int count; ++count; } return ++count",
		refused: []Class{ClassStaticLocal},
	},
	{
		name: "a function of a section group",
		source: `asm(".section .text.shared,\"axG\",@progbits,shared,comdat\n.weak shared\n.type shared,@function\nshared: call __fentry__\nmov $35, %eax\nret\n"
			".size shared,.-shared\n.text"); int f(int a) { return a; }`,
		old: "$35", new: "$37", refused: []Class{ClassGroup},
	},
	{
		name: "the index of messages", // what the index points at stays the running kernel's
		source: `struct pi_entry { const char *fmt, *func, *file; unsigned line; };
			#define pr(text) ({ static struct pi_entry _entry __attribute__((used)) = { text, __func__, __FILE__, __LINE__ }; \
				static struct pi_entry *_entry_ptr __attribute__((used, section(".printk_index"))) = &_entry; printk(text); })
			int f(int a) { return pr("one two") + a; } int g(int a) { return pr("three") + a; }`,
		old: "one two", new: "one TWO", changed: []string{"f"}, special: map[string]int{"__mcount_loc": 1},
	},
	{
		name:   "a section group",
		source: `/*n*/ int f(void) { return 1; }`,
		old:    "/*n*/", new: `asm(".section .text.shared,\"axG\",@progbits,shared,comdat\n.byte 0x90\n.text");`,
		refused: []Class{ClassAssembly, ClassGroup},
	},
}

func TestCompare(t *testing.T) {
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			patched := strings.Replace(tt.source, tt.old, tt.new, 1)
			if tt.old != "" && patched == tt.source {
				t.Fatalf("%q is not in the source", tt.old)
			}
			d := diff(t, prelude+tt.source, prelude+patched)
			var classes []Class
			for _, r := range d.Refusals {
				classes = append(classes, r.Class)
				if r.Why == "" || r.Hint == "" || r.Symbol == "" && r.Section == "" {
					t.Errorf("refusal does not explain itself: %+v", r)
				}
			}
			if got := slices.Compact(classes); !slices.Equal(got, tt.refused) {
				t.Fatalf("refused %v, want %v", d.Refusals, tt.refused)
			}
			if len(tt.refused) > 0 {
				return
			}
			if d.Empty() != tt.empty {
				t.Errorf("empty is %v", d.Empty())
			}
			sameNames(t, "changed", names(d.Changed), tt.changed)
			sameNames(t, "new", names(d.New), tt.added)
			sameNames(t, "data", dataNames(d.Data), tt.data)
			if tt.special == nil {
				tt.special = map[string]int{}
			}
			if what := cmp.Diff(tt.special, d.Special); what != "" {
				t.Errorf("special sections:\n%s", what)
			}
			for _, want := range tt.externals {
				if !slices.ContainsFunc(d.Externals, func(e *External) bool { return e.Name == want }) {
					t.Errorf("%s is not referred to", want)
				}
			}
			checkChunks(t, d)
		})
	}
}

func names(list []Func) (out []string) {
	for _, f := range list {
		out = append(out, f.Name)
	}
	return out
}

func dataNames(list []Datum) (out []string) {
	for _, v := range list {
		out = append(out, baseName(v.Name))
	}
	return out
}

func sameNames(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// checkChunks checks what a linker relies on.
func checkChunks(t *testing.T, d *Diff) {
	t.Helper()
	known := map[*Chunk]bool{}
	for _, c := range d.Chunks {
		known[c] = true
	}
	for _, c := range d.Chunks {
		if c.Data != nil && uint64(len(c.Data)) != c.Size || c.Align == 0 || c.Align&(c.Align-1) != 0 {
			t.Errorf("chunk %s of %s: %d bytes, size %d, alignment %d", c.Name, c.Section, len(c.Data), c.Size, c.Align)
		}
		for _, f := range c.Relocs {
			if (f.Target.Chunk == nil) == (f.Target.Symbol == nil) {
				t.Errorf("chunk %s: a relocation has no target, or two", c.Name)
			}
			if f.Target.Chunk != nil && !known[f.Target.Chunk] {
				t.Errorf("chunk %s: a relocation's target is not carried", c.Name)
			}
			if f.Offset+Width(f.Type) > c.Size {
				t.Errorf("chunk %s: relocation at %d of %d bytes", c.Name, f.Offset, c.Size)
			}
		}
	}
}

// A patch may do several things at once.
func TestCompareNewHelper(t *testing.T) {
	orig := prelude + `int f(int a) { return printk("f") + a; }`
	patched := prelude + `static int level = 7;
		static noinline int helper(int a) { static int calls; calls++; level += a; return level + calls; }
		int f(int a) { return helper(printk("f") + a); }`
	d := diff(t, orig, patched)
	sameNames(t, "changed", names(d.Changed), []string{"f"})
	sameNames(t, "new", names(d.New), []string{"helper"})
	sameNames(t, "data", dataNames(d.Data), []string{"calls", "level"})
	if d.New[0].Original != nil || d.Changed[0].Original == nil {
		t.Error("the new function has an original, or the changed one has none")
	}
	if !strings.HasPrefix(d.Changed[0].Source, "unit.c:") {
		t.Errorf("source is %q", d.Changed[0].Source)
	}
	checkChunks(t, d)
}

// Static constants of one name are told apart by what they hold, whatever their order of use.
func TestCompareStaticConstants(t *testing.T) {
	body := `static int one(int a) { static const int ids[] = {1, 2, 3}; return ids[a & 3]; }
		static int two(int a) { static const int ids[] = {4, 5, 6, 7}; return ids[a & 3]; }
		int f(int a) { return one(a) * 35 + two(a); }`
	patched := strings.Replace(body, "one(a) * 35 + two(a)", "two(a) * 37 + one(a)", 1)
	d := diff(t, prelude+body, prelude+patched)
	if len(d.Refusals) > 0 {
		t.Fatalf("refused %v", d.Refusals)
	}
	sameNames(t, "changed", names(d.Changed), []string{"f"})
	sameNames(t, "data", dataNames(d.Data), nil)
	d = diff(t, prelude+body, prelude+strings.Replace(patched, "4, 5, 6", "4, 5, 9", 1))
	if len(d.Refusals) != 1 || d.Refusals[0].Class != ClassData {
		t.Errorf("refused %v, want the constant that changed", d.Refusals)
	}
}

// The state of a static variable is that of the same function, whatever the compiler calls it.
func TestCompareStaticLocalByUse(t *testing.T) {
	body := `int f(int a) { static int count = 3; count += a; return printk("f%d", count) + 1; }
		int g(int a) { static int count = 4; count -= a; return printk("g%d", count) + 1; }`
	orig := prelude + body
	patched := prelude + `int h(int a) { static int count = 9; count ^= a; return count; }` +
		strings.Replace(body, `"g%d", count) + 1`, `"g%d", count) + 2`, 1)
	o, p := read(t, compile(t, orig)), read(t, compile(t, patched))
	d, err := Compare(o, p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	sameNames(t, "changed", names(d.Changed), []string{"g"})
	i := slices.IndexFunc(d.Externals, func(e *External) bool { return strings.HasPrefix(e.Name, "count.") })
	if i < 0 {
		t.Fatal("count is not referred to")
	}
	s := d.Externals[i].Original
	if got := s.Section.Data[s.Value]; got != 4 {
		t.Errorf("g uses the variable that begins with %d, want its own, which begins with 4", got)
	}
}

// A pointer that outlives the live patch must not point into it.
func TestComparePointerToReplaced(t *testing.T) {
	source := prelude + `static noinline int cb(int a) { return printk("a") + a; }
		int f(int a) { sink(cb); return cb(a) + printk("f"); }`
	d := diff(t, source, strings.NewReplacer(`"a"`, `"b"`, `"f"`, `"g"`).Replace(source))
	sameNames(t, "changed", names(d.Changed), []string{"cb", "f"})
	i := slices.IndexFunc(d.Changed, func(f Func) bool { return f.Name == "f" })
	var stored, called bool
	for _, r := range d.Changed[i].Code.Relocs {
		stored = stored || r.Target.Symbol != nil && r.Target.Symbol.Name == "cb"
		called = called || r.Target.Chunk != nil && r.Target.Chunk.Name == "cb"
	}
	if !stored || !called {
		t.Errorf("stored pointer to the original: %v, call of the patched: %v", stored, called)
	}
}

func TestCompareIgnoredFunction(t *testing.T) {
	source := prelude + `int f(int a) { return a * 35; } int g(int a) { return a * 39; }`
	o, p := read(t, compile(t, source)), read(t, compile(t, strings.NewReplacer("35", "37", "39", "41").Replace(source)))
	d, err := Compare(o, p, Options{IgnoreFunctions: []string{"g"}})
	if err != nil {
		t.Fatal(err)
	}
	sameNames(t, "changed", names(d.Changed), []string{"f"})
}

func TestCompareOtherCompiler(t *testing.T) {
	o := read(t, compile(t, "int f(void) { return 1; }"))
	p := *o
	p.Compiler = "GCC: another"
	if _, err := Compare(o, &p, Options{}); err == nil {
		t.Error("objects of two compilers were compared")
	}
}
