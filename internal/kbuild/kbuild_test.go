package kbuild

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/kernel"
	"afloat/internal/kit"
)

const builtinLine = `set -e;  echo '  CC      fs/proc/cmdline.o';  trap 'rm -f x; kill -s HUP $$' HUP; gcc-12 -Wp,-MMD,fs/proc/.cmdline.o.d -nostdinc -I./include -g -DKBUILD_MODFILE='"fs/proc/proc"' -DKBUILD_MODNAME='"proc"' -c -o fs/proc/cmdline.o fs/proc/cmdline.c   ; ./tools/objtool/objtool --orc --retpoline fs/proc/cmdline.o; scripts/basic/fixdep fs/proc/.cmdline.o.d fs/proc/cmdline.o 'gcc-12 -c -o a.o b.c' > fs/proc/.cmdline.o.cmd`

const moduleLine = `set -e; gcc-12 -Wp,-MMD,d -O2 -DMODULE -DKBUILD_BASENAME='"mballoc"' -DKBUILD_MODNAME='"ext4"' -c -o fs/ext4/mballoc.o fs/ext4/mballoc.c; scripts/basic/fixdep x`

const linkLine = `set -e; ld -r -o fs/ext4/ext4.o @fs/ext4/ext4.mod  ; ./tools/objtool/objtool --ibt --orc  --link  --module fs/ext4/ext4.o; printf '%s\n' 'savedcmd := ./tools/objtool/objtool --ibt --link --module x.o' > y`

func TestParseUnit(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       Unit
		ok         bool
	}{
		{"vmlinux", builtinLine, Unit{Object: "fs/proc/cmdline.o", Source: "fs/proc/cmdline.c",
			Compile: []string{"gcc-12", "-nostdinc", "-I./include", "-g", `-DKBUILD_MODFILE="fs/proc/proc"`, `-DKBUILD_MODNAME="proc"`},
			Objtool: []string{"./tools/objtool/objtool", "--orc", "--retpoline"}}, true},
		{"module", moduleLine, Unit{Object: "fs/ext4/mballoc.o", Source: "fs/ext4/mballoc.c", Module: "ext4",
			Compile: []string{"gcc-12", "-O2", "-DMODULE", `-DKBUILD_BASENAME="mballoc"`, `-DKBUILD_MODNAME="ext4"`}}, true},
		{"another compiler", strings.ReplaceAll(builtinLine, "gcc-12", "gcc"), Unit{}, false},
		{"assembly", "gcc-12 -c -o arch/x86/a.o arch/x86/a.S", Unit{}, false},
		{"link", linkLine, Unit{}, false},
		{"noise", "set -e; echo hello", Unit{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := parseUnit(tc.line, "gcc-12")
			if ok != tc.ok {
				t.Fatalf("accepted: %v, want %v", ok, tc.ok)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// On kernels with IBT, objtool runs on linked modules; each object gets its command.
func TestParseUnitsWithLateObjtool(t *testing.T) {
	builtin := strings.ReplaceAll(builtinLine, "./tools/objtool/objtool --orc --retpoline fs/proc/cmdline.o;", "")
	units, err := parseUnits(strings.NewReader(builtin+"\n"+moduleLine+"\n"+linkLine+"\n"), "gcc-12")
	if err != nil || len(units) != 2 {
		t.Fatalf("%d units, %v; want 2", len(units), err)
	}
	want := [][]string{
		{"./tools/objtool/objtool", "--ibt", "--orc", "--link"},
		{"./tools/objtool/objtool", "--ibt", "--orc", "--link", "--module"},
	}
	if d := cmp.Diff(want, [][]string{units[0].Objtool, units[1].Objtool}); d != "" {
		t.Error(d)
	}
}

// A rule of a module's own may tell the compiler another name; what the object is linked into counts.
func TestModulesByTheirLists(t *testing.T) {
	object := func(path, name string) string {
		return fmt.Sprintf("set -e; gcc-12 -DMODULE -DKBUILD_MODNAME='%q' -c -o %s %s.c", name, path, strings.TrimSuffix(path, ".o"))
	}
	list := func(module, objects string) string {
		return fmt.Sprintf("set -e; trap 'rm -f %[1]s.mod; trap - HUP' HUP; printf '%%s\\n'   %[2]s | awk '!x[$0]++ { print(\"d/\"$0) }' > %[1]s.mod; "+
			"printf '%%s\\n' 'savedcmd_%[1]s.mod := x' > .%[1]s.mod.cmd", module, objects)
	}
	units, err := parseUnits(strings.NewReader(strings.Join([]string{
		object("d/gpu/xe/i915-display/crtc.o", "crtc"), object("d/gpu/amd/amdgpu/../display/dc.o", "amdgpu"), object("d/snd/shared.o", "a:b"),
		object("d/snd/one.o", "one"), object("d/snd/unlisted.o", "unlisted"), strings.ReplaceAll(object("d/built-in.o", "builtin"), "-DMODULE ", ""),
		list("d/gpu/xe/xe", "main.o i915-display/crtc.o"), list("d/gpu/amd/amdgpu/amdgpu", "../display/dc.o"),
		list("d/snd/snd-b", "shared.o"), list("d/snd/snd-a", "shared.o one.o shared.o"), list("d/wrong", "built-in.o"),
	}, "\n")), "gcc-12")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, u := range units {
		got[u.Object] = u.Module
	}
	want := map[string]string{"d/gpu/xe/i915-display/crtc.o": "xe", "d/gpu/amd/amdgpu/../display/dc.o": "amdgpu", "d/snd/shared.o": "snd_a:snd_b",
		"d/snd/one.o": "snd_a", "d/snd/unlisted.o": "unlisted", "d/built-in.o": ""}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// An earlier list serves where each of its modules is one of the kernel's; else make is asked again.
func TestEarlierIndex(t *testing.T) {
	units, err := parseUnits(strings.NewReader(builtinLine+"\n"+moduleLine+"\n"), "gcc-12")
	if err != nil {
		t.Fatal(err)
	}
	k := &kit.Kit{Dir: t.TempDir(), Info: kit.Info{Compiler: "gcc-12"}}
	if err := errors.Join(os.MkdirAll(k.Cache(), 0o755), os.MkdirAll(k.Source(), 0o755), writeIndex(filepath.Join(k.Cache(), earlierIndexFile), units)); err != nil {
		t.Fatal(err)
	}
	for name, modules := range map[string]map[string]string{"serves": {"ext4": "modules/ext4.ko"}, "does not": {"ext3": "modules/ext3.ko"}} {
		k.Modules = modules
		asked := false
		x, err := LoadIndex(t.Context(), k, func(string) { asked = true })
		if serves := name == "serves"; asked == serves || (err == nil) != serves || serves && len(x.Sources()) != len(units) {
			t.Errorf("%s: asked make: %v, %v", name, asked, err)
		}
	}
}

func TestIndexKeepsUnits(t *testing.T) {
	units, err := parseUnits(strings.NewReader(builtinLine+"\n"+moduleLine+"\n"), "gcc-12")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), indexFile)
	if err := writeIndex(file, units); err != nil {
		t.Fatal(err)
	}
	got, err := readIndex(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(units, got); d != "" {
		t.Error(d)
	}
	x := newIndex(got)
	if d := cmp.Diff([]string{"fs/ext4/mballoc.c", "fs/proc/cmdline.c"}, x.Sources()); d != "" {
		t.Error(d)
	}
	if u, err := x.Units("fs/ext4/mballoc.c"); err != nil || u[0].Target() != "ext4" {
		t.Errorf("mballoc.c is %+v, %v; want it in ext4", u, err)
	}
	if _, ok := errors.AsType[*RefusedError](second(x.Units("fs/none.c"))); !ok {
		t.Error("a file that nothing is built from is not refused")
	}
	several := newIndex([]Unit{{Object: "a.o", Source: "a.c", Module: "x:y"}})
	if _, ok := errors.AsType[*RefusedError](second(several.Units("a.c"))); !ok {
		t.Error("an object of several modules is not refused")
	}
}

func second(_ []Unit, err error) error { return err }

func TestPlantTree(t *testing.T) {
	source, dir := t.TempDir(), filepath.Join(t.TempDir(), "tree")
	for _, name := range []string{"Makefile", "fs/a.c", "fs/a.h", "fs/ext4/b.c", "mm/c.c", "mm/gone.c"} {
		path := filepath.Join(source, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string][]byte{"fs/a.c": []byte("patched"), "mm/gone.c": nil, "fs/new/n.h": []byte("new")}
	for _, all := range []bool{false, true} {
		dir := filepath.Join(dir, fmt.Sprint(all))
		var folders []string
		if all {
			folders = []string{"mm/../fs/ext4"}
		}
		if err := plantTree(dir, source, files, folders); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"Makefile": "Makefile", "fs/a.c": "patched", "fs/a.h": "fs/a.h",
			"fs/ext4/b.c": "fs/ext4/b.c", "mm/c.c": "mm/c.c", "fs/new/n.h": "new"} {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
				t.Errorf("%s is %q, %v; want %q", name, got, err, want)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "mm/gone.c")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the deleted file: %v, want it gone", err)
		}
		// Behind a link, going up leads into the original tree; with real folders it does not.
		up, err := os.ReadFile(dir + "/fs/ext4/../a.c")
		if want := map[bool]string{false: "fs/a.c", true: "patched"}[all]; err != nil || string(up) != want {
			t.Errorf("all=%v: fs/ext4/../a.c is %q, %v; want %q", all, up, err, want)
		}
	}
	if got, err := os.ReadFile(filepath.Join(source, "fs/a.c")); err != nil || string(got) != "fs/a.c" {
		t.Errorf("the source tree changed: %q, %v", got, err)
	}
	if err := plantTree(filepath.Join(t.TempDir(), "x"), source, map[string][]byte{"../x.c": nil}, nil); err == nil {
		t.Error("a path outside of the tree is accepted")
	}
}

// smallKit is a tree of one file that the host's gcc can compile.
func smallKit(t *testing.T) (*Builder, []Unit) {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc to compile an object")
	}
	k := &kit.Kit{Dir: t.TempDir(), Info: kit.Info{Compiler: gcc, CompilerText: "gcc", ID: kernel.ID{BuildID: "ab", Version: "#1"}}}
	src := filepath.Join(k.Source(), "fs/x.c")
	text := "#include \"x.h\"\nconst char *where(void) { return __FILE__ X; }\n"
	if err := errors.Join(os.MkdirAll(filepath.Dir(src), 0o755), os.MkdirAll(k.Cache(), 0o755),
		os.WriteFile(src, []byte(text), 0o644), os.WriteFile(filepath.Join(k.Source(), "fs/x.h"), []byte("#define X \" header\"\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	return &Builder{Kit: k, Parallel: 2}, []Unit{{Object: "fs/x.o", Source: "fs/x.c", Compile: []string{gcc, "-O2"}}}
}

func TestCompile(t *testing.T) {
	b, units := smallKit(t)
	patched := "#include \"x.h\"\nconst char *where(void) { return \"new \" __FILE__ X; }\n"
	pairs, err := b.Compile(t.Context(), t.TempDir(), units, map[string][]byte{"fs/x.c": []byte(patched)})
	if err != nil {
		t.Fatal(err)
	}
	contains := func(path, text string) {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(data), text) {
			t.Errorf("%s has no %q: %v", path, text, err)
		}
	}
	contains(pairs[0].Original, "\x00fs/x.c header\x00")
	contains(pairs[0].Patched, "\x00new fs/x.c header\x00")
	contains(pairs[0].Original, ".text.where")
	if plain, err := b.Plain(t.Context(), t.TempDir(), units[0]); err != nil {
		t.Error(err)
	} else if data, err := os.ReadFile(plain); err != nil || strings.Contains(string(data), ".text.where") {
		t.Errorf("the plain object has a section of its own for the function: %v", err)
	}
}

// What was compiled once is taken from the cache, and nothing else is.
func TestCompileCache(t *testing.T) {
	b, units := smallKit(t)
	files := func(text string) map[string][]byte { return map[string][]byte{"fs/x.c": []byte(text)} }
	if _, err := b.Compile(t.Context(), t.TempDir(), units, files("int a;\n")); err != nil {
		t.Fatal(err)
	}
	objects := filepath.Join(b.Kit.Cache(), "objects")
	count := func() int {
		entries, err := os.ReadDir(objects)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if got := count(); got != 2 {
		t.Fatalf("%d cached objects, want original and patched", got)
	}
	// Without a compiler, only the cache can answer.
	if err := os.RemoveAll(b.Kit.Source()); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(b.Kit.Source(), 0o755); err != nil {
		t.Fatal(err)
	}
	pairs, err := b.Compile(t.Context(), t.TempDir(), units, files("int a;\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pairs[0].Original, pairs[0].Patched} {
		if filepath.Dir(path) != objects {
			t.Errorf("%s is not from the cache", path)
		}
	}
	b.NoCache = true
	if _, err := b.Compile(t.Context(), t.TempDir(), units, files("int a;\n")); err == nil {
		t.Error("compiled an original without its source")
	}
}

func TestCompileError(t *testing.T) {
	b, units := smallKit(t)
	_, err := b.Compile(t.Context(), t.TempDir(), units, map[string][]byte{"fs/x.c": []byte("int f(void) { return no_such_thing; }\n")})
	e, ok := errors.AsType[*CompileError](err)
	if !ok || !e.Patched || e.Source != "fs/x.c" || !strings.Contains(e.Output, "no_such_thing") || !strings.Contains(e.Output, "fs/x.c:1:") {
		t.Errorf("error %+v, want the compiler's words on the patched file", err)
	}
}

func FuzzIncludeNames(f *testing.F) {
	f.Add([]byte("#include <linux/fs.h>\n # include \"../near.h\"\n#include TRACE_INCLUDE\n#include <open\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, name := range includeNames(text) {
			if name == "" || strings.ContainsAny(name, "\n") || !bytes.Contains(text, []byte(name)) {
				t.Errorf("includes %q", name)
			}
		}
	})
}

func FuzzParseUnits(f *testing.F) {
	f.Add(builtinLine)
	f.Add(moduleLine + "\n" + linkLine)
	f.Fuzz(func(t *testing.T, text string) {
		units, err := parseUnits(strings.NewReader(text), "gcc-12")
		if err != nil {
			return
		}
		for _, u := range units {
			if !strings.HasSuffix(u.Object, ".o") || !strings.HasSuffix(u.Source, ".c") {
				t.Errorf("unit %+v", u)
			}
		}
	})
}

// What may include a header is found through other headers, by going up, and by search folders.
func TestIncludes(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"fs/a.c":                 "#include <linux/deep.h>\n",
		"fs/sub/b.c":             " # include \"../near.h\"\n",
		"fs/c.c":                 "int c; // #include \"near.h\"\n#include TRACE\n",
		"fs/d.c":                 "#include \"a.c\"\n",
		"fs/near.h":              "",
		"include/linux/deep.h":   "#include <linux/deeper.h>\n",
		"include/linux/deeper.h": "",
		"include/linux/all.h":    "#include <linux/forced.h>\n",
		"include/linux/forced.h": "",
		"include/linux/alone.h":  "",
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	var units []Unit
	for _, s := range []string{"fs/a.c", "fs/sub/b.c", "fs/c.c", "fs/d.c"} {
		units = append(units, Unit{Object: s + ".o", Source: s, Compile: []string{"gcc", "-I./include", "-include", "./include/linux/all.h"}})
	}
	x := newIndex(units)
	g, err := scanIncludes(t.Context(), root, x)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string][]string{
		"include/linux/deeper.h": {"fs/a.c", "fs/d.c"},
		"fs/near.h":              {"fs/sub/b.c"},
		"fs/a.c":                 {"fs/d.c"},
		"include/linux/alone.h":  nil,
		"include/linux/forced.h": {"fs/a.c", "fs/c.c", "fs/d.c", "fs/sub/b.c"},
		"include/linux/all.h":    {"fs/a.c", "fs/c.c", "fs/d.c", "fs/sub/b.c"},
	} {
		if d := cmp.Diff(want, g.Users(x, []string{file})); d != "" {
			t.Errorf("%s: %s", file, d)
		}
	}
	file := filepath.Join(t.TempDir(), includesFile)
	if err := kit.StoreGzip(file, g); err != nil {
		t.Fatal(err)
	}
	if again, err := readIncludes(file); err != nil || cmp.Diff(g, again) != "" {
		t.Errorf("the stored graph differs: %v", err)
	}
}

// Only sources whose text differs by the header count, also where they reach it by going up.
func TestAffected(t *testing.T) {
	b, units := smallKit(t)
	gcc := units[0].Compile[0]
	for name, text := range map[string]string{
		"fs/sub/up.c": "#include \"../x.h\"\nconst char *up(void) { return X; }\n",
		"fs/not.c":    "#if 0\n#include \"x.h\"\n#endif\nint not;\n",
	} {
		path := filepath.Join(b.Kit.Source(), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
		units = append(units, Unit{Object: strings.TrimSuffix(name, "c") + "o", Source: name, Compile: []string{gcc, "-O2"}})
	}
	x := newIndex(units)
	g, err := scanIncludes(t.Context(), b.Kit.Source(), x)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][]string{
		"#define X \" other\"\n":                 {"fs/sub/up.o", "fs/x.o"},
		"/* moved */\n\n#define X \" header\"\n": nil,
	} {
		files, work := map[string][]byte{"fs/x.h": []byte(text)}, t.TempDir()
		affected, err := b.Affected(t.Context(), x, g, []string{"fs/x.h"}, nil, work, files, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, u := range affected {
			got = append(got, u.Object)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", text, d)
		}
		pairs, err := b.Compile(t.Context(), work, affected, files)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pairs {
			if data, err := os.ReadFile(p.Patched); err != nil || !strings.Contains(string(data), " other\x00") {
				t.Errorf("%s was not compiled with the patched header: %v", p.Unit.Object, err)
			}
		}
	}
	known, err := b.Affected(t.Context(), x, g, []string{"fs/x.h"}, units, t.TempDir(), map[string][]byte{"fs/x.h": nil}, func(string) {})
	if err != nil || len(known) != 0 {
		t.Errorf("units that are compiled anyway are looked at again: %v, %v", known, err)
	}
}

func TestTooManySaysWhatAndThrough(t *testing.T) {
	for n, want := range map[int]string{23530: "23,530", 1234567: "1,234,567", 999: "999", 1501: "1,501"} {
		err := &TooManyError{Files: []string{"include/linux/sched.h"}, Objects: n}
		if !strings.Contains(err.Error(), "touches "+want+" objects through include/linux/sched.h, more than the 1,500") {
			t.Errorf("%d: %v", n, err)
		}
	}
}
