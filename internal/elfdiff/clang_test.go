package elfdiff

import (
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// clangFlags are kernelFlags less what clang does not have.
func clangFlags() []string {
	return slices.DeleteFunc(slices.Clone(kernelFlags), func(f string) bool { return f == "-mrecord-mcount" })
}

func clangDiff(t *testing.T, orig, patched string) *Diff {
	t.Helper()
	o, p := compileWith(t, "clang", prelude+orig, clangFlags()...), compileWith(t, "clang", prelude+patched, clangFlags()...)
	d, err := Compare(read(t, o), read(t, p), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What is true of gcc's objects is true of clang's, where every reference goes
// through a section, no call of the hook is listed, and private data have no names.
func TestCompareClang(t *testing.T) {
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := clangDiff(t, tt.source, strings.Replace(tt.source, tt.old, tt.new, 1))
			var classes []Class
			for _, r := range d.Refusals {
				classes = append(classes, r.Class)
			}
			if got := slices.Compact(classes); !slices.Equal(got, tt.refused) {
				t.Fatalf("refused %v, want %v", d.Refusals, tt.refused)
			}
			if len(tt.refused) > 0 {
				return
			}
			sameNames(t, "changed", names(d.Changed), tt.changed)
			sameNames(t, "new", names(d.New), tt.added)
			sameNames(t, "data", privateOut(dataNames(d.Data)), privateOut(tt.data))
			special := map[string]int{}
			maps.Copy(special, tt.special)
			delete(special, "__mcount_loc")
			delete(d.Special, "__mcount_loc")
			if what := cmp.Diff(special, d.Special); what != "" {
				t.Errorf("special sections:\n%s", what)
			}
			checkChunks(t, d)
		})
	}
}

// privateOut leaves out the names of what clang gives none that a linker sees,
// and the functions in the others.
func privateOut(list []string) []string {
	var out []string
	for _, n := range list {
		if own, _ := ownName(n); own != "__func__" && !strings.HasPrefix(n, ".L") {
			out = append(out, own)
		}
	}
	return out
}

// clang writes the function into the name of its static variable, but counts
// those of one name: a new one before it takes the name over.
func TestCompareClangStaticLocals(t *testing.T) {
	orig := `int f(int a) { { static int count = 3; count += a; a = printk("%d", count); } { static int count = 4; count ^= a; return printk("%d", count) + 1; } }`
	d := clangDiff(t, orig, strings.Replace(orig, "+ 1", "+ 2", 1))
	if len(d.Refusals) > 0 {
		t.Fatalf("refused %v", d.Refusals)
	}
	for _, want := range []string{"f.count", "f.count.1"} {
		if !slices.ContainsFunc(d.Externals, func(e *External) bool { return strings.HasPrefix(e.Name, want) }) {
			t.Errorf("%s is not the running kernel's", want)
		}
	}
	patched := strings.Replace(orig, "{ { static", "{ { static int count = 9; count -= a; a = printk(\"%d\", count); } { static", 1)
	d = clangDiff(t, orig, patched)
	if len(d.Refusals) == 0 || d.Refusals[0].Class != ClassStaticLocal {
		t.Errorf("refused %v, want %s", d.Refusals, ClassStaticLocal)
	}
	// One that only its function's name tells apart keeps its state.
	orig = `int f(int a) { static int count = 3; return a > 0 ? printk("%d", ++count) : 1; } int g(int a) { static int count = 4; return printk("%d", --count); }`
	d = clangDiff(t, orig, strings.Replace(orig, "return a > 0", "static int other; other += a; return a + other > 0", 1))
	if len(d.Refusals) > 0 {
		t.Fatalf("refused %v", d.Refusals)
	}
	sameNames(t, "data", dataNames(d.Data), []string{"f.other"})
}

// The number of a function's type stands before it, for those who call it through a pointer.
func TestCompareTypeNumberBeforeFunction(t *testing.T) {
	if _, err := exec.LookPath("clang-16"); err != nil {
		t.Skip("no clang that has -fsanitize=kcfi")
	}
	source := prelude + `int f(int a) { return a * 35; } int g(int (*op)(int), int a) { return op(a) + 1; } int h(int a) { return a; } void *ops[] = { f, g, h };`
	flags := append(clangFlags(), "-fsanitize=kcfi")
	o := compileWith(t, "clang-16", source, flags...)
	d, err := Compare(read(t, o), read(t, compileWith(t, "clang-16", strings.NewReplacer("35", "37", "+ 1", "+ 2").Replace(source), flags...)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Refusals) > 0 {
		t.Fatalf("refused %v", d.Refusals)
	}
	sameNames(t, "changed", names(d.Changed), []string{"f", "g"})
	if d.Special[".kcfi_traps"] != 1 {
		t.Errorf("carries %v, want the check in g", d.Special)
	}
	i := slices.IndexFunc(d.Chunks, func(c *Chunk) bool { return c.Name == "f" })
	if i < 1 || d.Chunks[i-1].Name != "__cfi_f" {
		t.Errorf("what is before f is not its number")
	}
	checkChunks(t, d)
}

// Up to Linux 5.15, where an exception leads to is in a section of its own.
func TestCompareFixup(t *testing.T) {
	source := `int f(long *p) { int bad = 0; asm volatile("1: mov (%1), %%rax\n2:\n.pushsection .fixup,\"ax\"\n3: mov $14, %0\njmp 2b\n.popsection\n"
			".pushsection __ex_table,\"a\"\n.balign 4\n.long 1b - .\n.long 3b - .\n.long ex_handler_default - .\n.popsection" : "+r" (bad) : "r" (p) : "rax"); return bad * 35; }
		int g(long *p) { int bad = 0; asm volatile("1: mov (%1), %%rcx\n2:\n.pushsection .fixup,\"ax\"\n3: mov $15, %0\njmp 2b\n.popsection\n"
			".pushsection __ex_table,\"a\"\n.balign 4\n.long 1b - .\n.long 3b - .\n.long ex_handler_default - .\n.popsection" : "+r" (bad) : "r" (p) : "rcx"); return bad; }`
	d := diff(t, prelude+source, prelude+strings.Replace(source, "* 35", "* 37", 1))
	if len(d.Refusals) > 0 {
		t.Fatalf("refused %v", d.Refusals)
	}
	sameNames(t, "changed", names(d.Changed), []string{"f"})
	fixups := 0
	for _, c := range d.Chunks {
		if c.Section == ".fixup" {
			fixups++
			if len(c.Relocs) != 1 || c.Relocs[0].Target.Chunk == nil || c.Relocs[0].Target.Chunk.Name != "f" {
				t.Errorf("the fixup does not lead back into the new f: %+v", c.Relocs)
			}
		}
	}
	if fixups != 1 || d.Special["__ex_table"] != 1 {
		t.Errorf("carries %d fixups and %v, want one of each", fixups, d.Special)
	}
	// A change of nothing but the fixup is a change of its function.
	d = diff(t, prelude+source, prelude+strings.Replace(source, "$14", "$22", 1))
	sameNames(t, "changed", names(d.Changed), []string{"f"})
}
