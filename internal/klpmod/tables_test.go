package klpmod

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/kernel"
)

func TestTables(t *testing.T) {
	k := identified(testKernel())
	spec := Spec{Name: "fix", Kernel: k, Targets: []Target{
		{Object: "vmlinux", Parts: []Part{part(codeChunk("victim")), part(codeChunk("hidden"))}},
		{Object: "ext9", Parts: []Part{modulePart(codeChunk("ext9_fix"))}},
	}}
	ko, stats, err := Link(spec)
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, ko, k)
	want := []loadedFunction{
		{Function{"vmlinux", "victim", 0}, "victim"}, {Function{"vmlinux", "hidden", 0}, "hidden"}, {Function{"ext9", "ext9_fix", 0}, "ext9_fix"},
	}
	if diff := cmp.Diff(want, m.functions(t, k.Sizes)); diff != "" {
		t.Errorf("klp tables (-want +got):\n%s", diff)
	}
	if len(stats.Functions) != 3 || stats.Functions[2] != want[2].Function {
		t.Errorf("stats list %v", stats.Functions)
	}
	this, patch := m.symbols["__this_module"], m.symbols["klp_patch"]
	if got := m.word(t, patch); got != this {
		t.Errorf("klp_patch.mod is %#x, want __this_module at %#x", got, this)
	}
	if b, err := m.bytesAt(patch+24, 1); err != nil || b[0] != 1 {
		t.Errorf("klp_patch.replace is %v, %v", b, err)
	}
	if got := m.text(t, this+24); got != "fix" {
		t.Errorf("module name %q", got)
	}
	if m.word(t, this+312) != m.symbols["init_module"] || m.word(t, this+848) != m.symbols["cleanup_module"] {
		t.Error("__this_module does not point at init_module and cleanup_module")
	}
	if len(m.section(".gnu.linkonce.this_module")) != 896 {
		t.Error("__this_module has another size than struct module")
	}
}

// TestInitFunction decodes init_module's operands: what it compares, and where it jumps.
func TestInitFunction(t *testing.T) {
	imm := func(m *memory, at uint64) uint64 {
		b, err := m.bytesAt(m.symbols["init_module"]+at, 4)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(int64(int32(binary.LittleEndian.Uint32(b))))
	}
	jump := func(m *memory, at uint64) uint64 { return m.symbols["init_module"] + at + 4 + imm(m, at) }
	plain := testKernel()
	ko, _, err := Link(vmlinuxSpec(plain, part(codeChunk("victim"))))
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, ko, plain)
	if imm(m, 7) != m.symbols["klp_patch"] || jump(m, 12) != image+0x100 {
		t.Errorf("init_module enables %#x through %#x", imm(m, 7), jump(m, 12))
	}

	k := identified(plain)
	if ko, _, err = Link(vmlinuxSpec(k, part(codeChunk("victim")))); err != nil {
		t.Fatal(err)
	}
	m = load(t, ko, k)
	if got := imm(m, 7); got != k.BuildIDAddr {
		t.Errorf("compares %#x, want the build id at %#x", got, k.BuildIDAddr)
	}
	if id, err := m.bytesAt(imm(m, 14), 20); err != nil || !bytes.Equal(id, k.BuildID) {
		t.Errorf("compares with %x, %v", id, err)
	}
	if imm(m, 30) != m.symbols["klp_patch"] || jump(m, 35) != image+0x100 {
		t.Errorf("init_module enables %#x through %#x", imm(m, 30), jump(m, 35))
	}
	code, err := m.bytesAt(m.symbols["init_module"], 51)
	if err != nil {
		t.Fatal(err)
	}
	if skip := code[26]; code[25] != 0x75 || 27+int(skip) != 40 || code[40] != 0xb8 {
		t.Errorf("jne skips %d bytes of % x", skip, code)
	}
	if want := []byte{0xb8, 0xf8, 0xff, 0xff, 0xff, 0xe9}; !bytes.Equal(code[40:46], want) {
		t.Errorf("the refusal is % x, want -ENOEXEC", code[40:46])
	}
	if got := jump(m, 46); got != m.symbols["cleanup_module"]+4 {
		t.Errorf("the refusal returns through %#x, want %#x", got, m.symbols["cleanup_module"]+4)
	}
}

func TestMetadata(t *testing.T) {
	k := testKernel()
	shown := k.Symvers["shown"]
	shown.Namespace = "TEST"
	k.Symvers["shown"] = shown
	ko, stats, err := Link(vmlinuxSpec(k, part(codeChunk("victim", external("shown", false, false)))))
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, ko, k)
	info := string(m.section(".modinfo"))
	for _, want := range []string{"license=GPL", "livepatch=Y", "depends=", "name=fix", "vermagic=" + k.Vermagic, "retpoline=Y", "import_ns=TEST"} {
		if !slices.Contains(strings.Split(info, "\x00"), want) {
			t.Errorf(".modinfo lacks %q: %q", want, info)
		}
	}
	want := []string{"__x86_return_thunk", "klp_enable_patch", "shown"}
	if diff := cmp.Diff(want, stats.Imports); diff != "" {
		t.Errorf("imports (-want +got):\n%s", diff)
	}
	versions := m.section("__versions")
	if len(versions) != 64*4 {
		t.Fatalf("__versions has %d bytes", len(versions))
	}
	for i, name := range append([]string{"module_layout"}, want...) {
		entry := versions[64*i:][:64]
		got, _, _ := strings.Cut(string(entry[8:]), "\x00")
		if crc := binary.LittleEndian.Uint64(entry); got != name || crc != uint64(k.Symvers[name].CRC) {
			t.Errorf("version %d is %s %#x, want %s %#x", i, got, crc, name, k.Symvers[name].CRC)
		}
	}
	if id, ok := kernel.ParseBuildID(m.section(".note.gnu.build-id")); !ok || strings.Trim(id, "0") == "" {
		t.Errorf("build id %q", id)
	}
}

// TestReturnSites: the kernel patches the jumps that are listed, and only jumps to the thunk.
func TestReturnSites(t *testing.T) {
	k := testKernel()
	ko, _, err := Link(vmlinuxSpec(k, part(codeChunk("victim"))))
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, ko, k)
	base := uint64(0)
	for i, s := range m.sections {
		if s.Name == ".return_sites" {
			base = m.base[i]
		}
	}
	sites := m.section(".return_sites")
	if len(sites) != 4 {
		t.Fatalf(".return_sites has %d bytes", len(sites))
	}
	site := base + uint64(int64(int32(binary.LittleEndian.Uint32(sites))))
	b, err := m.bytesAt(site, 5)
	if err != nil || b[0] != 0xe9 || site+5+uint64(int64(int32(binary.LittleEndian.Uint32(b[1:])))) != image+0x200 {
		t.Errorf("the site at %#x is % x, %v", site, b, err)
	}
}
