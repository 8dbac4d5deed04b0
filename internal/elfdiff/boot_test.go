package elfdiff

import (
	"slices"
	"strings"
	"testing"
)

const bootPrelude = prelude + `
#define __init __attribute__((section(".init.text"), cold, __noinline__))
#define __exit __attribute__((section(".exit.text"), used))
extern int queue(long *where, void *what); extern long queue_a, queue_b;
`

// The change of boot code may be left to the next boot only where nothing else
// of the patch can tell which version ran.
func TestCompareBootCode(t *testing.T) {
	for _, tt := range []struct {
		name, source, old, new string
		module                 bool
		changed, next          []string
		why                    string // of the refusal
	}{
		{
			name: "two separate changes",
			source: `static long work; int f(int a) { return a * 35; }
				__init int boot(void) { return queue(&queue_a, &work); }`,
			old: "queue(&queue_a", new: "queue(&queue_b", changed: []string{"f"}, next: []string{"boot"},
		},
		{
			name: "a module may be loaded again", module: true,
			source: `static long work; int f(int a) { return a * 35; }
				__init int boot(void) { return queue(&queue_a, &work); }`,
			old: "queue(&queue_a", new: "queue(&queue_b", why: "it runs only at boot",
		},
		{
			name: "boot code of the kernel itself never exits",
			source: `static long work; int f(int a) { return a * 35 + work; }
				__exit static int leave(void) { return queue(&queue_a, &work); }`,
			old: "queue(&queue_a", new: "queue(&queue_b", changed: []string{"f"}, next: []string{"leave"},
		},
		{
			name: "a variable of both",
			source: `static long limit; int f(int a) { return a * 35 + limit; }
				__init int boot(void) { limit = 7; return 0; }`,
			old: "limit = 7", new: "limit = 9", why: "both use limit",
		},
		{
			name: "a variable of functions they call",
			source: `static long limit; noinline static long get(void) { return limit; } __attribute__((noipa)) static void set(long to) { limit = to; }
				int f(int a) { return a * 35 + get(); } __init int boot(void) { set(7); return 0; }`,
			old: "set(7)", new: "set(9)", why: "both use limit",
		},
		{
			name: "a key that boot code turns on",
			source: `long key[2]; int f(int a) { if (BRANCH(&key)) a++; return a * 35; }
				__init int boot(void) { return queue(&queue_a, &key); }`,
			old: "queue_a", new: "queue_b", why: "both use key",
		},
		{
			name:   "a variable of another object",
			source: `int f(int a) { return a * 35 + counter; } __init int boot(void) { counter = 7; return 0; }`,
			old:    "counter = 7", new: "counter = 9", why: "both use counter",
		},
		{
			name: "what the boot code registers is replaced",
			source: `int f(int a) { return a * 35; } static struct { int (*op)(int); } ops = { f };
				__init int boot(void) { return queue(&queue_a, &ops); }`,
			old: "queue_a", new: "queue_b", why: "both use f",
		},
		{
			name: "a variable that only the new boot code hands out",
			source: `static long one, two; static struct { long *p; } handle = { &two }; int f(int a) { return a * 35 + two; }
				__init int boot(void) { return queue(&queue_a, &one); }`,
			old: "&one", new: "&handle", why: "both use two",
		},
		{
			name: "a variable of the code beside the code",
			source: `int f(int a) { if (HAS(3)) return printk("y"); return a * 35; }
				__init int boot(void) { features[3] = 7; return 0; }`,
			old: "= 7", new: "= 9", why: "both use features",
		},
		{
			name: "code for memory that is added later",
			source: `static long work; int f(int a) { return a * 35; }
				__attribute__((section(".meminit.text"), __noinline__)) int grow(void) { return queue(&queue_a, &work); }`,
			old: "queue(&queue_a", new: "queue(&queue_b", why: "it runs only at boot",
		},
		{
			name:   "nothing but boot code",
			source: `int f(int a) { return a * 34; } __init int boot(void) { return queue(&queue_a, 0); }`,
			old:    "queue_a", new: "queue_b", why: "it runs only at boot",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			patched := strings.NewReplacer("35", "37", tt.old, tt.new).Replace(tt.source)
			o, p := read(t, compile(t, bootPrelude+tt.source)), read(t, compile(t, bootPrelude+patched))
			d, err := Compare(o, p, Options{BuiltIn: !tt.module})
			if err != nil {
				t.Fatal(err)
			}
			if tt.why != "" {
				if len(d.Refusals) != 1 || d.Refusals[0].Class != ClassInit || !strings.Contains(d.Refusals[0].Why, tt.why) {
					t.Fatalf("refused %v, want one that says %q", d.Refusals, tt.why)
				}
				return
			}
			if len(d.Refusals) > 0 {
				t.Fatalf("refused %v", d.Refusals)
			}
			sameNames(t, "changed", names(d.Changed), tt.changed)
			sameNames(t, "next boot", names(d.NextBoot), tt.next)
			if !slices.ContainsFunc(d.Notes, func(n string) bool { return strings.Contains(n, "takes effect with the next boot") }) {
				t.Errorf("no note says so: %q", d.Notes)
			}
		})
	}
}

// Entries that are new in a table which the kernel reads at boot may wait for
// the next one, where nothing else of the patch can tell.
func TestCompareBootTables(t *testing.T) {
	const fixups = `
		#define FIXUP(device, hook) asm(".pushsection .pci_fixup_header,\"a\"\n.balign 16\n.short 1," #device "\n.long 0,0\n.long " #hook " - .\n.popsection");
		#define USED __attribute__((used))
		static long work, limit;
		static USED void quirk(int *dev) { dev[1] = queue(&queue_a, &work); }
		static USED void other(int *dev) { limit = dev[1]; }
		FIXUP(2, quirk) FIXUP(3, quirk)
	`
	for _, tt := range []struct {
		name, source, old, new string
		module                 bool
		why                    string // of the refusal
	}{
		{name: "a new device", source: `int f(int a) { return a * 35; }`, old: "FIXUP(3, quirk)", new: "FIXUP(3, quirk) FIXUP(4, quirk)"},
		{name: "a device is gone", source: `int f(int a) { return a * 35; }`, old: "FIXUP(3, quirk)", new: ""},
		{name: "the table is new", source: `int f(int a) { return a * 35; } static USED int boot(char *s) { return work; }`, old: "FIXUP(3, quirk)",
			new: `FIXUP(3, quirk) asm(".pushsection .init.setup,\"a\"\n.quad 0, boot, 0\n.popsection");`},
		{name: "the hook is replaced", source: `int f(int a) { return a * 35; }`, old: "quirk(int *dev) { dev[1] =", new: "quirk(int *dev) { dev[2] ="},
		{name: "the hook of a new device is replaced", source: `int f(int a) { return a * 35; } FIXUP(9, quirk)`, old: "FIXUP(2, quirk)",
			new: `FIXUP(8, f)`, why: "both use f"},
		{name: "a variable of both", source: `int f(int a) { return a * 35 + limit; }`, old: "FIXUP(2, quirk)", new: `FIXUP(2, other)`, why: "both use limit"},
		{name: "nothing else", source: `int f(int a) { return a * 34; }`, old: "FIXUP(2, quirk)", new: `FIXUP(2, other)`, why: "the running kernel has its list already"},
		{name: "a module", module: true, source: `int f(int a) { return a * 35; }`, old: "FIXUP(2, quirk)", new: `FIXUP(2, other)`, why: "the running kernel has its list already"},
		{name: "a hook of another object", source: `int f(int a) { return a * 35; }`, old: "FIXUP(2, quirk)", new: `FIXUP(2, printk)`, why: "the running kernel has its list already"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			source := bootPrelude + fixups + tt.source
			patched := strings.NewReplacer("35", "37", tt.old, tt.new).Replace(source)
			d, err := Compare(read(t, compile(t, source)), read(t, compile(t, patched)), Options{BuiltIn: !tt.module})
			if err != nil {
				t.Fatal(err)
			}
			if tt.why != "" {
				if len(d.Refusals) != 1 || d.Refusals[0].Class != ClassInit || !strings.Contains(d.Refusals[0].Why, tt.why) {
					t.Fatalf("refused %v, want one that says %q", d.Refusals, tt.why)
				}
				return
			}
			if len(d.Refusals) > 0 {
				t.Fatalf("refused %v", d.Refusals)
			}
			if tt.name != "the hook is replaced" && (len(d.NextBoot) != 1 || len(d.Notes) == 0 || !strings.Contains(d.Notes[0], "they take effect with the next boot")) {
				t.Errorf("next boot %v, notes %q", d.NextBoot, d.Notes)
			}
		})
	}
}

// The rest of the patch may be in another object.
func TestSettleBoot(t *testing.T) {
	boot := `int local(int a) { return a * 35; } long limit; extern int setup(void); __init int boot(void) { limit = 7; counter = 8; return setup(); }`
	for _, tt := range []struct{ name, other, shared string }{
		{"nothing in common", `int f(int a) { return printk("f") + a * 35; }`, ""},
		{"a variable of the boot code's object", `extern long limit; int f(int a) { return limit + a * 35; }`, "limit"},
		{"a variable of a third object", `int f(int a) { return counter + a * 35; }`, "counter"},
		{"a function that boot code calls", `int setup(void) { return printk("f") * 35; }`, "setup"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var diffs []*Diff
			for _, source := range []string{boot, tt.other} {
				patched := strings.NewReplacer("35", "37", "limit = 7", "limit = 9").Replace(source)
				d, err := Compare(read(t, compile(t, bootPrelude+source)), read(t, compile(t, bootPrelude+patched)), Options{BuiltIn: true})
				if err != nil {
					t.Fatal(err)
				}
				if len(d.Refusals) > 0 || len(d.Changed) != 1 {
					t.Fatalf("refused %v, changed %v", d.Refusals, names(d.Changed))
				}
				diffs = append(diffs, d)
			}
			SettleBoot(diffs)
			refused := slices.Concat(diffs[0].Refusals, diffs[1].Refusals)
			if tt.shared == "" {
				if len(refused) > 0 {
					t.Errorf("refused %v", refused)
				}
				return
			}
			if len(refused) != 1 || refused[0].Symbol != "boot" || !strings.HasSuffix(refused[0].Why, "both use "+tt.shared) {
				t.Errorf("refused %v, want boot for %s", refused, tt.shared)
			}
		})
	}
}

// The number in the name of a type's place counts lines and other such places.
func TestCompareTypeNumbers(t *testing.T) {
	source := prelude + `asm(".pushsection .BTF_ids,\"a\"\n.local __BTF_ID__struct__thing__NUMBER\n.type __BTF_ID__struct__thing__NUMBER,@object\n"
		".size __BTF_ID__struct__thing__NUMBER,4\n__BTF_ID__struct__thing__NUMBER: .zero 4\n.popsection");
		extern int type_id asm("__BTF_ID__struct__thing__NUMBER"); int f(int a) { return a * 35; } int g(void) { return type_id; }`
	orig := strings.ReplaceAll(source, "NUMBER", "1017")
	patched := strings.NewReplacer("NUMBER", "2024", "35", "37").Replace(source)
	d := diff(t, orig, patched)
	if len(d.Refusals) > 0 {
		t.Fatalf("refused %v", d.Refusals)
	}
	sameNames(t, "changed", names(d.Changed), []string{"f"})
}

// A new export may be left out beside a fix; an export that is another one may not.
func TestCompareExports(t *testing.T) {
	const one = `asm(".pushsection .export_symbol,\"a\"\n.asciz \"GPL\"\n.asciz \"\"\n.balign 8\n.quad f\n.popsection");`
	const two = `asm(".pushsection .export_symbol,\"a\"\n.asciz \"\"\n.asciz \"\"\n.balign 8\n.quad g\n.popsection");`
	const own = `__attribute__((section("___ksymtab+g"), used)) static void *exported = g;`
	for _, tt := range []struct {
		name, before, after string
		refused             bool
	}{
		{name: "one more in the list of all", before: one, after: one + two},
		{name: "one more, in front", before: one, after: two + one},
		{name: "one more, with a section of its own", before: one, after: one + own},
		{name: "another licence", before: one, after: strings.Replace(one, "GPL", "", 1) + two, refused: true},
		{name: "another symbol", before: one, after: two, refused: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const code = prelude + `int f(int a) { return a * 35; } int g(int a) { return a * 3; }`
			d := diff(t, code+tt.before, strings.Replace(code, "35", "37", 1)+tt.after)
			if tt.refused {
				if len(d.Refusals) != 1 || d.Refusals[0].Class != ClassExport {
					t.Errorf("refused %v, want the export", d.Refusals)
				}
				return
			}
			if len(d.Refusals) > 0 || len(d.Changed) != 1 || len(d.Notes) != 1 || !strings.Contains(d.Notes[0], "is left out") {
				t.Errorf("refused %v, changed %v, notes %q", d.Refusals, names(d.Changed), d.Notes)
			}
		})
	}
}
