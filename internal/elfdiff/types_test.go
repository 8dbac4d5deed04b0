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
int f(void) { struct own { int q; } o = { one->a }; return o.q + one->plain->only + GREEN; }
`

func TestCompareTypes(t *testing.T) {
	for _, tc := range []struct{ name, old, new, symbol, why, note string }{
		{name: "nothing"},
		{name: "a comment", old: "struct inner {", new: "/* c */\n\nstruct inner {"},
		{name: "the function's own", old: "struct own { int q; }", new: "struct own { long p; int q; }"},
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

func TestCompareTypesWithoutDebugInformation(t *testing.T) {
	o := compileTypes(t, typesBefore)
	if _, _, err := CompareTypes(strings.NewReader("rubbish"), o); err == nil {
		t.Error("rubbish has types")
	}
}
