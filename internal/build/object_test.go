package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"afloat/internal/elfdiff"
)

// Lines that only move change nothing, which takes the debug information to
// see, long after the object was read.
func TestReadObjectKeepsLines(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc to compile an object")
	}
	source := "extern void warn_at(const char *, int);\nint f(int a) { if (a > 4) warn_at(__FILE__, __LINE__); return a; }\n"
	objects := [2]*elfdiff.Object{}
	for i, text := range []string{source, "\n\n\n" + source} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "unit.c"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), gcc, "-O2", "-g", "-ffunction-sections", "-pg", "-mfentry", "-mrecord-mcount", "-fno-pie", "-c", "unit.c")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if objects[i], err = readObject(filepath.Join(dir, "unit.o")); err != nil {
			t.Fatal(err)
		}
	}
	d, err := elfdiff.Compare(objects[0], objects[1], elfdiff.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !d.Empty() {
		t.Errorf("changed %v, refused %v", d.Changed, d.Refusals)
	}
}
