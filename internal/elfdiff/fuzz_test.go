package elfdiff

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const fuzzSource = prelude + `
static int level = 3;
static noinline int helper(int a) { static int calls; calls++; WARN_ON(a > 3); return level + calls; }
int f(int a) { if (BRANCH(&level)) BUG(); return helper(printk(__func__)) + a; }
int (*ops[])(int) = { helper, f };
__attribute__((section(".init.text"))) int boot(void) { return helper(1); }
`

// seeds compiles a small object, stripped of debug information to keep it small, and one beside it that differs.
func seeds(f *testing.F) (orig, patched []byte) {
	f.Helper()
	var out [2][]byte
	for i, source := range []string{fuzzSource, fuzzSource + "int g(int a) { return f(a) * 5; }"} {
		dir := f.TempDir()
		path := filepath.Join(dir, "unit.c")
		if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
			f.Fatal(err)
		}
		cmd := exec.Command("gcc", append(append([]string{}, kernelFlags...), "-g0", "-c", "unit.c", "-o", "unit.o")...)
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
		d, err := Compare(o, p, Options{})
		if err != nil {
			return
		}
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
