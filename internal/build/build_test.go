package build

import (
	"bytes"
	"crypto/ed25519"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/bundle"
	"afloat/internal/elfdiff"
	"afloat/internal/kbuild"
	"afloat/internal/kit"
	"afloat/internal/kit/kittest"
	"afloat/internal/patch"
)

const testKernel = "debian:6.1.0-55-amd64"

func options(t *testing.T, k *kit.Kit, name string, inputs ...Input) Options {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Kit: k, Name: name, Patches: inputs, Key: key, WorkDir: t.TempDir(), Now: time.Now(),
		Progress: func(step string) { t.Log(step) }}
}

func example(t *testing.T, name string) Input {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return Input{Name: name, Text: text}
}

// diffFiles makes a plain unified diff of one file of the tree.
func diffFiles(t *testing.T, path string, before, after []byte) Input {
	t.Helper()
	dir := t.TempDir()
	for side, text := range map[string][]byte{"a": before, "b": after} {
		file := filepath.Join(dir, side, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("diff", "-u", "a/"+path, "b/"+path)
	cmd.Dir = dir
	out, err := cmd.Output()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 1 {
		t.Fatalf("diff: %v", err)
	}
	return Input{Name: filepath.Base(path) + ".patch", Text: out}
}

// edited is the diff that replaces text in a file of the kit.
func edited(t *testing.T, k *kit.Kit, path, old, new string) Input {
	t.Helper()
	before, err := os.ReadFile(filepath.Join(k.Source(), path))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(before, []byte(old)) != 1 {
		t.Fatalf("%s has %q %d times, want once", path, old, bytes.Count(before, []byte(old)))
	}
	return diffFiles(t, path, before, bytes.Replace(before, []byte(old), []byte(new), 1))
}

func functions(m bundle.Manifest) []string {
	var out []string
	for _, f := range m.Functions {
		out = append(out, fmt.Sprintf("%s:%s,%d", f.Object, f.Name, f.Sympos))
	}
	return out
}

// checkModule reads the module back: a relocatable livepatch for this kernel
// whose undefined symbols the kernel can resolve.
func checkModule(t *testing.T, k *kit.Kit, out *Output) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(out.Module))
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Section(".modinfo").Data()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"livepatch=Y", "license=GPL", "name=" + out.Manifest.Module, "vermagic=" + k.Vermagic} {
		if !bytes.Contains(append([]byte{0}, info...), []byte("\x00"+want+"\x00")) {
			t.Errorf("modinfo %q has no %q", info, want)
		}
	}
	tables, err := k.Tables()
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if _, exported := tables.Symvers[s.Name]; s.Section == elf.SHN_UNDEF && s.Name != "" && !exported {
			t.Errorf("undefined symbol %s is not exported by the kernel", s.Name)
		}
	}
}

func TestBuildExamples(t *testing.T) {
	k := kittest.Open(t, testKernel)
	for _, tc := range []struct {
		name   string
		inputs []Input
		want   []string
	}{
		{"good", []Input{example(t, "proc-version.patch")}, []string{"vmlinux:version_proc_show,0"}},
		{"bad", []Input{example(t, "proc-version.patch"), example(t, "proc-kmsg-oops.patch")},
			[]string{"vmlinux:kmsg_open,0", "vmlinux:version_proc_show,0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := options(t, k, "demo-"+tc.name, tc.inputs...)
			out, err := Build(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, functions(out.Manifest)); d != "" {
				t.Error(d)
			}
			checkModule(t, k, out)
			b, err := bundle.Decode(out.File)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Verify([]ed25519.PublicKey{o.Key.Public().(ed25519.PublicKey)}); err != nil {
				t.Error(err)
			}
			if why := b.Manifest.Kernel.Mismatch(k.ID); why != "" {
				t.Error(why)
			}
			if len(b.Manifest.Sources) != len(tc.inputs) || len(b.Manifest.Evidence.Proof) == 0 {
				t.Errorf("sources %d, proof %q", len(b.Manifest.Sources), b.Manifest.Evidence.Proof)
			}
			if entries, err := os.ReadDir(o.WorkDir); err != nil || len(entries) != 0 {
				t.Errorf("%d folders left behind, %v", len(entries), err)
			}
		})
	}
}

// The same build gives the same module under the same name, and another patch another name.
func TestBuildIsReproducible(t *testing.T) {
	k := kittest.Open(t, testKernel)
	build := func(noCache bool, inputs ...Input) *Output {
		o := options(t, k, "same", inputs...)
		o.NoCache = noCache
		out, err := Build(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	one, two := build(false, example(t, "proc-version.patch")), build(true, example(t, "proc-version.patch"))
	if !bytes.Equal(one.Module, two.Module) || one.Manifest.Module != two.Manifest.Module {
		t.Error("two builds of one patch differ")
	}
	if other := build(false, example(t, "proc-kmsg-oops.patch")); other.Manifest.Module == one.Manifest.Module {
		t.Errorf("two patches make modules of one name, %s", other.Manifest.Module)
	}
}

// Debian's own fix between two updates: a diff in a module of many objects.
func TestBuildDebiansExt4Fix(t *testing.T) {
	k := kittest.Open(t, testKernel)
	const path = "fs/ext4/mballoc.c"
	after, err := kittest.Cache(t).SourceFiles(t.Context(), k.Ref, "6.1.192-2", path)
	kittest.Fetched(t, "linux-source-6.1=6.1.192-2", err)
	before, err := os.ReadFile(filepath.Join(k.Source(), path))
	if err != nil {
		t.Fatal(err)
	}
	out, err := Build(t.Context(), options(t, k, "2026-11-ext4", diffFiles(t, path, before, after[path])))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ext4:ext4_mb_init_group,0", "ext4:ext4_mb_load_buddy_gfp,0"}
	if d := cmp.Diff(want, functions(out.Manifest)); d != "" {
		t.Error(d)
	}
	checkModule(t, k, out)
}

func TestBuildRefusals(t *testing.T) {
	k := kittest.Open(t, testKernel)
	for _, tc := range []struct {
		name  string
		input Input
		class elfdiff.Class
		who   string
	}{
		{"init code", edited(t, k, "fs/proc/version.c", `proc_create_single("version"`, `proc_create_single("edition"`), elfdiff.ClassInit, "proc_version_init"},
		{"initial value", edited(t, k, "fs/pipe.c", "unsigned int pipe_max_size = 1048576;", "unsigned int pipe_max_size = 2097152;"), elfdiff.ClassData, "pipe_max_size"},
		{"layout of a structure", edited(t, k, "fs/eventpoll.c", "\t/* The \"container\" of this item */", "\tint added;\n\t/* The \"container\" of this item */"), elfdiff.ClassType, "struct epitem"},
		{"a header of everything", edited(t, k, "include/linux/sched.h", "\tTASK_COMM_LEN = 16,", "\tTASK_COMM_LEN = 32,"), ClassFile, "include/linux/sched.h"},
		{"library", edited(t, k, "lib/string.c", "int strcmp(const char *cs, const char *ct)\n{", "int strcmp(const char *cs, const char *ct)\n{\n\tbarrier();"), ClassFile, "lib/string.c"},
		{"assembly", edited(t, k, "arch/x86/entry/entry_64.S", "SYM_CODE_START(entry_SYSCALL_64)", "SYM_CODE_START(entry_SYSCALL_64)\n\tnop"), ClassFile, "arch/x86/entry/entry_64.S"},
		{"not built", edited(t, k, "kernel/kcsan/core.c", "#define pr_fmt(fmt) \"kcsan: \" fmt", "#define pr_fmt(fmt) \"csan: \" fmt"), ClassFile, "kernel/kcsan/core.c"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Build(t.Context(), options(t, k, "refused", tc.input))
			refused, ok := errors.AsType[*elfdiff.RefusedError](err)
			if !ok {
				t.Fatalf("error %v, want a refusal", err)
			}
			for _, r := range refused.Refusals {
				if r.Class == tc.class && strings.Contains(r.Symbol+r.Section, tc.who) && r.Why != "" && r.Hint != "" {
					return
				}
			}
			t.Errorf("refused for %+v, want class %s of %s with reason and hint", refused.Refusals, tc.class, tc.who)
		})
	}
}

func TestBuildErrors(t *testing.T) {
	k := kittest.Open(t, testKernel)
	build := func(inputs ...Input) error {
		_, err := Build(t.Context(), options(t, k, "wrong", inputs...))
		return err
	}
	comment := edited(t, k, "fs/proc/version.c", "#include \"internal.h\"", "#include \"internal.h\"\n/* a comment moves the lines */")
	if err := build(comment); !errors.Is(err, ErrUnchanged) {
		t.Errorf("a comment: %v, want ErrUnchanged", err)
	}
	syntax := edited(t, k, "fs/proc/version.c", "return 0;\n}\n\nstatic int __init", "return no_such_thing;\n}\n\nstatic int __init")
	if e, ok := errors.AsType[*kbuild.CompileError](build(syntax)); !ok || !e.Patched || !strings.Contains(e.Output, "no_such_thing") {
		t.Errorf("a source that does not compile: %+v, want the compiler's words", e)
	}
	twice := example(t, "proc-version.patch")
	if e, ok := errors.AsType[*patch.ConflictError](build(twice, edited(t, k, "fs/proc/version.c", "utsname()->version);\n\treturn 0;", "utsname()->version);\n\treturn 1;"))); !ok || e.Hunk != 1 {
		t.Errorf("two patches of one place: %+v, want a conflict in hunk 1", e)
	}
	if _, ok := errors.AsType[*patch.ConflictError](build(Input{Name: "prose", Text: []byte("no diff\n")})); !ok {
		t.Error("prose is not refused as a patch")
	}
}

// An inline function in a header changes the functions of every object that it ends up in.
func TestBuildHeader(t *testing.T) {
	k := kittest.Open(t, testKernel)
	input := edited(t, k, "net/packet/internal.h", "static inline struct packet_sock *pkt_sk(struct sock *sk)\n{", "static inline struct packet_sock *pkt_sk(struct sock *sk)\n{\n\tbarrier();\n\tasm volatile(\"nop\");")
	out, err := Build(t.Context(), options(t, k, "header", input))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"net/packet/af_packet.o", "net/packet/diag.o"}, out.Manifest.Evidence.Objects); d != "" {
		t.Error(d)
	}
	checkModule(t, k, out)
	comment := edited(t, k, "net/packet/internal.h", "static inline struct packet_sock *pkt_sk(struct sock *sk)\n{", "/* moved */\n\nstatic inline struct packet_sock *pkt_sk(struct sock *sk)\n{")
	if _, err := Build(t.Context(), options(t, k, "comment", comment)); !errors.Is(err, ErrUnchanged) {
		t.Errorf("a comment in a header: %v, want ErrUnchanged", err)
	}
}
