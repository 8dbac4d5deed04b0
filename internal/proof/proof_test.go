package proof

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
)

func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func object(t testing.TB, name string) *elfdiff.Object {
	t.Helper()
	o, err := elfdiff.Read(bytes.NewReader(file(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// symbolsOf makes a kernel's symbol table of an ELF file's, in address order.
func symbolsOf(t testing.TB, image []byte) *kernel.Kallsyms {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	list, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	var out []kernel.Symbol
	for _, s := range list {
		kind := byte('t')
		if elf.ST_BIND(s.Info) != elf.STB_LOCAL {
			kind = 'T'
		}
		if s.Name != "" && elf.ST_TYPE(s.Info) != elf.STT_FILE {
			out = append(out, kernel.Symbol{Addr: s.Value, Type: kind, Name: s.Name})
		}
	}
	slices.SortStableFunc(out, func(a, b kernel.Symbol) int {
		if a.Addr < b.Addr {
			return -1
		}
		return 1
	})
	return kernel.NewKallsyms(out)
}

func shipped(t testing.TB, image []byte) *Image {
	t.Helper()
	img, err := Vmlinux(bytes.NewReader(image), symbolsOf(t, file(t, "vmlinux.elf")))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// shippedModule is module.elf as a .ko of that name.
func shippedModule(t testing.TB) *Image {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(file(t, "module.elf")))
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	m := &kernel.Module{Name: "pair"}
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF && int(s.Section) < len(f.Sections) && s.Name != "" {
			name := f.Sections[s.Section].Name
			m.Symbols = append(m.Symbols, kernel.ModuleSymbol{Name: s.Name, Section: name, Value: s.Value, Core: !strings.HasPrefix(name, ".init")})
		}
	}
	img, err := Module(file(t, "module.elf"), m)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// replacing is a Diff that replaces the functions of those names.
func replacing(o *elfdiff.Object, names ...string) *elfdiff.Diff {
	d := &elfdiff.Diff{Original: o}
	for _, s := range o.Symbols {
		if slices.Contains(names, s.Name) && s.Function() {
			d.Changed = append(d.Changed, elfdiff.Func{Name: s.Name, Original: s})
		}
	}
	return d
}

func positions(r *Result) map[string]int {
	out := map[string]int{}
	for s, p := range r.Places {
		out[s.Name] = p.Sympos
	}
	return out
}

func TestCheckFindsEverySymbol(t *testing.T) {
	tests := []struct {
		object, plain     string
		identical         int
		overridden, gone  int
		first             int // position of the names that both objects have
		unique, different []string
	}{
		{"one.o", "", 6, 1, 1, 1, []string{"first", "label", "set"}, nil},
		{"one.o", "one-plain.o", 6, 1, 1, 1, []string{"first", "label", "set"}, nil},
		{"two.o", "", 6, 0, 0, 2, []string{"other", "name", "hook", "ops"}, nil},
	}
	for name, img := range map[string]*Image{"vmlinux": shipped(t, file(t, "vmlinux.elf")), "module": shippedModule(t)} {
		for _, tt := range tests {
			t.Run(name+" "+tt.object+tt.plain, func(t *testing.T) {
				in := Input{Source: tt.object, Diff: replacing(object(t, tt.object), "first", "other")}
				if tt.plain != "" {
					in.Plain = object(t, tt.plain)
				}
				r := img.Check(in)
				if r.Identical != tt.identical || r.Different != 0 || r.Unplaced != 0 || r.Overridden != tt.overridden || r.Skipped != tt.gone {
					t.Errorf("got %+v, want %d identical, %d overridden, %d skipped", r, tt.identical, tt.overridden, tt.gone)
				}
				if len(r.Refusals) > 0 {
					t.Errorf("refused: %v", r.Refusals)
				}
				got := positions(r)
				for _, shared := range []string{"step", "get", "idle", "state", "table"} {
					if pos, ok := got[shared]; !ok || pos != tt.first {
						t.Errorf("%s has position %d, %t, want %d", shared, pos, ok, tt.first)
					}
				}
				for _, unique := range tt.unique {
					if pos, ok := got[unique]; !ok || pos != 0 {
						t.Errorf("%s has position %d, %t, want 0", unique, pos, ok)
					}
				}
				if len(r.Evidence) == 0 || !strings.Contains(r.Evidence[0], tt.object) {
					t.Errorf("evidence %q does not name %s", r.Evidence, tt.object)
				}
			})
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	img := shipped(t, file(t, "vmlinux.elf"))
	tests := []struct{ object, function, why, hint string }{
		{"one.o", "hook", "another object's function", "Change the function that runs"},
		{"one.o", "early", "only at boot", "Build with the compiler"},
	}
	for _, tt := range tests {
		r := img.Check(Input{Source: tt.object, Diff: replacing(object(t, tt.object), tt.function)})
		if len(r.Refusals) != 1 || r.Refusals[0].Class != elfdiff.ClassProof || !strings.Contains(r.Refusals[0].Why, tt.why) ||
			!strings.HasPrefix(r.Refusals[0].Hint, tt.hint) {
			t.Errorf("%s: refusals %+v, want %q and %q", tt.function, r.Refusals, tt.why, tt.hint)
		}
	}
}

// TestCheckSeesEveryChangedByte changes one byte of a shipped function: it is
// then not the running code any more, wherever the byte is.
func TestCheckSeesEveryChangedByte(t *testing.T) {
	image := file(t, "vmlinux.elf")
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	text := f.Section(".text")
	o := object(t, "two.o")
	other := replacing(o, "other").Changed[0].Original
	addr := symbolsOf(t, image).Lookup("other")[0].Addr
	rapid.Check(t, func(rt *rapid.T) {
		at := rapid.Uint64Range(0, other.Size-1).Draw(rt, "byte")
		bad := bytes.Clone(image)
		bad[text.Offset+addr-text.Addr+at] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		r := shipped(t, bad).Check(Input{Source: "two.o", Diff: replacing(o, "other")})
		if len(r.Refusals) == 0 {
			rt.Fatalf("byte %d of other changed, and it is still proven", at)
		}
		copied := &elfdiff.Diff{Original: o, New: replacing(o, "other").Changed}
		if r := shipped(t, bad).Check(Input{Source: "two.o", Diff: copied}); len(r.Refusals) == 0 {
			rt.Fatalf("byte %d of other changed, and a copy of it is carried", at)
		}
	})
}

func FuzzVmlinux(f *testing.F) {
	image := file(f, "vmlinux.elf")
	symbols, o := symbolsOf(f, image), object(f, "two.o")
	f.Add(image)
	f.Add(image[:64])
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := Vmlinux(bytes.NewReader(b), symbols)
		if err != nil {
			return
		}
		r := img.Check(Input{Source: "two.o", Diff: replacing(o, "other")})
		if r.Identical+r.Different+r.Unplaced+r.Overridden+r.Skipped != 6 {
			t.Errorf("%+v does not count 6 functions", r)
		}
		if callers, err := img.Callers("other", symbols); err == nil && slices.Contains(callers, "") {
			t.Errorf("callers %q", callers)
		}
	})
}

func FuzzModule(f *testing.F) {
	o := object(f, "two.o")
	f.Add(file(f, "module.elf"))
	f.Add(file(f, "one.o"))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := Module(b, &kernel.Module{Name: "pair"})
		if err != nil {
			return
		}
		if r := img.Check(Input{Source: "two.o", Diff: replacing(o, "other")}); len(r.Evidence) == 0 {
			t.Error("no evidence")
		}
	})
}
