package elfdiff

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// compileTypes compiles C with debug information.
func compileTypes(t *testing.T, text string) *bytes.Reader {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc to compile an object")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "t.c"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(gcc, "-g", "-O2", "-c", "-o", "t.o", "t.c")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	object, err := os.ReadFile(filepath.Join(dir, "t.o"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(object)
}

const typesBefore = `
enum color { RED, GREEN };
typedef struct { int only; } plain_t;
struct inner { long x; };
struct shared { int a; unsigned bit:1, other:2; struct inner in; union { int u; char c; }; enum color color; plain_t *plain; char tail; };
struct shared *one;
enum { LIMIT = 16, DEPTH };
typedef unsigned handle_t;
struct ops { int (*open)(struct shared *, long); struct { handle_t id; } slot; union { short half; char *text; } u; };
struct ops table;
static const char __UNIQUE_ID_alias746[] __attribute__((used)) = "alias=one";
static unsigned tally;
int visible(const struct ops *o, handle_t id) { return o->slot.id == id; }
extern void use(void *);
static int hidden(long a) { return a * tally; }
int g(int n) { static struct own { int p, q; } kept; static int twice; kept.p += n; twice += kept.q; use(&kept); return hidden(twice) + LIMIT + DEPTH; }
int f(void) { struct own { int q; } o = { one->a }; return o.q + one->plain->only + GREEN; }
`

func TestCompareTypes(t *testing.T) {
	for _, tc := range []struct{ name, old, new, symbol, why, note string }{
		{name: "nothing"},
		{name: "a comment", old: "struct inner {", new: "/* c */\n\nstruct inner {"},
		{name: "the function's own", old: "struct own { int q; }", new: "struct own { long p; int q; }"},
		{name: "a counted name", old: `"alias=one"`, new: `"alias=another"`},
		{name: "a new type", old: "struct inner {", new: "struct fresh { int z; }; struct fresh *fresh; struct inner {"},
		{"new field at the end", "long x; };", "long x, y; };", "struct inner", "its size changes from 8 to 16 bytes", ""},
		{"new field in front", "{ int a;", "{ int n; int a;", "struct shared", "a moves from offset 0 to 4", ""},
		{"new field in a hole", "char tail;", "char tail; short hole;", "struct shared", "hole is new in it", ""},
		{"field gone", "other:2", "unused:2", "struct shared", "other is gone from it", ""},
		{"wider bit field", "other:2", "other:3", "struct shared", "other moves from offset 0.33+2 to 0.33+3", ""},
		{"another type", "int a;", "unsigned a;", "struct shared", "the type of a changes from int to unsigned int", ""},
		{"in an unnamed union", "char c;", "short c;", "struct shared", "the type of unnamed member 5 changes", ""},
		{"behind a typedef", "int only;", "long only;", "typedef plain_t", "the type of only changes from int to long int", ""},
		{"enumerator moves", "RED, GREEN", "RED, BLUE, GREEN", "enum color", "the value of GREEN changes from 1 to 2", ""},
		{"constant", "LIMIT = 16", "LIMIT = 32", "enumerator LIMIT", "the value of LIMIT changes from 16 to 32", ""},
		{"constant after it", "LIMIT = 16", "LIMIT = 16, EXTRA", "enumerator DEPTH", "the value of DEPTH changes from 17 to 18", ""},
		{name: "constant at the end", old: "DEPTH }", new: "DEPTH, LAST }"},
		{"function pointer", "(struct shared *, long)", "(struct shared *, int)", "struct ops", "the type of open changes from *func(*struct shared, long int) int to *func(*struct shared, int) int", ""},
		{"in an unnamed structure", "handle_t id; } slot", "long id; } slot", "struct ops", "the type of slot changes", ""},
		{"union", "short half;", "long half;", "struct ops", "the type of u changes", ""},
		{"typedef of a base type", "typedef unsigned", "typedef int", "typedef handle_t", "its type changes from unsigned int to int", ""},
		{"type of a variable", "static unsigned tally", "static int tally", "variable tally", "its type changes from unsigned int to int", ""},
		{"structure of a function's own variable that outlives it", "int p, q; } kept", "int q, p; } kept", "variable kept of g", "its type changes", ""},
		{name: "function of the file's own", old: "hidden(long a)", new: "hidden(int a)"},
		{name: "constant parameter", old: "const struct ops *o", new: "struct ops *o"},
		{name: "function of others", old: "handle_t id) {", new: "long id) {",
			note: "function visible: it changes from (*struct ops, handle_t) int to (*struct ops, long int) int; its callers must be part of the patch"},
		{name: "enumerator appended", old: "RED, GREEN", new: "RED, GREEN, BLUE", note: "enum color: BLUE is new in it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.old != "" && !strings.Contains(typesBefore, tc.old) {
				t.Fatalf("%q is not in the source", tc.old)
			}
			refusals, notes, err := CompareTypes(compileTypes(t, typesBefore), compileTypes(t, strings.Replace(typesBefore, tc.old, tc.new, 1)))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Join(notes, "; ") != tc.note {
				t.Errorf("notes %q, want %q", notes, tc.note)
			}
			if tc.symbol == "" {
				if len(refusals) != 0 {
					t.Errorf("refused %v", refusals)
				}
				return
			}
			for _, r := range refusals {
				if r.Symbol == tc.symbol && strings.Contains(r.Why, tc.why) {
					if r.Class != ClassType || r.Hint == "" || !strings.HasPrefix(r.Source, "t.c:") {
						t.Errorf("refusal %+v lacks class, hint or place", r)
					}
					return
				}
			}
			t.Errorf("refusals %v, want %s: %s", refusals, tc.symbol, tc.why)
		})
	}
}

// Modules that this kernel did not come with may call an exported function.
func TestCompareTypesExported(t *testing.T) {
	source := "int visible(int a) { return a; } __attribute__((section(\"___ksymtab+visible\"), used)) static void *__ksymtab_visible = visible;\n"
	refusals, _, err := CompareTypes(compileTypes(t, source), compileTypes(t, strings.Replace(source, "int a", "long a", 1)))
	if err != nil || len(refusals) != 1 || refusals[0].Symbol != "function visible" || !strings.Contains(refusals[0].Why, "from (int) int to (long int) int") {
		t.Errorf("refused %v, error %v", refusals, err)
	}
}

// clang writes other debug information about the same declarations.
func TestCompareTypesClang(t *testing.T) {
	before := compileWith(t, "clang", typesBefore, "-g", "-O2")
	after := compileWith(t, "clang", strings.NewReplacer("GREEN }", "GREEN = 7 }", "int p, q;", "int q, p;", "unsigned tally", "int tally").Replace(typesBefore), "-g", "-O2")
	refusals, _, err := CompareTypes(bytes.NewReader(before), bytes.NewReader(after))
	if err != nil {
		t.Fatal(err)
	}
	var symbols []string
	for _, r := range refusals {
		symbols = append(symbols, r.Symbol)
	}
	if want := "enum color; variable kept of g; variable tally"; strings.Join(symbols, "; ") != want {
		t.Errorf("refused %q, want %s", symbols, want)
	}
}

func TestCompareTypesWithoutDebugInformation(t *testing.T) {
	o := compileTypes(t, typesBefore)
	if _, _, err := CompareTypes(strings.NewReader("rubbish"), o); err == nil {
		t.Error("rubbish has types")
	}
}
